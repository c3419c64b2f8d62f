//! Datasets to rows, with errors that say where.
#![allow(clippy::unwrap_used)]

use influence_engine::model::Model;
use influence_engine::train::{KtoRow, PreferenceRow, TrainError, TrainRow, TrainingData};
use influence_proto::{Algorithm, Failure};

use super::{TrainingError, tiny, training_data};

fn model() -> Model {
    let folder = tempfile::tempdir().unwrap();
    tiny::write(folder.path());
    Model::load(folder.path()).unwrap()
}

const KTO: Algorithm = Algorithm::Kto { beta: 0.1, desirable_weight: 1.0, target_ratio: 2.0 };
const DPO: Algorithm = Algorithm::Dpo { beta: 0.1 };

fn refusal(model: &Model, algorithm: Algorithm, text: &str) -> String {
    training_data(model, algorithm, text.as_bytes()).unwrap_err().to_string()
}

fn supervised(model: &Model, text: &str) -> Vec<TrainRow> {
    match training_data(model, Algorithm::Sft, text.as_bytes()).unwrap() {
        TrainingData::Supervised(rows) => rows,
        other => panic!("{other:?}"),
    }
}

fn kto(model: &Model, text: &str) -> (Vec<KtoRow>, f64) {
    match training_data(model, KTO, text.as_bytes()).unwrap() {
        TrainingData::Kto(rows, options) => (rows, options.target_ratio),
        other => panic!("{other:?}"),
    }
}

fn dpo(model: &Model, text: &str) -> Vec<PreferenceRow> {
    match training_data(model, DPO, text.as_bytes()).unwrap() {
        TrainingData::Dpo(rows, _) => rows,
        other => panic!("{other:?}"),
    }
}

/// The text of the tokens that are trained on; the end of turn shows as `$`.
fn learnt(ids: &[u32], mask: &[bool]) -> String {
    let chosen = ids.iter().zip(mask).filter(|(_, target)| **target);
    chosen.map(|(id, _)| u8::try_from(*id).map_or('$', char::from)).collect()
}

#[test]
fn messages_train_the_assistant_and_weight_0_does_not() {
    let model = model();
    let text = r#"
{"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "one"}, {"role": "user", "content": "so"}, {"role": "assistant", "content": "two"}]}

{"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "one", "weight": 0}, {"role": "user", "content": "so"}, {"role": "assistant", "content": "two", "weight": 1}]}
"#;
    let rows = supervised(&model, text);
    assert_eq!(rows.len(), 2, "blank lines are skipped");
    assert_eq!(learnt(&rows[0].ids, &rows[0].mask), "one$two$");
    assert_eq!(learnt(&rows[1].ids, &rows[1].mask), "two$");
    assert_eq!(rows[0].ids, rows[1].ids);
}

#[test]
fn tokens_are_trained_on_as_they_are() {
    let rows = supervised(&model(), r#"{"token_ids": [5, 6, 7, 8, 9], "targets": [[1, 3], [4, 5]], "episode": "e1"}"#);
    assert_eq!(rows[0].ids, [5, 6, 7, 8, 9]);
    assert_eq!(rows[0].mask, [false, true, true, false, true]);
}

/// Protects: tables of others train here: they have columns of their own, and a cell for every field of every row.
#[test]
fn other_columns_and_empty_cells_change_nothing() {
    let model = model();
    let plain = r#"{"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "one"}]}"#;
    let table = r#"{"source": "web", "tools": null, "token_ids": null, "messages": [{"role": "user", "content": "Hi", "weight": null, "tool_calls": null}, {"role": "assistant", "content": "one", "tool_calls": null}]}"#;
    assert_eq!(supervised(&model, table), supervised(&model, plain));
}

#[test]
fn a_bad_line_is_named_with_its_field() {
    let model = model();
    let good = r#"{"token_ids": [5, 6], "targets": [[1, 2]]}"#;
    for (line, parts) in [
        ("{oops", vec!["line 2", "not JSON"]),
        ("[1]", vec!["line 2", "must be an object"]),
        (r#"{"text": "x"}"#, vec!["`messages`", "is missing", "token_ids"]),
        (r#"{"messages": "x"}"#, vec!["`messages`", "must be a list"]),
        (r#"{"messages": [{"role": "bot", "content": "x"}]}"#, vec!["`messages[0]`", "bot", "assistant"]),
        (r#"{"messages": [{"role": "user", "content": "x", "wait": 1}]}"#, vec!["`messages[0]`", "wait", "weight"]),
        (r#"{"messages": [{"role": "assistant", "content": "x", "weight": 2}]}"#, vec!["`messages[0].weight`", "2"]),
        (r#"{"messages": [{"role": "user", "content": "x"}]}"#, vec!["line 2", "nothing to train on"]),
        (r#"{"messages": [{"role": "assistant", "content": "x"}], "tools": "[]"}"#, vec!["`tools`", "take it out"]),
        (r#"{"token_ids": [1, 2], "targets": [[1, 9]]}"#, vec!["`targets`", "[1, 9]", "2 tokens"]),
        (r#"{"token_ids": [1, 2, 3], "targets": [[2, 3], [1, 2]]}"#, vec!["`targets`", "in order"]),
        (r#"{"token_ids": [1, 2], "targets": [[0, 1]]}"#, vec!["`targets`", "token 0"]),
        (r#"{"token_ids": [1, -2], "targets": []}"#, vec!["`token_ids`", "-2"]),
        (r#"{"token_ids": [1, 2]}"#, vec!["`targets`"]),
    ] {
        let error = refusal(&model, Algorithm::Sft, &format!("{good}\n{line}\n"));
        assert!(error.contains("line 2"), "{error}");
        for part in parts {
            assert!(error.contains(part), "`{part}` is not in: {error}");
        }
    }
}

/// TRL's columns: texts as they are, with the model's end of text, or messages by the chat template.
#[test]
fn prompts_and_completions_are_trained_on_in_trls_columns() {
    let model = model();
    let chat = r#"{"prompt": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "one"}, {"role": "user", "content": "so"}], "completion": [{"role": "assistant", "content": "two"}]}"#;
    let text = r#"{"prompt": "one, ", "completion": "two"}"#;
    let rows = supervised(&model, &format!("{text}\n{chat}\n"));
    assert_eq!(learnt(&rows[0].ids, &rows[0].mask), "two$");
    assert_eq!(learnt(&rows[0].ids, &vec![true; rows[0].ids.len()]), "one, two$");
    assert_eq!(learnt(&rows[1].ids, &rows[1].mask), "two$", "not the reply in the prompt");
    let labelled = |row: &str, label: bool| format!("{}, \"label\": {label}}}\n", row.trim_end_matches('}'));
    let (rows, target_ratio) =
        kto(&model, &[labelled(chat, true), labelled(text, false), labelled(text, true)].concat());
    assert_eq!(rows.iter().map(|row| row.desirable).collect::<Vec<_>>(), [true, false, true]);
    assert_eq!(target_ratio, 2.0);
    let whole = |row: &KtoRow| learnt(&row.completion, &vec![true; row.completion.len()]);
    assert_eq!((whole(&rows[0]), whole(&rows[1])), ("two$".into(), "two$".into()));
    assert_eq!(learnt(&rows[1].prompt, &[true; 5]), "one, ");
}

#[test]
fn preferences_are_pairs_of_prompts_and_replies() {
    let model = model();
    let said = |text: &str| format!(r#"{{"role": "assistant", "content": "{text}"}}"#);
    let asked = r#"{"role": "user", "content": "Hi"}"#;
    let explicit = format!(r#"{{"prompt": [{asked}], "chosen": [{}], "rejected": [{}]}}"#, said("yes"), said("no"));
    let implicit = format!(r#"{{"chosen": [{asked}, {}], "rejected": [{asked}, {}]}}"#, said("yes"), said("no"));
    let text = r#"{"prompt": "Hi ", "chosen": "yes", "rejected": "no"}"#;
    let tokens = r#"{"chosen": {"token_ids": [5, 6], "targets": [[1, 2]]}, "rejected": {"token_ids": [5, 7, 8], "targets": [[1, 3]]}}"#;
    let rows = dpo(&model, &[&explicit, &*implicit, text, tokens].join("\n"));
    assert_eq!(rows[0], rows[1]);
    for row in &rows[..3] {
        assert_eq!(learnt(&row.chosen.ids, &row.chosen.mask), "yes$");
        assert_eq!(learnt(&row.rejected.ids, &row.rejected.mask), "no$");
    }
    assert_eq!(rows[3].rejected.mask, [false, true, true]);
}

/// Protects: a full disk does not end a run: another worker may have a healthy one. A bad row does.
#[test]
fn a_full_disk_is_retried_and_a_bad_row_is_not() {
    let full = || std::io::Error::from(std::io::ErrorKind::StorageFull);
    let checkpoint = TrainError::Disk { file: "x".into(), source: full() };
    assert!(Failure::from(TrainingError::Engine(checkpoint)).retryable);
    let empty = TrainError::EmptyMask { row: 0, tokens: 3 };
    assert!(!Failure::from(TrainingError::Engine(empty)).retryable);
}

#[test]
fn rows_of_another_algorithm_are_refused() {
    let model = model();
    let reply = r#"{"prompt_ids": [5], "completion_ids": [6], "label": true}"#;
    for (algorithm, line, parts) in [
        (Algorithm::Sft, reply, ["`messages`", "is missing"]),
        (KTO, r#"{"prompt": "a", "completion": "b"}"#, ["`label`", "bool"]),
        (KTO, r#"{"prompt": "a", "completion": [], "label": true}"#, ["`completion`", "both texts"]),
        (
            KTO,
            r#"{"prompt_ids": [5], "completion_ids": [6], "label": true, "weight": 2}"#,
            ["`weight`", "cannot be trained on"],
        ),
        (KTO, r#"{"prompt_ids": [], "completion_ids": [6], "label": true}"#, ["`prompt_ids`", "is empty"]),
        (KTO, r#"{"prompt": "", "completion": "b", "label": true}"#, ["`prompt`", "is empty"]),
        (DPO, reply, ["`chosen`", "is missing"]),
        (DPO, r#"{"prompt": "a", "chosen": "b"}"#, ["`rejected`", "is missing"]),
        (DPO, r#"{"prompt": "a", "chosen": {"token_ids": [1], "targets": []}}"#, ["`prompt`", "no place"]),
    ] {
        let error = refusal(&model, algorithm, line);
        for part in parts {
            assert!(error.contains(part), "`{part}` is not in: {error}");
        }
    }
}
