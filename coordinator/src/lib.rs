//! The coordinator: plans episodes, leases them to workers, selects, has adapters trained, and
//! remembers everything. It links no model code.
//!
//! A run starts with [`config::Experiment::load`], becomes a run of the [`store`] with
//! [`open_run`], and is carried on by [`Coordinator::start`]; [`summary`] reads the figures of any
//! run, going on or not.
//!
//! | module | what it owns |
//! |---|---|
//! | [`config`], [`environments`] | files to validated settings and prompts |
//! | [`planning`], [`selection`], [`dataset`] | pure functions: what is rolled out, chosen, trained on |
//! | [`store`], [`artifacts`] | durable truth; immutable bytes by digest |
//! | [`statistics`] | pure functions: means, intervals, tests |
//! | [`dispatch`] | who holds what: a pure state machine and the task that owns it |
//! | [`access`] | who may call what: roles, tokens, TLS |
//! | `service` | gRPC: decode, call, encode |
//! | [`catalogue`] | the read side |
//! | [`metrics`] | what is measured |
//! | [`export`], [`import`] | a run as files for other tools; runs of the Python benchmark as ours |
//! | [`experiment`] | the run itself: every step derived from the store, so it resumes anywhere |

pub mod access;
mod answering;
pub mod artifacts;
pub mod catalogue;
mod cluster;
pub mod config;
mod coordinator;
pub mod dashboard;
pub mod dataset;
pub mod dispatch;
pub mod door;
pub mod environments;
pub mod evaluation;
pub mod experiment;
pub mod export;
pub mod import;
mod leadership;
pub mod metrics;
pub mod planning;
mod playground;
mod progress;
pub mod selection;
mod service;
mod serving;
#[cfg(test)]
mod simulation;
pub mod statistics;
pub mod store;

/// The target of spans that are for traces alone; text logs leave them out.
pub(crate) const TRACE: &str = "influence_trace";

pub use answering::{Answering, AnsweringOptions};
pub use cluster::Cluster;
pub use coordinator::{Coordinator, CoordinatorOptions, RunHandle, StartError};
pub use experiment::{IterationSummary, MetricSummary, OpenError, Opened, RoleUsage, RunError, open_run, summary};
pub use leadership::Leadership;
pub use progress::{Progress, RunPhase, TrainingNow};
pub use service::ListenError;
