//! LoRA adapters as PEFT folders, in and out.
//!
//! [`LoraWeights`] is a folder's content, checked against the model; [`Adapter`] is the packed form that
//! inference adds to its projections. Hugging Face PEFT loads what is written here, and the reverse.

mod adapter;
mod config;
mod error;
mod folder;
mod projection;

pub use adapter::Adapter;
pub use config::LoraConfig;
pub use error::AdapterError;
pub use folder::{LoraPair, LoraWeights};
pub use projection::Projection;

#[cfg(test)]
mod tests;
