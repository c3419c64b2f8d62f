//! `influence train`, as people use it.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::path::Path;
use std::time::Duration;

use serde_json::Value;
use support::processes::Place;
use support::{Lab, MESSAGES, json};

const EXPERIMENT: &str = "configs/experiments/tiny.yaml";

#[test]
fn an_adapter_is_trained_from_a_file_and_changes_the_model() {
    let lab = Lab::new();
    let row = r#"{"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "yes yes yes"}]}"#;
    lab.write("rows.jsonl", &format!("{row}\n{row}\n"));
    lab.write("chat.json", MESSAGES);
    let train = ["train", "--model", "model", "--data", "rows.jsonl", "--output", "adapter", "--set", "epochs=3"];
    let report = json(&lab.succeed(&[&train[..], &["--set", "learning_rate=1e-2", "--json"]].concat()));
    assert!(report["last_loss"].as_f64() < report["first_loss"].as_f64(), "{report}");
    assert!(lab.path("adapter/adapter_config.json").exists() && lab.path("adapter/adapter_model.safetensors").exists());
    assert!(lab.fail(&train).contains("exists"), "an adapter was overwritten");
    let score = |more: &[&str]| {
        let base = ["model", "score", "--model", "model", "--messages", "chat.json", "--answers", "yes,no", "--json"];
        json(&lab.succeed(&[&base[..], more].concat()))["answers"].clone()
    };
    assert_ne!(score(&[]), score(&["--adapter", "adapter"]));
    lab.write("bad.jsonl", &format!("{row}\n{{\"messages\": 7}}\n"));
    let error = lab.fail(&["train", "--model", "model", "--data", "bad.jsonl", "--output", "other"]);
    assert!(error.contains("bad.jsonl") && error.contains('2'), "{error}");
    assert!(!lab.path("other").exists());
}

/// Protects: a Parquet table trains as the same rows in JSON lines, and one that is damaged is refused by name.
#[test]
fn a_table_trains_as_its_rows_do() {
    let lab = Lab::new();
    let reference = Path::new(env!("CARGO_MANIFEST_DIR")).join("../coordinator/tests/reference");
    let adapter = |data: &str| {
        let data = reference.join(format!("messages.{data}"));
        let output = data.extension().unwrap().to_str().unwrap();
        lab.succeed(&["train", "--model", "model", "--data", data.to_str().unwrap(), "--output", output]);
        std::fs::read(lab.path(output).join("adapter_model.safetensors")).unwrap()
    };
    assert!(adapter("parquet") == adapter("jsonl"), "another adapter");
    lab.write("cut.parquet", "PAR1 and no more");
    let error = lab.fail(&["train", "--model", "model", "--data", "cut.parquet", "--output", "x"]);
    assert!(error.contains("cut.parquet") && error.contains("damaged"), "{error}");
}

fn said(text: &str) -> String {
    format!(r#"[{{"role": "assistant", "content": "{text}"}}]"#)
}

fn steps(lab: &Lab, output: &str) -> Vec<Value> {
    let text = std::fs::read_to_string(lab.path(&format!("{output}.steps.jsonl"))).unwrap();
    text.lines().map(json).collect()
}

/// Protects: files made for TRL train here, by each loss, and every step's figures are written down.
#[test]
fn replies_are_favoured_by_kto_and_dpo() {
    let lab = Lab::new();
    let asked = r#""prompt": [{"role": "user", "content": "Hi"}]"#;
    let labelled =
        |text: &str, label: bool| format!("{{{asked}, \"completion\": {}, \"label\": {label}}}\n", said(text));
    lab.write("kto.jsonl", &[labelled("yes", true), labelled("no", false)].concat().repeat(2));
    lab.write(
        "dpo.jsonl",
        &format!("{{{asked}, \"chosen\": {}, \"rejected\": {}}}\n", said("yes"), said("no")).repeat(4),
    );
    for (algorithm, loss) in [("kto", 0.5), ("dpo", 2f64.ln())] {
        let (data, beta) = (format!("{algorithm}.jsonl"), format!("{algorithm}.beta=0.5"));
        let train = ["train", "--model", "model", "--algorithm", algorithm, "--data", &data, "--output", algorithm];
        let set = ["--set", "epochs=8", "--set", "learning_rate=1e-2", "--set", "schedule=linear", "--set", &beta];
        let report = json(&lab.succeed(&[&train[..], &set, &["--json"]].concat()));
        let steps = steps(&lab, algorithm);
        assert_eq!((steps.len(), report["steps"].as_u64()), (8, Some(8)));
        assert!((steps[0]["loss"].as_f64().unwrap() - loss).abs() < 1e-9, "{}", steps[0]);
        assert_eq!((&steps[0]["learning_rate"], &steps[7]["learning_rate"]), (&0.01.into(), &0.00125.into()));
        assert!(steps[7]["chosen_reward"].as_f64() > steps[7]["rejected_reward"].as_f64(), "{}", steps[7]);
        assert_eq!(report["last_step"], steps[7]);
        assert_eq!(steps[7]["kl"].is_number(), algorithm == "kto");
    }
    let error = lab.fail(&["train", "--model", "model", "--algorithm", "dpo", "--data", "kto.jsonl", "--output", "x"]);
    assert!(error.contains("line 1") && error.contains("chosen"), "{error}");
    let set = ["train", "--model", "model", "--data", "kto.jsonl", "--output", "x", "--set", "lora.rnk=3"];
    let error = lab.fail(&set);
    assert!(error.contains("--set lora.rnk") && error.contains("did you mean `rank`?"), "{error}");
}

/// Protects: a training whose process is killed goes on from its checkpoint, to the adapter of one that was not.
#[test]
fn a_killed_training_is_taken_up_again() {
    let lab = Lab::new();
    let row = |text: &str| {
        format!(
            r#"{{"messages": [{{"role": "user", "content": "Hi"}}, {{"role": "assistant", "content": "{text}"}}]}}"#
        )
    };
    lab.write("rows.jsonl", &["yes", "no", "well"].map(row).join("\n"));
    let train = |output: &'static str| {
        let common = ["train", "--model", "model", "--data", "rows.jsonl", "--checkpoint-steps", "1"];
        [&common[..], &["--set", "batch_size=2", "--set", "epochs=300", "--output", output]].concat()
    };
    lab.succeed(&train("whole"));
    let mut killed = lab.spawn(&train("broken"));
    let checkpoint = lab.path("broken.checkpoint");
    while !checkpoint.exists() {
        assert!(killed.try_wait().unwrap().is_none(), "it ended before its first checkpoint was seen");
        std::thread::sleep(Duration::from_millis(1));
    }
    killed.kill().unwrap();
    killed.wait().unwrap();
    assert!(!lab.path("broken").exists(), "it was killed too late");
    let error = lab.fail(&train("broken"));
    assert!(error.contains("--resume"), "{error}");
    lab.succeed(&[&train("broken")[..], &["--resume"]].concat());
    let adapter = |folder: &str| std::fs::read(lab.path(folder).join("adapter_model.safetensors")).unwrap();
    assert!(adapter("broken") == adapter("whole"), "another adapter");
    assert!(!checkpoint.exists());
    let number = |step: &Value| step["step"].as_u64().unwrap();
    assert!(steps(&lab, "broken").iter().map(number).eq(1..=600), "every step once");
    let error = lab.fail(&[&train("third")[..], &["--resume"]].concat());
    assert!(error.contains("no checkpoint"), "{error}");
}

/// Protects: a worker that is killed while it trains is succeeded by one on another machine, which goes on from the state that
/// was uploaded, to the adapter of a run that nobody disturbed; and nothing of that state stays.
#[test]
fn a_training_is_taken_up_by_another_worker() {
    const LONG: [&str; 6] = ["--set", "iterations=1", "--set", "training.epochs=1000", "--set", "leases.seconds=2"];
    let alone = Lab::new();
    alone.succeed(&[&["run", EXPERIMENT, "--dashboard", "off"][..], &LONG].concat());
    let adapter =
        |lab: &Lab| std::fs::read(lab.path("runs/tiny/adapters/iteration-0/adapter_model.safetensors")).unwrap();

    let lab = Lab::new();
    let listen = format!("127.0.0.1:{}", support::servers::free_port());
    let at = format!("http://{listen}");
    let coordinator = ["coordinator", EXPERIMENT, "--dashboard", "off", "--listen", &listen];
    let mut coordinator = Place::start(&lab, "coordinator", &[&coordinator[..], &LONG].concat());
    let worker = |cache: &'static str| {
        let options = ["worker", "--coordinator", &at, "--share-checkpoints", "1", "--name", cache, "--cache", cache];
        Place::start(&lab, cache, &options)
    };
    let mut first = worker("one");
    first.until_said("a training's state is shared", 2);
    first.kill();
    let second = worker("two");
    second.until_said("a training is taken up", 1);
    let ended = coordinator.wait(Duration::from_secs(120));
    assert!(ended.is_some_and(|status| status.success()), "{}", coordinator.said());
    assert!(!second.said().contains("cannot be had"), "{}", second.said());
    assert!(adapter(&lab) == adapter(&alone), "the adapters differ");
    let artifacts = |lab: &Lab| walk(&lab.path("runs/artifacts"));
    assert_eq!(artifacts(&lab), artifacts(&alone), "a dataset and an adapter are left, and no state");
}

/// The files below a folder, by their names.
fn walk(folder: &Path) -> Vec<String> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => files.extend(walk(&path)),
            false => files.push(path.file_name().unwrap().to_string_lossy().into_owned()),
        }
    }
    files.sort();
    files
}

/// The rows of every dataset that the lab's runs trained on.
fn datasets(lab: &Lab) -> Vec<Value> {
    let folders = std::fs::read_dir(lab.path("runs/artifacts/sha256")).unwrap().map(|entry| entry.unwrap().path());
    let files = folders.flat_map(|folder| std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()));
    let texts = files.filter_map(|file| std::fs::read_to_string(file).ok());
    let rows = texts.flat_map(|text| text.lines().map(serde_json::from_str::<Value>).collect::<Result<Vec<_>, _>>());
    rows.flatten().filter(|row| row.get("label").is_some() || row.get("rejected").is_some()).collect()
}

/// Protects: runs by KTO and DPO, from rollouts over selection and dataset to the adapter, with published preferences
/// mixed in as a share of the rows.
#[test]
fn runs_learn_from_the_best_and_the_worst() {
    let row = r#"{"prompt": "Tea?", "response_0": "No.", "response_1": "Yes.", "better_response_id": 1}"#;
    let run = |lab: &Lab, more: &[&str]| {
        lab.write("configs/experiments/pku.jsonl", &format!("{row}\n").repeat(20));
        let common =
            ["run", "configs/experiments/tiny.yaml", "--json", "--set", "iterations=1", "--set", "training.epochs=1"];
        let level = ["--set", "selection={level: initial_state, best: 1/2, worst: 1/2}"];
        lab.succeed(&[&common[..], &level, more].concat());
        datasets(lab)
    };
    let lab = Lab::new();
    let data = ["--set", "training.static={path: pku.jsonl, fraction: 1/5}"];
    let rows = run(&lab, &[&["--set", "training.algorithm=kto"][..], &data].concat());
    let (text, sampled): (Vec<_>, Vec<_>) = rows.iter().partition(|row| row.get("completion").is_some());
    let desirable = |rows: &[&Value]| rows.iter().filter(|row| row["label"] == true).count();
    assert_eq!(desirable(&text) * 2, text.len());
    assert!(desirable(&sampled) > 0 && desirable(&sampled) < sampled.len(), "both kinds were sampled");
    // A fifth of all, in pairs.
    assert!(text.len().abs_diff(sampled.len() / 4) <= 1, "{} beside {}", text.len(), sampled.len());

    let lab = Lab::new();
    let rows = run(&lab, &["--set", "training.algorithm=dpo"]);
    assert!(!rows.is_empty() && rows.iter().all(|row| row["chosen"]["episode"] != row["rejected"]["episode"]));
    let prompt = |side: &Value| {
        side["token_ids"].as_array().unwrap()[..side["targets"][0][0].as_u64().unwrap() as usize].to_vec()
    };
    assert!(rows.iter().all(|row| prompt(&row["chosen"]) == prompt(&row["rejected"])), "siblings begin alike");
}
