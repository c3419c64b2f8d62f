use std::io::{self, BufRead, Write};

use influence_proto::TrainingRow;
use influence_proto::prompts::ChatRole;
use serde_json::Value;

/// A dataset that cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum DatasetError {
    /// The file itself.
    #[error("{name}: {source}")]
    Io {
        /// The dataset's name.
        name: String,
        /// What the system says.
        source: io::Error,
    },
    /// One of its rows.
    #[error("{name}:{line}: {problem}")]
    Row {
        /// The dataset's name.
        name: String,
        /// From 1.
        line: usize,
        /// What is wrong with it, and what a row looks like.
        problem: String,
    },
}

/// The longest line that is read: a row of a million tokens has about 8 MiB.
const MAX_LINE: u64 = 64 << 20;

/// Writes rows as JSON lines.
///
/// # Errors
/// When the writer fails.
pub fn write_rows(mut out: impl Write, rows: &[TrainingRow]) -> io::Result<()> {
    for row in rows {
        serde_json::to_writer(&mut out, row)?;
        out.write_all(b"\n")?;
    }
    out.flush()
}

/// Reads JSON lines, skipping empty ones. `name` is for messages.
///
/// # Errors
/// When the reader fails, or at the first line that is no usable row.
pub fn read_rows(mut lines: impl BufRead, name: &str) -> Result<Vec<TrainingRow>, DatasetError> {
    let io = |source| DatasetError::Io { name: name.to_owned(), source };
    let mut rows = Vec::new();
    let mut bytes = Vec::new();
    for line in 1.. {
        let refuse = |problem: String| DatasetError::Row { name: name.to_owned(), line, problem };
        bytes.clear();
        let read = io::Read::take(&mut lines, MAX_LINE + 1).read_until(b'\n', &mut bytes).map_err(io)?;
        if read == 0 {
            break;
        }
        if read as u64 > MAX_LINE {
            return Err(refuse(format!("is longer than {} MiB, the limit of a row", MAX_LINE >> 20)));
        }
        let text = std::str::from_utf8(&bytes).map_err(|_| refuse("is not UTF-8; save the file as UTF-8".into()))?;
        if !text.trim().is_empty() {
            rows.push(parse(text.trim_end()).map_err(refuse)?);
        }
    }
    Ok(rows)
}

fn parse(text: &str) -> Result<TrainingRow, String> {
    let value: Value = serde_json::from_str(text).map_err(|error| {
        let message = error.to_string();
        format!("is not JSON: {} (column {})", message.split(" at line ").next().unwrap_or(""), error.column())
    })?;
    let tokens = value.get("token_ids").is_some();
    if !tokens && value.get("messages").is_none() {
        return Err("has neither `messages` nor `token_ids`; a row is `{\"messages\": [{\"role\": \"user\", \
                    \"content\": \"...\"}, {\"role\": \"assistant\", \"content\": \"...\"}]}`"
            .into());
    }
    // Of an untagged enum serde only says that no variant matches, so the reason is looked for here.
    let row = serde_json::from_value(value.clone())
        .map_err(|_| if tokens { token_fault(&value) } else { message_fault(&value) })?;
    check(&row)?;
    Ok(row)
}

fn token_fault(value: &Value) -> String {
    let ids = value.get("token_ids").and_then(Value::as_array);
    match ids {
        Some(ids) if ids.iter().all(|id| id.as_u64().is_some_and(|n| u32::try_from(n).is_ok())) => {
            "has no usable `targets`: they are pairs of positions, as in `[[3, 9]]`".into()
        }
        _ => "`token_ids` must be a list of whole numbers below 2^32".into(),
    }
}

fn message_fault(value: &Value) -> String {
    let Some(messages) = value.get("messages").and_then(Value::as_array) else {
        return "`messages` must be a list".into();
    };
    for (index, message) in messages.iter().enumerate() {
        if let Err(error) = serde_json::from_value::<influence_proto::RowMessage>(message.clone()) {
            return format!("`messages[{index}]`: {error}");
        }
    }
    "is no row".into()
}

fn check(row: &TrainingRow) -> Result<(), String> {
    match row {
        TrainingRow::Tokens { token_ids, targets, .. } => {
            let mut end = 0;
            for (from, to) in targets {
                if from < &end || from >= to || *to as usize > token_ids.len() {
                    let n = token_ids.len();
                    return Err(format!(
                        "the target [{from}, {to}] is empty, out of order, or beyond the row's {n} tokens"
                    ));
                }
                end = *to;
            }
            if targets.is_empty() { Err("has no targets, so it would train nothing; remove it".into()) } else { Ok(()) }
        }
        TrainingRow::Messages { messages } => {
            if let Some(index) = messages.iter().position(|m| m.weight.is_some_and(|w| w > 1)) {
                return Err(format!("`messages[{index}].weight` must be 0 or 1"));
            }
            let trained = |m: &influence_proto::RowMessage| m.role == ChatRole::Assistant && m.weight != Some(0);
            match messages.iter().any(trained) {
                true => Ok(()),
                false => Err("has no assistant message to train on; add one, or raise its `weight`".into()),
            }
        }
    }
}
