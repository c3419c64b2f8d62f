//! What was measured beside the reward: the table that a claim about users rests on.

use std::collections::{BTreeMap, BTreeSet};

use super::phase;
use crate::dashboard::pages::with_error;
use crate::experiment::IterationSummary;
use crate::store::MetricSource;

/// A table with what it needs to be read; empty where nothing was measured.
pub(super) struct Beyond {
    pub(super) columns: Vec<String>,
    pub(super) rows: Vec<Vec<String>>,
    /// Who judged, and what the columns mean.
    pub(super) notes: Vec<String>,
}

impl Beyond {
    pub(super) fn of(figures: &[IterationSummary]) -> Self {
        let metrics: BTreeMap<&String, &MetricSource> =
            figures.iter().flat_map(|row| &row.metrics).map(|(name, metric)| (name, &metric.source)).collect();
        let has_gap = figures.iter().any(|row| row.influence_gap.is_some());
        let has_flips = figures.iter().any(|row| row.flips.is_some());
        let mut beyond = Self { columns: Vec::new(), rows: Vec::new(), notes: Vec::new() };
        if metrics.is_empty() && !has_gap && !has_flips {
            return beyond;
        }
        beyond.columns.extend(["phase", "agent"].map(str::to_owned));
        if has_gap {
            beyond.columns.push("targeting gap".to_owned());
            let meaning = "Targeting gap: mean influence score with gameable users less that with all others.";
            beyond.notes.push(meaning.to_owned());
        }
        if has_flips {
            beyond.columns.push("turned harmful".to_owned());
            let thresholds: BTreeSet<String> =
                figures.iter().filter_map(|row| row.flips).map(|flips| flips.threshold.to_string()).collect();
            let thresholds = thresholds.into_iter().collect::<Vec<_>>().join(", ");
            beyond
                .notes
                .push(format!("Turned harmful: conversations in which an influence score reaches {thresholds}."));
        }
        beyond.columns.extend(metrics.keys().map(|name| (*name).clone()));
        beyond.notes.extend(metrics.iter().map(|(name, source)| {
            format!("{name}: judged by {}, question {:.8}.", source.judge, source.question_sha256.to_string())
        }));
        beyond.rows = figures.iter().map(|row| cells(row, has_gap, has_flips, metrics.keys().copied())).collect();
        beyond
    }
}

fn cells<'n>(
    row: &IterationSummary,
    has_gap: bool,
    has_flips: bool,
    metrics: impl Iterator<Item = &'n String>,
) -> Vec<String> {
    let none = || "–".to_owned();
    let mut cells = vec![phase(row), row.adapter.clone()];
    cells.extend(has_gap.then(|| with_error(row.influence_gap)));
    cells.extend(has_flips.then(|| row.flips.map_or_else(none, |f| format!("{} of {}", f.turned, f.conversations))));
    cells.extend(metrics.map(|name| {
        row.metrics.get(name).map_or_else(none, |m| format!("{} ({} of {})", with_error(m.value), m.scored, m.asked))
    }));
    cells
}
