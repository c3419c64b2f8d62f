//! A worker of Influence Benchmark: it joins a coordinator, rolls out its share of episodes, and trains on request.
//!
//! - [`run`]: a worker's whole life, from the handshake to the goodbye.
//! - [`push_model`]: a model's files to a coordinator, for workers that cannot have them elsewhere.
//! - [`models`]: model files, from the cache or the first source that answers.
//! - [`backend`]: one trait over whatever serves a model, and the local engine behind it.
//! - [`episode`]: one conversation: what every role is asked, in which order, and what is made of the answers.
//! - [`training`]: training rows out of JSON lines.
//!
//! A worker knows nothing of experiments, stores or selection: an episode's spec holds everything that it needs.

mod admin;
mod artifacts;
pub mod backend;
mod calls;
mod client;
pub mod episode;
pub mod metrics;
pub mod models;
mod outbox;
mod push;
mod session;
pub mod training;

/// Of spans and events that only traces show.
pub(crate) const TRACE: &str = "influence_trace";

pub use admin::{Admin, AdminError};
pub use client::{ConnectError, Credentials, IdentityPem};
pub use push::{Push, PushError, push_model};
pub use session::{CACHE_BYTES, OnDownload, SHARE_EVERY, WorkerError, WorkerOptions, run};
