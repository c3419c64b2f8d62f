//! Coordinator and workers over real gRPC on loopback: a run end to end, killed coordinators,
//! vanished workers, and everything and everybody that is refused.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod admin;
mod calls;
mod credentials;
mod door;
mod floods;
mod log;
mod models;
mod refusals;
mod restarts;
mod setting;
mod stragglers;
mod vanishing;
mod whole_run;
mod worker;
