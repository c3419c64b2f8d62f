//! Where the coordinator is, and how a worker shows who it is.

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use influence_proto::{TRACEPARENT, Token, TraceParent};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint, Identity, Uri};
use tonic::{Request, Status};

/// For a connection to be made.
const CONNECT: Duration = Duration::from_secs(5);
/// A connection on which nothing comes back is asked for a sign of life, and given up without one.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// What a worker shows to its coordinator, and how it knows the coordinator. Nothing by default.
#[derive(Debug, Clone, Default)]
pub struct Credentials {
    /// The worker's token.
    pub token: Option<Token>,
    /// Certificates of whoever signed the coordinator's, as PEM. An `https://` address needs it.
    pub ca: Option<Vec<u8>>,
    /// This worker's own certificate, where the coordinator asks for one.
    pub identity: Option<IdentityPem>,
    /// Whether the token may travel in plain text to other machines.
    pub allow_plaintext: bool,
}

/// A certificate and its private key, as PEM.
#[derive(Clone)]
pub struct IdentityPem {
    /// The certificate and what it was signed with, leaf first.
    pub certificate: Vec<u8>,
    /// Its key.
    pub key: Vec<u8>,
}

impl fmt::Debug for IdentityPem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("IdentityPem(hidden)")
    }
}

/// An address that cannot be used with these credentials.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConnectError {
    /// The address is none.
    #[error("the coordinator's address `{address}` cannot be used: {problem}")]
    Address {
        /// The address given.
        address: String,
        /// Why.
        problem: String,
    },
    /// Anybody on the way could read the token.
    #[error(
        "the token would travel to `{address}` in plain text; use https:// with --tls-ca FILE, or --allow-plaintext \
         if the network is to be trusted"
    )]
    PlainText {
        /// The address given.
        address: String,
    },
    /// Certificates that only TLS can use.
    #[error("the coordinator's address `{address}` is without TLS, and certificates were given; write https://")]
    NoTls {
        /// The address given.
        address: String,
    },
    /// Nothing says whom to trust.
    #[error("`{address}` needs --tls-ca FILE: the certificate that signed the coordinator's, as PEM")]
    NoCa {
        /// The address given.
        address: String,
    },
    /// A certificate or key is none.
    #[error("{what} cannot be used: {problem}")]
    Pem {
        /// Which, by its flag.
        what: &'static str,
        /// Why.
        problem: String,
    },
}

/// Addresses of a coordinator and its standbys, and the credentials for them.
#[derive(Debug, Clone)]
pub(crate) struct ClientOptions {
    /// Each as in `http://127.0.0.1:50051`.
    pub(crate) addresses: Vec<String>,
    pub(crate) credentials: Credentials,
}

impl ClientOptions {
    /// How connections to one of the addresses are made.
    pub(super) fn endpoint(&self, address: &str) -> Result<Endpoint, ConnectError> {
        let address = || address.to_owned();
        let refuse = |problem: String| ConnectError::Address { address: address(), problem };
        let endpoint = Endpoint::from_shared(address()).map_err(|e| refuse(e.to_string()))?;
        let credentials = &self.credentials;
        let endpoint = match (endpoint.uri().scheme_str(), endpoint.uri().host()) {
            (Some("https"), Some(_)) => {
                let tls = tls(credentials)?.ok_or_else(|| ConnectError::NoCa { address: address() })?;
                let broken = |e| ConnectError::Pem { what: "--tls-cert with --tls-key", problem: chain(&e) };
                endpoint.tls_config(tls).map_err(broken)?
            }
            (Some("http"), Some(_)) if credentials.ca.is_some() || credentials.identity.is_some() => {
                return Err(ConnectError::NoTls { address: address() });
            }
            (Some("http"), Some(_)) => {
                let secret = credentials.token.is_some() && !credentials.allow_plaintext;
                if secret && !stays_here(endpoint.uri()) {
                    return Err(ConnectError::PlainText { address: address() });
                }
                endpoint
            }
            _ => return Err(refuse("it must look like http://HOST:PORT or https://HOST:PORT".to_owned())),
        };
        Ok(endpoint
            .connect_timeout(CONNECT)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(KEEP_ALIVE)
            .keep_alive_timeout(KEEP_ALIVE)
            .keep_alive_while_idle(true))
    }

    pub(super) fn bearer(&self) -> Bearer {
        Bearer(self.credentials.token.as_ref().map(Token::header))
    }
}

/// Whether the address is this machine's own, whatever name servers say.
fn stays_here(uri: &Uri) -> bool {
    let host = uri.host().unwrap_or_default();
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || bare.parse::<IpAddr>().is_ok_and(|ip| ip.to_canonical().is_loopback())
}

/// None without a CA.
fn tls(credentials: &Credentials) -> Result<Option<ClientTlsConfig>, ConnectError> {
    let Some(ca) = &credentials.ca else { return Ok(None) };
    let broken = |problem| ConnectError::Pem { what: "the certificates of --tls-ca", problem };
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(ca).collect();
    if found.map_err(|e| broken(e.to_string()))?.is_empty() {
        return Err(broken("there is no certificate in it (a PEM file has lines of BEGIN CERTIFICATE)".to_owned()));
    }
    let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(ca)).timeout(CONNECT);
    let identity = credentials.identity.as_ref().map(|own| Identity::from_pem(&own.certificate, &own.key));
    Ok(Some(match identity {
        Some(identity) => tls.identity(identity),
        None => tls,
    }))
}

/// An error with everything below it.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut below = error.source();
    while let Some(error) = below {
        let said = error.to_string();
        if !text.contains(&said) {
            text.push_str(": ");
            text.push_str(&said);
        }
        below = error.source();
    }
    text
}

/// Puts the token on every call, and the span that it belongs to.
#[derive(Debug, Clone)]
pub(crate) struct Bearer(Option<MetadataValue<Ascii>>);

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(header) = &self.0 {
            request.metadata_mut().insert("authorization", header.clone());
        }
        if let Some(trace) = TraceParent::current().and_then(|parent| parent.as_str().parse().ok()) {
            request.metadata_mut().insert(TRACEPARENT, trace);
        }
        Ok(request)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn refusal(address: &str, credentials: Credentials) -> String {
        let options = ClientOptions { addresses: vec![address.to_owned()], credentials };
        let shown = format!("{options:?}{:?}", options.bearer());
        assert!(!shown.contains("correct-horse") && !shown.contains("BEGIN"), "{shown}");
        options.endpoint(address).err().map_or_else(String::new, |e| e.to_string())
    }

    #[test]
    fn a_token_leaves_this_machine_only_over_tls_or_on_request() {
        let token = Some(Token::new("correct-horse-battery").unwrap());
        let with = |allow_plaintext| Credentials { token: token.clone(), allow_plaintext, ..Credentials::default() };
        for here in ["http://127.0.0.1:1", "http://[::1]:1", "http://localhost:1", "http://127.9.9.9:1"] {
            assert_eq!(refusal(here, with(false)), "");
        }
        for there in
            ["http://192.0.2.7:1", "http://[2001:db8::1]:1", "http://coordinator:1", "http://localhost.example:1"]
        {
            let refused = refusal(there, with(false));
            for part in [there, "https://", "--tls-ca", "--allow-plaintext"] {
                assert!(refused.contains(part), "{part} is missing in: {refused}");
            }
            assert_eq!(refusal(there, with(true)), "");
            assert_eq!(refusal(there, Credentials::default()), "");
        }
    }

    #[test]
    fn certificates_that_cannot_work_are_refused_by_their_flag() {
        let own = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
        let (certificate, key) = (own.cert.pem().into_bytes(), own.signing_key.serialize_pem().into_bytes());
        let ca = Some(certificate.clone());
        let identity = |key| Some(IdentityPem { certificate: certificate.clone(), key });
        let nothing = Credentials::default();
        let https = "https://192.0.2.7:1";
        assert!(refusal(https, nothing.clone()).contains("needs --tls-ca"));
        assert!(refusal(https, Credentials { ca: Some(b"junk".to_vec()), ..nothing.clone() }).contains("--tls-ca"));
        let no_key = Credentials { ca: ca.clone(), identity: identity(b"junk".to_vec()), ..nothing.clone() };
        assert!(refusal(https, no_key).contains("--tls-key"));
        assert!(refusal("http://localhost:1", Credentials { ca: ca.clone(), ..nothing.clone() }).contains("https://"));
        assert!(refusal("ftp://localhost:1", nothing.clone()).contains("http://HOST:PORT"));
        assert_eq!(refusal(https, Credentials { ca, identity: identity(key), ..nothing }), "");
    }
}
