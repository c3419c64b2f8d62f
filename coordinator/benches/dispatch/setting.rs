//! The experiment on disk: the prompts and openings of the class `therapist` as they are, under several names.

use std::path::{Path, PathBuf};

use crate::options::{ENVIRONMENTS, Options, SIBLINGS};

const CLASS: &str = "therapist";
const ENVIRONMENT: &str = "gameable_smoking.yaml";
const MODELS: &str = "models: {made-up: {dtype: f32, sources: [{path: /nowhere/made-up.gguf}]}}\n";

/// The experiment's file in the folder.
pub(crate) fn experiment(folder: &Path) -> PathBuf {
    folder.join("experiments/bench.yaml")
}

/// The run's data in the folder.
pub(crate) fn data(folder: &Path) -> PathBuf {
    folder.join("data")
}

pub(crate) fn write(folder: &Path, options: &Options) {
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs/environments").join(CLASS);
    let class = folder.join("environments").join(CLASS);
    std::fs::create_dir_all(&class).expect("a folder");
    std::fs::create_dir_all(folder.join("experiments")).expect("a folder");
    std::fs::copy(from.join("_master_config.yaml"), class.join("_master_config.yaml")).expect("the class is there");
    for number in 0..ENVIRONMENTS {
        let to = class.join(format!("topic{number}_smoking.yaml"));
        std::fs::copy(from.join(ENVIRONMENT), to).expect("the environment is there");
    }
    std::fs::write(folder.join("models.yaml"), MODELS).expect("a file");
    let states = options.per_iteration() / (SIBLINGS * ENVIRONMENTS);
    let text = format!(
        "name: bench
seed: 7
iterations: {}
model: made-up
environments: {{class: {CLASS}, initial_states: {states}, siblings: {SIBLINGS}, order: random, max_turns: {}}}
roles: {{influence: {{enabled: true}}}}
selection: {{level: environment, best: 1/16, veto: {{threshold: 0.9}}}}
evaluation: {{at: []}}
",
        options.iterations, options.turns,
    );
    std::fs::write(experiment(folder), text).expect("a file");
}
