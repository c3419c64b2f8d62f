//! Experiments and model tables: YAML to values that cannot be out of range.
//!
//! The file's form is read by `read`, key by key with bounds and defaults; the validated form are
//! the types here. Every problem of a file is collected, with its line, before any is reported.

mod api;
mod convert;
pub(crate) mod document;
mod evaluation;
mod experiment;
mod identity;
mod models;
mod published;
mod read;
mod schema;
mod settings;
mod validate;

#[cfg(test)]
pub(crate) mod tests;

pub use convert::{Converted, convert};
pub(crate) use document::nearest as nearest_name;
pub use document::{Place, Problem, Problems};
pub use evaluation::{Metric, Scale, Unit, load_metrics};
pub use experiment::{Experiment, default_scoring, training_settings};
pub use models::{ModelTable, load_models};
pub use published::{Aggregate, Published, PublishedFigure, load_published};
pub use schema::{SchemaOf, schema};
pub use settings::{
    ApiTraining, AssessorLayout, AssessorSettings, EnvironmentSettings, EvaluationSettings, GeneratorSettings,
    InfluenceSettings, LeaseSettings, LocalTraining, LongRows, Order, RewardSettings, RewardTurns, RoleSettings,
    RowMode, SelectionLevel, SelectionSettings, StartAgent, StaticData, Trainer, TrainingSettings, VetoSettings,
};
pub use validate::{Valid, validate};
