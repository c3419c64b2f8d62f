//! Opening the store at an address.

use std::sync::Arc;

use super::{RedisStore, SqliteStore, Store, StoreAddress, StoreError};

/// An open store.
#[derive(Debug)]
pub struct OpenedStore {
    /// The store.
    pub store: Arc<dyn Store>,
    /// What people should know of it: acknowledged work that its settings may lose. They are logged
    /// too.
    pub warnings: Vec<String>,
}

/// Why a store could not be opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OpenStoreError {
    /// As in later calls. If it is [`StoreError::retryable`], opening may succeed later.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Wrong user or password, or one that may not do what is needed.
    #[error(
        "the store {store} refuses the user or the password ({detail}); they stand in its address, as in redis://USER:PASSWORD@HOST:PORT, and the user needs the keys `influence:*` with the commands INFO, EVALSHA, SCRIPT and those for strings, hashes and lists"
    )]
    Login {
        /// The store's address.
        store: String,
        /// Its words.
        detail: String,
    },
    /// Something else listens there.
    #[error("{store} is no Redis server ({detail}); check the host and the port")]
    NotRedis {
        /// The store's address.
        store: String,
        /// What it did.
        detail: String,
    },
    /// The server is of an early release.
    #[error("{store} is Redis {found}, but Redis {needed} or later is needed; update it, or use another server")]
    TooOld {
        /// The store's address.
        store: String,
        /// The server's release.
        found: String,
        /// The first release that serves.
        needed: u32,
    },
    /// The server is no single primary.
    #[error(
        "{store} runs as a Redis {mode}, but a single server is needed; give the address of one that stands for itself"
    )]
    Mode {
        /// The store's address.
        store: String,
        /// `cluster` or `sentinel`.
        mode: String,
    },
}

/// Opens the store at `address`, within ten seconds or so.
///
/// # Errors
/// When it cannot be reached or read, or is not what is needed.
pub async fn open(address: &StoreAddress) -> Result<OpenedStore, OpenStoreError> {
    match address {
        StoreAddress::Sqlite(file) => {
            Ok(OpenedStore { store: Arc::new(SqliteStore::open(file)?), warnings: Vec::new() })
        }
        StoreAddress::Redis(address) => {
            let (store, warnings) = RedisStore::open(address).await?;
            Ok(OpenedStore { store: Arc::new(store), warnings })
        }
    }
}
