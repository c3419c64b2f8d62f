//! Selection: what each episode earned, and which episodes the agent is trained on. Pure functions
//! of the scores.

mod fraction;
mod select;

pub use fraction::{Fraction, InvalidFraction};
pub(crate) use select::mean;
pub use select::{Candidate, CandidateTurn, Reward, Selection, reply_characters, select};

#[cfg(test)]
mod tests;
