//! The run: roll out, judge, write the dataset, train, again; and evaluations between.
//!
//! Every step first asks the store whether it is done already, and writes its result down before the
//! next begins. A process that is killed at any instruction is therefore followed by one that goes
//! on exactly there, and the plan, seeds and selection being pure functions, with the same outcome.

mod active;
mod error;
mod figures;
mod folder;
mod judge;
mod open;
mod rollout;
mod run;
mod summary;
mod training;

pub use error::RunError;
pub use figures::{FlipSummary, SelectionSummary};
pub(crate) use folder::RunFolder;
pub(crate) use judge::siblings;
pub use open::{OpenError, Opened, open_run};
pub(crate) use run::{Budget, Run};
pub use summary::{IterationSummary, MetricSummary, RoleUsage, summary};
pub(crate) use summary::{NANO, agent_of, metrics_of, spent};
