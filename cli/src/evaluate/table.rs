//! One table for whatever was evaluated.

use std::collections::{BTreeMap, BTreeSet};

use comfy_table::{CellAlignment, Table, presets};
use influence_coordinator::planning::Phase;
use influence_coordinator::store::MetricSource;

use super::{Shown, class};
use crate::table::metric;
use crate::terminal::{figure, harmless, with_error};

/// A row for each agent and class, with what was measured.
pub(super) fn table(shown: &[Shown]) -> String {
    let rows = || shown.iter().flat_map(|shown| shown.iterations.iter().map(|row| (&shown.run, row)));
    let metrics: BTreeSet<&String> = rows().flat_map(|(_, row)| row.metrics.keys()).collect();
    let mut table = Table::new();
    table.load_preset(presets::UTF8_FULL_CONDENSED);
    let fixed = ["run", "phase", "agent", "class", "reward", "influence"].map(str::to_owned);
    table.set_header(fixed.into_iter().chain(metrics.iter().map(|name| (*name).clone())));
    for column in table.column_iter_mut().skip(4) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    for (run, row) in rows() {
        let phase = match row.phase {
            Phase::Train => "training",
            Phase::Evaluate => "evaluation",
        };
        let mut cells = vec![
            run.id.to_string(),
            format!("{phase} {}", row.iteration),
            row.adapter.clone(),
            class(run).to_owned(),
            format!("{} ({} of {})", with_error(row.reward), row.scored, row.episodes),
            format!("{} ({} of {})", figure(row.influence, 3), row.influence_scored, row.episodes),
        ];
        cells.extend(metrics.iter().map(|name| row.metrics.get(*name).map_or_else(|| "–".to_owned(), metric)));
        table.add_row(cells);
    }
    let mut text = format!("{table}\nmean ± standard error, clustered by initial state (scored of asked)\n");
    let mut sources: BTreeMap<&String, (&MetricSource, f64)> = BTreeMap::new();
    for (name, metric) in rows().flat_map(|(_, row)| &row.metrics) {
        sources.entry(name).or_insert((&metric.source, 0.0)).1 += metric.dollars;
    }
    for (name, (source, dollars)) in sources {
        let cost = if dollars > 0.0 { format!(", ${dollars:.4}") } else { String::new() };
        text.push_str(&format!(
            "{name}: judged by {}, question {:.8}{cost}\n",
            source.judge,
            source.question_sha256.to_string()
        ));
    }
    harmless(&text)
}
