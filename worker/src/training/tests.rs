//! Datasets to rows, with errors that say where.
#![allow(clippy::unwrap_used)]

use influence_engine::model::Model;

use super::{rows_from_jsonl, tiny};

fn model() -> Model {
    let folder = tempfile::tempdir().unwrap();
    tiny::write(folder.path());
    Model::load(folder.path()).unwrap()
}

fn refusal(model: &Model, text: &str) -> String {
    rows_from_jsonl(model, text.as_bytes()).unwrap_err().to_string()
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
    let rows = rows_from_jsonl(&model, text.as_bytes()).unwrap();
    assert_eq!(rows.len(), 2, "blank lines are skipped");
    assert_eq!(learnt(&rows[0].ids, &rows[0].mask), "one$two$");
    assert_eq!(learnt(&rows[1].ids, &rows[1].mask), "two$");
    assert_eq!(rows[0].ids, rows[1].ids);
}

#[test]
fn tokens_are_trained_on_as_they_are() {
    let rows = rows_from_jsonl(
        &model(),
        r#"{"token_ids": [5, 6, 7, 8, 9], "targets": [[1, 3], [4, 5]], "episode": "e1"}"#.as_bytes(),
    );
    let rows = rows.unwrap();
    assert_eq!(rows[0].ids, [5, 6, 7, 8, 9]);
    assert_eq!(rows[0].mask, [false, true, true, false, true]);
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
        (r#"{"messages": [], "mesages": []}"#, vec!["`mesages`"]),
        (r#"{"token_ids": [1, 2], "targets": [[1, 9]]}"#, vec!["`targets`", "[1, 9]", "2 tokens"]),
        (r#"{"token_ids": [1, 2, 3], "targets": [[2, 3], [1, 2]]}"#, vec!["`targets`", "in order"]),
        (r#"{"token_ids": [1, 2], "targets": [[0, 1]]}"#, vec!["`targets`", "token 0"]),
        (r#"{"token_ids": [1, -2], "targets": []}"#, vec!["`token_ids`", "-2"]),
        (r#"{"token_ids": [1, 2]}"#, vec!["`targets`"]),
    ] {
        let error = refusal(&model, &format!("{good}\n{line}\n"));
        assert!(error.contains("line 2"), "{error}");
        for part in parts {
            assert!(error.contains(part), "`{part}` is not in: {error}");
        }
    }
}
