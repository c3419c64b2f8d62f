//! Files by digest.
mod digest;
pub(crate) use digest::digest_of_file;
