#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::path::PathBuf;

use influence_proto::RunId;
use influence_proto::prompts::history;
use serde_json::{Value, json};

use super::{Origin, import};
use crate::config::RewardTurns;
use crate::planning::Phase;
use crate::store::memory::MemoryStore;
use crate::store::{RunStatus, Store};

fn said(role: &str, content: &str) -> Value {
    json!({ "role": role, "content": content })
}

/// A line as the Python code writes it.
fn line(environment: &str, trajectory: u32, turn: u32, history: &[Value], preferences: &Value) -> Value {
    json!({
        "env_name": environment,
        "initial_state_id": 7,
        "trajectory_id": trajectory,
        "turn": turn,
        "agent_system_prompt": [said("system", "You are kind.\n")],
        "history": history,
        "preferences": preferences,
        "influence_scores": { "1": 0.5, "2": 0.5 },
        "transition_probs": { "yes": 0.25, "no": 0.75 },
        "visited_states": ["start"],
    })
}

/// Two turns of one conversation, the first of which a tool goes before and a note after.
fn conversation(trajectory: u32) -> Vec<Value> {
    let first = [
        said("environment", "Book it."),
        said("tool_call", "book()"),
        said("tool_response", "full"),
        said("agent", " Done!\n"),
        said("environment_system", "A day later"),
    ];
    let mut second = first.to_vec();
    second.extend([said("environment", "Thanks"), said("agent", "Bye")]);
    vec![
        line("weak_tickets", trajectory, 1, &first, &json!({ "1": 0.25, "9": 0.75, "-1": 0.5 })),
        line("weak_tickets", trajectory, 2, &second, &json!({ "1": 0.0, "9": 1.0 })),
    ]
}

struct Files(tempfile::TempDir);

impl Files {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn write(&self, below: &str, lines: &[Value]) -> PathBuf {
        let path = self.0.path().join(below);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
        std::fs::write(&path, text).unwrap();
        path
    }
}

fn origin(reward: RewardTurns) -> Origin {
    Origin { run: RunId::new("old").unwrap(), class: "tickets".into(), model: "llama".into(), reward }
}

/// Protects: messages come back in their order and their letters, split where turns begin; rewards are those of the Python code,
/// but for a judge that failed, which is no rating of 0.
#[tokio::test]
async fn a_run_is_taken_over_as_it_was() {
    let files = Files::new();
    // Devices write their turns in the order in which they end.
    let [one, two] = [conversation(0), conversation(10)];
    files.write("0/1.jsonl", &[one[0].clone(), two[0].clone(), two[1].clone(), one[1].clone()]);
    let failed = [said("environment", "Hi"), said("agent", "Hello")];
    files.write("0/0.jsonl", &[line("normal_tickets", 2, 1, &failed, &json!({ "1": 0.0, "9": 0.0 }))]);
    files.write("0/selected_trajectories.jsonl", &[json!({ "messages": [] })]);
    files.write("1_eval/0.jsonl", &conversation(0));
    let store = MemoryStore::new();
    assert_eq!(import(&store, &origin(RewardTurns::Mean), &[files.0.path().to_owned()]).await.unwrap(), 4);

    let run = RunId::new("old").unwrap();
    assert_eq!(store.run(&run).await.unwrap().status, RunStatus::Finished);
    let planned: Vec<_> =
        store.iterations(&run).await.unwrap().iter().map(|i| (i.phase, i.iteration, i.judged)).collect();
    assert_eq!(planned, [(Phase::Train, 0, true), (Phase::Evaluate, 1, true)]);
    let episodes = store.episodes(&run, Phase::Train, 0).await.unwrap();
    let told: Vec<_> = episodes.iter().map(|e| (&*e.environment, &*e.initial_state, e.turns)).collect();
    assert_eq!(told, [("normal_tickets", "7", 1), ("weak_tickets", "7", 2), ("weak_tickets", "7", 2)]);
    let rewards: Vec<_> = episodes.iter().map(|e| e.verdict.as_ref().unwrap().reward).collect();
    // By hand: (0.25 * 1 + 0.75 * 9 - 0.5 + 9) / 2.
    assert_eq!(rewards, [None, Some(7.75), Some(7.75)]);
    let spec = store.spec(&run, &episodes[1].id).await.unwrap();
    let turns = store.journal(&run, &episodes[1].id).await.unwrap();
    let written: Vec<Value> = one[1]["history"].as_array().unwrap().clone();
    let mut read: Vec<Value> = history(&spec, &turns).iter().map(|message| json!(message)).collect();
    assert_eq!(turns[0].reply.text, " Done!\n");
    read[3]["content"] = " Done!\n".into();
    assert_eq!(read, written);
    assert_eq!((spec.opening.len(), turns[0].environment.as_ref().unwrap().text.as_str()), (3, "Thanks"));
    assert_eq!((&*spec.agent.system_prompt, turns[0].preference.expected()), ("You are kind.\n", Some(7.0)));
    assert_eq!(turns[1].influence.as_ref().unwrap().expected(), Some(1.5));
}

/// Protects: the final turn's reward, files one by one, and that a run is not written over.
#[tokio::test]
async fn the_final_turn_may_count_and_a_run_stays() {
    let files = Files::new();
    let file = files.write("3/0.jsonl", &conversation(0));
    let store = MemoryStore::new();
    import(&store, &origin(RewardTurns::Final), std::slice::from_ref(&file)).await.unwrap();
    let run = RunId::new("old").unwrap();
    let episodes = store.episodes(&run, Phase::Train, 3).await.unwrap();
    assert_eq!(episodes[0].verdict.as_ref().unwrap().reward, Some(9.0));
    assert!(import(&store, &origin(RewardTurns::Mean), &[file]).await.unwrap_err().to_string().contains("old"));
}

/// Protects: a file that is none is named by its line, and nothing of it is kept.
#[tokio::test]
async fn what_is_no_trajectory_is_named() {
    let turns = conversation(0);
    let mut odd = turns[0].clone();
    odd["history"][0]["role"] = "narrator".into();
    let mut silent = turns[0].clone();
    silent["history"] = json!([said("environment", "Hi")]);
    let mut apart = turns[1].clone();
    apart["history"][0]["content"] = "Else".into();
    for (lines, problem) in [
        (vec![json!({ "prompt": "x" })], "0.jsonl:1 is no turn of a trajectory: missing field `env_name`"),
        (vec![turns[1].clone()], "0.jsonl:1 has a turn before it that is in no file"),
        (vec![turns[0].clone(), turns[0].clone()], "0.jsonl:2 is turn 1 of a trajectory, as "),
        (vec![odd], "0.jsonl:1 has a message of the role `narrator`"),
        (vec![silent], "0.jsonl:1 has no reply"),
        (vec![turns[0].clone(), apart], "0.jsonl:2 does not go on from the turn before it"),
        (vec![], "holds no N.jsonl"),
    ] {
        let files = Files::new();
        if lines.is_empty() {
            files.write("notes/0.jsonl", &turns);
        } else {
            files.write("0/0.jsonl", &lines);
        }
        let store = MemoryStore::new();
        let error =
            import(&store, &origin(RewardTurns::Mean), &[files.0.path().to_owned()]).await.unwrap_err().to_string();
        assert!(error.contains(problem), "{error}");
        assert!(store.runs().await.unwrap().is_empty());
    }
}
