//! `kill -9` at any moment of `influence run`, the same command again, and nothing is lost, repeated
//! or different: episodes, scores, selected rows and adapters equal the undisturbed run's, bit for bit.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::collections::BTreeMap;
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use serde_json::Value;
use support::Lab;
use support::outcome::outcome;

const RUN: [&str; 4] = ["run", "configs/experiments/tiny.yaml", "--slots", "4"];

fn undisturbed() -> BTreeMap<String, Value> {
    let lab = Lab::new();
    lab.succeed(&RUN);
    outcome(&lab, &[])
}

/// A seeded sequence of waits; the harness draws it, so a failure repeats with its seed.
fn waits(seed: u64, longest: Duration) -> impl Iterator<Item = Duration> {
    let mut state = seed;
    std::iter::from_fn(move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        Some(longest.mul_f64((state >> 33) as f64 / (1_u64 << 31) as f64))
    })
}

/// Kills the run after `wait`, unless it ends before.
fn kill_after(lab: &Lab, wait: Duration) -> Option<ExitStatus> {
    let mut child = lab.spawn(&RUN);
    let deadline = Instant::now() + wait;
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return Some(status);
        }
        if Instant::now() >= deadline {
            child.kill().unwrap();
            child.wait().unwrap();
            return None;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn ten_kills_change_nothing() {
    let started = Instant::now();
    let expected = undisturbed();
    let whole = started.elapsed();
    let lab = Lab::new();
    let mut kills = 0;
    for wait in waits(2026, whole / 3) {
        match kill_after(&lab, wait) {
            None => kills += 1,
            Some(status) => {
                assert!(status.success(), "the resumed run failed");
                break;
            }
        }
        if kills == 10 {
            lab.succeed(&RUN);
            break;
        }
    }
    // Fewer kills than asked for would test less than the name says.
    assert!(kills >= 5, "the run ended after {kills} kills: lengthen it");
    let actual = outcome(&lab, &[]);
    assert_eq!(actual.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>());
    for (key, value) in &expected {
        assert_eq!(&actual[key], value, "{key} differs after {kills} kills");
    }
}

#[test]
fn a_finished_run_prints_its_table_and_rolls_out_nothing() {
    let lab = Lab::new();
    let first = lab.succeed(&RUN);
    let before = outcome(&lab, &[]);
    let again = lab.succeed(&RUN);
    assert_eq!(outcome(&lab, &[]), before);
    let table = |text: &str| text.lines().filter(|line| line.contains('│')).map(str::to_owned).collect::<Vec<_>>();
    assert!(!table(&first).is_empty(), "{first}");
    assert_eq!(table(&first), table(&again));
}

#[test]
fn a_changed_experiment_is_not_the_same_run() {
    let lab = Lab::new();
    lab.succeed(&["run", "configs/experiments/tiny.yaml", "--set", "iterations=1", "--set", "evaluation.at=[]"]);
    let error = lab.fail(&["run", "configs/experiments/tiny.yaml", "--set", "evaluation.at=[]"]);
    assert!(error.contains("iterations"), "{error}");
    assert!(error.contains("--fresh"), "{error}");
    lab.succeed(&[
        "run",
        "configs/experiments/tiny.yaml",
        "--set",
        "iterations=1",
        "--set",
        "evaluation.at=[]",
        "--fresh",
    ]);
    let runs: Value = serde_json::from_str(&lab.succeed(&["runs", "--json"])).unwrap();
    assert_eq!(runs.as_array().unwrap().len(), 2, "{runs}");
}
