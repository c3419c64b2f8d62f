#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeMap;
use std::sync::Arc;

use influence_proto::prompts::ChatRole;
use influence_proto::{
    AgentReply, AssessorRole, EpisodeId, EpisodeSpec, GeneratorRole, RowMessage, Sampling, Score, Scoring, State,
    StateMachine, TrainingRow, TransitionOutcome, Turn,
};

use super::{read_rows, rows, write_rows};
use crate::config::RowMode;

fn spec() -> EpisodeSpec {
    let end = State {
        entry: vec![],
        alternative_entry: vec![],
        transitions: vec![],
        default_answer: String::new(),
        terminal: true,
    };
    let sampling = Sampling { temperature: 1.0, top_p: 1.0, top_k: 0, min_p: 0.0, stop: Vec::new(), max_tokens: 5 };
    let generator = Arc::new(GeneratorRole { model: "m".into(), system_prompt: String::new(), sampling });
    let assessor = Arc::new(AssessorRole {
        model: "m".into(),
        system_prompt: String::new(),
        suffix: String::new(),
        answers: vec![],
        sees_tools: false,
    });
    EpisodeSpec {
        id: EpisodeId::new("e").unwrap(),
        environment_class: "c".into(),
        environment: "a".into(),
        initial_state: "1".into(),
        seed: 1,
        max_turns: 3,
        agent_name: "Ada".into(),
        opening: Arc::default(),
        machine: StateMachine::new("end".into(), BTreeMap::from([("end".into(), end)])).unwrap().into(),
        agent: generator.clone(),
        environment_role: generator,
        preference: assessor.clone(),
        transition: assessor,
        influence: None,
        scoring: Scoring { prefix: String::new(), temperature: 1.0, top_p: 1.0, min_mass: 0.0 },
        adapter: None,
    }
}

fn turn(index: u32, prompt_ids: &[u32], token_ids: &[u32], restarts: bool) -> Turn {
    Turn {
        index,
        reply: AgentReply {
            text: String::new(),
            prompt_ids: prompt_ids.to_vec(),
            restarts,
            token_ids: token_ids.to_vec(),
            cut_off: false,
        },
        state: "end".into(),
        transition: TransitionOutcome {
            score: Score::unscored("test"),
            answer: String::new(),
            defaulted: true,
            next_state: "end".into(),
            entered: vec![],
        },
        preference: Score::unscored("test"),
        influence: None,
        environment: None,
        calls: vec![],
    }
}

fn row(token_ids: &[u32], targets: &[(u32, u32)]) -> TrainingRow {
    TrainingRow::Tokens {
        token_ids: token_ids.to_vec(),
        targets: targets.to_vec(),
        episode: Some(EpisodeId::new("e").unwrap()),
    }
}

/// The 99 closes a reply that was cut off: it stands in the next prompt.
fn conversation() -> [Turn; 3] {
    [turn(0, &[1, 2, 3], &[10, 11], false), turn(1, &[99, 4], &[20], false), turn(2, &[5], &[30, 31], false)]
}

#[test]
fn an_episode_is_one_row_that_trains_each_reply_once() {
    assert_eq!(
        rows(&spec().id, &conversation(), RowMode::PerEpisode),
        [row(&[1, 2, 3, 10, 11, 99, 4, 20, 5, 30, 31], &[(3, 5), (7, 8), (9, 11)])]
    );
}

#[test]
fn per_turn_trains_the_first_of_three_replies_three_times() {
    assert_eq!(
        rows(&spec().id, &conversation(), RowMode::PerTurn),
        [
            row(&[1, 2, 3, 10, 11], &[(3, 5)]),
            row(&[1, 2, 3, 10, 11, 99, 4, 20], &[(3, 5), (7, 8)]),
            row(&[1, 2, 3, 10, 11, 99, 4, 20, 5, 30, 31], &[(3, 5), (7, 8), (9, 11)]),
        ]
    );
}

#[test]
fn a_stream_that_restarts_begins_a_row_with_its_own_reply_as_target() {
    let turns = [turn(0, &[1], &[10], true), turn(1, &[1, 10, 2], &[20], true), turn(2, &[3], &[30], false)];
    let restarted = [row(&[1, 10], &[(1, 2)]), row(&[1, 10, 2, 20, 3, 30], &[(3, 4), (5, 6)])];
    assert_eq!(rows(&spec().id, &turns, RowMode::PerEpisode), restarted);
    let per_turn = [restarted[0].clone(), row(&[1, 10, 2, 20], &[(3, 4)]), restarted[1].clone()];
    assert_eq!(rows(&spec().id, &turns, RowMode::PerTurn), per_turn);
}

#[test]
fn a_row_without_targets_is_left_out() {
    assert!(rows(&spec().id, &[turn(0, &[1, 2], &[], false)], RowMode::PerEpisode).is_empty());
    assert!(rows(&spec().id, &[], RowMode::PerTurn).is_empty());
}

#[test]
fn rows_survive_their_text() {
    let message = |role, content: &str, weight| RowMessage { role, content: content.into(), weight };
    let mut written = rows(&spec().id, &conversation(), RowMode::PerTurn);
    written.push(TrainingRow::Messages {
        messages: vec![message(ChatRole::User, "a\nb", None), message(ChatRole::Assistant, "é", Some(1))],
    });
    let mut text = Vec::new();
    write_rows(&mut text, &written).unwrap();
    assert_eq!(text.iter().filter(|b| **b == b'\n').count(), 4, "one line each");
    text.extend(b"\n  \n");
    assert_eq!(read_rows(&text[..], "rows.jsonl").unwrap(), written);
}

#[test]
fn a_bad_row_is_named_by_its_line() {
    let good = r#"{"messages":[{"role":"assistant","content":"a"}]}"#;
    for (bad, message) in [
        ("{", "is not JSON: EOF while parsing an object (column 1)"),
        (
            "{\"prompt\": 1}",
            "has neither `messages` nor `token_ids`; a row is `{\"messages\": [{\"role\": \"user\", \"content\": \"...\"}, {\"role\": \"assistant\", \"content\": \"...\"}]}`",
        ),
        (
            r#"{"messages":[{"role":"asistant","content":"a"}]}"#,
            "`messages[0]`: unknown variant `asistant`, expected one of `system`, `user`, `assistant`, `function_call`, `ipython`",
        ),
        (
            r#"{"messages":[{"role":"user","content":"a"}]}"#,
            "has no assistant message to train on; add one, or raise its `weight`",
        ),
        (r#"{"messages":[{"role":"assistant","content":"a","weight":2}]}"#, "`messages[0].weight` must be 0 or 1"),
        (r#"{"token_ids":[1,-2],"targets":[[0,1]]}"#, "`token_ids` must be a list of whole numbers below 2^32"),
        (
            r#"{"token_ids":[1,2],"targets":[0,1]}"#,
            "has no usable `targets`: they are pairs of positions, as in `[[3, 9]]`",
        ),
        (
            r#"{"token_ids":[1,2],"targets":[[1,3]]}"#,
            "the target [1, 3] is empty, out of order, or beyond the row's 2 tokens",
        ),
        (
            r#"{"token_ids":[1,2],"targets":[[1,2],[0,1]]}"#,
            "the target [0, 1] is empty, out of order, or beyond the row's 2 tokens",
        ),
        (r#"{"token_ids":[1,2],"targets":[]}"#, "has no targets, so it would train nothing; remove it"),
    ] {
        let text = format!("{good}\n\n{bad}\n");
        let error = read_rows(text.as_bytes(), "rows.jsonl").unwrap_err().to_string();
        assert_eq!(error, format!("rows.jsonl:3: {message}"));
    }
    let error = read_rows(&b"\xff\n"[..], "rows.jsonl").unwrap_err().to_string();
    assert_eq!(error, "rows.jsonl:1: is not UTF-8; save the file as UTF-8");
}
