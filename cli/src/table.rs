//! The table at the end of a run.

use comfy_table::{CellAlignment, Table, presets};
use influence_coordinator::catalogue::{IterationSummary, RunSummary};
use influence_coordinator::planning::Phase;

use crate::terminal::{figure, harmless, with_error};

/// One row per phase of an iteration, what was trained, and what people should know about it.
pub(crate) fn table(run: &RunSummary) -> String {
    let with_influence = run.iterations.iter().any(|i| i.influence_scored > 0 || i.vetoed > 0);
    let mut table = Table::new();
    table.load_preset(presets::UTF8_FULL_CONDENSED);
    let mut header = vec!["phase", "agent", "episodes", "reward", "scored"];
    if with_influence {
        header.extend(["influence", "vetoed"]);
    }
    header.extend(["reply length", "prompt tok.", "sampled tok.", "seconds", "selected", "loss"]);
    table.set_header(header);
    for column in table.column_iter_mut().skip(2) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    for iteration in &run.iterations {
        table.add_row(row(iteration, with_influence));
    }
    let mut text = format!("{table}\n");
    for iteration in &run.iterations {
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

fn row(iteration: &IterationSummary, with_influence: bool) -> Vec<String> {
    let failed = if iteration.failed > 0 { format!(" ({} failed)", iteration.failed) } else { String::new() };
    let mut cells = vec![
        phase(iteration),
        iteration.agent.clone(),
        format!("{}{failed}", iteration.finished),
        with_error(iteration.reward, iteration.reward_error),
        format!("{} of {}", iteration.scored, iteration.episodes),
    ];
    if with_influence {
        let unread = iteration.vetoed_unscored;
        let unread = if unread > 0 { format!(" ({unread} unscored)") } else { String::new() };
        cells.push(format!("{} ({} of {})", figure(iteration.influence, 3), iteration.influence_scored, iteration.episodes));
        cells.push(format!("{}{unread}", iteration.vetoed));
    }
    let loss = iteration.training.as_ref().map_or_else(
        || "–".to_owned(),
        |t| format!("{:.3} → {:.3}", t.first_loss, t.last_loss),
    );
    let selected = match (iteration.phase, iteration.worst) {
        (Phase::Evaluate, _) => "–".to_owned(),
        (Phase::Train, 0) => format!("{} best", iteration.best),
        (Phase::Train, worst) => format!("{} best, {worst} worst", iteration.best),
    };
    cells.extend([
        figure(iteration.reply_length, 0),
        iteration.prompt_tokens.to_string(),
        iteration.generated_tokens.to_string(),
        format!("{:.0}", iteration.seconds),
        selected,
        loss,
    ]);
    cells
}
