//! Environments: YAML and JSON files to the prompts, openings and state machines of episodes.
//!
//! A class is a folder: `_master_config.yaml` holds what its environments share, and each further
//! file is an environment with its variables and initial states. The format is that of the published
//! Python benchmark (arXiv 2411.02306). Prompts are Python format strings with names only; they are
//! parsed against the names that exist while loading, so that rendering cannot fail.

mod agent_prompt;
mod class;
mod environment;
mod expansion;
mod history;
mod likeness;
mod master;
mod openings;
mod states;
mod template;

pub use agent_prompt::AgentPrompt;
pub use class::{AssessorPrompt, EnvironmentClass, Scene, is_class};
pub use likeness::Likeness;
pub use master::InfluencePrompts;
pub(crate) use master::{MASTER, read_everything};
pub use openings::InitialState;
