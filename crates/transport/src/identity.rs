//! A node's certificate and key, ready for TLS.

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use trine_protocol::NodeName;

use crate::certificate::{CertificateError, Facts};
use crate::{ALPN_RPC, ALPN_STREAM};

/// Who this node is to the others, and whom it believes.
pub struct Identity {
    name: NodeName,
    cluster_id: String,
    pub(crate) server: Arc<ServerConfig>,
    pub(crate) rpc: Arc<ClientConfig>,
    pub(crate) stream: Arc<ClientConfig>,
    https: Arc<ServerConfig>,
}

/// Which of the three files, and where it lies when it was read from one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PemFile {
    what: &'static str,
    path: Option<PathBuf>,
}

impl fmt::Display for PemFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.path {
            Some(path) => write!(f, "the {} {}", self.what, path.display()),
            None => write!(f, "the {}", self.what),
        }
    }
}

/// A node's certificate can't be used.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The file could not be read.
    #[error("can't read {file}")]
    Read {
        /// Which.
        file: PemFile,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Not a certificate, or not one of this cluster.
    #[error("{file} can't be used")]
    Certificate {
        /// Which.
        file: PemFile,
        /// Why.
        #[source]
        source: CertificateError,
    },
    /// No private key in it.
    #[error("{file} holds no private key in PEM")]
    Key {
        /// Which.
        file: PemFile,
        /// Why.
        #[source]
        source: rustls_pki_types::pem::Error,
    },
    /// Run out.
    #[error("{file} has expired on {when} (this machine's clock may be wrong)")]
    Expired {
        /// Which.
        file: PemFile,
        /// Its last day.
        when: String,
    },
    /// Not begun.
    #[error("{file} is valid from {when} only (this machine's clock may be wrong)")]
    NotYetValid {
        /// Which.
        file: PemFile,
        /// Its first day.
        when: String,
    },
    /// Of another authority.
    #[error("{file} was not issued by {authority}")]
    OtherAuthority {
        /// The node's.
        file: PemFile,
        /// The authority's.
        authority: PemFile,
        /// What TLS says.
        #[source]
        source: Box<rustls::Error>,
    },
    /// The key is of another certificate.
    #[error("{key} does not fit {certificate}")]
    KeyMismatch {
        /// The key's file.
        key: PemFile,
        /// The certificate's file.
        certificate: PemFile,
        /// What TLS says.
        #[source]
        source: Box<rustls::Error>,
    },
    /// The authority can't serve as a root.
    #[error("{authority} can't be trusted as an authority")]
    Authority {
        /// The authority's file.
        authority: PemFile,
        /// What TLS says.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// TLS 1.3 can't be set up with this build's cryptography.
    #[error("can't set up TLS")]
    Setup(#[source] rustls::Error),
}

impl Identity {
    /// From PEM texts: the cluster's authority, this node's certificate, its key.
    ///
    /// # Errors
    /// [`IdentityError`] says which of the three is wrong, and how.
    pub fn load(ca_pem: &str, cert_pem: &str, key_pem: &str, cluster_id: &str) -> Result<Self, IdentityError> {
        let file = |what| PemFile { what, path: None };
        Self::build([file(CA), file(CERT), file(KEY)], [ca_pem, cert_pem, key_pem], cluster_id)
    }

    /// From files. Blocks.
    ///
    /// # Errors
    /// [`IdentityError`] names the file and says what is wrong with it.
    pub fn load_files(ca: &Path, cert: &Path, key: &Path, cluster_id: &str) -> Result<Self, IdentityError> {
        let read = |what, path: &Path| {
            let file = PemFile { what, path: Some(path.to_owned()) };
            match fs::read_to_string(path) {
                Ok(text) => Ok((file, text)),
                Err(source) => Err(IdentityError::Read { file, source }),
            }
        };
        let (ca_file, ca) = read(CA, ca)?;
        let (cert_file, cert) = read(CERT, cert)?;
        let (key_file, key) = read(KEY, key)?;
        Self::build([ca_file, cert_file, key_file], [&ca, &cert, &key], cluster_id)
    }

    /// This node.
    #[must_use]
    pub fn name(&self) -> &NodeName {
        &self.name
    }

    /// Its cluster.
    #[must_use]
    pub fn cluster_id(&self) -> &str {
        &self.cluster_id
    }

    /// For a port that people and programs without a certificate use: this node's certificate, none asked of the client,
    /// TLS 1.2 or 1.3, HTTP/1.1.
    #[must_use]
    pub fn https(&self) -> Arc<ServerConfig> {
        self.https.clone()
    }

    fn build(files: [PemFile; 3], pems: [&str; 3], cluster_id: &str) -> Result<Self, IdentityError> {
        let [ca_file, cert_file, key_file] = files;
        let [ca_pem, cert_pem, key_pem] = pems;
        let ca = certificates(&ca_file, ca_pem)?;
        let chain = certificates(&cert_file, cert_pem)?;
        for (file, list) in [(&ca_file, &ca), (&cert_file, &chain)] {
            for der in list {
                check_cluster_and_time(file, der, cluster_id)?;
            }
        }
        let leaf = chain.first().ok_or_else(|| missing(&cert_file))?;
        let unusable = |source| IdentityError::Certificate { file: cert_file.clone(), source };
        let name = Facts::read(leaf).and_then(|f| f.node(cluster_id)).map_err(unusable)?;
        let key = PrivateKeyDer::from_pem_slice(key_pem.as_bytes())
            .map_err(|source| IdentityError::Key { file: key_file.clone(), source })?;

        let untrusted = |source| IdentityError::Authority { authority: ca_file.clone(), source };
        let mut roots = RootCertStore::empty();
        for der in ca {
            roots.add(der).map_err(|e| untrusted(e.into()))?;
        }
        let roots = Arc::new(roots);
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let clients = WebPkiClientVerifier::builder_with_provider(roots.clone(), provider.clone())
            .build()
            .map_err(|e| untrusted(e.into()))?;
        clients.verify_client_cert(leaf, chain.get(1..).unwrap_or_default(), UnixTime::now()).map_err(|e| {
            let (file, authority, source) = (cert_file.clone(), ca_file.clone(), Box::new(e));
            IdentityError::OtherAuthority { file, authority, source }
        })?;

        let misfit = |e| {
            let (key, certificate, source) = (key_file.clone(), cert_file.clone(), Box::new(e));
            IdentityError::KeyMismatch { key, certificate, source }
        };
        let new = &[&rustls::version::TLS13];
        let mut server = ServerConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(new)
            .map_err(IdentityError::Setup)?
            .with_client_cert_verifier(clients)
            .with_single_cert(chain.clone(), key.clone_key())
            .map_err(misfit)?;
        server.alpn_protocols = vec![ALPN_RPC.to_vec(), ALPN_STREAM.to_vec()];
        let mut https = ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(IdentityError::Setup)?
            .with_no_client_auth()
            .with_single_cert(chain.clone(), key.clone_key())
            .map_err(misfit)?;
        https.alpn_protocols = vec![b"http/1.1".to_vec()];
        let mut rpc = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(new)
            .map_err(IdentityError::Setup)?
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, key)
            .map_err(misfit)?;
        let mut stream = rpc.clone();
        rpc.alpn_protocols = vec![ALPN_RPC.to_vec()];
        stream.alpn_protocols = vec![ALPN_STREAM.to_vec()];
        // A ticket belongs to one application protocol, so the two keep theirs apart.
        stream.resumption = rustls::client::Resumption::in_memory_sessions(64);
        Ok(Self {
            name,
            cluster_id: cluster_id.to_owned(),
            server: Arc::new(server),
            rpc: Arc::new(rpc),
            stream: Arc::new(stream),
            https: Arc::new(https),
        })
    }
}

impl fmt::Debug for Identity {
    /// Without the key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity")
            .field("name", &self.name)
            .field("cluster_id", &self.cluster_id)
            .finish_non_exhaustive()
    }
}

const CA: &str = "authority's certificate";
const CERT: &str = "node's certificate";
const KEY: &str = "node's key";

fn missing(file: &PemFile) -> IdentityError {
    let source = CertificateError::NotPem(rustls_pki_types::pem::Error::NoItemsFound);
    IdentityError::Certificate { file: file.clone(), source }
}

fn certificates(file: &PemFile, pem: &str) -> Result<Vec<CertificateDer<'static>>, IdentityError> {
    let list = CertificateDer::pem_slice_iter(pem.as_bytes()).collect::<Result<Vec<_>, _>>();
    let list =
        list.map_err(|e| IdentityError::Certificate { file: file.clone(), source: CertificateError::NotPem(e) })?;
    if list.is_empty() { Err(missing(file)) } else { Ok(list) }
}

fn check_cluster_and_time(file: &PemFile, der: &CertificateDer<'_>, cluster_id: &str) -> Result<(), IdentityError> {
    let unusable = |source| IdentityError::Certificate { file: file.clone(), source };
    let facts = Facts::read(der).map_err(unusable)?;
    match &facts.cluster_id {
        None => return Err(unusable(CertificateError::NoCluster)),
        Some(found) if found != cluster_id => {
            let (found, expected) = (found.clone(), cluster_id.to_owned());
            return Err(unusable(CertificateError::OtherCluster { found, expected }));
        }
        Some(_) => {}
    }
    let now = i64::try_from(UnixTime::now().as_secs()).unwrap_or(i64::MAX);
    if now > facts.not_after.0 {
        return Err(IdentityError::Expired { file: file.clone(), when: facts.not_after.1 });
    }
    if now < facts.not_before.0 {
        return Err(IdentityError::NotYetValid { file: file.clone(), when: facts.not_before.1 });
    }
    Ok(())
}
