#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeMap;
use std::sync::Arc;

use influence_proto::prompts::ChatRole;
use influence_proto::{
    AgentReply, AssessorRole, EnvironmentReply, EpisodeId, EpisodeSpec, GeneratorRole, Message, RowMessage, Sampling,
    Score, Scoring, Speaker, State, StateMachine, TokenRow, TrainingRow, TransitionOutcome, Turn,
};

use super::{FineTuningRow, Preference, TextChat, pairs, replies, rows, write_rows};
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
        trained: None,
        best_of: None,
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
        choice: None,
        worker: None,
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

fn reply(prompt_ids: &[u32], completion_ids: &[u32], label: bool) -> TrainingRow {
    let (prompt_ids, completion_ids) = (prompt_ids.to_vec(), completion_ids.to_vec());
    TrainingRow::Reply { prompt_ids, completion_ids, label, episode: Some(EpisodeId::new("e").unwrap()) }
}

#[test]
fn kto_gets_each_reply_after_what_the_model_saw() {
    assert_eq!(
        replies(&spec().id, &conversation(), true),
        [
            reply(&[1, 2, 3], &[10, 11], true),
            reply(&[1, 2, 3, 10, 11, 99, 4], &[20], true),
            reply(&[1, 2, 3, 10, 11, 99, 4, 20, 5], &[30, 31], true),
        ]
    );
    let turns = [turn(0, &[1], &[10], true), turn(1, &[2], &[], false), turn(2, &[1, 10, 2], &[20], true)];
    assert_eq!(replies(&spec().id, &turns, false), [reply(&[1], &[10], false), reply(&[1, 10, 2], &[20], false)]);
}

#[test]
fn dpo_gets_whole_conversations_side_by_side() {
    let episode = |turns: &[Turn]| (spec().id, turns.to_vec());
    let restarted = [turn(0, &[1], &[10], true), turn(1, &[1, 10, 2], &[20], true)];
    let best = [episode(&conversation()[..1]), episode(&restarted), episode(&conversation())];
    let apart = episode(&[turn(0, &[7], &[8], false)]);
    let worst = [apart, episode(&conversation()[..2])];
    let side = |token_ids: &[u32], targets: &[(u32, u32)]| TokenRow {
        token_ids: token_ids.to_vec(),
        targets: targets.to_vec(),
        episode: Some(spec().id),
    };
    let pair = TrainingRow::Pair {
        chosen: side(&[1, 2, 3, 10, 11], &[(3, 5)]),
        rejected: side(&[1, 2, 3, 10, 11, 99, 4, 20], &[(3, 5), (7, 8)]),
    };
    assert_eq!(
        pairs(&best, &worst),
        [pair],
        "the second has no single stream, the third no other left, and one of the worst began apart"
    );
}

/// What is written is a line for each row, in the words that workers and people read.
#[test]
fn rows_are_written_line_by_line() {
    let message = |role, content: &str, weight| RowMessage { role, content: content.into(), weight };
    let mut written = rows(&spec().id, &conversation()[..1], RowMode::PerTurn);
    written.extend(replies(&spec().id, &conversation()[..1], false));
    written.extend(pairs(&[(spec().id, conversation()[..1].to_vec())], &[(spec().id, conversation()[..1].to_vec())]));
    written.push(TrainingRow::Messages {
        messages: vec![message(ChatRole::User, "a\nb", None), message(ChatRole::Assistant, "é", Some(1))],
    });
    let mut text = Vec::new();
    write_rows(&mut text, &written).unwrap();
    let side = r#"{"token_ids":[1,2,3,10,11],"targets":[[3,5]],"episode":"e"}"#;
    let lines = [
        side,
        r#"{"prompt_ids":[1,2,3],"completion_ids":[10,11],"label":false,"episode":"e"}"#,
        &format!(r#"{{"chosen":{side},"rejected":{side}}}"#),
        r#"{"messages":[{"role":"user","content":"a\nb"},{"role":"assistant","content":"é","weight":1}]}"#,
    ];
    assert_eq!(String::from_utf8(text).unwrap(), lines.join("\n") + "\n");
}

/// Protects: text to train on has only roles that every template knows, replies as sampled, and nothing marked as the agent's
/// that it did not write; what comes after the last reply is left out.
#[test]
fn a_chat_is_what_the_agent_saw_and_wrote() {
    let said = |speaker, content: &str| Message { speaker, content: content.into() };
    let mut spec = spec();
    spec.opening = Arc::from([
        said(Speaker::Environment, "Hi"),
        said(Speaker::Agent, "Hello"),
        said(Speaker::ToolCall, "look()"),
        said(Speaker::ToolResponse, "none"),
    ]);
    let mut turns = conversation();
    turns[0].reply.text = " One\n".into();
    turns[0].environment = Some(EnvironmentReply { text: "Go on".into(), cut_off: false });
    turns[1].reply.text = "Two".into();
    turns[1].transition.entered = vec![said(Speaker::EnvironmentSystem, "Later")];
    let chat = TextChat::of(&spec, &turns).unwrap();
    let told: Vec<_> = chat.messages.iter().map(|m| (m.role.name(), &*m.content, m.weight)).collect();
    let wanted = [
        ("system", "", None),
        ("user", "Hi", None),
        ("assistant", "Hello", Some(0)),
        ("assistant", "look()", Some(0)),
        ("user", "none", None),
        ("assistant", " One\n", None),
        ("user", "Go on", None),
        ("assistant", "Two", None),
    ];
    assert_eq!(told, wanted, "the third reply has no text");
    assert_eq!((chat.opening, &*chat.replies), (5, &[5, 7][..]));
    assert_eq!(TextChat::of(&spec, &turns[2..]), None);
}

fn said(speaker: Speaker, content: &str) -> Message {
    Message { speaker, content: content.into() }
}

/// An episode with a reply that stands in its opening, and two replies.
fn spoken(first: &str) -> (EpisodeSpec, Vec<Turn>) {
    let mut spec = spec();
    spec.opening = Arc::from([
        said(Speaker::Environment, "Hi"),
        said(Speaker::Agent, "Hello"),
        said(Speaker::ToolCall, "look()"),
        said(Speaker::ToolResponse, "none"),
        said(Speaker::Environment, "So?"),
    ]);
    let mut turns = conversation()[..2].to_vec();
    turns[0].reply.text = first.into();
    turns[0].environment = Some(EnvironmentReply { text: "Go on".into(), cut_off: false });
    turns[1].reply.text = "Two".into();
    (spec, turns)
}

/// Protects: a server is trained on the messages as it was sent them, by its replies alone.
#[test]
fn rows_for_a_server_have_weights_and_its_own_messages() {
    let (spec, turns) = spoken("One");
    let written = |mode| {
        let mut text = Vec::new();
        write_rows(&mut text, &FineTuningRow::of_chat(&spec, &turns, mode)).unwrap();
        String::from_utf8(text).unwrap()
    };
    let before = concat!(
        r#"{"messages":[{"role":"system","content":""},{"role":"user","content":"Hi"},"#,
        r#"{"role":"assistant","content":"Hello\n\nlook()","weight":0},{"role":"user","content":"none\n\nSo?"},"#,
        r#"{"role":"assistant","content":"One"}"#
    );
    let after = r#",{"role":"user","content":"Go on"},{"role":"assistant","content":"Two"}"#;
    assert_eq!(written(RowMode::PerEpisode), format!("{before}{after}]}}\n"));
    assert_eq!(written(RowMode::PerTurn), format!("{before}]}}\n{before}{after}]}}\n"));
    assert_eq!(FineTuningRow::of_chat(&spec, &[], RowMode::PerEpisode), []);
}

/// Protects: two replies are compared that follow one prompt and differ; each episode stands in one pair.
#[test]
fn siblings_are_compared_by_their_first_replies() {
    let chat = |first| {
        let (spec, turns) = spoken(first);
        TextChat::of(&spec, &turns).unwrap()
    };
    let rows = FineTuningRow::of_siblings(&[chat("a"), chat("b"), chat(" ")], &[chat("a"), chat("c"), chat("d")]);
    let sides: Vec<_> = rows
        .iter()
        .map(|row| {
            let row = serde_json::to_value(row).unwrap();
            assert_eq!(row["input"]["messages"].as_array().unwrap().last().unwrap()["content"], "none\n\nSo?");
            assert!(!row.to_string().contains("weight"), "{row}");
            let said = |side: &str| row[side][0]["content"].as_str().unwrap().to_owned();
            (said("preferred_output"), said("non_preferred_output"))
        })
        .collect();
    assert_eq!(sides, [("a".to_owned(), "c".to_owned()), ("b".to_owned(), "a".to_owned())]);
    let (mut other, turns) = spoken("e");
    other.opening = Arc::from([said(Speaker::Environment, "Elsewhere")]);
    let apart = TextChat::of(&other, &turns).unwrap();
    assert_eq!(FineTuningRow::of_siblings(&[chat("a")], &[apart]), []);
}

/// Protects: published preferences become rows that a server takes: weights on the assistant's messages alone.
#[test]
fn published_preferences_become_rows_for_a_server() {
    let message = |role, content: &str| RowMessage { role, content: content.into(), weight: None };
    let talk = |reply| {
        let before =
            [message(ChatRole::User, "Hi"), message(ChatRole::Assistant, "Hello"), message(ChatRole::User, "Tea?")];
        before.into_iter().chain([message(ChatRole::Assistant, reply)]).collect::<Vec<_>>()
    };
    let preference = || Preference { chosen: talk("Yes."), rejected: talk("No.") };
    let written = |algorithm| serde_json::to_string(&FineTuningRow::of_preference(preference(), algorithm)).unwrap();
    let hi = r#"{"role":"user","content":"Hi"},{"role":"assistant","content":"Hello""#;
    let tea = r#"{"role":"user","content":"Tea?"}"#;
    let reply = |text: &str| format!(r#"{{"role":"assistant","content":"{text}"}}"#);
    assert_eq!(
        written(influence_proto::Algorithm::Sft),
        format!(r#"{{"messages":[{hi},"weight":0}},{tea},{}]}}"#, reply("Yes."))
    );
    assert_eq!(
        written(influence_proto::Algorithm::Dpo { beta: 0.1 }),
        format!(
            r#"{{"input":{{"messages":[{hi}}},{tea}]}},"preferred_output":[{}],"non_preferred_output":[{}]}}"#,
            reply("Yes."),
            reply("No.")
        )
    );
    let apart = Preference {
        rejected: vec![message(ChatRole::User, "Else"), message(ChatRole::Assistant, "No.")],
        ..preference()
    };
    assert_eq!(FineTuningRow::of_preference(apart, influence_proto::Algorithm::Dpo { beta: 0.1 }), None);
}
