//! Preference pairs that others have published, from a local file.
//!
//! Two shapes are known: that of Anthropic's hh-rlhf, `chosen` and `rejected` as whole conversations in text, and that of
//! PKU-SafeRLHF, `prompt`, `response_0`, `response_1` and `better_response_id`.

use std::collections::BTreeSet;
use std::path::Path;

use influence_proto::prompts::ChatRole;
use influence_proto::{Algorithm, RowMessage, TrainingRow};
use serde_json::{Map, Value};

use super::lines::{RowError, each_row};

/// Two replies in one conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Preference {
    /// Ends with the reply to favour.
    pub chosen: Vec<RowMessage>,
    /// Ends with the other one.
    pub rejected: Vec<RowMessage>,
}

/// How many rows the file has, the first of which is checked.
///
/// # Errors
/// A file that cannot be read, or whose first row is none.
pub fn count_preferences(path: &Path) -> Result<usize, RowError> {
    let mut rows = 0;
    each_row(path, |number, text| {
        if rows == 0 {
            preference(text).map_err(|problem| RowError::of(path, number, problem))?;
        }
        rows += 1;
        Ok(())
    })?;
    match rows {
        0 => Err(RowError::of(path, 1, "there is no row; a line is one JSON object".to_owned())),
        rows => Ok(rows),
    }
}

/// The rows with these numbers, which count from 0.
///
/// # Errors
/// A file that cannot be read, or one of these rows that is none.
pub fn read_preferences(path: &Path, wanted: &BTreeSet<usize>) -> Result<Vec<Preference>, RowError> {
    let (mut found, mut row) = (Vec::with_capacity(wanted.len()), 0);
    each_row(path, |line, text| {
        if wanted.contains(&row) {
            found.push(preference(text).map_err(|problem| RowError::of(path, line, problem))?);
        }
        row += 1;
        Ok(())
    })?;
    Ok(found)
}

/// What `algorithm` learns from a preference: the chosen conversation's last reply; both last replies, each by itself; or
/// the two side by side.
pub fn preference_rows(preference: Preference, algorithm: Algorithm) -> Vec<TrainingRow> {
    let Preference { chosen, rejected } = preference;
    let reply = |mut messages: Vec<RowMessage>, label| {
        let completion = messages.split_off(messages.len() - 1);
        TrainingRow::Completion { prompt: messages, completion, label }
    };
    match algorithm {
        Algorithm::Sft => {
            let mut messages = chosen;
            let last = messages.len() - 1;
            messages[..last].iter_mut().for_each(|message| message.weight = Some(0));
            vec![TrainingRow::Messages { messages }]
        }
        Algorithm::Kto { .. } => vec![reply(chosen, true), reply(rejected, false)],
        Algorithm::Dpo { .. } => vec![TrainingRow::Preference { chosen, rejected }],
    }
}

fn preference(text: &str) -> Result<Preference, String> {
    let value: Value = serde_json::from_str(text).map_err(|e| format!("is not JSON: {e}"))?;
    let Value::Object(row) = value else { return Err("is no object".to_owned()) };
    if row.contains_key("better_response_id") {
        return rated(&row);
    }
    if row.contains_key("chosen") {
        let chosen = conversation(text_of(&row, "chosen")?).map_err(|e| format!("`chosen` {e}"))?;
        let rejected = conversation(text_of(&row, "rejected")?).map_err(|e| format!("`rejected` {e}"))?;
        return Ok(Preference { chosen, rejected });
    }
    Err("has neither `chosen` and `rejected`, nor `prompt`, `response_0`, `response_1` and `better_response_id`"
        .to_owned())
}

fn rated(row: &Map<String, Value>) -> Result<Preference, String> {
    let prompt = text_of(row, "prompt")?;
    let replies = [text_of(row, "response_0")?, text_of(row, "response_1")?];
    let better = match row["better_response_id"].as_u64() {
        Some(better @ (0 | 1)) => better as usize,
        _ => return Err(format!("`better_response_id` must be 0 or 1, but is {}", row["better_response_id"])),
    };
    let with = |reply: &str| vec![message(ChatRole::User, prompt), message(ChatRole::Assistant, reply)];
    Ok(Preference { chosen: with(replies[better]), rejected: with(replies[1 - better]) })
}

fn text_of<'a>(row: &'a Map<String, Value>, key: &str) -> Result<&'a str, String> {
    row.get(key).and_then(Value::as_str).ok_or_else(|| format!("needs a text `{key}`"))
}

/// `\n\nHuman: ...\n\nAssistant: ...`, as often as it takes, ending with the assistant.
fn conversation(text: &str) -> Result<Vec<RowMessage>, String> {
    const SPEAKERS: [(&str, ChatRole); 2] = [("\n\nHuman:", ChatRole::User), ("\n\nAssistant:", ChatRole::Assistant)];
    let next = |rest: &str| {
        let found = SPEAKERS.iter().filter_map(|(mark, role)| Some((rest.find(mark)?, mark.len(), *role)));
        found.min_by_key(|(start, ..)| *start)
    };
    let mut messages: Vec<RowMessage> = Vec::new();
    let mut rest = text;
    while let Some((_, length, role)) = next(rest).filter(|(start, ..)| *start == 0) {
        rest = &rest[length..];
        let end = next(rest).map_or(rest.len(), |(start, ..)| start);
        messages.push(message(role, rest[..end].trim()));
        rest = &rest[end..];
    }
    match messages.last() {
        Some(last) if last.role == ChatRole::Assistant && messages.len() > 1 => Ok(messages),
        Some(_) => Err("does not end with a reply of `\\n\\nAssistant:`".to_owned()),
        None => Err("does not begin with `\\n\\nHuman:`".to_owned()),
    }
}

fn message(role: ChatRole, content: &str) -> RowMessage {
    RowMessage { role, content: content.to_owned(), weight: None }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::io::{BufRead as _, Write};

    use super::*;
    use crate::dataset::json_lines;

    const HH: &str = r#"{"chosen": "\n\nHuman: Hi\n\nAssistant: Hello!\n\nHuman: Tea?\n\nAssistant: Yes, please.", "rejected": "\n\nHuman: Hi\n\nAssistant: Hello!\n\nHuman: Tea?\n\nAssistant: No."}"#;
    const PKU: &str = r#"{"prompt": "Tea?", "response_0": "No.", "response_1": "Yes.", "better_response_id": 1, "is_response_0_safe": true}"#;

    fn file(lines: &str) -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(lines.as_bytes()).unwrap();
        file
    }

    fn all(path: &Path) -> Vec<Preference> {
        read_preferences(path, &(0..count_preferences(path).unwrap()).collect()).unwrap()
    }

    /// Protects: both published shapes are read as conversations that end with the two replies.
    #[test]
    fn both_shapes_are_read() {
        let file = file(&format!("{HH}\n\n{PKU}\n"));
        let found = all(file.path());
        let texts = |messages: &[RowMessage]| messages.iter().map(|m| m.content.clone()).collect::<Vec<_>>();
        assert_eq!(texts(&found[0].chosen), ["Hi", "Hello!", "Tea?", "Yes, please."]);
        assert_eq!(texts(&found[0].rejected), ["Hi", "Hello!", "Tea?", "No."]);
        assert_eq!(
            (texts(&found[1].chosen), texts(&found[1].rejected)),
            (vec!["Tea?".into(), "Yes.".into()], vec!["Tea?".into(), "No.".into()])
        );
        assert_eq!(read_preferences(file.path(), &BTreeSet::from([1])).unwrap(), found[1..]);
    }

    /// Protects: a Parquet file as Hugging Face writes it holds what the same rows in JSON lines do.
    #[test]
    fn tables_are_read_as_their_rows() {
        let reference = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/reference");
        for name in ["preferences", "messages"] {
            let rows = |kind: &str| {
                let lines = json_lines(&reference.join(format!("{name}.{kind}"))).unwrap().lines();
                lines.map(|line| serde_json::from_str::<Value>(&line.unwrap()).unwrap()).collect::<Vec<_>>()
            };
            assert_eq!(rows("parquet"), rows("jsonl"));
        }
        let found = all(&reference.join("preferences.parquet"));
        assert_eq!((found.len(), &*found[1].chosen[1].content), (2, "Oui."));
    }

    /// Protects: each algorithm gets the rows that it learns from, as the worker reads them.
    #[test]
    fn every_algorithm_gets_its_rows() {
        let written = |algorithm| {
            let rows = preference_rows(preference(PKU).unwrap(), algorithm);
            rows.iter().map(|row| serde_json::to_string(row).unwrap()).collect::<Vec<_>>()
        };
        let said = |text: &str| format!(r#"{{"role":"assistant","content":"{text}"}}"#);
        let asked = r#"{"role":"user","content":"Tea?"}"#;
        let kto = Algorithm::Kto { beta: 0.1, desirable_weight: 1.0, target_ratio: 1.0 };
        let sft = format!(r#"{{"messages":[{{"role":"user","content":"Tea?","weight":0}},{}]}}"#, said("Yes."));
        assert_eq!(written(Algorithm::Sft), [sft]);
        let reply = |text, label| format!(r#"{{"prompt":[{asked}],"completion":[{}],"label":{label}}}"#, said(text));
        assert_eq!(written(kto), [reply("Yes.", true), reply("No.", false)]);
        let pair = format!(r#"{{"chosen":[{asked},{}],"rejected":[{asked},{}]}}"#, said("Yes."), said("No."));
        assert_eq!(written(Algorithm::Dpo { beta: 0.1 }), [pair]);
    }

    /// Protects: a row that is none is named by file and line.
    #[test]
    fn bad_rows_are_named() {
        for (bad, message) in [
            ("{", "is not JSON"),
            ("[]", "is no object"),
            (r#"{"prompt": "a"}"#, "better_response_id"),
            (r#"{"chosen": "Hi", "rejected": "x"}"#, "`chosen` does not begin"),
            (r#"{"chosen": "\n\nHuman: Hi", "rejected": "x"}"#, "does not end"),
            (r#"{"prompt": "a", "response_0": "b", "response_1": "c", "better_response_id": 2}"#, "must be 0 or 1"),
        ] {
            let file = file(&format!("\n{bad}\n"));
            let error = count_preferences(file.path()).unwrap_err().to_string();
            assert!(error.contains(":2: ") && error.contains(message), "{error}");
        }
        assert!(count_preferences(file("\n").path()).is_err());
        assert!(count_preferences(Path::new("/nowhere.jsonl")).unwrap_err().to_string().contains("nowhere"));
    }
}
