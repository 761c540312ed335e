//! The cluster's own certificate authority.

use std::fmt;
use std::net::IpAddr;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PublicKeyData, SanType, date_time_ymd,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, DnsName};
use trine_protocol::NodeName;

use crate::certificate::{CertificateError, Facts, cluster_uri};

/// Issues the certificates of one cluster's nodes.
///
/// Its key is needed only where nodes are added: no running node holds it. The cluster's id stands in the authority's
/// certificate and in each that it issues (a URI `trine:<cluster_id>`), so a node of another cluster is refused by name.
///
/// The node certificates serve PostgreSQL too: ECDSA P-256, for servers and for clients, with the node's name as common
/// name and its name and addresses as subject alternative names.
pub struct Authority {
    cluster_id: String,
    cert_pem: String,
    issuer: Issuer<'static, KeyPair>,
}

/// The authority could not be made, loaded or used.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// A cluster's id that can't stand in a certificate.
    #[error("{0:?} is no cluster id: use 1 to 64 ASCII letters, digits, '-', '_' and '.'")]
    ClusterId(String),
    /// The random generator or the key's algorithm failed.
    #[error("can't make a key")]
    MakeKey(#[source] rcgen::Error),
    /// The certificate of the authority itself.
    #[error("can't make the authority's certificate")]
    MakeCertificate(#[source] rcgen::Error),
    /// The text is not the PEM of a private key.
    #[error("the authority's key is not a private key in PEM")]
    Key(#[source] rcgen::Error),
    /// The text is not the PEM of a certificate.
    #[error("the authority's certificate is not a certificate in PEM")]
    Certificate(#[source] CertificateError),
    /// Key and certificate are not of the same pair.
    #[error("the authority's key does not fit its certificate")]
    KeyMismatch,
    /// It may not sign.
    #[error("the authority's certificate is not one of an authority")]
    NotAnAuthority,
    /// TLS knows a node by its name, as it would a host.
    #[error("a certificate can't be issued for node {0}: it is no host name (does it end with '-'?)")]
    Name(NodeName),
    /// A node's certificate.
    #[error("can't issue a certificate for node {node}")]
    Issue {
        /// Whose.
        node: NodeName,
        /// Why.
        #[source]
        source: rcgen::Error,
    },
}

/// Certificates are valid until this year: a cluster must not stop because nobody renewed them. Nodes leave by removal.
const UNTIL: i32 = 2125;

/// And from this year, so that a machine whose clock was reset to its build date still starts.
const SINCE: i32 = 2000;

impl Authority {
    /// A new authority, with a new key.
    ///
    /// # Errors
    /// [`AuthorityError::ClusterId`], or the random generator failed.
    pub fn create(cluster_id: &str) -> Result<Self, AuthorityError> {
        let key = KeyPair::generate().map_err(AuthorityError::MakeKey)?;
        let params = Self::params(cluster_id)?;
        let cert_pem = params.self_signed(&key).map_err(AuthorityError::MakeCertificate)?.pem();
        Ok(Self { cluster_id: cluster_id.to_owned(), cert_pem, issuer: Issuer::new(params, key) })
    }

    /// The authority that [`Authority::to_pem`] wrote.
    ///
    /// # Errors
    /// Either is not PEM, or they don't fit each other.
    pub fn from_pem(cert_pem: &str, key_pem: &str) -> Result<Self, AuthorityError> {
        let der = CertificateDer::from_pem_slice(cert_pem.as_bytes())
            .map_err(|e| AuthorityError::Certificate(CertificateError::NotPem(e)))?;
        let facts = Facts::read(&der).map_err(AuthorityError::Certificate)?;
        if !facts.is_authority {
            return Err(AuthorityError::NotAnAuthority);
        }
        let cluster_id = facts.cluster_id.ok_or(AuthorityError::Certificate(CertificateError::NoCluster))?;
        let key = KeyPair::from_pem(key_pem).map_err(AuthorityError::Key)?;
        if key.subject_public_key_info() != facts.public_key {
            return Err(AuthorityError::KeyMismatch);
        }
        // The subject is made of the cluster's id alone, so it need not be taken over from the certificate.
        let issuer = Issuer::new(Self::params(&cluster_id)?, key);
        Ok(Self { cluster_id, cert_pem: cert_pem.to_owned(), issuer })
    }

    /// Certificate and private key, both as PEM.
    #[must_use]
    pub fn to_pem(&self) -> (String, String) {
        (self.cert_pem.clone(), self.issuer.key().serialize_pem())
    }

    /// The cluster whose nodes it certifies.
    #[must_use]
    pub fn cluster_id(&self) -> &str {
        &self.cluster_id
    }

    /// A certificate and a new private key for a node that listens on `addresses`, both as PEM.
    ///
    /// # Errors
    /// [`AuthorityError::Name`], [`AuthorityError::MakeKey`] or [`AuthorityError::Issue`].
    pub fn issue(&self, node: &NodeName, addresses: &[IpAddr]) -> Result<(String, String), AuthorityError> {
        let failed = |source| AuthorityError::Issue { node: node.clone(), source };
        DnsName::try_from(node.as_str()).map_err(|_| AuthorityError::Name(node.clone()))?;
        let key = KeyPair::generate().map_err(AuthorityError::MakeKey)?;
        let mut params = CertificateParams::default();
        params.not_before = date_time_ymd(SINCE, 1, 1);
        params.not_after = date_time_ymd(UNTIL, 1, 1);
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, node.as_str());
        params.subject_alt_names = vec![
            SanType::DnsName(node.as_str().try_into().map_err(failed)?),
            SanType::URI(cluster_uri(&self.cluster_id).try_into().map_err(failed)?),
        ];
        params.subject_alt_names.extend(addresses.iter().copied().map(SanType::IpAddress));
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        let cert = params.signed_by(&key, &self.issuer).map_err(failed)?;
        Ok((cert.pem(), key.serialize_pem()))
    }

    fn params(cluster_id: &str) -> Result<CertificateParams, AuthorityError> {
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        if cluster_id.is_empty() || cluster_id.len() > 64 || !cluster_id.chars().all(plain) {
            return Err(AuthorityError::ClusterId(cluster_id.to_owned()));
        }
        let uri = cluster_uri(cluster_id).try_into().map_err(AuthorityError::MakeCertificate)?;
        let mut params = CertificateParams::default();
        params.not_before = date_time_ymd(SINCE, 1, 1);
        params.not_after = date_time_ymd(UNTIL, 1, 1);
        params.distinguished_name = rcgen::DistinguishedName::new();
        // The id makes the subject unique: a client that trusts two clusters' authorities finds the right one.
        params.distinguished_name.push(DnType::CommonName, "trine cluster authority");
        params.distinguished_name.push(DnType::OrganizationName, cluster_id);
        params.subject_alt_names = vec![SanType::URI(uri)];
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        Ok(params)
    }
}

impl fmt::Debug for Authority {
    /// Without the key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority").field("cluster_id", &self.cluster_id).finish_non_exhaustive()
    }
}
