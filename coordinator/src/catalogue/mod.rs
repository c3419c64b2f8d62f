//! The read side: episodes for people and machines. Nothing decides by it.

mod episodes;
mod filter;
mod rows;

pub use episodes::{EpisodeView, episodes};
pub use filter::{Filter, FilterError};
pub use rows::{EpisodeRow, Rows};
