//! `influence reproduce`: a run beside what was published about its class.

use std::path::Path;

use anyhow::Context;
use comfy_table::{CellAlignment, Table, presets};
use influence_coordinator::config::{Published, PublishedFigure, load_published};
use influence_coordinator::evaluation::benchmark::FigureSummary;
use influence_coordinator::evaluation::reproduction::{
    CurvePoint, Difference, curve, differences, measured, run_of_class,
};
use influence_coordinator::planning::Phase;
use influence_coordinator::statistics::Estimate;
use influence_coordinator::store::{RunRecord, Store};
use influence_proto::RunId;
use serde_json::{Value, json};

use crate::args::ReproduceArguments;
use crate::stored::existing;
use crate::terminal::{harmless, print, to_digits};

/// Most figures are probabilities.
const DIGITS: usize = 3;
/// What no setting tells.
const ALWAYS: [&str; 3] = [
    "The environments, openings and prompts of all roles are written anew here; `influence convert` and the authors' own class \
     folders run theirs.",
    "Theirs rates by the likeliest first tokens (ten of a local model, as its default sampling warps them, or five of an API), \
     normalised over the allowed answers; a failed rating counts as 0. Ours is the exact probability of each answer, and a rating \
     that cannot be read is missing.",
    "Their benchmark answers are free text, graded right or wrong by a model; ours are probabilities of two choices.",
];

/// A run, and what of it stands beside the published.
struct Ours {
    run: RunRecord,
    curve: Vec<CurvePoint>,
    differ: Vec<Difference>,
    same: usize,
}

pub(crate) async fn reproduce(arguments: ReproduceArguments) -> anyhow::Result<()> {
    let file = arguments.configs.join("published.yaml");
    let all = load_published(&file)?;
    let known: Vec<&str> = all.iter().map(|of| of.class.as_str()).collect();
    let published = all.iter().find(|of| of.class == arguments.class).with_context(|| {
        format!("{} has nothing about `{}`; it has {}", file.display(), arguments.class, known.join(", "))
    })?;
    let printed: Vec<Value> = arguments.benchmark.iter().map(|file| read(file)).collect::<anyhow::Result<_>>()?;
    let store = existing(&arguments.data).await?;
    let ours = match find(&*store, &arguments).await? {
        None => None,
        Some(run) => {
            let (differ, same) = differences(published, &run);
            let curve = curve(&*store, &run, &published.aggregate, arguments.judge.as_deref()).await?;
            Some(Ours { run, curve, differ, same })
        }
    };
    if arguments.json {
        return print(&format!("{:#}\n", as_json(published, ours.as_ref(), &printed)));
    }
    print(&harmless(&page(published, ours.as_ref(), &printed)))
}

fn read(file: &Path) -> anyhow::Result<Value> {
    let text = std::fs::read_to_string(file).with_context(|| format!("{} cannot be read", file.display()))?;
    let told: Value = serde_json::from_str(&text).with_context(|| format!("{} is not JSON", file.display()))?;
    anyhow::ensure!(
        told["task"].is_string() && told["agents"].is_array(),
        "{} is not what `influence evaluate --dataset ... --json` prints",
        file.display()
    );
    Ok(told)
}

async fn find(store: &dyn Store, arguments: &ReproduceArguments) -> anyhow::Result<Option<RunRecord>> {
    let Some(id) = &arguments.run else { return Ok(run_of_class(store, &arguments.class).await?) };
    let run = store.run(&RunId::new(id)?).await?;
    let class = run.experiment["environments"]["class"].as_str().unwrap_or_default();
    anyhow::ensure!(class == arguments.class, "run `{id}` is of the class `{class}`, not `{}`", arguments.class);
    Ok(Some(run))
}

fn of_run(ours: Option<&Ours>, printed: &[Value], figure: &PublishedFigure) -> Option<(Estimate, Estimate)> {
    measured(printed, &ours?.run.id, &figure.task, &figure.figure)
}

fn as_json(published: &Published, ours: Option<&Ours>, printed: &[Value]) -> Value {
    let figures = published.figures.iter().map(|figure| {
        let of_run = of_run(ours, printed, figure);
        json!({"published": figure, "ours": of_run.map(|(before, after)| json!({"before": before, "after": after}))})
    });
    json!({
        "class": published.class,
        "run": ours.map(|ours| &ours.run.id),
        "curve": ours.map(|ours| &ours.curve),
        "aggregate": {
            "high": published.aggregate.high,
            "low": published.aggregate.low,
            "published_averages_veto": published.aggregate.averages_veto,
        },
        "figures": figures.collect::<Value>(),
        "only_as_images": published.images,
        "setup": {"from": published.from, "differs": ours.map(|ours| &ours.differ), "same": ours.map(|ours| ours.same)},
        "differs_always": ALWAYS,
    })
}

fn page(published: &Published, ours: Option<&Ours>, printed: &[Value]) -> String {
    let mut text = match ours {
        Some(ours) => format!("{}: run {} beside arXiv 2411.02306\n", published.class, ours.run.id),
        None => format!(
            "{}: there is no run of this class; `influence run configs/experiments/{}.yaml` makes one\n",
            published.class, published.class
        ),
    };
    if let Some(ours) = ours {
        text += &curve_table(published, ours);
    }
    text += "\nPublished as an image alone, so there is no number to set beside:\n";
    text.extend(published.images.iter().map(|image| format!("  {image}\n")));
    text += &figures_table(published, ours, printed);
    if let Some(ours) = ours {
        text += &setup_table(published, ours);
    }
    text.extend(ALWAYS.iter().map(|told| format!("{told}\n")));
    text
}

fn table(header: &[&str], left: usize) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::UTF8_FULL_CONDENSED).set_header(header.iter().copied());
    for column in table.column_iter_mut().skip(left) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

fn curve_table(published: &Published, ours: &Ours) -> String {
    let header = ["phase", "agent", "reward", "influence", "problematic behaviour", "with the influence score"];
    let mut table = table(&header, 2);
    for point in &ours.curve {
        let phase = match point.phase {
            Phase::Train => format!("iteration {}", point.iteration),
            Phase::Evaluate => format!("evaluation {}", point.iteration),
        };
        let figures = [point.reward, point.influence, point.aggregate, point.with_veto];
        table.add_row([phase, point.agent.clone()].into_iter().chain(figures.map(figure)));
    }
    let aggregate = &published.aggregate;
    let high = aggregate.high.iter().cloned();
    let parts: Vec<String> = high.chain(aggregate.low.iter().map(|name| format!("1 − {name}"))).collect();
    let veto = match aggregate.averages_veto {
        true => "averages the veto's score in as one more: the last column",
        false => "leaves the veto's score out, as the column before the last does",
    };
    let mut text = format!(
        "{table}\nproblematic behaviour: mean of {}, each from 0 to 1 (scored of finished). {} In runs with a veto theirs {veto}.\n",
        parts.join(", "),
        aggregate.differs
    );
    if ours.curve.iter().all(|point| point.aggregate.scored == 0) {
        text += &format!(
            "Nobody judged this run by these metrics: `influence evaluate {}` asks, with the file of `configs/evaluations/` that has \
             them.\n",
            ours.run.id
        );
    }
    text
}

fn figure(of: FigureSummary) -> String {
    format!("{} ({} of {})", to_digits(of.value, DIGITS), of.scored, of.asked)
}

fn figures_table(published: &Published, ours: Option<&Ours>, printed: &[Value]) -> String {
    let mut table = table(&["benchmark", "figure", "theirs before", "after", "ours before", "after"], 2);
    let estimate = |mean, error| to_digits(Some(Estimate { mean, standard_error: Some(error) }), DIGITS);
    let mut missing = false;
    for of in &published.figures {
        let own = of_run(ours, printed, of);
        missing |= own.is_none();
        let (before, after) = own.unzip();
        table.add_row([
            of.task.clone(),
            of.figure.clone(),
            estimate(of.before, of.before_error),
            estimate(of.after, of.after_error),
            to_digits(before, DIGITS),
            to_digits(after, DIGITS),
        ]);
    }
    let mut text = format!("\nPublished as numbers, for Llama-3-8B-Instruct:\n{table}\n");
    let mut sources: Vec<&str> = published.figures.iter().map(|of| of.source.as_str()).collect();
    sources.dedup();
    text.extend(sources.iter().map(|source| format!("theirs: {source}\n")));
    if missing {
        text += "ours: `influence evaluate RUN --dataset FILE --task TASK --json > OURS.json`, then `--benchmark OURS.json` here\n";
    }
    text
}

fn setup_table(published: &Published, ours: &Ours) -> String {
    let mut table = table(&["setting", "ours", "theirs"], 1);
    let shown = |value: &Value| match value {
        Value::Null => "–".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    for of in &ours.differ {
        table.add_row([of.key.clone(), shown(&of.ours), shown(&of.published)]);
    }
    format!(
        "\nWhat differs in set-up; {} of the published settings are the same ({}):\n{table}\n",
        ours.same, published.from
    )
}
