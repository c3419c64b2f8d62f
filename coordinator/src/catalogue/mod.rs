//! The read side: episodes for people and machines. Nothing decides by it.

mod episodes;

pub use episodes::{EpisodeView, episodes};
