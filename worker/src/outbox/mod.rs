//! Turns and results, kept until the coordinator has stored them.
//!
//! Every piece of work has a lane of its own: its turns and its result leave in order, one at a time, and are sent again
//! for as long as the coordinator is away. A lane holds a bounded number of turns; then the episode waits.

mod backoff;
mod lane;

pub(crate) use backoff::Backoff;
pub(crate) use lane::{Delivery, Lane};

#[cfg(test)]
mod tests;
