//! `influence compare`: two iterations, opening by opening.

use comfy_table::{CellAlignment, Table, presets};
use influence_coordinator::catalogue::{self, Comparison, Figure, Side};
use influence_coordinator::planning::Phase;
use influence_coordinator::statistics::Interval;

use crate::args::CompareArguments;
use crate::stored::existing;
use crate::terminal::{harmless, print, to_digits};

pub(crate) async fn compare(arguments: CompareArguments) -> anyhow::Result<()> {
    let store = existing(&arguments.data).await?;
    let CompareArguments { a, b, phase, metric, .. } = &arguments;
    let comparison = catalogue::compare(&*store, a, b, phase.map(Into::into), metric).await?;
    if arguments.json {
        return print(&format!("{}\n", serde_json::to_string_pretty(&comparison)?));
    }
    print(&harmless(&page(&comparison)))
}

fn page(comparison: &Comparison) -> String {
    let Comparison { phase, a, b, openings, alone, figures } = comparison;
    let side = |side: &Side| {
        let phase = match phase {
            Phase::Train => "training episodes of",
            Phase::Evaluate => "evaluation at",
        };
        format!("{}, {phase} iteration {} (agent: {})", side.run, side.iteration, side.agent)
    };
    let left_out = if *alone > 0 { format!("; {alone} in one of them only, left out") } else { String::new() };
    format!(
        "A: {}\nB: {}\n{openings} initial states are in both{left_out}\n{}",
        side(a),
        side(b),
        beside(figures, "initial states, siblings averaged first", 2)
    )
}

/// Two sides beside each other, with what was tested. `units`: what counts once; `digits`: after the point.
pub(crate) fn beside(figures: &[Figure], units: &str, digits: usize) -> String {
    let mut table = Table::new();
    table.load_preset(presets::UTF8_FULL_CONDENSED);
    table.set_header(["", "A", "B", "B − A", "95% interval", "p", "p, Holm", "pairs", "scored A", "scored B"]);
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    for figure in figures {
        table.add_row(row(figure, digits));
    }
    let tests = figures.iter().filter(|figure| figure.p_corrected.is_some()).count();
    format!(
        "{table}\nmean ± standard error over {units}; p of the paired t test, and corrected by Holm for {tests} tests\n"
    )
}

fn row(figure: &Figure, digits: usize) -> Vec<String> {
    let none = || "–".to_owned();
    let paired = figure.paired.as_ref();
    let of_all = |(scored, all): (usize, usize)| format!("{scored} of {all}");
    let p = |p: Option<f64>| p.map_or_else(none, |p| if p < 0.0001 { "<0.0001".to_owned() } else { format!("{p:.4}") });
    let interval = |i: Interval| format!("{:.digits$} to {:.digits$}", i.low, i.high);
    vec![
        figure.measure.clone(),
        to_digits(paired.map(|p| p.a), digits),
        to_digits(paired.map(|p| p.b), digits),
        to_digits(paired.map(|p| p.difference), digits),
        paired.and_then(|p| p.interval).map_or_else(none, interval),
        p(paired.and_then(|paired| paired.p)),
        p(figure.p_corrected),
        paired.map_or(0, |p| p.pairs).to_string(),
        of_all(figure.a_scored),
        of_all(figure.b_scored),
    ]
}
