//! Experiments, environment classes and model tables from files, good and bad.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod classes;
mod convert;
mod evaluations;
mod expansions;
mod experiments;
mod extends;
mod files;
mod fine_tuning;
pub(crate) mod fixture;
mod identity;
mod model_tables;
