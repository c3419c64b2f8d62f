//! Ways to the coordinator: tokens, and certificates made for the test.

use std::net::SocketAddr;

use influence_coordinator::access::{Access, AccessOptions, TlsPem};
use influence_proto::wire::admin_client::AdminClient;
use influence_proto::wire::coordinator_client::CoordinatorClient;
use influence_proto::{MAX_MESSAGE, Token};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic::{Request, Status};

pub(crate) const WORKER: &str = "the-token-of-workers";
pub(crate) const ADMIN: &str = "the-token-of-the-admin";

pub(crate) type Client = CoordinatorClient<InterceptedService<Channel, Bearer>>;
pub(crate) type Admin = AdminClient<InterceptedService<Channel, Bearer>>;

/// What a caller brings. By default nothing.
#[derive(Clone, Default)]
pub(crate) struct Door {
    pub(crate) token: Option<&'static str>,
    pub(crate) tls: Option<ClientTlsConfig>,
}

#[derive(Clone)]
pub(crate) struct Bearer(Option<MetadataValue<Ascii>>);

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(header) = self.0.clone() {
            request.metadata_mut().insert("authorization", header);
        }
        Ok(request)
    }
}

impl Door {
    pub(crate) fn with(token: &'static str) -> Self {
        Self { token: Some(token), tls: None }
    }

    pub(crate) async fn open(&self, address: SocketAddr) -> Result<Client, tonic::transport::Error> {
        let client = CoordinatorClient::with_interceptor(self.connect(address).await?, self.bearer());
        Ok(client.max_decoding_message_size(MAX_MESSAGE).max_encoding_message_size(MAX_MESSAGE))
    }

    pub(crate) async fn open_admin(&self, address: SocketAddr) -> Result<Admin, tonic::transport::Error> {
        Ok(AdminClient::with_interceptor(self.connect(address).await?, self.bearer()))
    }

    async fn connect(&self, address: SocketAddr) -> Result<Channel, tonic::transport::Error> {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        let mut endpoint = Endpoint::from_shared(format!("{scheme}://{address}")).unwrap();
        if let Some(tls) = self.tls.clone() {
            endpoint = endpoint.tls_config(tls).unwrap();
        }
        endpoint.connect().await
    }

    fn bearer(&self) -> Bearer {
        Bearer(self.token.map(|text| Token::new(text).unwrap().header()))
    }
}

/// Rules with these tokens and, if given, TLS.
pub(crate) fn access(worker: Option<&str>, admin: Option<&str>, tls: Option<TlsPem>) -> Access {
    let token = |text: &str| Token::new(text).unwrap();
    let options = AccessOptions { worker: worker.map(token), admin: admin.map(token), tls, allow_plaintext: false };
    Access::new(options).unwrap()
}

/// An authority that signs certificates.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: String,
}

impl Authority {
    pub(crate) fn new(name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::new(params, key), certificate }
    }

    fn sign(&self, name: &str) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        (params.signed_by(&key, &self.issuer).unwrap().pem(), key.serialize_pem())
    }

    /// A coordinator's TLS; with `clients`, callers must bring a certificate that these have signed.
    pub(crate) fn server(&self, clients: Option<&Self>) -> TlsPem {
        let (certificate, key) = self.sign("127.0.0.1");
        let client_ca = clients.map(|authority| authority.certificate.clone().into_bytes());
        TlsPem { certificate: certificate.into_bytes(), key: key.into_bytes(), client_ca }
    }

    /// A caller's TLS that trusts this authority.
    pub(crate) fn client(&self) -> ClientTlsConfig {
        ClientTlsConfig::new().ca_certificate(Certificate::from_pem(&self.certificate))
    }

    /// A worker's certificate.
    pub(crate) fn identity(&self) -> Identity {
        let (certificate, key) = self.sign("a-worker");
        Identity::from_pem(certificate, key)
    }
}
