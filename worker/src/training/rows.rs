//! Training rows out of JSON lines.

use std::io::BufRead;

use influence_engine::chat::ChatMessage;
use influence_engine::model::Model;
use influence_engine::train::TrainRow;
use influence_proto::prompts::ChatRole;
use influence_proto::{EpisodeId, RowMessage};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::RowError;
use crate::backend::role_of_engine;

/// Reads training rows, one JSON object per line; blank lines are skipped.
///
/// `{"token_ids": [...], "targets": [[from, to], ...]}` is trained on as it is, half-open ranges of tokens being the
/// targets. `{"messages": [{"role", "content", "weight"}]}` is rendered by the model's chat format; assistant messages and
/// the end of turn after each are the targets, but for those with weight 0.
///
/// # Errors
/// [`RowError`] names the line and the field.
pub fn rows_from_jsonl(model: &Model, reader: impl BufRead) -> Result<Vec<TrainRow>, RowError> {
    let mut rows = Vec::new();
    for (index, text) in reader.lines().enumerate() {
        let line = index + 1;
        let text = text.map_err(|source| RowError::Read { line, source })?;
        if !text.trim().is_empty() {
            rows.push(row(model, &text, line)?);
        }
    }
    Ok(rows)
}

fn row(model: &Model, text: &str, line: usize) -> Result<TrainRow, RowError> {
    let refuse =
        |field: &str, problem: &str| RowError::Field { line, field: field.to_owned(), problem: problem.to_owned() };
    let value: Value = serde_json::from_str(text).map_err(|source| RowError::Json { line, source })?;
    let Value::Object(mut object) = value else {
        return Err(refuse("row", "must be an object with `messages`, or with `token_ids` and `targets`"));
    };
    let row = match object.remove("messages") {
        Some(messages) => {
            nothing_else(&object, line)?;
            from_messages(model, messages, line)?
        }
        None if object.contains_key("token_ids") => from_tokens(object, line)?,
        None => return Err(refuse("messages", "is missing, and there is no `token_ids` either")),
    };
    if row.mask.iter().any(|target| *target) {
        Ok(row)
    } else {
        Err(refuse("row", "holds nothing to train on: it needs an assistant message with weight 1, or a target"))
    }
}

fn from_messages(model: &Model, messages: Value, line: usize) -> Result<TrainRow, RowError> {
    let refuse = |field: String, problem: String| RowError::Field { line, field, problem };
    let Value::Array(values) = messages else {
        return Err(refuse("messages".to_owned(), "must be a list".to_owned()));
    };
    let mut chat = Vec::with_capacity(values.len());
    let mut learns = Vec::with_capacity(values.len());
    for (index, value) in values.into_iter().enumerate() {
        let place = format!("messages[{index}]");
        let message: RowMessage = parse(value, &place, line)?;
        if let Some(weight @ 2..) = message.weight {
            return Err(refuse(format!("{place}.weight"), format!("must be 0 or 1, but is {weight}")));
        }
        learns.push(message.role == ChatRole::Assistant && message.weight != Some(0));
        chat.push(ChatMessage::new(role_of_engine(message.role), message.content));
    }
    let marked = model.chat.training_ids_of(&chat, |index| learns.get(index).is_some_and(|learns| *learns));
    let (ids, mask) = marked.map_err(|source| RowError::Chat { line, source })?;
    Ok(TrainRow { ids, mask, weight: 1.0 })
}

fn from_tokens(mut object: Map<String, Value>, line: usize) -> Result<TrainRow, RowError> {
    let refuse = |problem: String| RowError::Field { line, field: "targets".to_owned(), problem };
    let ids: Vec<u32> = field(&mut object, "token_ids", line)?;
    let targets: Vec<(u32, u32)> = field(&mut object, "targets", line)?;
    // For people who read the dataset; training has no use for it.
    let _: Option<EpisodeId> = field(&mut object, "episode", line)?;
    nothing_else(&object, line)?;
    let mut mask = vec![false; ids.len()];
    let mut end = 0;
    for (from, to) in targets {
        let (from, to) = (from as usize, to as usize);
        if from < end || to <= from || to > ids.len() {
            return Err(refuse(format!(
                "holds [{from}, {to}]: ranges must not be empty, must be in order and apart, and end within the {} tokens",
                ids.len()
            )));
        }
        if from == 0 {
            return Err(refuse("begins at token 0: nothing stands before it to predict it from".to_owned()));
        }
        mask[from..to].fill(true);
        end = to;
    }
    Ok(TrainRow { ids, mask, weight: 1.0 })
}

/// A field by name; absent, it is as `null`.
fn field<T: DeserializeOwned>(object: &mut Map<String, Value>, name: &str, line: usize) -> Result<T, RowError> {
    parse(object.remove(name).unwrap_or_default(), name, line)
}

fn parse<'de, T: Deserialize<'de>>(value: Value, place: &str, line: usize) -> Result<T, RowError> {
    T::deserialize(value).map_err(|e| RowError::Field {
        line,
        field: place.to_owned(),
        problem: format!("is invalid: {e}"),
    })
}

fn nothing_else(object: &Map<String, Value>, line: usize) -> Result<(), RowError> {
    match object.keys().next() {
        None => Ok(()),
        Some(key) => {
            Err(RowError::Field { line, field: key.clone(), problem: "is not a field of a training row".to_owned() })
        }
    }
}
