//! Files by digest: fetched from the coordinator, verified, cached; and the way back.

mod cache;
mod digest;
mod peft;

pub(crate) use cache::{ArtifactCache, ArtifactError};
pub(crate) use digest::digest_of_file;
pub(crate) use peft::{ADAPTER_CONFIG, ADAPTER_WEIGHTS};

#[cfg(test)]
mod tests;
