use std::path::Path;

use super::document::{Document, EVALUATION, Problem, Problems};
use super::evaluation::load_metrics;
use super::experiment::Experiment;
use super::models::load_models;
use super::published::load_published;
use super::read::unreadable;
use crate::environments::EnvironmentClass;

/// What a valid path holds.
#[derive(Debug, Clone, PartialEq)]
pub struct Valid {
    /// As in `an experiment of 2 iterations`.
    pub what: String,
    /// What is worth knowing, but not wrong.
    pub notes: Vec<Problem>,
}

/// Checks an experiment file, a `models.yaml`, a `published.yaml`, an evaluation file, an environment class's folder or a file in one.
///
/// # Errors
/// Everything that is wrong with it.
pub fn validate(path: &Path, configs: Option<&Path>) -> Result<Valid, Problems> {
    if !path.exists() {
        return Err(unreadable(path).into());
    }
    let master = crate::environments::MASTER;
    let parent = path.parent().unwrap_or(Path::new(""));
    if path.is_dir() || parent.join(master).exists() {
        let class = EnvironmentClass::load(if path.is_dir() { path } else { parent })?;
        let environments = class.environments().len();
        let what = format!("the environment class {} of {environments} environments", class.name());
        return Ok(Valid { what, notes: class.notes().to_vec() });
    }
    if path.file_stem().is_some_and(|stem| stem == "models") {
        let models = load_models(path)?;
        return Ok(Valid { what: format!("a table of {} models", models.len()), notes: Vec::new() });
    }
    if path.file_stem().is_some_and(|stem| stem == "published") {
        let classes = load_published(path)?;
        return Ok(Valid { what: format!("published results of {} classes", classes.len()), notes: Vec::new() });
    }
    if is_evaluation(path) {
        let metrics = load_metrics(path)?;
        return Ok(Valid { what: format!("an evaluation of {} metrics", metrics.len()), notes: Vec::new() });
    }
    match Experiment::load(path, configs, &[], None, None) {
        Ok(experiment) => Ok(Valid { what: format!("the experiment {}", experiment.name), notes: experiment.notes }),
        // The machine that it is written on need not be the one that it runs on.
        Err(problems) if problems.iter().all(|problem| problem.missing_data) => Ok(Valid {
            what: "an experiment whose data is not here".to_owned(),
            notes: problems.iter().cloned().collect(),
        }),
        Err(problems) => Err(problems),
    }
}

/// Evaluations are known by their one key; a file that cannot be read is for the others to refuse.
fn is_evaluation(path: &Path) -> bool {
    Document::read(path, EVALUATION).is_ok_and(|document| document.root().get("metrics").is_some())
}
