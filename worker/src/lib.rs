//! A worker of Influence Benchmark: it joins a coordinator, rolls out its share of episodes, and trains on request.
//!
//! - [`run`]: a worker's whole life, from the handshake to the goodbye.
//! - [`models`]: model files, from the cache or the first source that answers.
//! - [`backend`]: one trait over whatever serves a model, and the local engine behind it.
//! - [`episode`]: one conversation: what every role is asked, in which order, and what is made of the answers.
//! - [`training`]: training rows out of JSON lines.
//!
//! A worker knows nothing of experiments, stores or selection: an episode's spec holds everything that it needs.

mod artifacts;
pub mod backend;
mod client;
pub mod episode;
pub mod models;
mod outbox;
mod session;
pub mod training;

pub use client::{ConnectError, Credentials, IdentityPem};
pub use session::{OnDownload, WorkerError, WorkerOptions, run};
