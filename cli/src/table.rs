//! The table at the end of a run.

use std::collections::BTreeSet;

use comfy_table::{CellAlignment, Table, presets};
use influence_coordinator::experiment::{FlipSummary, SelectionSummary};
use influence_coordinator::planning::Phase;
use influence_coordinator::{IterationSummary, MetricSummary};

use crate::terminal::{figure, harmless, with_error};

/// One row per phase of an iteration, what was trained, and what people should know about it.
pub(crate) fn table(iterations: &[IterationSummary]) -> String {
    let with_influence = iterations.iter().any(|i| i.influence_scored + i.vetoed + i.vetoed_unscored > 0);
    let mut table = Table::new();
    table.load_preset(presets::UTF8_FULL_CONDENSED);
    let mut header = vec!["phase", "agent", "episodes", "reward", "scored"];
    if with_influence {
        header.extend(["influence", "vetoed"]);
    }
    header.extend(["reply length", "prompt tok.", "sampled tok."]);
    let with_cost = iterations.iter().any(|i| i.dollars > 0.0);
    if with_cost {
        header.push("cost");
    }
    header.extend(["seconds", "selected", "loss"]);
    table.set_header(header);
    for column in table.column_iter_mut().skip(2) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    for iteration in iterations {
        table.add_row(row(iteration, with_influence, with_cost));
    }
    let mut text = format!("{table}\n");
    for iteration in iterations {
        for note in &iteration.notes {
            text.push_str(&format!("{}: {note}\n", phase(iteration)));
        }
    }
    for (iteration, model) in iterations.iter().filter_map(|i| Some((i.iteration, i.trained_model.as_ref()?))) {
        text.push_str(&format!("iteration-{iteration}: the model {model} of its server\n"));
    }
    text.push_str("reward: mean ± standard error, clustered by initial state; reply length in characters\n");
    text.push_str(&beyond(iterations));
    harmless(&text)
}

/// A heading, and what stands below it.
type Column<'a> = (String, Box<dyn Fn(&IterationSummary) -> String + 'a>);

/// What was measured beyond the reward; nothing if there is nothing.
fn beyond(iterations: &[IterationSummary]) -> String {
    let any = |has: fn(&IterationSummary) -> bool| iterations.iter().any(has);
    let metrics: BTreeSet<&String> = iterations.iter().flat_map(|iteration| iteration.metrics.keys()).collect();
    let mut columns: Vec<Column<'_>> = Vec::new();
    if any(|i| i.selection.is_some()) {
        columns.push(("selected − all".to_owned(), Box::new(|i| i.selection.map_or_else(none, selection))));
    }
    if any(|i| i.influence_gap.is_some()) {
        columns.push(("targeting gap".to_owned(), Box::new(|i| with_error(i.influence_gap))));
    }
    if any(|i| i.flips.is_some()) {
        columns.push(("turn harmful".to_owned(), Box::new(|i| i.flips.map_or_else(none, flips))));
    }
    if any(|i| i.on_front == Some(false)) {
        let word = |on_front: bool| if on_front { "yes" } else { "no" }.to_owned();
        columns.push(("on the front".to_owned(), Box::new(move |i| i.on_front.map_or_else(none, word))));
    }
    for name in metrics {
        let cell = move |i: &IterationSummary| i.metrics.get(name).map_or_else(none, metric);
        columns.push((name.clone(), Box::new(cell)));
    }
    if columns.is_empty() {
        return String::new();
    }
    let mut table = Table::new();
    table.load_preset(presets::UTF8_FULL_CONDENSED);
    table.set_header(
        ["phase", "agent"].map(str::to_owned).into_iter().chain(columns.iter().map(|(name, _)| name.clone())),
    );
    for iteration in iterations {
        let fixed = [phase(iteration), iteration.adapter.clone()];
        table.add_row(fixed.into_iter().chain(columns.iter().map(|(_, cell)| cell(iteration))));
    }
    format!("{table}\n")
}

fn none() -> String {
    "–".to_owned()
}

fn selection(selection: SelectionSummary) -> String {
    let deviations = selection.reward_deviations.map(|d| format!(" ({d:.1} SD)")).unwrap_or_default();
    let influence = selection.influence.map(|i| format!(", influence {i:+.3}")).unwrap_or_default();
    format!("{:+.2}{deviations}{influence}", selection.reward)
}

fn flips(flips: FlipSummary) -> String {
    let first = flips.first_turn.map(|turn| format!(", at turn {turn:.1}")).unwrap_or_default();
    format!("{} of {}{first}", flips.turned, flips.conversations)
}

/// A metric's mean, with its counts.
pub(crate) fn metric(metric: &MetricSummary) -> String {
    format!("{} ({} of {})", with_error(metric.value), metric.scored, metric.asked)
}

fn phase(iteration: &IterationSummary) -> String {
    match iteration.phase {
        Phase::Train => format!("iteration {}", iteration.iteration),
        Phase::Evaluate => "evaluation".to_owned(),
    }
}

fn row(iteration: &IterationSummary, with_influence: bool, with_cost: bool) -> Vec<String> {
    let failed = if iteration.failed > 0 { format!(" ({} failed)", iteration.failed) } else { String::new() };
    let mut cells = vec![
        phase(iteration),
        iteration.adapter.clone(),
        format!("{}{failed}", iteration.finished),
        with_error(iteration.reward),
        format!("{} of {}", iteration.scored, iteration.episodes),
    ];
    if with_influence {
        let unread_count = iteration.vetoed_unscored;
        let unread = if unread_count > 0 { format!(" ({unread_count} unscored)") } else { String::new() };
        cells.push(format!(
            "{} ({} of {})",
            figure(iteration.influence, 3),
            iteration.influence_scored,
            iteration.episodes
        ));
        cells.push(format!("{}{unread}", iteration.vetoed + unread_count));
    }
    let loss = iteration.loss.map_or_else(|| "–".to_owned(), |(first, last)| format!("{first:.3} → {last:.3}"));
    let selected = match iteration.phase {
        Phase::Evaluate => "–".to_owned(),
        Phase::Train => iteration.selected.to_string(),
    };
    cells.extend([
        figure(iteration.reply_characters, 0),
        iteration.prompt_tokens.to_string(),
        iteration.generated_tokens.to_string(),
    ]);
    if with_cost {
        cells.push(format!("${:.4}", iteration.dollars));
    }
    cells.extend([format!("{:.0}", iteration.active.as_secs_f64()), selected, loss]);
    cells
}
