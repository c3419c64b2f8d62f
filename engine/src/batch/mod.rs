//! The engine: one step loop per device that serves every role, with requests joining and leaving at any step.
//!
//! A step takes the next token of every row that is generating, and chunks of prompts up to a budget, in one forward pass.
//! What a request returns depends on the request alone: not on the step it joined at, its neighbours or the chunking.

mod admission;
mod budget;
mod counters;
mod engine;
mod hand_out;
mod limits;
mod memory;
mod prefix;
mod request;
mod row;
mod session;
mod step_loop;

pub(crate) use budget::graph_budget;
pub use budget::{DeviceMemory, device_memory, kv_budget};
pub use counters::{EngineCounters, Tally};
pub use engine::Engine;
pub use request::{
    EngineOptions, FinishReason, Follow, FollowedToken, GenerateRequest, Generation, RequestError, Score, ScoreRequest,
    StartError,
};
pub use session::Session;
