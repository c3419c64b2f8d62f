//! Where a store is.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use redis::io::tcp::TcpSettings;
use redis::{Client, ConnectionAddr, ConnectionInfo, IntoConnectionInfo as _};

use super::StoreError;

/// Where a store is: `redis://[USER:PASSWORD@]HOST[:PORT][/DATABASE]`, the same with `rediss` for
/// TLS, `sqlite:FILE`, or just a file. Shown without user and password.
#[derive(Debug, Clone)]
pub enum StoreAddress {
    /// A SQLite file.
    Sqlite(PathBuf),
    /// A Redis server.
    Redis(RedisAddress),
}

/// A Redis server's address, with its password.
#[derive(Clone)]
pub struct RedisAddress {
    info: Box<ConnectionInfo>,
}

/// A text that is no store's address. It repeats no password.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{shown}` is no store's address: {problem}; it is `redis://HOST:PORT`, `rediss://HOST:PORT` for TLS, both with `USER:PASSWORD@` before the host if need be (`@`, `/` and `#` in a password are written %40, %2F and %23), or a file, as in `sqlite:store.sqlite`"
)]
pub struct InvalidStoreAddress {
    /// The text without what may be a secret.
    shown: String,
    /// What is wrong.
    problem: String,
}

impl FromStr for StoreAddress {
    type Err = InvalidStoreAddress;

    fn from_str(text: &str) -> Result<Self, InvalidStoreAddress> {
        let wrong = |problem: &str| InvalidStoreAddress { shown: without_secrets(text), problem: problem.to_owned() };
        if let Some(file) = text.strip_prefix("sqlite:") {
            return match file.strip_prefix("//").unwrap_or(file) {
                "" => Err(wrong("the file is missing")),
                file => Ok(Self::Sqlite(file.into())),
            };
        }
        match text.split_once(':').map(|(scheme, _)| scheme) {
            Some("redis" | "rediss") => {
                let info = text.into_connection_info().map_err(|error| wrong(&error.to_string()))?;
                if matches!(info.addr(), ConnectionAddr::TcpTls { insecure: true, .. }) {
                    return Err(wrong("a certificate is always checked, so `#insecure` is not supported"));
                }
                // Small commands must not wait for each other's acknowledgement.
                let info = Box::new(info.set_tcp_settings(TcpSettings::default().set_nodelay(true)));
                Ok(Self::Redis(RedisAddress { info }))
            }
            Some(scheme) if text[scheme.len()..].starts_with("://") => {
                Err(wrong(&format!("`{scheme}` is no kind of store")))
            }
            _ if text.is_empty() => Err(wrong("it is empty")),
            _ => Ok(Self::Sqlite(text.into())),
        }
    }
}

/// The scheme, and what follows the last `@`.
fn without_secrets(text: &str) -> String {
    match (text.split_once("://"), text.rsplit_once('@')) {
        (Some((scheme, _)), Some((_, host))) => format!("{scheme}://...@{host}"),
        _ => text.to_owned(),
    }
}

impl fmt::Display for StoreAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sqlite(file) => write!(f, "{}", file.display()),
            Self::Redis(address) => address.fmt(f),
        }
    }
}

impl fmt::Display for RedisAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (scheme, host, port) = match self.info.addr() {
            ConnectionAddr::Tcp(host, port) => ("redis", host, port),
            ConnectionAddr::TcpTls { host, port, .. } => ("rediss", host, port),
            // No text is read as one of the others.
            other => return other.fmt(f),
        };
        if host.contains(':') {
            write!(f, "{scheme}://[{host}]:{port}")?;
        } else {
            write!(f, "{scheme}://{host}:{port}")?;
        }
        match self.info.redis_settings().db() {
            0 => Ok(()),
            database => write!(f, "/{database}"),
        }
    }
}

impl fmt::Debug for RedisAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RedisAddress({self})")
    }
}

impl RedisAddress {
    pub(super) fn client(&self) -> Result<Client, StoreError> {
        if matches!(self.info.addr(), ConnectionAddr::TcpTls { .. }) {
            // Fails if the process has one already, which is as good.
            let _ = rustls::crypto::ring::default_provider().install_default();
        }
        let failed = |e: redis::RedisError| StoreError::Unreadable { store: self.to_string(), detail: e.to_string() };
        Client::open((*self.info).clone()).map_err(failed)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    #[test]
    fn an_address_is_shown_without_user_and_password() {
        for (text, shown) in [
            ("redis://h", "redis://h:6379"),
            ("redis://ada:s3cret@h:7000/2", "redis://h:7000/2"),
            ("rediss://:s3cret@[::1]", "rediss://[::1]:6379"),
            ("redis://s3cret@h", "redis://h:6379"),
            ("sqlite:a/b.sqlite", "a/b.sqlite"),
            ("sqlite:///a/b.sqlite", "/a/b.sqlite"),
            ("a/b.sqlite", "a/b.sqlite"),
            ("C:/b.sqlite", "C:/b.sqlite"),
        ] {
            let address: StoreAddress = text.parse().unwrap();
            assert_eq!(address.to_string(), shown, "{text}");
            assert!(!format!("{address:?}").contains("s3cret"), "{address:?}");
        }
    }

    #[test]
    fn what_is_no_address_is_refused_without_repeating_a_password() {
        for (text, part) in [
            ("", "empty"),
            ("sqlite:", "file is missing"),
            ("http://ada:s3cret@h", "`http` is no kind"),
            ("redis://ada:s3cret@h:port", "redis://...@h:port"),
            ("redis://ada:s3/cret@h", "redis://...@h"),
            ("redis://ada:s3cret@h/first", "database"),
            ("redis:h", "is no store's address"),
            ("rediss://:s3cret@h#insecure", "always checked"),
        ] {
            let error = text.parse::<StoreAddress>().unwrap_err().to_string();
            assert!(error.contains(part), "{text}: {error}");
            assert!(!error.contains("s3"), "{error}");
        }
    }
}
