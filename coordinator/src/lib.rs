//! The coordinator: plans episodes, selects among them and remembers them.

pub mod config;
pub mod dataset;
pub mod environments;
pub mod planning;
pub mod selection;
