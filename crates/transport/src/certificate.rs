//! What is read from a node's certificate.

use rustls_pki_types::CertificateDer;
use trine_protocol::NodeName;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

/// How a cluster's id stands in certificates.
pub(crate) fn cluster_uri(cluster_id: &str) -> String {
    format!("{SCHEME}{cluster_id}")
}

const SCHEME: &str = "trine:";

/// What is wrong with a certificate.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// The peer showed none.
    #[error("it showed no certificate")]
    Missing,
    /// No PEM section of a certificate.
    #[error("no certificate in PEM found")]
    NotPem(#[source] rustls_pki_types::pem::Error),
    /// Not X.509.
    #[error("it can't be read as X.509: {0}")]
    NotX509(String),
    /// The common name is missing, or no node's name.
    #[error("its common name {0:?} is no node's name")]
    NoNode(String),
    /// No URI `trine:<cluster_id>`.
    #[error("it names no trine cluster")]
    NoCluster,
    /// Of another cluster.
    #[error("it belongs to cluster {found}, this is cluster {expected}")]
    OtherCluster {
        /// Which.
        found: String,
        /// This one.
        expected: String,
    },
    /// Another node answered.
    #[error("it belongs to node {found}, not to node {expected}")]
    OtherNode {
        /// Which.
        found: NodeName,
        /// The one that was dialed.
        expected: NodeName,
    },
}

/// What the cluster needs to know of a certificate. Its signature is not checked here.
#[derive(Debug)]
pub(crate) struct Facts {
    pub(crate) common_name: String,
    pub(crate) cluster_id: Option<String>,
    pub(crate) public_key: Vec<u8>,
    pub(crate) is_authority: bool,
    /// Seconds since the Unix epoch, and as text.
    pub(crate) not_before: (i64, String),
    /// Seconds since the Unix epoch, and as text.
    pub(crate) not_after: (i64, String),
}

impl Facts {
    pub(crate) fn read(der: &CertificateDer<'_>) -> Result<Self, CertificateError> {
        let bad = |e: &dyn std::fmt::Display| CertificateError::NotX509(e.to_string());
        let (_, cert) = X509Certificate::from_der(der).map_err(|e| bad(&e))?;
        let common_name = cert.subject().iter_common_name().next().and_then(|n| n.as_str().ok()).unwrap_or_default();
        let names = cert.subject_alternative_name().map_err(|e| bad(&e))?;
        let cluster_id = names.and_then(|names| {
            names.value.general_names.iter().find_map(|n| match n {
                GeneralName::URI(uri) => uri.strip_prefix(SCHEME).map(str::to_owned),
                _ => None,
            })
        });
        let validity = cert.validity();
        Ok(Self {
            common_name: common_name.to_owned(),
            cluster_id,
            public_key: cert.public_key().raw.to_vec(),
            is_authority: cert.is_ca(),
            not_before: (validity.not_before.timestamp(), validity.not_before.to_string()),
            not_after: (validity.not_after.timestamp(), validity.not_after.to_string()),
        })
    }

    /// The node, when the certificate is one of this cluster.
    pub(crate) fn node(&self, cluster_id: &str) -> Result<NodeName, CertificateError> {
        match &self.cluster_id {
            None => return Err(CertificateError::NoCluster),
            Some(found) if found != cluster_id => {
                let (found, expected) = (found.clone(), cluster_id.to_owned());
                return Err(CertificateError::OtherCluster { found, expected });
            }
            Some(_) => {}
        }
        self.common_name.parse().map_err(|_| CertificateError::NoNode(self.common_name.clone()))
    }
}

/// The node at the other end of a finished handshake: TLS has checked the signatures, this reads the name.
pub(crate) fn peer(chain: Option<&[CertificateDer<'_>]>, cluster_id: &str) -> Result<NodeName, CertificateError> {
    let der = chain.and_then(<[_]>::first).ok_or(CertificateError::Missing)?;
    Facts::read(der)?.node(cluster_id)
}
