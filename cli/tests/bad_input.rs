//! Bad input gets one clear error that names the file, the place, the value and the way out; nothing
//! panics, hangs or is lost.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::time::{Duration, Instant};

use support::Lab;

const EXPERIMENT: &str = "configs/experiments/tiny.yaml";

/// The experiment with one change, as a file of its own.
fn changed(lab: &Lab, from: &str, to: &str) -> String {
    let text = std::fs::read_to_string(lab.path(EXPERIMENT)).unwrap();
    assert!(text.contains(from), "the test's experiment has no `{from}`");
    lab.write("configs/experiments/changed.yaml", &text.replace(from, to));
    "configs/experiments/changed.yaml".to_owned()
}

#[test]
fn mistakes_in_an_experiment_name_the_key_and_the_line() {
    let lab = Lab::new();
    let cases = [
        ("iterations: 2", "iteratons: 2", vec!["iteratons", "iterations", "changed.yaml:4"]),
        ("class: talk", "class: walk", vec!["walk"]),
        ("held_out: 0.25", "held_out: 1.5", vec!["held_out", "1.5"]),
        ("model: tiny", "model: tny", vec!["tny", "tiny"]),
        ("siblings: 2", "siblings: 2\n  fractions: {calm: 0.5, loud: 0.25}", vec!["fractions", "0.75"]),
        ("siblings: 2", "siblings: 2\n  fractions: {calm: 0.5, shy: 0.5}", vec!["shy"]),
        ("best: 1/3", "best: 4/3", vec!["best", "4/3"]),
    ];
    for (from, to, expected) in cases {
        let file = changed(&lab, from, to);
        let error = lab.fail(&["validate", &file]);
        for part in &expected {
            assert!(error.contains(part), "no `{part}` in: {error}");
        }
        let error = lab.fail(&["run", &file]);
        assert!(error.contains(expected[0]), "{error}");
    }
    assert!(!lab.path("runs/influence.sqlite").exists(), "a run was begun from a bad experiment");
}

#[test]
fn mistakes_in_environments_name_the_file_and_the_key() {
    let master = "configs/environments/talk/_master_config.yaml";
    let environment = "configs/environments/talk/calm_kim.yaml";
    let cases = [
        (master, "{name} and talk", "{nmae} and talk", vec!["nmae", "character_config", "_master_config.yaml"]),
        (master, "next_state: terminal_state", "next_state: terminal", vec!["terminal", "initial_state"]),
        (master, "agent_config:", "agent_confg:", vec!["agent_confg", "agent_config"]),
        (
            environment,
            "{role: environment, content: 'Hello 3, I am {name}.'}",
            "{role: agent, content: 'I am here.'}",
            vec!["calm_kim.yaml", "agent"],
        ),
    ];
    for (file, from, to, expected) in cases {
        let lab = Lab::new();
        let text = std::fs::read_to_string(lab.path(file)).unwrap();
        assert!(text.contains(from), "{file} has no `{from}`");
        lab.write(file, &text.replacen(from, to, 1));
        let error = lab.fail(&["validate", "configs/environments/talk"]);
        for part in expected {
            assert!(error.contains(part), "no `{part}` in: {error}");
        }
    }
}

#[test]
fn hostile_files_are_refused_quickly() {
    let lab = Lab::new();
    let mut bomb = String::from("a: &a [x, x, x, x, x, x, x, x, x]\n");
    for (next, last) in ["b", "c", "d", "e", "f", "g", "h", "i", "j"].iter().zip("abcdefghi".chars()) {
        bomb.push_str(&format!(
            "{next}: &{next} [*{last}, *{last}, *{last}, *{last}, *{last}, *{last}, *{last}, *{last}, *{last}]\n"
        ));
    }
    lab.write("configs/experiments/bomb.yaml", &bomb);
    lab.write("configs/experiments/deep.yaml", &format!("name: {}", "[".repeat(100_000)));
    let huge = lab.path("configs/experiments/huge.yaml");
    std::fs::File::create(&huge).unwrap().set_len(100 << 20).unwrap();
    for file in ["bomb", "deep", "huge", "absent"] {
        let started = Instant::now();
        let error = lab.fail(&["run", &format!("configs/experiments/{file}.yaml")]);
        assert!(error.contains(&format!("{file}.yaml")), "{error}");
        assert!(started.elapsed() < Duration::from_secs(10), "{file} took {:?}", started.elapsed());
    }
}

#[test]
fn broken_models_are_refused() {
    let lab = Lab::new();
    let weights = lab.path("model/model.safetensors");
    let whole = std::fs::read(&weights).unwrap();
    std::fs::write(&weights, &whole[..whole.len() / 2]).unwrap();
    let error = lab.fail(&["run", EXPERIMENT]);
    assert!(error.contains("model.safetensors"), "{error}");
    std::fs::write(&weights, whole).unwrap();
    let config = std::fs::read_to_string(lab.path("model/config.json")).unwrap();
    lab.write("model/config.json", &config.replace("\"llama\"", "\"mamba\""));
    let error = lab.fail(&["run", EXPERIMENT]);
    assert!(error.contains("mamba") && error.contains("llama"), "{error}");
    lab.write("model/config.json", &config);
    lab.succeed(&["run", EXPERIMENT, "--set", "iterations=1", "--set", "evaluation.at=[]", "--fresh"]);
}

#[test]
fn a_prompt_longer_than_the_context_fails_its_episodes_and_says_so() {
    let lab = Lab::new();
    let config = std::fs::read_to_string(lab.path("model/config.json")).unwrap();
    lab.write("model/config.json", &config.replace("4096", "64"));
    let error = lab.fail(&["run", EXPERIMENT]);
    assert!(error.contains("the context holds 64"), "{error}");
    assert!(error.contains("max_failed"), "{error}");
}

#[test]
fn a_port_in_use_and_a_second_process_are_named() {
    let lab = Lab::new();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let error = lab.fail(&["coordinator", EXPERIMENT, "--listen", &address]);
    assert!(error.contains(&taken.local_addr().unwrap().port().to_string()), "{error}");
    assert!(error.contains("--listen"), "{error}");
    let error = lab.fail(&["coordinator", EXPERIMENT, "--listen", "0.0.0.0:0"]);
    for part in ["0.0.0.0:0", "--tokens", "--listen 127.0.0.1"] {
        assert!(error.contains(part), "{part} is missing in: {error}");
    }

    let mut first = lab.command(&["coordinator", EXPERIMENT, "--listen", "127.0.0.1:0"]);
    let mut first = first.stderr(Stdio::piped()).spawn().unwrap();
    let mut said = BufReader::new(first.stderr.take().unwrap()).lines().map(Result::unwrap);
    assert!(said.by_ref().take(10).any(|line| line.contains("workers join with")), "the first process does not begin");
    let error = lab.fail(&["coordinator", EXPERIMENT, "--listen", &address]);
    for part in [format!("process {}", first.id()).as_str(), "--name"] {
        assert!(error.contains(part), "{part} is missing in: {error}");
    }
    first.kill().unwrap();
    first.wait().unwrap();
}

#[test]
fn what_does_not_exist_is_named() {
    let lab = Lab::new();
    assert!(lab.fail(&["runs"]).contains("influence run"));
    lab.succeed(&["run", EXPERIMENT, "--set", "iterations=0", "--set", "evaluation.at=[]"]);
    assert!(lab.fail(&["episodes", "nothing"]).contains("nothing"));
    assert!(lab.fail(&["model", "fetch", "tny"]).contains("tiny"));
    let error = lab.fail(&["model", "score", "--model", "model", "--messages", "absent.json", "--answers", "1,2"]);
    assert!(error.contains("absent.json"), "{error}");
    lab.write("configs/models.yaml", "models:\n  tiny:\n    sources:\n      - path: /nowhere/model.gguf\n");
    let error = lab.fail(&["model", "fetch", "tiny"]);
    assert!(error.contains("/nowhere/model.gguf") && error.contains("--model tiny=PATH"), "{error}");
}
