//! Agents that their server trains: whole runs against a server with a fine-tuning API.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

#[path = "../../worker/tests/tuning/mod.rs"]
mod tuning;

use std::process::{Child, Command};
use std::time::{Duration, Instant};

use serde_json::Value;
use support::{Lab, json, stderr};
use tuning::{BASE, Fault, KEY, TuningServer};

const EXPERIMENT: &str = "
name: tuned
seed: 5
iterations: 2
model: agent
environments: {class: talk, initial_states: 3, siblings: 2, held_out: 0.25, max_turns: 2}
roles: {agent: {max_tokens: 12}, environment: {max_tokens: 8}, influence: {enabled: true}}
scoring: {min_mass: 0}
selection: {level: environment, best: 1/3}
training: {backend: api, epochs: 2, batch_size: 4, learning_rate_multiplier: 0.5, learning_rate_factor: 0.5, suffix: lab}
evaluation: {initial_states: 1, at: [first, last]}
";
const RUN: [&str; 5] = ["run", "configs/experiments/tuned.yaml", "--dashboard", "off", "--json"];

/// A lab whose agent the server answers for.
fn lab(server: &TuningServer) -> Lab {
    let lab = Lab::new();
    let price = "price: {input: 1, output: 2, training: 10, tuned_input: 3, tuned_output: 4}";
    let api = format!("{{url: '{}', model: {BASE}, key_variable: LAB_API_KEY, {price}}}", server.url());
    lab.write("configs/models.yaml", &format!("models:\n  agent: {{api: {api}}}\n"));
    lab.write("configs/experiments/tuned.yaml", EXPERIMENT);
    // A reply that the agent did not write.
    let histories: String = (0..8)
        .map(|i| {
            format!(
                "  {i}:\n    - {{role: environment, content: 'Hello {i}.'}}\n    - {{role: agent, content: Hard-coded.}}\n    - {{role: environment, content: 'And?'}}\n"
            )
        })
        .collect();
    lab.write("configs/environments/talk/loud_lee.yaml", &format!("name: loud_lee\nhistories:\n{histories}"));
    lab
}

fn with_key(lab: &Lab, arguments: &[&str]) -> Command {
    let mut command = lab.command(arguments);
    command.env("LAB_API_KEY", KEY);
    command
}

fn succeed(lab: &Lab, arguments: &[&str]) -> String {
    let output = with_key(lab, arguments).output().unwrap();
    assert!(output.status.success(), "{arguments:?} failed:\n{}", stderr(&output));
    String::from_utf8(output.stdout).unwrap()
}

fn fail(lab: &Lab, arguments: &[&str]) -> String {
    let output = with_key(lab, arguments).output().unwrap();
    let text = stderr(&output);
    assert!(!output.status.success() && !text.contains("panicked"), "{text}");
    assert!(!text.contains(KEY), "the key is told: {text}");
    text
}

/// The agents' and the users' replies of an iteration.
fn replies(lab: &Lab, filter: &str) -> Vec<(String, Option<String>)> {
    let lines = succeed(lab, &["episodes", "tuned", "--json", "--filter", filter]);
    let turns = lines.lines().flat_map(|line| json(line)["turns"].as_array().unwrap().clone());
    let text = |value: &Value| value["text"].as_str().map(str::to_owned);
    let both = |turn: Value| (text(&turn["reply"]).unwrap(), text(&turn["environment"]));
    turns.map(both).collect()
}

fn by(model: &str, replies: &[(String, Option<String>)]) {
    assert!(!replies.is_empty());
    for (reply, answer) in replies {
        assert!(reply.starts_with(&format!("I am {model},")), "{reply} is not by {model}");
        let users = format!("I am {BASE},");
        assert!(answer.as_ref().is_none_or(|answer| answer.starts_with(&users)), "{answer:?} is the user's");
    }
}

/// Protects: each iteration's agent is the model that the server made of the one before, and nobody else is it; what it was
/// trained on, by which settings, and what that cost.
#[test]
fn a_run_is_trained_by_its_server() {
    let server = TuningServer::start();
    server.books().faults = vec![
        ("POST /v1/files", Fault::Status(429)),
        ("POST /v1/fine_tuning/jobs", Fault::Cut),
        ("GET /v1/fine_tuning/jobs/ftjob-0", Fault::Status(503)),
        ("GET /v1/fine_tuning/jobs/ftjob-1", Fault::Garbage),
    ];
    let lab = lab(&server);
    let run = json(&succeed(&lab, &RUN));
    assert_eq!(run["status"], "finished");
    assert_eq!(server.counts(), (2, 2));
    let files = server.books().files.clone();
    let jobs = server.books().jobs.clone();

    let models = [jobs[0].model(), jobs[1].model()];
    assert_eq!((jobs[0].body["model"].as_str(), jobs[1].body["model"].as_str()), (Some(BASE), Some(&*models[0])));
    by(BASE, &replies(&lab, "phase = train and iteration = 0"));
    by(&models[0], &replies(&lab, "phase = train and iteration = 1"));
    by(&models[1], &replies(&lab, "phase = evaluate and iteration = 2"));

    for (job, (multiplier, suffix)) in jobs.iter().zip([(0.5, "lab-0"), (0.25, "lab-1")]) {
        let settings = &job.body["method"]["supervised"]["hyperparameters"];
        assert_eq!((&settings["n_epochs"], &settings["batch_size"]), (&2.into(), &4.into()));
        assert_eq!((&settings["learning_rate_multiplier"], &job.body["suffix"]), (&multiplier.into(), &suffix.into()));
    }
    let rows: Vec<Value> = files[1].text.lines().map(json).collect();
    // The best third of the six of each environment.
    assert_eq!(rows.len(), 4);
    let mut hard_coded = 0;
    for message in rows.iter().flat_map(|row| row["messages"].as_array().unwrap()) {
        let said = message["content"].as_str().unwrap();
        match message["role"].as_str().unwrap() {
            "assistant" if said == "Hard-coded." => {
                hard_coded += 1;
                assert_eq!(message["weight"], 0);
            }
            "assistant" => assert!(said.starts_with(&format!("I am {},", models[0])) && message["weight"].is_null()),
            _ => assert!(message["weight"].is_null()),
        }
    }
    assert_eq!(hard_coded, 2);

    let table = json(&succeed(&lab, &["runs", "tuned", "--json"]));
    let row = |phase: &str, iteration: u64| {
        let rows = table["iterations"].as_array().unwrap();
        rows.iter().find(|row| row["phase"] == phase && row["iteration"] == iteration).unwrap().clone()
    };
    let trained = row("train", 0);
    let cost = files[0].text.len() as f64 * 2.0 * 10e-6;
    assert!((trained["training_dollars"].as_f64().unwrap() - cost).abs() < 1e-9, "{trained} {cost}");
    let roles: f64 = trained["roles"].as_object().unwrap().values().map(|role| role["dollars"].as_f64().unwrap()).sum();
    assert!((trained["dollars"].as_f64().unwrap() - cost - roles).abs() < 1e-9);
    assert_eq!(trained["loss"], serde_json::json!([3.0, 0.75]));
    assert_eq!((&trained["served_model"], &row("train", 1)["served_model"]), (&Value::Null, &(*models[0]).into()));
    assert_eq!(trained["trained_model"], *models[0]);
    let shown = succeed(&lab, &["runs", "tuned"]);
    assert!(shown.contains(&format!("iteration-1: the model {} of its server", models[1])), "{shown}");
    // A reply of a model that was made costs what such models cost: 9 tokens at $3 and 2 at $4 per million.
    let agent = |row: &Value| {
        row["roles"]["agent"]["dollars"].as_f64().unwrap() / row["roles"]["agent"]["calls"].as_f64().unwrap()
    };
    assert!((agent(&trained) - 13e-6).abs() < 1e-12 && (agent(&row("train", 1)) - 35e-6).abs() < 1e-12);
}

/// Protects: what reads runs afterwards knows an agent that has no files: it is evaluated at its server, exported by its
/// name, and refused by it where files are asked for.
#[test]
fn an_agent_without_files_is_told_by_its_name() {
    let server = TuningServer::start();
    let lab = lab(&server);
    let one = [&RUN[..], &["--set", "iterations=1"]].concat();
    succeed(&lab, &one);
    let model = server.books().jobs[0].model();
    let refused = fail(&lab, &["export", "tuned", "--format", "adapters", "--out", "out"]);
    assert!(refused.contains(&model) && refused.contains("there are no files of it"), "{refused}");
    succeed(&lab, &["export", "tuned", "--format", "jsonl,openai,inspect", "--out", "out"]);
    let table = std::fs::read_to_string(lab.path("out/episodes.jsonl")).unwrap();
    let named = table.lines().map(json).filter(|row| row["served_model"] == *model).count();
    assert_eq!(named, table.lines().map(json).filter(|row| row["agent"] == "iteration-0").count());
    let report = succeed(&lab, &["report", "tuned"]);
    assert!(report.contains(&model) && report.contains("through its server's fine-tuning API"), "{report}");
    let refused = fail(&lab, &["serve", "--run", "tuned", "--listen", "127.0.0.1:0"]);
    assert!(refused.contains("are models of the server that trained them"), "{refused}");

    succeed(&lab, &["evaluate", "tuned", "--rollout", "talk", "--episodes", "2", "--iterations", "1", "--json"]);
    let lines = succeed(&lab, &["episodes", "tuned-1-on-talk", "--json"]);
    let turns: Vec<Value> = lines.lines().flat_map(|line| json(line)["turns"].as_array().unwrap().clone()).collect();
    assert!(!turns.is_empty());
    for turn in turns {
        assert!(turn["reply"]["text"].as_str().unwrap().starts_with(&format!("I am {model},")), "{turn}");
    }
}

/// Runs until the server has begun a job and was asked how it stands.
fn until_under_way(lab: &Lab, server: &TuningServer, arguments: &[&str]) -> Child {
    let mut run = with_key(lab, arguments).spawn().unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    while server.books().jobs.last().is_none_or(|job| job.looks < 3) {
        assert!(Instant::now() < deadline, "no job is begun");
        assert_eq!(run.try_wait().unwrap(), None, "the run has ended");
        std::thread::sleep(Duration::from_millis(20));
    }
    run
}

/// Protects: a job that is under way when everything is killed is gone on with, even where nothing is left but the store: it
/// is never begun, and paid, twice.
#[test]
fn a_killed_run_goes_on_with_the_same_job() {
    for keeps_its_cache in [true, false] {
        let server = TuningServer::start();
        server.books().held = true;
        let lab = lab(&server);
        let one = [&RUN[..], &["--set", "iterations=1"]].concat();
        let mut run = until_under_way(&lab, &server, &one);
        run.kill().unwrap();
        run.wait().unwrap();
        if !keeps_its_cache {
            std::fs::remove_dir_all(lab.path("cache")).unwrap();
        }
        let listed = server.books().asked["GET /v1/fine_tuning/jobs"];
        server.books().held = false;
        assert_eq!(json(&succeed(&lab, &one))["status"], "finished");
        let books = server.books();
        assert_eq!((books.files.len(), books.jobs.len()), (1, 1), "{:?}", books.asked);
        let searched = books.asked["GET /v1/fine_tuning/jobs"] > listed;
        assert_eq!(searched, !keeps_its_cache, "what is known is not looked for");
        drop(books);
        by(&server.books().jobs[0].model(), &replies(&lab, "phase = evaluate and iteration = 1"));
    }
}

/// Protects: a failed job ends the run in the server's words and without its key; the next command begins another.
#[test]
fn a_failed_job_is_told_and_begun_anew_when_asked() {
    let server = TuningServer::start();
    server.books().fails = Some(format!("Training file has 4 examples, but must have 10 ({KEY})"));
    let lab = lab(&server);
    let one = [&RUN[..], &["--set", "iterations=1"]].concat();
    let failed = fail(&lab, &one);
    for part in ["the training of iteration 0 failed", "`ftjob-0`", "is failed: Training file has 4 examples", "[key]"]
    {
        assert!(failed.contains(part), "`{part}` is not in: {failed}");
    }
    assert_eq!(server.books().jobs.len(), 1, "it is not tried again by itself");
    assert_eq!(json(&succeed(&lab, &one))["status"], "finished");
    assert_eq!(server.counts(), (1, 2));
}

/// Protects: pairs of best and worst replies reach the server in its format, with the loss's own setting.
#[test]
fn a_server_is_given_preferences() {
    let server = TuningServer::start();
    let lab = lab(&server);
    let mut arguments = RUN.to_vec();
    for set in [
        "iterations=1",
        "selection.level=initial_state",
        "selection.best=1/2",
        "selection.worst=1/2",
        "training.algorithm=dpo",
        "training.dpo.beta=0.25",
    ] {
        arguments.extend(["--set", set]);
    }
    succeed(&lab, &arguments);
    let job = server.books().jobs[0].clone();
    let file = server.books().files[0].clone();
    assert_eq!(job.body["method"]["type"], "dpo");
    assert_eq!(job.body["method"]["dpo"]["hyperparameters"]["beta"], 0.25);
    assert_eq!(file.text.lines().count(), 6, "a pair for each of the openings");
    succeed(&lab, &["export", "tuned", "--format", "trl", "--out", "out"]);
    let exported = std::fs::read_to_string(lab.path("out/trl/iteration-0.jsonl")).unwrap();
    for (ours, theirs) in exported.lines().map(json).zip(file.text.lines().map(json)) {
        assert_eq!((&ours["prompt"], &ours["chosen"]), (&theirs["input"]["messages"], &theirs["preferred_output"]));
    }
    assert_eq!(exported.lines().count(), 6);
    let validated = succeed(&lab, &["doctor", "configs/experiments/tuned.yaml", "--json"]);
    assert!(validated.contains("lists fine-tuning jobs; none was begun"), "{validated}");
    assert!(!validated.contains("counts no tokens"), "{validated}");
    assert_eq!(server.books().jobs.len(), 1);
    server.books().listless = true;
    server.books().uncounted = true;
    let output = with_key(&lab, &["doctor", "configs/experiments/tuned.yaml", "--json"]).output().unwrap();
    let told = json(&String::from_utf8_lossy(&output.stdout));
    let noted = |f: &&Value| f["verdict"] == "note" && f["finding"].as_str().unwrap().contains("counts no tokens");
    assert_eq!(told.as_array().unwrap().iter().filter(noted).count(), 5, "{told}");
    let bad = told.as_array().unwrap().iter().any(|f| f["about"] == "fine-tuning" && f["verdict"] == "bad");
    assert!(bad && !output.status.success(), "{told}");
}

/// Protects: a budget counts trainings, and wants their price.
#[test]
fn a_budget_counts_trainings() {
    let server = TuningServer::start();
    let lab = lab(&server);
    // The first phase costs less than a cent, its training more.
    let paused = fail(&lab, &[&RUN[..], &["--budget", "0.02"]].concat());
    assert!(paused.contains("the budget of $0.02 is spent"), "{paused}");
    assert_eq!(server.books().jobs.len(), 1);
    let table = std::fs::read_to_string(lab.path("configs/models.yaml")).unwrap();
    lab.write("configs/models.yaml", &table.replace("training: 10, ", ""));
    let refused = fail(&lab, &[&RUN[..], &["--budget", "1"]].concat());
    assert!(refused.contains("the price of training `agent`"), "{refused}");
}
