//! A worker of Influence Benchmark: it joins a coordinator, rolls out its share of episodes, and trains on request.
mod artifacts;
pub mod models;
