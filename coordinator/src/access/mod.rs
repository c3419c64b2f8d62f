//! Who may call what: roles and their tokens, TLS, and where a coordinator may listen.

mod refusal;
mod tls;
mod token_files;

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use influence_proto::{BEARER, Digest, Token};
use subtle::{Choice, ConstantTimeEq as _};

pub(crate) use refusal::{Refusal, RefusalLog};
pub use tls::TlsPem;
pub use token_files::{ADMIN_TOKEN, TokenFileError, WORKER_TOKEN, create_tokens, read_token};

/// Whether a `Host` header names this machine to itself. Others are names that somebody has pointed here.
pub fn is_local(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// What a caller is to the coordinator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// Takes leases and delivers results.
    Worker,
    /// Asks how the run stands, drains workers, pauses.
    Admin,
}

/// The credentials that a coordinator asks for. None by default.
#[derive(Debug, Clone, Default)]
pub struct AccessOptions {
    /// What workers show.
    pub worker: Option<Token>,
    /// What admins show.
    pub admin: Option<Token>,
    /// Who the coordinator is, over TLS.
    pub tls: Option<TlsPem>,
    /// Whether tokens may travel in plain text to addresses that others can reach.
    pub allow_plaintext: bool,
}

/// Credentials that contradict each other or cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AccessError {
    /// A worker could act as an admin.
    #[error("the worker's and the admin's token are the same; give each its own, as `influence token create` does")]
    SameToken,
    /// A certificate or key is none.
    #[error("{what} cannot be used: {problem}")]
    Pem {
        /// Which, by its flag.
        what: &'static str,
        /// Why.
        problem: String,
    },
}

/// An address that the credentials do not suffice for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Exposed {
    /// Anybody could join.
    #[error(
        "{address} can be reached from other machines, and workers would need no credential there; give --tokens DIR \
         (`influence token create` makes one), or --tls-client-ca FILE for mutual TLS; or listen on this machine \
         only, with --listen 127.0.0.1:{port}", port = address.port()
    )]
    NoCredential {
        /// The address given.
        address: SocketAddr,
    },
    /// Anybody on the way could read the tokens.
    #[error(
        "{address} can be reached from other machines, and tokens would travel there in plain text; give --tls-cert \
         FILE and --tls-key FILE, or --allow-plaintext if the network is to be trusted; or listen on this machine \
         only, with --listen 127.0.0.1:{port}", port = address.port()
    )]
    PlainText {
        /// The address given.
        address: SocketAddr,
    },
}

/// The rules that a coordinator holds its callers to. Of tokens it keeps the digests only.
#[derive(Clone, Default)]
pub struct Access {
    worker: Option<Digest>,
    admin: Option<Digest>,
    tls: Option<Arc<rustls::ServerConfig>>,
    /// Every connection shows a certificate.
    mutual: bool,
    allow_plaintext: bool,
}

impl fmt::Debug for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Access")
            .field("worker_token", &self.worker.is_some())
            .field("admin_token", &self.admin.is_some())
            .field("tls", &self.tls.is_some())
            .field("mutual", &self.mutual)
            .field("allow_plaintext", &self.allow_plaintext)
            .finish()
    }
}

/// What a caller shows.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shown<'a> {
    /// The header `authorization`.
    pub(crate) authorization: Option<&'a [u8]>,
    /// Whether its connection has a certificate, which the handshake has verified.
    pub(crate) certificate: bool,
}

impl Access {
    /// The rules for these credentials.
    ///
    /// # Errors
    /// When both roles have the same token, or a certificate or key cannot be used.
    pub fn new(options: AccessOptions) -> Result<Self, AccessError> {
        let AccessOptions { worker, admin, tls, allow_plaintext } = options;
        let (worker, admin) = (worker.map(|token| token.digest()), admin.map(|token| token.digest()));
        if worker.is_some() && worker == admin {
            return Err(AccessError::SameToken);
        }
        let mutual = tls.as_ref().is_some_and(|pem| pem.client_ca.is_some());
        let tls = tls.as_ref().map(tls::server).transpose()?;
        Ok(Self { worker, admin, tls, mutual, allow_plaintext })
    }

    /// Whether a coordinator with these credentials may listen at `address`.
    ///
    /// # Errors
    /// Where others can reach it, workers need a credential, and tokens need TLS.
    pub fn permits(&self, address: SocketAddr) -> Result<(), Exposed> {
        if address.ip().to_canonical().is_loopback() {
            return Ok(());
        }
        if self.worker.is_none() && !self.mutual {
            return Err(Exposed::NoCredential { address });
        }
        if self.tls.is_none() && !self.allow_plaintext {
            return Err(Exposed::PlainText { address });
        }
        Ok(())
    }

    /// Whether connections speak TLS.
    pub const fn speaks_tls(&self) -> bool {
        self.tls.is_some()
    }

    pub(crate) const fn tls(&self) -> Option<&Arc<rustls::ServerConfig>> {
        self.tls.as_ref()
    }

    /// Whether a caller who shows this may make a call of `service` that `also` another role may make.
    pub(crate) fn authorise(&self, service: Role, also: Option<Role>, shown: Shown<'_>) -> Result<(), Refusal> {
        let worker_asked = self.worker.is_some() || self.mutual;
        let asked = match service {
            Role::Worker => worker_asked,
            // A worker's credential must be worth less than an admin's.
            Role::Admin => worker_asked || self.admin.is_some(),
        };
        if !asked {
            return Ok(());
        }
        if service == Role::Admin && self.admin.is_none() {
            return Err(Refusal::NoAdmin);
        }
        let role = match shown.authorization {
            Some(header) => self.role_of(header)?,
            None if shown.certificate => Role::Worker,
            None => return Err(Refusal::Missing { needs: service }),
        };
        if role == service || Some(role) == also {
            return Ok(());
        }
        Err(Refusal::WrongRole { is: role, needs: service })
    }

    /// Whose token this is. Takes the same time for every token of one length.
    fn role_of(&self, header: &[u8]) -> Result<Role, Refusal> {
        let text = header.strip_prefix(BEARER.as_bytes()).ok_or(Refusal::NoBearer)?;
        let shown = Digest::of(text);
        let is = |token: Option<Digest>| {
            token.map_or(Choice::from(0), |token| token.as_bytes().as_slice().ct_eq(shown.as_bytes()))
        };
        let (worker, admin) = (is(self.worker), is(self.admin));
        if admin.into() {
            return Ok(Role::Admin);
        }
        if worker.into() {
            return Ok(Role::Worker);
        }
        Err(Refusal::WrongToken)
    }
}

#[cfg(test)]
mod tests;
