//! A run from plan to last evaluation. Each step is derived from the store and may be repeated, so a
//! restart at any instruction goes on exactly where the last process stood.

mod error;
mod judgement;
mod rollout;
mod run;
mod training;

pub use error::RunError;
pub use run::{Opened, open_run};

pub(crate) use run::Run;
