//! Placeholder, becomes the crate's docs.

pub mod planning;
pub mod store;
