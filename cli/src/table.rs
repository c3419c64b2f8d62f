//! The table at the end of a run.

use comfy_table::{CellAlignment, Table, presets};
use influence_coordinator::IterationSummary;
use influence_coordinator::planning::Phase;

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
    text.push_str("reward: mean ± standard error, clustered by initial state; reply length in characters\n");
    harmless(&text)
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
