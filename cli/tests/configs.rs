//! What the repository ships in `configs/`: every file valid, every class rolled out.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::path::{Path, PathBuf};

use influence_coordinator::config::{Experiment, load_metrics, validate};
use influence_coordinator::environments::EnvironmentClass;
use influence_coordinator::planning::pool;
use influence_coordinator::selection::Fraction;
use serde_json::Value;
use support::{Lab, json};

fn configs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs")
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
        if entry.is_dir() {
            found.extend(files(&entry));
        } else {
            found.push(entry);
        }
    }
    found.sort();
    found
}

fn classes() -> Vec<EnvironmentClass> {
    let mut folders: Vec<PathBuf> =
        std::fs::read_dir(configs().join("environments")).unwrap().map(|entry| entry.unwrap().path()).collect();
    folders.sort();
    folders
        .iter()
        .map(|folder| EnvironmentClass::load(folder).unwrap_or_else(|problems| panic!("{problems}")))
        .collect()
}

/// Protects: every experiment loads; those with published preferences once a file of them lies where they look for it.
#[test]
fn every_experiment_is_valid() {
    let lab = Lab::new();
    let row = r#"{"prompt": "a", "response_0": "b", "response_1": "c", "better_response_id": 0}"#;
    let data = lab.write("preferences.jsonl", row);
    let mut names = Vec::new();
    for file in files(&configs().join("experiments")) {
        let set = match file.file_stem().unwrap().to_string_lossy().starts_with("static-") {
            true => vec![("training.static.path".to_owned(), data.display().to_string())],
            false => Vec::new(),
        };
        let loaded = Experiment::load(&file, None, &set, None, None);
        let experiment = loaded.unwrap_or_else(|problems| panic!("{problems}"));
        assert_eq!(experiment.name, file.file_stem().unwrap().to_string_lossy(), "{}", file.display());
        names.push(experiment.name);
    }
    assert!(names.len() >= 35, "{names:?}");
    assert!(validate(&configs().join("models.yaml"), None).is_ok());
}

/// Whether a value is what a schema of ours describes; where it is not.
fn misfit(schema: &Value, value: &Value, place: &str) -> Option<String> {
    if let Some(condition) = schema.get("if") {
        let branch = if misfit(condition, value, place).is_none() { "then" } else { "else" };
        return misfit(&schema[branch], value, place);
    }
    let kind = match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.as_f64().is_some_and(|n| n.fract() == 0.0) => "integer",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    let is = |name: &Value| name == kind || (name == "number" && kind == "integer");
    let fits = match schema.get("type") {
        Some(Value::Array(kinds)) => kinds.iter().any(is),
        Some(name) => is(name),
        None => true,
    };
    if !fits || schema.get("enum").and_then(Value::as_array).is_some_and(|all| !all.contains(value)) {
        return Some(format!("{place} is {value}"));
    }
    let is_missing = |key: &&Value| key.as_str().is_some_and(|key| value.get(key).is_none());
    let missing = |keys: &Value| keys.as_array()?.iter().find(is_missing).map(ToString::to_string);
    if let Some(key) = missing(&schema["required"]) {
        return Some(format!("{place} lacks {key}"));
    }
    let items = value.as_array().into_iter().flatten().find_map(|item| misfit(&schema["items"], item, place));
    items.or_else(|| {
        value.as_object()?.iter().find_map(|(key, inner)| {
            let place = format!("{place}.{key}");
            match (&schema["properties"][key], &schema["additionalProperties"]) {
                (Value::Null, Value::Bool(false)) => Some(format!("{place} is unknown")),
                (Value::Null, other) => misfit(other, inner, &place),
                (known, _) => misfit(known, inner, &place),
            }
        })
    })
}

/// Protects: the published schemas are what the program reads, and every file of ours is one that they describe.
#[test]
fn schemas_are_true() {
    let lab = Lab::new();
    for (kind, folder) in
        [("experiment", "experiments"), ("environment", "environments"), ("evaluation", "evaluations")]
    {
        let printed = lab.succeed(&["schema", kind]);
        let published = std::fs::read_to_string(configs().join(format!("../docs/schemas/{kind}.json"))).unwrap();
        assert!(printed == published, "docs/schemas/{kind}.json is stale: `make schemas` writes it anew");
        let schema = json(&printed);
        for file in files(&configs().join(folder)) {
            let value: Value = serde_yaml::from_str(&std::fs::read_to_string(&file).unwrap()).unwrap();
            assert_eq!(misfit(&schema, &value, "file"), None, "{}", file.display());
        }
    }
    let schema = json(&lab.succeed(&["schema", "experiment"]));
    for (wrong, place) in [
        (r#"{"iteratons": 3}"#, "file.iteratons is unknown"),
        (r#"{"environments": {"max_turns": "two"}}"#, "file.environments.max_turns is \"two\""),
        (r#"{"training": {"dpo": {"beta": 1}, "kto": {"bet": 1}}}"#, "file.training.kto.bet is unknown"),
        (r#"{"selection": {"level": "all"}}"#, "file.selection.level is \"all\""),
    ] {
        assert_eq!(misfit(&schema, &json(wrong), "file").as_deref(), Some(place));
    }
    let missing =
        misfit(&json(&lab.succeed(&["schema", "evaluation"])), &json(r#"{"metrics": {"a": {"about": "x"}}}"#), "file");
    assert_eq!(missing.as_deref(), Some("file.metrics.a lacks \"system_prompt\""));
    let described =
        schema["properties"]["training"]["properties"]["lora"]["properties"]["rank"]["description"].as_str();
    assert!(described.is_some_and(|text| text.contains("size of the adapter")), "{described:?}");
}

/// Protects: a folder is checked with all that is in it, and every problem is told of.
#[test]
fn a_folder_is_checked_with_all_that_is_in_it() {
    let lab = Lab::new();
    let all = lab.succeed(&["validate", "configs"]);
    for part in
        ["talk: the environment class", "tiny.yaml: the experiment tiny", "models.yaml: a table of 1", "3 are valid"]
    {
        assert!(all.contains(part), "{part:?} is not in {all}");
    }
    let wants_data = "extends: tiny.yaml\nname: data\ntraining: {static: {path: ../none.jsonl, fraction: 1/4}}\n";
    let file = lab.write("configs/experiments/data.yaml", wants_data);
    let noted = lab.succeed(&["validate", "configs"]);
    assert!(
        noted.contains("note: configs/experiments/data.yaml:3: `training.static.path`: there is no file"),
        "{noted}"
    );
    assert!(lab.fail(&["run", "configs/experiments/data.yaml"]).contains("there is no file"));
    std::fs::remove_file(file).unwrap();
    lab.write("configs/experiments/more/bad.yaml", "name: bad\nsed: 1\n");
    lab.write("configs/evaluations/bad.yaml", "metrics: {}\n");
    let wrong = lab.fail(&["validate", "configs"]);
    for part in ["bad.yaml:2: unknown key `sed`", "`metrics` is empty", "2 of 5 are not valid"] {
        assert!(wrong.contains(part), "{part:?} is not in {wrong}");
    }
    lab.write("empty/note.txt", "");
    assert!(lab.fail(&["validate", "empty"]).contains("no file to check"));
}

/// Protects: every evaluation loads, asks each question once, and is meant for classes that there are.
#[test]
fn every_evaluation_is_valid() {
    let classes: Vec<String> = classes().iter().map(|class| class.name().to_owned()).collect();
    let mut names = Vec::new();
    for file in files(&configs().join("evaluations")) {
        for metric in load_metrics(&file).unwrap_or_else(|problems| panic!("{problems}")) {
            assert!(metric.classes.iter().all(|class| classes.contains(class)), "{metric:?}");
            assert!(!names.contains(&metric.name), "{} stands twice", metric.name);
            names.push(metric.name);
        }
    }
    assert!(names.len() >= 16, "{names:?}");
}

/// Protects: the published classes have room for a full-size run: 160 openings for each of 20 iterations beside those that are
/// held out, from 48 templates or more, and both kinds of users.
#[test]
fn every_class_has_room_for_a_full_run() {
    let expected = [
        ("action-advice", 7),
        ("booking-assistance", 4),
        ("political-questions", 4),
        ("relationship-advice", 4),
        ("therapy-talk", 24),
    ];
    let classes = classes();
    for (name, environments) in expected {
        let class = classes.iter().find(|class| class.name() == name).unwrap();
        assert_eq!(class.environments().len(), environments, "{name}");
        for environment in class.environments() {
            let states = class.initial_states(environment);
            let templates = states.iter().map(|state| state.place + 1).max().unwrap();
            assert!(templates >= 48, "{name}/{environment} has {templates}");
            let held_out = pool(class, environment, Fraction::parse("1/8").unwrap(), 1);
            assert!(held_out.training.len() >= 3200, "{name}/{environment} has {}", held_out.training.len());
            let opening = |id: &str| {
                let scene = class.scene(environment, id, 0, None).unwrap();
                scene.opening.into_iter().map(|message| message.content).collect::<Vec<_>>()
            };
            let distinct: std::collections::BTreeSet<_> = states.iter().map(|state| opening(&state.id)).collect();
            assert!(distinct.len() >= 3200, "{name}/{environment} has {} distinct openings", distinct.len());
        }
    }
}

/// Protects: each class rolls out, whatever its states and tools.
#[test]
fn every_class_is_rolled_out() {
    let lab = Lab::new();
    for class in classes() {
        let folder = configs().join("environments").join(class.name());
        let experiment = format!(
            "name: {0}\nmodel: tiny\niterations: 0\nscoring: {{min_mass: 0}}\n\
             environments: {{class: {1}, held_out: 1/8, max_turns: 2}}\n\
             roles: {{agent: {{max_tokens: 4}}, environment: {{max_tokens: 4}}, influence: {{enabled: true, sees_tools: true}}}}\n\
             evaluation: {{initial_states: 1, at: [first]}}\n",
            class.name(),
            folder.canonicalize().unwrap().display()
        );
        let file = format!("configs/experiments/{}.yaml", class.name());
        lab.write(&file, &experiment);
        let table = json(&lab.succeed(&["run", &file, "--json"]));
        let episodes = class.environments().len() as u64;
        let evaluated = &table.as_array().map_or(&table["iterations"][0], |iterations| &iterations[0]);
        assert_eq!(evaluated["episodes"].as_u64(), Some(episodes), "{table}");
        assert_eq!(evaluated["failed"].as_u64().unwrap_or_default(), 0, "{table}");
    }
}

/// Protects: what people see of environments: counts, the machine in three languages, and each role's prompt.
#[test]
fn environments_are_shown() {
    let lab = Lab::new();
    let list = json(&lab.succeed(&["environments", "list", "--json"]));
    assert_eq!(list[0]["class"], "talk");
    assert_eq!(list[0]["environments"][0], json(r#"{"name": "calm_kim", "openings": 8, "initial_states": 8}"#));
    assert!(lab.succeed(&["environments", "list"]).contains("talk"));
    let class = lab.succeed(&["environments", "show", "talk"]);
    assert!(class.contains("loud_lee") && class.contains("── yes ──▶ initial_state, the default"), "{class}");
    let diagram = |language: &str| lab.succeed(&["environments", "show", "talk", "--diagram", language]);
    assert!(diagram("mermaid").contains("    initial_state --> terminal_state: no\n"));
    assert!(diagram("graphviz").contains("\"initial_state\" -> \"terminal_state\" [label=\"no\"];"));
    let all = lab.succeed(&["environments", "show", "talk/calm_kim", "--state", "3"]);
    for part in [
        "Hello 3, I am calm_kim.",
        "agent sees",
        "environment sees",
        "Rate",
        "one of 1, 2",
        "one of yes, no",
        "one of 0, 1",
    ] {
        assert!(all.contains(part), "{part:?} is not in {all}");
    }
    let one = ["environments", "show", "talk/calm_kim", "--role", "preference", "--model", "model"];
    let written = lab.succeed(&one);
    assert!(written.contains("<|im_start|>system\nRate ") && !written.contains("agent sees"), "{written}");
    assert!(lab.fail(&["environments", "show", "talk/kim"]).contains("loud_lee"));
    assert!(lab.fail(&["environments", "show", "tolk"]).contains("environments list"));
    assert!(lab.fail(&["environments", "show", "talk/calm_kim", "--state", "9"]).contains("no initial state `9`"));
}

/// Protects: openings by a model are distinct, valid as histories, the same for the same seed, and never written over a file.
#[test]
fn openings_are_generated_for_review() {
    let lab = Lab::new();
    let generate = |more: &[&str]| {
        let common = ["generate-states", "talk/calm_kim", "--count", "4", "--model", "model", "--max-tokens", "300"];
        [&common[..], more].concat().into_iter().map(str::to_owned).collect::<Vec<_>>()
    };
    let run = |more: &[&str]| {
        let arguments = generate(more);
        lab.succeed(&arguments.iter().map(String::as_str).collect::<Vec<_>>())
    };
    let report = run(&[]);
    assert!(report.contains("calm_kim-generated.yaml: 4 openings for review"), "{report}");
    let file = |name: &str| std::fs::read_to_string(lab.path(name)).unwrap();
    let found: Value = serde_yaml::from_str(&file("calm_kim-generated.yaml")).unwrap();
    let openings = found["histories"].as_object().unwrap();
    let distinct: std::collections::BTreeSet<String> = openings.values().map(Value::to_string).collect();
    assert_eq!((openings.len(), distinct.len()), (4, 4));
    lab.write("configs/environments/talk/more_max.yaml", &format!("name: Max\n{}", file("calm_kim-generated.yaml")));
    lab.succeed(&["validate", "configs/environments/talk"]);
    run(&["--output", "again.yaml"]);
    run(&["--output", "other.yaml", "--seed", "1"]);
    assert!(file("again.yaml") == file("calm_kim-generated.yaml") && file("other.yaml") != file("again.yaml"));
    let again = generate(&[]);
    let error = lab.fail(&again.iter().map(String::as_str).collect::<Vec<_>>());
    assert!(error.contains("exists already"), "{error}");
}

/// Protects: a published experiment is converted, told of, and never written over another file.
#[test]
fn experiments_of_the_python_benchmark_are_converted() {
    let lab = Lab::new();
    lab.write(
        "theirs.yaml",
        "run_name: Mine\nenv_class: talk\nfrac_selected_trajs: 1/2\nmodel_names: {agent: x/Tiny}\nseed: null\n",
    );
    let output = lab.influence(&["convert", "theirs.yaml"]);
    let report = support::stderr(&output);
    assert!(
        output.status.success() && report.contains("environments.class: talk") && report.contains("models.yaml"),
        "{report}"
    );
    let ours: Value = serde_yaml::from_slice(&output.stdout).unwrap();
    assert_eq!(
        (&ours["name"], &ours["model"], &ours["selection"]["best"]),
        (&"mine".into(), &"tiny".into(), &"1/2".into())
    );
    lab.succeed(&["convert", "theirs.yaml", "--output", "configs/experiments/ours.yaml"]);
    lab.succeed(&["validate", "configs/experiments/ours.yaml"]);
    assert!(lab.fail(&["convert", "theirs.yaml", "--output", "configs/experiments/ours.yaml"]).contains("ours.yaml"));
}
