//! Datasets: selected episodes to training rows, and rows to JSON lines.

mod fine_tuning;
mod lines;
mod preferences;
mod rows;
mod text;

use std::io::{self, Write};

use serde::Serialize;

pub use fine_tuning::{FineTuningRow, Input};
pub use lines::{RowError, json_lines};
pub(crate) use lines::{each_row, file_digest};
pub use preferences::{Preference, count_preferences, preference_rows, read_preferences};
pub use rows::{pairs, replies, rows};
pub use text::TextChat;

/// Writes rows as JSON lines.
///
/// # Errors
/// When the writer fails.
pub fn write_rows<R: Serialize>(mut out: impl Write, rows: &[R]) -> io::Result<()> {
    for row in rows {
        serde_json::to_writer(&mut out, row)?;
        out.write_all(b"\n")?;
    }
    out.flush()
}

#[cfg(test)]
mod tests;
