//! Local models on candle.

pub mod linear;
