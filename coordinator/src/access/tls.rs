//! Certificates and keys.

use std::fmt;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};

use super::AccessError;

/// Who a coordinator is, and whose workers it takes, as the content of PEM files.
#[derive(Clone)]
pub struct TlsPem {
    /// The coordinator's certificate and what it was signed with, leaf first.
    pub certificate: Vec<u8>,
    /// The certificate's private key.
    pub key: Vec<u8>,
    /// Certificates that sign workers' certificates. With them, nobody connects without one (mutual TLS).
    pub client_ca: Option<Vec<u8>>,
}

impl fmt::Debug for TlsPem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsPem").field("mutual", &self.client_ca.is_some()).finish_non_exhaustive()
    }
}

/// The server's side of every handshake.
pub(super) fn server(pem: &TlsPem) -> Result<Arc<ServerConfig>, AccessError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let broken = |what: &'static str| move |problem: String| AccessError::Pem { what, problem };
    let versions = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|e| broken("TLS")(e.to_string()))?;
    let verified = match &pem.client_ca {
        None => versions.with_no_client_auth(),
        Some(ca) => {
            let refuse = broken("the certificates of --tls-client-ca");
            let mut roots = RootCertStore::empty();
            for certificate in certificates(ca).map_err(refuse)? {
                roots.add(certificate).map_err(|e| refuse(e.to_string()))?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider);
            versions.with_client_cert_verifier(verifier.build().map_err(|e| refuse(e.to_string()))?)
        }
    };
    let chain = certificates(&pem.certificate).map_err(broken("the certificate of --tls-cert"))?;
    let key = PrivateKeyDer::from_pem_slice(&pem.key).map_err(|e| broken("the key of --tls-key")(e.to_string()))?;
    let mut config =
        verified.with_single_cert(chain, key).map_err(|e| broken("--tls-cert with --tls-key")(e.to_string()))?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(Arc::new(config))
}

fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let found: Vec<_> = CertificateDer::pem_slice_iter(pem).collect::<Result<_, _>>().map_err(|e| e.to_string())?;
    if found.is_empty() {
        return Err("there is no certificate in it (a PEM file has lines of BEGIN CERTIFICATE)".to_owned());
    }
    Ok(found)
}
