//! A whole run with every role behind an API, on a server that behaves as badly as servers do.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use serde_json::Value;
use support::Lab;
use support::api::{Manner, Tally, anywhere, start};
use support::http::Server;
use support::outcome::outcome;

/// A third is refused, and what is too much at once.
const STORM: Manner =
    Manner { delay: Duration::from_millis(4), room: Some(ROOM), says: |number| format!("reply {number}") };
const ROOM: usize = 24;
const WELL: Manner = Manner { delay: Duration::ZERO, room: None, says: |number| format!("reply {number}") };

#[test]
fn five_hundred_conversations_outlive_refusals_and_two_deaths_of_the_server() {
    let tally = Arc::new(Tally::default());
    let (address, server) = start(anywhere(), STORM, tally.clone());
    let lab = Lab::new();
    lab.write("configs/models.yaml", &format!("models:\n  stormy: {{api: {{url: 'http://{address}/v1'}}}}\n"));
    let mut arguments = vec!["run", "configs/experiments/tiny.yaml", "--slots", "64"];
    for set in [
        "model=stormy",
        "iterations=0",
        "environments.held_out=1/2",
        "evaluation.initial_states=2",
        "evaluation.siblings=125",
        "evaluation.at=[first]",
    ] {
        arguments.extend(["--set", set]);
    }
    let started = Instant::now();
    let mut run = lab.spawn(&arguments);
    let mut server = Some(server);
    let (mut deaths, mut back, mut table) = (0, None, Vec::new());
    let status = loop {
        if let Some(status) = run.try_wait().unwrap() {
            break status;
        }
        assert!(started.elapsed() < Duration::from_secs(120), "the run hangs");
        let answered = tally.answered.load(Ordering::Relaxed);
        if deaths < 2 && answered > 800 * (deaths + 1) {
            server.take().unwrap().shutdown_background();
            deaths += 1;
            back = Some(Instant::now() + Duration::from_secs(1));
        }
        if back.is_some_and(|time| time <= Instant::now()) {
            server = Some(start(address, STORM, tally.clone()).1);
            back = None;
        }
        table.push((started.elapsed(), tally.running.load(Ordering::Relaxed), answered));
        std::thread::sleep(Duration::from_millis(50));
    };
    for (time, running, answered) in table.iter().step_by(5) {
        eprintln!("{:5.2} s {running:3} at once, {answered:5} answered", time.as_secs_f64());
    }
    eprintln!("most at once {:?}, {tally:?}", tally.most);
    assert!(status.success());
    assert_eq!(deaths, 2);
    assert!(tally.refused.load(Ordering::Relaxed) > tally.answered.load(Ordering::Relaxed) / 3);

    let mut episodes = BTreeMap::new();
    for line in lab.succeed(&["episodes", "tiny", "--json"]).lines() {
        let episode: Value = serde_json::from_str(line).unwrap();
        let turns = episode["turns"].as_array().unwrap().clone();
        assert!(episodes.insert(episode["spec"]["id"].to_string(), turns).is_none(), "an episode is listed twice");
    }
    assert_eq!(episodes.len(), 500);
    let turns: Vec<&Value> = episodes.values().flatten().collect();
    assert!(episodes.values().all(|turns| (1..=2).contains(&turns.len())));
    for turn in &turns {
        assert_eq!(turn["preference"]["method"], "first_token");
        assert_eq!(turn["preference"]["mass"], 0.875);
        assert!(turn["reply"]["text"].as_str().unwrap().starts_with("reply "));
    }
    // Every call that counts was answered once; what was answered besides went down with the server.
    let calls: usize = turns.iter().map(|turn| turn["calls"].as_array().unwrap().len()).sum();
    let lost = tally.answered.load(Ordering::Relaxed) - calls;
    assert!(lost <= 2 * ROOM, "{lost} answers beyond {calls} calls");
}

/// Protects: a budget stops a run before it costs more, and a larger one lets it go on where it stopped.
#[test]
fn a_budget_pauses_a_run() {
    let (address, _server) = start(anywhere(), WELL, Arc::default());
    let lab = Lab::new();
    let api = |price: &str| format!("models:\n  judge: {{api: {{url: 'http://{address}/v1'{price}}}}}\n");
    lab.write("configs/models.yaml", &api(""));
    let sets =
        ["model=judge", "iterations=0", "environments.held_out=1/2", "evaluation.siblings=4", "evaluation.at=[first]"];
    let mut arguments = vec!["run", "configs/experiments/tiny.yaml", "--slots", "1"];
    arguments.extend(sets.iter().flat_map(|set| ["--set", set]));
    let run = |budget: &'static str| [&arguments[..], &["--budget", budget]].concat();
    let refused = lab.fail(&run("1"));
    assert!(refused.contains("needs the price of `judge`"), "{refused}");
    // A call has 9 + 2 tokens, and costs $0.00001 + $0.000004.
    lab.write("configs/models.yaml", &api(", price: {input: 1, output: 2.5}"));
    let paused = lab.fail(&run("0.0002"));
    assert!(paused.contains("the budget of $0.0002 is spent"), "{paused}");
    let status = |lab: &Lab| support::json(&lab.succeed(&["runs", "tiny", "--json"]));
    let spent = status(&lab)["iterations"][0]["dollars"].as_f64().unwrap();
    assert!(spent < 0.001, "{spent}");
    lab.succeed(&run("1"));
    let finished = status(&lab);
    let row = &finished["iterations"][0];
    let roles = row["roles"].as_object().unwrap();
    let sum: f64 = roles.values().map(|role| role["dollars"].as_f64().unwrap()).sum();
    let calls: f64 = roles.values().map(|role| role["calls"].as_f64().unwrap()).sum();
    assert!((sum - row["dollars"].as_f64().unwrap()).abs() < 1e-12);
    assert!((sum - calls * 14e-6).abs() < 1e-9, "{calls} calls, {sum}");
    assert!(roles.len() == 5 && sum > 0.0002, "{row}");
}

#[test]
fn openings_are_written_by_a_model_behind_an_api() {
    let lab = Lab::new();
    let mut server = Server::start(&lab, &["--model", &format!("writer={}", lab.path("model").display())]);
    let api = format!("models:\n  writer: {{api: {{url: 'http://127.0.0.1:{}/v1'}}}}\n", server.port);
    lab.write("configs/models.yaml", &api);
    let arguments = ["generate-states", "talk/calm_kim", "--model", "writer", "--count", "2", "--max-tokens", "200"];
    let told = lab.succeed(&[&arguments[..], &["--output", "new.yaml"]].concat());
    assert!(told.contains("2 openings for review"), "{told}");
    assert!(std::fs::read_to_string(lab.path("new.yaml")).unwrap().contains("generated-2:"));
    server.process.kill().unwrap();
}

#[test]
fn an_agent_behind_an_api_cannot_be_trained() {
    let lab = Lab::new();
    lab.write("configs/models.yaml", "models:\n  away: {api: {url: 'http://127.0.0.1:9/v1'}}\n");
    let arguments = ["run", "configs/experiments/tiny.yaml", "--set", "model=away"];
    let refused = lab.fail(&arguments);
    assert!(refused.contains("`away` is behind an API") && refused.contains("iterations: 0"), "{refused}");
}

/// Protects: an agent's rollouts may be a server's, and its training ours: after each iteration the server is given the new
/// adapter; rows are the very tokens that it was shown and has sampled; and what is dropped is dropped at the server too.
#[test]
fn an_agent_at_a_server_that_takes_adapters_is_trained() {
    let lab = Lab::new();
    let server = Server::start(&lab, &["--model", "tiny=model", "--allow-adapters"]);
    let (path, port) = (lab.path("model"), server.port);
    let agent = format!(
        "{{sources: [{{path: {}}}], api: {{url: 'http://127.0.0.1:{port}/v1', adapters: true}}}}",
        path.display()
    );
    let judge = format!("{{sources: [{{path: {}}}]}}", path.display());
    lab.write("configs/models.yaml", &format!("models:\n  tiny: {agent}\n  judge: {judge}\n"));
    let judges: Vec<String> =
        ["environment", "preference", "transition", "influence"].map(|role| format!("roles.{role}.model=judge")).into();
    let mut arguments = vec!["run", "configs/experiments/tiny.yaml", "--dashboard", "off", "--json"];
    judges.iter().for_each(|set| arguments.extend(["--set", set]));
    let run = support::json(&lab.succeed(&arguments));
    assert_eq!(run["status"], "finished");

    let id = run["run"].as_str().unwrap();
    let conversations = lab.succeed(&["episodes", id, "--json"]);
    let turns = || conversations.lines().flat_map(|line| support::json(line)["turns"].as_array().unwrap().clone());
    for turn in turns() {
        let reply = &turn["reply"];
        let count = |key: &str| reply[key].as_array().map_or(0, Vec::len);
        let agent = turn["calls"].as_array().unwrap().iter().find(|call| call["role"] == "agent").unwrap().clone();
        assert!(count("token_ids") > 0 && agent["generated_tokens"] == count("token_ids"), "{agent} {reply}");
        // What a random model writes is encoded otherwise by the server when it comes again: then the stream restarts.
        let whole = reply["restarts"] == true || turn["index"] == 0;
        assert!(!whole || agent["prompt_tokens"] == count("prompt_ids"), "{agent} {reply}");
    }
    let served = server.get("/v1/models").ok();
    let names: Vec<&str> =
        served["data"].as_array().unwrap().iter().map(|model| model["id"].as_str().unwrap()).collect();
    assert!(names.len() <= 2, "earlier adapters are dropped: {names:?}");
    let adapters = std::fs::read_dir(lab.path("runs").join(id).join("adapters")).unwrap().count();
    assert_eq!(adapters, 2);
}

/// Protects: only a server that was told so lets clients load what lies on its disk.
#[test]
fn adapters_are_loaded_where_that_is_allowed() {
    let lab = Lab::new();
    let body = serde_json::json!({"lora_name": "new", "lora_path": lab.path("model")});
    let closed = Server::start(&lab, &["--model", "model"]);
    assert_eq!(closed.post("/v1/load_lora_adapter", &body).error().0, 404);
    let open = Server::start(&lab, &["--model", "model", "--allow-adapters"]);
    let (status, error) = open.post("/v1/load_lora_adapter", &body).error();
    assert!(status == 400 && error.to_string().contains("adapter_config.json"), "{status} {error}");
    let gone = open.post("/v1/unload_lora_adapter", &serde_json::json!({"lora_name": "model"})).error();
    assert_eq!(gone.0, 404, "the base stays: {}", gone.1);
}

/// What a judge on another machine says is what the same judge says here, in every bit.
#[test]
fn a_judge_that_is_served_scores_as_one_that_is_loaded() {
    let judged = |judge: &str, lab: &Lab| {
        let mut arguments = vec!["run", "configs/experiments/tiny.yaml", "--slots", "4"];
        let roles = ["preference", "transition", "influence"].map(|role| format!("roles.{role}.model={judge}"));
        arguments.extend(roles.iter().flat_map(|role| ["--set", role]));
        lab.succeed(&arguments);
        let mut outcome = outcome(lab, &[]);
        // Messages are hashed in the place of tokens, which another machine does not show.
        for episode in outcome.values_mut().filter(|value| value.get("turns").is_some()) {
            episode["spec"] = Value::Null;
            for call in episode["turns"]
                .as_array_mut()
                .unwrap()
                .iter_mut()
                .flat_map(|turn| turn["calls"].as_array_mut().unwrap())
            {
                call["prompt_sha256"] = Value::Null;
            }
        }
        outcome
    };
    let here = Lab::new();
    let expected = judged("tiny", &here);
    let lab = Lab::new();
    let mut server = Server::start(&lab, &["--model", &format!("judge={}", lab.path("model").display())]);
    let served =
        format!("  served: {{api: {{url: 'http://127.0.0.1:{}/v1', model: judge, scores: exact}}}}\n", server.port);
    let table = std::fs::read_to_string(lab.path("configs/models.yaml")).unwrap();
    lab.write("configs/models.yaml", &(table + &served));
    assert_eq!(judged("served", &lab), expected);
    server.process.kill().unwrap();
}

#[test]
fn a_doctor_finds_what_would_go_wrong() {
    let lab = Lab::new();
    let told = lab.succeed(&["doctor", "configs/experiments/tiny.yaml", "--set", "scoring.min_mass=0", "--json"]);
    let findings = support::json(&told);
    let about = |name: &str| findings.as_array().unwrap().iter().filter(|f| f["about"] == name).count();
    for name in ["agent", "environment", "preference", "transition", "influence", "model tiny", "store", "clock"] {
        assert_eq!(about(name), 1, "{name}: {told}");
    }
    assert!(!lab.path("runs").exists(), "looking makes nothing");
    lab.write(
        "configs/models.yaml",
        "models:\n  away: {api: {url: 'http://127.0.0.1:9/v1', key_variable: NO_API_KEY}}\n",
    );
    let sick = [
        "doctor",
        "configs/experiments/tiny.yaml",
        "--set",
        "model=away",
        "--set",
        "iterations=0",
        "--set",
        "evaluation.at=[first]",
    ];
    let output = lab.influence(&sick);
    let shown = String::from_utf8_lossy(&output.stdout).replace(['\n', '│', ' '], "");
    assert!(!output.status.success() && shown.contains("NO_API_KEYisnotset"), "{shown}");
}
