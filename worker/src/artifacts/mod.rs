//! Files by digest: fetched from the coordinator, verified, cached within a bound; and the way back.

mod cache;
mod digest;
mod error;
mod half;
mod peft;
mod shrink;
mod transfer;
mod uses;

pub(crate) use cache::ArtifactCache;
pub(crate) use digest::digest_of_file;
pub(crate) use error::ArtifactError;
pub(crate) use peft::{ADAPTER_CONFIG, ADAPTER_WEIGHTS};
pub(crate) use transfer::Transfer;
pub(crate) use uses::Held;

/// Runs file work aside of the runtime's threads.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> std::io::Result<T> + Send + 'static) -> std::io::Result<T> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|e| Err(std::io::Error::other(e)))
}

#[cfg(test)]
mod tests;
