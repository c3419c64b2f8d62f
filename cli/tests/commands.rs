//! The commands around a run, on a tiny model: what machines read, and the same run in two processes.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::io::{BufRead, BufReader};
use std::time::{Duration, Instant};

use serde_json::Value;
use support::{Lab, MESSAGES, json};

#[test]
fn generate_and_score_print_one_object() {
    let lab = Lab::new();
    lab.write("chat.json", MESSAGES);
    let chat = ["--model", "model", "--messages", "chat.json", "--json"];
    let generate =
        |more: &[&str]| json(&lab.succeed(&[&["model", "generate", "--max-tokens", "8"], &chat[..], more].concat()));
    let greedy = generate(&[]);
    let tokens = greedy["token_ids"].as_array().unwrap();
    assert!((1..=8).contains(&tokens.len()), "{greedy}");
    assert_eq!(greedy["logprobs"].as_array().unwrap().len(), tokens.len());
    assert!(greedy["prompt_tokens"].as_u64().unwrap() > 10, "{greedy}");
    let expected = if tokens.len() == 8 { "length" } else { "stop" };
    assert_eq!(greedy["finish_reason"], expected);
    assert_eq!(generate(&[]), greedy);
    let drawn = generate(&["--temperature", "1", "--seed", "1"]);
    assert_eq!(generate(&["--temperature", "1", "--seed", "1"]), drawn);
    assert_ne!(generate(&["--temperature", "1", "--seed", "2"])["token_ids"], drawn["token_ids"]);

    let score = json(&lab.succeed(&[&["model", "score", "--answers", "1,2,10"], &chat[..]].concat()));
    let answers = score["answers"].as_object().unwrap();
    assert_eq!(answers.keys().collect::<Vec<_>>(), ["1", "2", "10"]);
    let sum: f64 = answers.values().map(|p| p.as_f64().unwrap()).sum();
    assert!((sum - 1.0).abs() < 1e-9, "{score}");
    let by_hand: f64 = answers.iter().map(|(a, p)| a.parse::<f64>().unwrap() * p.as_f64().unwrap()).sum();
    assert!((score["expected"].as_f64().unwrap() - by_hand).abs() < 1e-9, "{score}");
    let bare = json(&lab.succeed(&[&["model", "score", "--answers", "1,2,10", "--prefix", ""], &chat[..]].concat()));
    assert!(bare["prompt_tokens"].as_u64() < score["prompt_tokens"].as_u64(), "the prefix is part of the prompt");
    let words = json(&lab.succeed(&[&["model", "score", "--answers", "yes,no"], &chat[..]].concat()));
    assert_eq!(words["expected"], Value::Null);
}

#[test]
fn a_coordinator_and_two_workers_end_as_one_process_does() {
    let lab = Lab::new();
    let experiment = "configs/experiments/tiny.yaml";
    lab.succeed(&["run", experiment, "--name", "alone"]);
    let mut coordinator = lab.spawn(&["coordinator", experiment, "--name", "apart", "--listen", "127.0.0.1:0"]);
    let mut lines = BufReader::new(coordinator.stderr.take().unwrap()).lines();
    let url = lines
        .by_ref()
        .map(Result::unwrap)
        .find_map(|line| line.split_once("--coordinator ").map(|(_, url)| url.trim().to_owned()))
        .expect("the coordinator did not say where it listens");
    let drain = std::thread::spawn(move || lines.count());
    let mut workers: Vec<_> =
        ["one", "two"].map(|name| lab.spawn(&["worker", "--coordinator", &url, "--name", name, "--slots", "2"])).into();
    let deadline = Instant::now() + Duration::from_secs(120);
    while coordinator.try_wait().unwrap().is_none() {
        assert!(Instant::now() < deadline, "the run did not end");
        std::thread::sleep(Duration::from_millis(50));
    }
    for worker in &mut workers {
        assert!(worker.wait().unwrap().success(), "a worker did not leave in peace");
    }
    drain.join().unwrap();
    let figures = |run: &str| {
        let mut run = json(&lab.succeed(&["runs", run, "--json"]));
        for iteration in run["iterations"].as_array_mut().unwrap() {
            iteration.as_object_mut().unwrap().remove("seconds");
        }
        run["iterations"].clone()
    };
    assert_eq!(figures("alone"), figures("apart"), "one worker or two: the scores are the same, bit for bit");
}

#[test]
fn conversations_are_readable_and_harmless() {
    let lab = Lab::new();
    let file = "configs/environments/talk/calm_kim.yaml";
    let text = std::fs::read_to_string(lab.path(file)).unwrap();
    lab.write(file, &text.replace("'Hello 0, I am {name}.'", "\"\\e[31mHello\\a, I am {name}\""));
    lab.succeed(&["run", "configs/experiments/tiny.yaml", "--set", "iterations=1", "--set", "evaluation.at=[]"]);
    let page = lab.succeed(&["episodes", "tiny", "--iteration", "0"]);
    assert!(page.contains("rating") && page.contains("transition"), "{page}");
    assert!(!page.contains('\u{1b}') && !page.contains('\u{7}'), "control characters reached the terminal");
    assert_eq!(lab.succeed(&["episodes", "tiny", "--json"]).lines().count(), 12);
    let table = lab.succeed(&["runs", "tiny"]);
    assert!(table.contains("12 of 12"), "{table}");
}
