//! Datasets: selected episodes to training rows, and rows to JSON lines and back.

mod lines;
mod rows;

pub use lines::{DatasetError, read_rows, write_rows};
pub use rows::rows;

#[cfg(test)]
mod tests;
