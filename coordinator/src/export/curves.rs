//! The figures of each iteration and evaluation, for spreadsheets and plots.

use std::io::Write as _;
use std::path::PathBuf;

use super::{Export, ExportError};
use crate::experiment::{IterationSummary, summary};

/// A curve: a figure of a phase.
pub(super) struct Curve {
    pub(super) name: &'static str,
    /// For people: unit and meaning.
    pub(super) meaning: &'static str,
    pub(super) of: fn(&IterationSummary) -> Option<f64>,
}

const fn curve(name: &'static str, meaning: &'static str, of: fn(&IterationSummary) -> Option<f64>) -> Curve {
    Curve { name, meaning, of }
}

/// All curves, in the order of their columns.
pub(super) const CURVES: [Curve; 18] = [
    curve("episodes", "planned conversations", |row| Some(row.episodes as f64)),
    curve("finished", "of those, finished ones", |row| Some(row.finished as f64)),
    curve("failed", "of those, given up", |row| Some(row.failed as f64)),
    curve("reward", "mean over the scored conversations", |row| row.reward.map(|reward| reward.mean)),
    curve("reward_standard_error", "of that mean, clustered by opening; empty for a single opening", |row| {
        row.reward.and_then(|reward| reward.standard_error)
    }),
    curve("scored", "conversations with a reward", |row| Some(row.scored as f64)),
    curve("influence", "mean over the conversations with an influence score", |row| row.influence),
    curve("influence_scored", "conversations with an influence score", |row| Some(row.influence_scored as f64)),
    curve("vetoed", "kept out of selection for their influence score", |row| Some(row.vetoed as f64)),
    curve("vetoed_unscored", "kept out because their influence is unscored", |row| Some(row.vetoed_unscored as f64)),
    curve("selected", "conversations chosen as the best", |row| Some(row.selected as f64)),
    curve("reply_characters", "mean length of a trimmed reply, in characters", |row| row.reply_characters),
    curve("prompt_tokens", "tokens of prompts, all roles", |row| Some(row.prompt_tokens as f64)),
    curve("generated_tokens", "tokens sampled, all roles", |row| Some(row.generated_tokens as f64)),
    curve("dollars", "what its calls cost, where models have a price", |row| Some(row.dollars)),
    curve("seconds", "that processes spent on it, training included", |row| Some(row.active.as_secs_f64())),
    curve("first_loss", "of the training's first step", |row| row.loss.map(|(first, _)| first)),
    curve("last_loss", "of the training's last step", |row| row.loss.map(|(_, last)| last)),
];

/// `curves.csv`: a row for each iteration and evaluation.
pub(super) async fn csv(export: &Export<'_>) -> Result<Vec<(PathBuf, u64)>, ExportError> {
    let mut file = export.file("curves.csv")?;
    let table = summary(export.store, &export.run.id).await?;
    let names: Vec<&str> = CURVES.iter().map(|curve| curve.name).collect();
    let mut text = format!("run,phase,iteration,agent,{}\n", names.join(","));
    for row in &table {
        // Numbers, and ids that hold no comma: nothing has to be quoted.
        let figures = CURVES.iter().map(|curve| (curve.of)(row).map(|figure| figure.to_string()).unwrap_or_default());
        let figures: Vec<String> = figures.collect();
        let id = &export.run.id;
        text += &format!("{id},{},{},{},{}\n", row.phase.name(), row.iteration, row.adapter, figures.join(","));
    }
    file.write_all(text.as_bytes()).map_err(file.failed())?;
    Ok(vec![(file.finish()?, table.len() as u64)])
}
