//! The coordinator: plans episodes, leases them to workers, remembers what comes back, selects what
//! to train on, and shows it. It links no model code.
//!
//! [`config`] and [`environments`] read YAML; [`planning`], [`selection`] and [`dataset`] are pure;
//! [`store`] is the durable truth and [`catalogue`] its read side; [`dispatch`] decides who holds
//! what; [`service`] speaks gRPC; [`experiment`] owns the run. [`Coordinator`] puts them together.

pub mod artifacts;
pub mod catalogue;
pub mod config;
mod coordinator;
pub mod dataset;
pub mod dispatch;
pub mod environments;
pub mod experiment;
pub mod planning;
mod progress;
pub mod selection;
pub mod service;
pub mod store;

pub use coordinator::{Coordinator, CoordinatorError, CoordinatorOptions, Started};
pub use progress::{Progress, RunPhase, TrainingNow};
