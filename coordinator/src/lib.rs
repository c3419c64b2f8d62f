//! Placeholder, becomes the crate's docs.

pub mod planning;
pub mod store;
pub mod artifacts;
pub mod dispatch;
mod progress;
mod service;
