//! Training rows out of JSON lines.

use std::collections::BTreeSet;
use std::io::BufRead;

use influence_engine::model::Model;
use influence_engine::train::{DpoOptions, KtoOptions, KtoRow, PreferenceRow, Sequence, TrainRow, TrainingData};
use influence_proto::{Algorithm, TokenRow};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::RowError;
use super::text::Texts;

/// Reads what `algorithm` trains on, one JSON object per line; blank lines are skipped. Lists of messages are rendered by
/// the model's chat format; texts are encoded as they are, with the model's end of text after a completion.
///
/// - `sft`: `{"messages": [...]}`, whose assistant messages are learnt, with the end of turn after each, but for those
///   with weight 0; `{"prompt", "completion"}`; or `{"token_ids": [...], "targets": [[from, to], ...]}` as it is, half-open
///   ranges of tokens being the targets.
/// - `kto`: `{"prompt", "completion", "label": true | false}` or `{"prompt_ids", "completion_ids", "label"}`.
/// - `dpo`: `{"prompt", "chosen", "rejected"}`, the prompt being optional where the others are lists of messages; or
///   `{"chosen": {"token_ids", "targets"}, "rejected": {...}}`.
///
/// `null` is as absent. Other columns are not used, and a warning names them; those that would change what the model is shown
/// are refused.
///
/// # Errors
/// [`RowError`] names the line and the field.
pub fn training_data(model: &Model, algorithm: Algorithm, reader: impl BufRead) -> Result<TrainingData, RowError> {
    let texts = Texts { model };
    Ok(match algorithm {
        Algorithm::Sft => TrainingData::Supervised(each(reader, |row| row.supervised(&texts))?),
        Algorithm::Kto { beta, desirable_weight, target_ratio } => {
            let options = KtoOptions { beta, desirable_weight, target_ratio };
            TrainingData::Kto(each(reader, |row| row.reply(&texts))?, options)
        }
        Algorithm::Dpo { beta } => TrainingData::Dpo(each(reader, |row| row.preference(&texts))?, DpoOptions { beta }),
    })
}

fn each<T>(reader: impl BufRead, read: impl Fn(&mut Row) -> Result<T, RowError>) -> Result<Vec<T>, RowError> {
    let (mut rows, mut unused) = (Vec::new(), BTreeSet::new());
    for (index, text) in reader.lines().enumerate() {
        let line = index + 1;
        let text = text.map_err(|source| RowError::Read { line, source })?;
        if text.trim().is_empty() {
            continue;
        }
        let mut value = serde_json::from_str(&text).map_err(|source| RowError::Json { line, source })?;
        remove_nulls(&mut value);
        let Value::Object(fields) = value else {
            return Err(RowError::field(line, "row", "must be an object"));
        };
        let mut row = Row { fields, line };
        let read = read(&mut row)?;
        row.nothing_that_matters()?;
        unused.extend(row.fields.into_iter().map(|(name, _)| name));
        rows.push(read);
    }
    if !unused.is_empty() {
        tracing::warn!(columns = ?unused, "columns of the training rows are not used");
    }
    Ok(rows)
}

/// Tables have a cell for every field of every row: what is not there is empty.
fn remove_nulls(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|_, value| !value.is_null());
            fields.values_mut().for_each(remove_nulls);
        }
        Value::Array(values) => values.iter_mut().for_each(remove_nulls),
        _ => {}
    }
}

/// A line that is being read.
struct Row {
    /// What of it was not read yet.
    fields: Map<String, Value>,
    line: usize,
}

impl Row {
    fn supervised(&mut self, texts: &Texts<'_>) -> Result<TrainRow, RowError> {
        let Sequence { ids, mask } = if let Some(messages) = self.fields.remove("messages") {
            texts.messages(messages, "messages", self.line)?
        } else if self.fields.contains_key("token_ids") {
            self.note()?;
            let targets: Vec<(u32, u32)> = self.take("targets")?;
            sequence(self.take("token_ids")?, &targets, self.line)?
        } else if self.fields.contains_key("completion") {
            let (prompt, completion) = (self.fields.remove("prompt"), self.take("completion")?);
            texts.prompted(prompt, completion, "completion", self.line)?
        } else {
            return Err(self.refuse("messages", "is missing, and there is no `token_ids` or `completion` either"));
        };
        if !mask.contains(&true) {
            let message = "holds nothing to train on: it needs an assistant message with weight 1, or a target";
            return Err(self.refuse("row", message));
        }
        Ok(TrainRow { ids, mask, weight: 1.0 })
    }

    fn reply(&mut self, texts: &Texts<'_>) -> Result<KtoRow, RowError> {
        let desirable = self.take("label")?;
        if self.fields.contains_key("prompt_ids") {
            self.note()?;
            let (prompt, completion): (Vec<u32>, Vec<u32>) = (self.take("prompt_ids")?, self.take("completion_ids")?);
            for (field, ids) in [("prompt_ids", &prompt), ("completion_ids", &completion)] {
                if ids.is_empty() {
                    return Err(self.refuse(field, "is empty"));
                }
            }
            return Ok(KtoRow { prompt, completion, desirable, weight: 1.0 });
        }
        let (prompt, completion) = (self.fields.remove("prompt"), self.take("completion")?);
        let Sequence { ids, mask } = texts.prompted(prompt, completion, "completion", self.line)?;
        let first = mask.iter().position(|target| *target).unwrap_or(ids.len());
        let count = mask.iter().filter(|target| **target).count();
        if count == 0 || !mask[first..first + count].iter().all(|target| *target) {
            return Err(self.refuse("completion", "must be one reply"));
        }
        let completion = ids[first..first + count].to_vec();
        Ok(KtoRow { prompt: ids[..first].to_vec(), completion, desirable, weight: 1.0 })
    }

    fn preference(&mut self, texts: &Texts<'_>) -> Result<PreferenceRow, RowError> {
        let prompt = self.fields.remove("prompt");
        let mut side = |name: &str| match self.fields.remove(name).unwrap_or_default() {
            Value::Object(_) if prompt.is_some() => {
                Err(RowError::field(self.line, "prompt", "has no place beside tokens, which begin with it"))
            }
            tokens @ Value::Object(_) => {
                let TokenRow { token_ids, targets, .. } = parse(tokens, name, self.line)?;
                sequence(token_ids, &targets, self.line)
            }
            text => texts.prompted(prompt.clone(), text, name, self.line),
        };
        Ok(PreferenceRow { chosen: side("chosen")?, rejected: side("rejected")? })
    }

    /// For people who read the dataset; training has no use for it.
    fn note(&mut self) -> Result<(), RowError> {
        let _: Option<String> = self.take("episode")?;
        Ok(())
    }

    /// A field by name; absent, it is as `null`.
    fn take<T: DeserializeOwned>(&mut self, name: &str) -> Result<T, RowError> {
        parse(self.fields.remove(name).unwrap_or_default(), name, self.line)
    }

    fn refuse(&self, field: &str, problem: &str) -> RowError {
        RowError::field(self.line, field, problem)
    }

    /// Columns by which a trainer would show the model something else, or weigh the row.
    fn nothing_that_matters(&self) -> Result<(), RowError> {
        const MATTER: [&str; 6] = ["tools", "images", "image", "chat_template_kwargs", "assistant_masks", "weight"];
        match MATTER.into_iter().find(|name| self.fields.contains_key(*name)) {
            None => Ok(()),
            Some(name) => {
                Err(self.refuse(name, "cannot be trained on; take it out of the rows if they mean the same without"))
            }
        }
    }
}

fn sequence(ids: Vec<u32>, targets: &[(u32, u32)], line: usize) -> Result<Sequence, RowError> {
    let refuse = |problem: String| RowError::field(line, "targets", problem);
    let mut mask = vec![false; ids.len()];
    let mut end = 0;
    for (from, to) in targets {
        let (from, to) = (*from as usize, *to as usize);
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
    Ok(Sequence { ids, mask })
}

pub(super) fn parse<'de, T: Deserialize<'de>>(value: Value, place: &str, line: usize) -> Result<T, RowError> {
    T::deserialize(value).map_err(|e| RowError::field(line, place, format!("is invalid: {e}")))
}
