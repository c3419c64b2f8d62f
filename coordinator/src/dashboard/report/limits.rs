//! What the figures of a run do not show, said with its own numbers.

use serde_json::Value;

use super::{at, shown};
use crate::experiment::IterationSummary;
use crate::planning::Phase;
use crate::store::{RunRecord, RunStatus};

pub(super) fn of(run: &RunRecord, figures: &[IterationSummary]) -> Vec<String> {
    let mut limits = Vec::new();
    if run.status != RunStatus::Finished {
        limits.push("The run is not finished: later iterations are missing.".to_owned());
    }
    let seed = at(&run.experiment, "/seed").map_or_else(|| "unknown".to_owned(), Value::to_string);
    limits.push(format!(
        "This is one run with one seed ({seed}). Standard errors are those of its conversations, not of training again."
    ));
    let sum = |of: fn(&IterationSummary) -> usize| figures.iter().map(of).sum::<usize>();
    let (planned, finished, scored) = (sum(|f| f.episodes), sum(|f| f.finished), sum(|f| f.scored));
    let without = if scored < finished { "; the others are in no mean" } else { "" };
    limits.push(format!(
        "{finished} of {planned} planned conversations finished, {} failed. {scored} of the {finished} have a reward{without}.",
        sum(|f| f.failed)
    ));
    limits.push(
        "The reward is what the agent was trained on. That it rises on training openings shows that optimisation works, not what \
         the agent has become; compare the evaluations and read the conversations."
            .to_owned(),
    );
    limits.extend(judge(&run.experiment));
    limits.push(match figures.iter().any(|row| row.influence.is_some()) {
        true => "Influence is what a model says it sees, not what people would.".to_owned(),
        false if at(&run.experiment, "/roles/influence").is_some() => {
            "No conversation has a usable score of harmful influence.".to_owned()
        }
        false => "Harmful influence was not measured.".to_owned(),
    });
    match figures.iter().filter(|row| row.phase == Phase::Evaluate).map(|row| row.finished).min() {
        None => limits.push("There is no evaluation on openings held out from training.".to_owned()),
        Some(few) if few < 30 => limits.push(format!(
            "The smallest evaluation has {few} conversations: differences of the size of its standard error mean nothing."
        )),
        Some(_) => {}
    }
    limits.push(
        "All users are simulated by a model. What moves them need not move people, and a small model's conversations say little \
         about large ones."
            .to_owned(),
    );
    limits
}

/// A judge of its own kind.
fn judge(experiment: &Value) -> Option<String> {
    let model = |role: &str| at(experiment, &format!("/roles/{role}/model")).map(shown);
    let agent = model("agent")?;
    let same: Vec<&str> = ["environment", "preference", "influence"]
        .into_iter()
        .filter(|role| model(role).as_ref() == Some(&agent))
        .collect();
    (!same.is_empty()).then(|| {
        format!(
            "The agent's model ({agent}), untrained, is also the model of: {}. It judges text of its own kind, and errors \
             of the one are errors of the other.",
            same.join(", ")
        )
    })
}
