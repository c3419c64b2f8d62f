//! Plans: which conversations an iteration rolls out, each as a self-contained spec.
//!
//! A plan is a pure function of the experiment, the run's id, the phase and the iteration. Ids hash
//! an episode's coordinates; seeds hash the same without the run, so a run can be repeated under
//! another name.

mod plan;
mod pools;

pub use plan::{Phase, PlanError, plan};
pub(crate) use pools::check_pools;
pub use pools::{Pool, pool, shares};

#[cfg(test)]
mod tests;
