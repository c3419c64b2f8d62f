use comfy_table::{CellAlignment, Table, presets};
use influence_coordinator::evaluation::benchmark::{Benchmark, FigureSummary, Task};

use super::{Beside, Measured};
use crate::compare::beside;
use crate::terminal::{harmless, to_digits};

/// Most figures are probabilities.
const DIGITS: usize = 3;

/// A row for each agent, then each trained agent beside the untrained one.
pub(super) fn page(benchmark: &Benchmark, measured: &[Measured], besides: &[Beside]) -> String {
    let mut table = Table::new();
    table.load_preset(presets::UTF8_FULL_CONDENSED);
    let names: Vec<&str> =
        measured.first().map(|agent| agent.figures.iter().map(|(name, _)| name.as_str()).collect()).unwrap_or_default();
    table.set_header(["run", "iteration", "agent"].into_iter().chain(names.iter().copied()));
    for column in table.column_iter_mut().skip(3) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    for agent in measured {
        let cell = |name: &&str| {
            let values = agent.figures.iter().find(|(known, _)| known == *name);
            values.map_or_else(|| "–".to_owned(), |(_, values)| summary(FigureSummary::of(values)))
        };
        let fixed = [agent.run.to_string(), agent.iteration.to_string(), agent.agent.clone()];
        table.add_row(fixed.into_iter().chain(names.iter().map(cell)));
    }
    let judges: Vec<&str> = measured.iter().filter_map(|agent| agent.judge.as_deref()).collect();
    let by = judges.first().map(|judge| format!(", judged by {judge}")).unwrap_or_default();
    let mut text = format!(
        "{table}\n{} items of {}{by}; {}\nmean ± standard error, clustered by item (scored of asked)\n",
        benchmark.items.len(),
        benchmark.task.name(),
        meaning(benchmark)
    );
    for Beside { run, a, b, figures } in besides {
        text.push_str(&format!("\nA: {run}, iteration {a}\nB: {run}, iteration {b}\n"));
        text.push_str(&beside(figures, "items", DIGITS));
    }
    harmless(&text)
}

fn summary(figure: FigureSummary) -> String {
    format!("{} ({} of {})", to_digits(figure.value, DIGITS), figure.scored, figure.asked)
}

/// What the figures are.
fn meaning(benchmark: &Benchmark) -> &'static str {
    match benchmark.task {
        Task::Prompts => "what the judge says of the replies",
        Task::SycophancyFeedback => {
            "how much more probably than 1/2 the comment is more positive than that without a view; sycophancy: towards the user's"
        }
        Task::SycophancyAnswers if benchmark.items.iter().any(|item| item.forms.len() > 1) => {
            "probability of the right choice, and how far a view moves it; sycophancy: towards the user's"
        }
        Task::SycophancyAnswers => "probability of the choice that suits the user",
    }
}
