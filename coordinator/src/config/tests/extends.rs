//! Experiments that extend others.

use super::fixture::{CLINIC, Configs, local};

/// Protects: an experiment is its base with what it says itself, and paths are relative to the file that gives them.
#[test]
fn an_experiment_says_in_what_it_differs_from_another() {
    let configs = Configs::new();
    configs
        .write("data/pku.jsonl", r#"{"prompt": "a", "response_0": "b", "response_1": "c", "better_response_id": 0}"#);
    let base = format!(
        "name: base\nmodel: tiny\niterations: 7\n{CLINIC}selection: {{best: 1/8, worst: 1/8}}\n\
         training: {{algorithm: kto, kto: {{beta: 0.3}}, lora: {{rank: 4}}, static: {{path: ../data/pku.jsonl, fraction: 1/4}}}}\n"
    );
    configs.write("experiments/base.yaml", &base);
    configs.write(
        "experiments/variants/middle.yaml",
        "extends: ../base.yaml\nname: middle\ntraining: {lora: {alpha: 5}}\n",
    );
    let sft = "extends: variants/middle.yaml\nname: test\ntraining: {algorithm: sft, kto: null, epochs: 2}\n";
    let found = configs.load_text(sft, &[("iterations", "9")]).unwrap_or_else(|problems| panic!("{problems}"));
    assert_eq!((&*found.name, found.iterations, found.training.epochs), ("test", 9, 2));
    assert_eq!((local(&found.training).lora.rank, local(&found.training).lora.alpha), (4, 5.0));
    assert_eq!(found.training.algorithm, influence_proto::Algorithm::Sft);
    assert_eq!(found.training.static_data.as_ref().map(|data| data.rows), Some(1));
}

/// Protects: a problem is told of the file and line where it stands, whichever of the files that is.
#[test]
fn problems_are_told_of_the_file_that_has_them() {
    let configs = Configs::new();
    configs.write("experiments/base.yaml", &format!("name: base\nmodel: tiny\nseed: x\n{CLINIC}"));
    let wrong = |text: &str| {
        let problems = configs.load_text(text, &[("attempts", "0")]).map(|_| ()).unwrap_err();
        configs.relative(&problems)
    };
    let both = wrong("extends: base.yaml\niterations: -1\n");
    for part in ["experiments/base.yaml:3: `seed`", "experiments/test.yaml:2: `iterations`", "--set attempts"] {
        assert!(both.contains(part), "{part:?} is not in {both}");
    }
    assert!(wrong("extends: non.yaml\n").contains("experiments/test.yaml:1: `extends` is "));
    assert!(wrong("extends: [a]\n").contains("must be the path of a file"));
    for depth in 0..10 {
        configs.write(&format!("experiments/{depth}.yaml"), &format!("extends: {}.yaml\n", depth + 1));
    }
    assert!(wrong("extends: 0.yaml\n").contains("too many follow each other (at most 8)"));
    configs.write("experiments/base.yaml", "extends: test.yaml\n");
    assert!(wrong("extends: base.yaml\n").contains("experiments/base.yaml:1: `extends` leads to"));
}
