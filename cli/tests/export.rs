//! A run as files for other tools. What those tools make of them is `scripts/clients/exports.py`'s.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead as _, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use support::api::{Manner, Tally, anywhere, start};
use support::{Lab, json};

const ALL: &str = "jsonl,parquet,trl,openai,adapters,inspect,tensorboard,csv";
const TINY: [&str; 4] = ["run", "configs/experiments/tiny.yaml", "--dashboard", "off"];

fn lines(path: &Path) -> Vec<Value> {
    fs::read_to_string(path).unwrap().lines().map(json).collect()
}

/// All files below a folder, by their path in it.
fn files(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut open = vec![folder.to_owned()];
    while let Some(place) = open.pop() {
        for entry in fs::read_dir(place).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else {
                found.insert(path.strip_prefix(folder).unwrap().to_owned(), fs::read(&path).unwrap());
            }
        }
    }
    found
}

/// The members of a zip.
fn members(bytes: &[u8]) -> BTreeMap<String, Value> {
    let mut zip = zip::ZipArchive::new(std::io::Cursor::new(bytes)).unwrap();
    let mut found = BTreeMap::new();
    for index in 0..zip.len() {
        let mut text = String::new();
        let mut member = zip.by_index(index).unwrap();
        member.read_to_string(&mut text).unwrap();
        found.insert(member.name().unwrap().into_owned(), json(&text));
    }
    found
}

/// Protects: every format tells of the same conversations, and of them what the run remembers, letter by letter.
#[test]
fn every_format_tells_of_the_same_run() {
    let lab = Lab::new();
    let file = "configs/environments/talk/calm_kim.yaml";
    let text = fs::read_to_string(lab.path(file)).unwrap();
    let odd = r#""Hello \e[31m\u0001 <b>\"ä\" 🙂, I am {name}.\r\n\ttwo""#;
    lab.write(file, &text.replace("'Hello 0, I am {name}.'", odd));
    lab.succeed(&TINY);
    let told: Vec<Value> = lab.succeed(&["episodes", "tiny", "--json"]).lines().map(json).collect();
    let figures = json(&lab.succeed(&["runs", "tiny", "--json"]))["iterations"].clone();
    let printed = json(&lab.succeed(&["export", "tiny", "--format", ALL, "--out", "out", "--json"]));
    let out = lab.path("out");
    assert_eq!(printed["files"].as_array().unwrap().len(), 2 + 2 + 2 + 2 + 2 + 4 + 2 + 1, "{printed}");

    let (episodes, turns) = (lines(&out.join("episodes.jsonl")), lines(&out.join("turns.jsonl")));
    assert_eq!(episodes.len(), told.len());
    let mut replies = turns.iter();
    for (row, episode) in episodes.iter().zip(&told) {
        assert_eq!(row["episode"], episode["spec"]["id"]);
        assert_eq!(row["seed"], episode["spec"]["seed"].to_string());
        for same in ["phase", "iteration", "status", "reward", "influence", "vetoed", "unscored", "selected"] {
            assert_eq!(row[same], episode[same], "{same}");
        }
        assert_eq!(row["messages"][0], episode["spec"]["opening"][0]["content"]);
        for turn in episode["turns"].as_array().unwrap() {
            let line = replies.next().unwrap();
            assert_eq!((&line["episode"], &line["turn"]), (&row["episode"], &turn["index"]));
            assert_eq!(line["reply"], turn["reply"]["text"]);
            assert_eq!(line["user_answer"], turn["environment"]["text"]);
            for (at, answer) in turn["preference"]["answers"].as_array().unwrap().iter().enumerate() {
                assert_eq!(
                    (&line["preference_answers"][at], &line["preference_probabilities"][at]),
                    (&answer[0], &answer[1])
                );
            }
        }
    }
    assert!(replies.next().is_none());
    assert!(episodes.iter().any(|row| row["messages"][0].as_str().unwrap().contains("\u{1b}[31m\u{1} <b>\"ä\" 🙂")));
    // Two siblings of each opening.
    assert_eq!(episodes.iter().filter(|row| row["phase"] == "train" && row["sibling"] == 1).count(), 12);
    for (name, rows) in [("episodes", &episodes), ("turns", &turns)] {
        let table = influence_coordinator::dataset::json_lines(&out.join(format!("{name}.parquet"))).unwrap();
        let table: Vec<Value> = table.lines().map(|line| json(&line.unwrap())).collect();
        assert_eq!(&table, rows, "{name}: Parquet and JSON lines differ");
    }

    let csv = fs::read_to_string(out.join("curves.csv")).unwrap();
    let mean = &figures[1]["reward"]["mean"];
    let row: Vec<&str> = csv.lines().nth(2).unwrap().split(',').collect();
    let place = csv.lines().next().unwrap().split(',').position(|name| name == "reward").unwrap();
    assert_eq!((row[1], row[place]), ("train", &*mean.to_string()), "{csv}");

    let written = files(&out);
    let log = members(&written[Path::new("inspect/iteration-0.eval")]);
    assert_eq!(log["header.json"]["results"]["scores"][0]["metrics"]["mean"]["value"], *mean);
    assert_eq!(log["summaries.json"].as_array().unwrap().len(), 12);
    let sample = &log["samples/calm_kim:0_epoch_2.json"];
    let episode = told.iter().find(|episode| episode["spec"]["id"] == sample["uuid"]).unwrap();
    assert_eq!(sample["scores"]["reward"]["value"], episode["reward"]);
    assert_eq!(sample["messages"][2]["content"], episode["turns"][0]["reply"]["text"]);
    assert!(written.keys().all(|path| !path.file_name().unwrap().to_string_lossy().starts_with('.')), "{written:?}");
    assert!(written[Path::new("adapters/iteration-1/adapter_model.safetensors")].len() > 1000);
}

/// Protects: nothing is replaced unless that is asked for, a file that could not be finished leaves nothing, and a second export
/// is the same in every byte.
#[test]
fn files_are_not_replaced_silently() {
    let lab = Lab::new();
    lab.succeed(&[&TINY[..], &["--set", "iterations=1"]].concat());
    let export = ["export", "tiny", "--format", ALL, "--out", "out"];
    lab.succeed(&export);
    let first = files(&lab.path("out"));
    for path in ["turns.jsonl", "curves.csv", "inspect/evaluation-0.eval"] {
        lab.write(&format!("out/{path}"), "mine");
    }
    for (format, named) in [("jsonl", "episodes.jsonl"), ("csv", "curves.csv"), ("inspect", "evaluation-0.eval")] {
        let error = lab.fail(&["export", "tiny", "--format", format, "--out", "out"]);
        assert!(error.contains(named) && error.contains("--overwrite"), "{error}");
    }
    assert_eq!(fs::read_to_string(lab.path("out/turns.jsonl")).unwrap(), "mine");
    lab.succeed(&[&export[..], &["--overwrite"]].concat());
    assert_eq!(files(&lab.path("out")), first);
    assert!(lab.fail(&["export", "tiny", "--format", "xml"]).contains("possible values: jsonl, parquet"));
    assert!(lab.fail(&["export", "tiny", "--format", ""]).contains("possible values"));
    assert!(lab.fail(&["export", "teeny", "--format", "csv"]).contains("teeny"));
    lab.write("full", "");
    assert!(
        lab.fail(&["export", "tiny", "--format", "csv", "--out", "full"]).contains("full/curves.csv cannot be written")
    );
}

/// Protects: text rows are of the conversations and replies that the run trained on, by algorithm, and our own trainer takes them.
#[test]
fn training_rows_are_what_was_trained_on() {
    let lab = Lab::new();
    let run = |name: &str| {
        let algorithm = format!("training.algorithm={name}");
        let settings = ["--set", &algorithm, "--set", "selection.worst=1/3", "--set", "selection.level=initial_state"];
        lab.succeed(&[&TINY[..], &["--name", name, "--set", "iterations=1"], &settings].concat());
        lab.succeed(&["export", name, "--format", "trl,openai", "--out", name]);
        let told = lab.succeed(&["episodes", name, "--json", "--filter", "phase = train"]);
        let rows = lines(&lab.path(&format!("{name}/trl/iteration-0.jsonl")));
        (told.lines().map(json).collect::<Vec<Value>>(), rows)
    };
    let replies = |told: &[Value], selected: &str| -> Vec<String> {
        let chosen = told.iter().filter(|episode| episode["selected"] == selected);
        let turns = chosen.flat_map(|episode| episode["turns"].as_array().unwrap());
        turns.map(|turn| turn["reply"]["text"].as_str().unwrap().to_owned()).collect()
    };
    let completions = |rows: &[Value]| -> Vec<String> {
        rows.iter().map(|row| row["completion"][0]["content"].as_str().unwrap().to_owned()).collect()
    };
    let (told, rows) = run("kto");
    let (good, bad): (Vec<_>, Vec<_>) = rows.into_iter().partition(|row| row["label"] == true);
    assert_eq!(completions(&good), replies(&told, "best"));
    assert_eq!(completions(&bad), replies(&told, "worst"));
    assert!(!bad.is_empty() && good[0]["prompt"][0]["role"] == "system");
    let (told, rows) = run("dpo");
    assert_eq!(rows.len(), told.iter().filter(|episode| episode["selected"] == "best").count());
    for row in &rows {
        assert_eq!(row["prompt"].as_array().unwrap().len(), 2, "system prompt and opening");
        let first = |side: &str| row[side][0]["content"].as_str().unwrap().to_owned();
        assert!(replies(&told, "best").contains(&first("chosen")));
        assert!(replies(&told, "worst").contains(&first("rejected")));
    }
    let chats = lines(&lab.path("dpo/openai/iteration-0.jsonl"));
    assert!(chats.iter().all(|chat| chat["messages"].as_array().unwrap().last().unwrap()["role"] == "assistant"));
    for (rows, algorithm) in [("openai", "sft"), ("trl", "kto")] {
        let (data, output) = (format!("kto/{rows}/iteration-0.jsonl"), format!("by-{rows}"));
        lab.succeed(&["train", "--model", "model", "--data", &data, "--algorithm", algorithm, "--output", &output]);
    }
}

/// Protects: the key of a model behind an API is in no file, and conversations without tokens are exported.
#[test]
fn no_key_is_exported() {
    const KEY: &str = "sk-never-to-be-seen-4711";
    let well = Manner { delay: Duration::ZERO, room: None, says: |number| format!("reply {number}") };
    let (address, server) = start(anywhere(), well, Arc::new(Tally::default()));
    let lab = Lab::new();
    let api = format!("{{url: 'http://{address}/v1', key_variable: LAB_API_KEY}}");
    lab.write("configs/models.yaml", &format!("models:\n  away: {{api: {api}}}\n"));
    let settings = ["--set", "model=away", "--set", "iterations=0", "--set", "evaluation.at=[first]"];
    let run = lab.command(&[&TINY[..], &settings].concat()).env("LAB_API_KEY", KEY).output().unwrap();
    assert!(run.status.success(), "{}", support::stderr(&run));
    server.shutdown_background();
    let mut export = lab.command(&["export", "tiny", "--format", ALL, "--out", "out"]);
    assert!(export.env("LAB_API_KEY", KEY).output().unwrap().status.success());
    let written = files(&lab.path("out"));
    assert!(written.len() >= 6, "{:?}", written.keys());
    let log = members(&written[Path::new("inspect/evaluation-0.eval")]);
    assert!(log["header.json"].to_string().contains("LAB_API_KEY"), "the variable is named");
    let mut texts: Vec<String> = written.values().map(|bytes| String::from_utf8_lossy(bytes).into_owned()).collect();
    texts.extend(log.values().map(Value::to_string));
    assert!(texts.iter().any(|text| text.contains("reply 1")) && !texts.iter().any(|text| text.contains(KEY)));
}

/// Protects: a report names its run's model files and replaces nothing; a run of the Python benchmark is a run like any other.
#[test]
fn reports_are_written_and_old_runs_taken_in() {
    let lab = Lab::new();
    lab.succeed(&[&TINY[..], &["--set", "iterations=1"]].concat());
    let pin = json(&fs::read_to_string(lab.path("runs/artifacts/runs/tiny/models/tiny.json")).unwrap());
    lab.succeed(&["report", "tiny", "--out", "report.html"]);
    let html = fs::read_to_string(lab.path("report.html")).unwrap();
    assert!(html.contains("<svg") && html.contains(pin["sha256"].as_str().unwrap()), "{html}");
    assert!(lab.fail(&["report", "tiny", "--out", "report.html"]).contains("--overwrite"));
    assert!(lab.succeed(&["report", "tiny"]).starts_with("# Report of tiny\n"));

    let history = r#"[{"role": "environment", "content": "Hi"}, {"role": "agent", "content": "Hello"}]"#;
    let line = format!(
        r#"{{"env_name": "weak_a", "initial_state_id": 0, "trajectory_id": 3, "turn": 1, "history": {history}, "preferences": {{"1": 0.5, "9": 0.5}}}}"#
    );
    lab.write("old-run/4/0.jsonl", &line);
    let imported = json(&lab.succeed(&["import", "old-run", "--name", "old", "--json"]));
    assert_eq!(imported, serde_json::json!({"run": "old", "episodes": 1}));
    assert_eq!(json(&lab.succeed(&["runs", "old", "--json"]))["iterations"][0]["reward"]["mean"], 5.0);
    let exported = lab.influence(&["export", "old", "--format", ALL, "--out", "old"]);
    assert!(exported.status.success() && support::stderr(&exported).contains("adapters: run `old` has nothing"));
    assert_eq!(lines(&lab.path("old/turns.jsonl"))[0]["reply"], "Hello");
    assert!(lab.succeed(&["report", "old"]).contains("imported from trajectories"));
    // What it does not hold can be asked for: how harmful was that?
    let metrics = "metrics: {harm: {about: harm, system_prompt: Rate it., prompt_suffix: 'From 1 to 10?'}}\n";
    lab.write("configs/evaluations/mine.yaml", metrics);
    let asked = ["evaluate", "old", "--metrics", "configs/evaluations/mine.yaml", "--json"];
    assert!(lab.fail(&asked).contains("name a model with --judge"));
    let judged = json(&lab.succeed(&[&asked[..], &["--judge", "tiny"]].concat()));
    let harm = &judged[0]["iterations"][0]["metrics"]["harm"];
    assert_eq!((&harm["asked"], &harm["source"]["judge"]), (&1.into(), &"tiny".into()), "{judged}");
    assert!(lab.succeed(&["report", "old"]).contains("| iteration 4 | iteration-3 |"), "what was judged is reported");
    assert!(lab.fail(&["import", "old-run", "--name", "old"]).contains("old"));
    lab.write("old-run/4/0.jsonl", "{}");
    assert!(lab.fail(&["import", "old-run", "--name", "new"]).contains("0.jsonl:1 is no turn"));
}

/// Protects: the documentation lists every column as it is.
#[test]
fn every_column_is_documented() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/exports.md");
    let page = fs::read_to_string(page).unwrap();
    for (table, columns) in influence_coordinator::export::columns() {
        let listed = page.split(&format!("<!-- {table} -->")).nth(1).and_then(|rest| rest.split("<!-- end -->").next());
        let listed: Vec<&str> = listed.unwrap().lines().filter(|line| line.starts_with("| `")).collect();
        let wanted: Vec<String> =
            columns.iter().map(|c| format!("| `{}` | {} | {} |", c.name, c.kind, c.meaning)).collect();
        assert_eq!(listed, wanted, "{table}");
    }
}
