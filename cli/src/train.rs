//! `influence train`: an adapter from a file of rows.

use std::io::BufRead;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use anyhow::Context;
use comfy_table::{CellAlignment, Table, presets};
use influence_coordinator::config::{Trainer, TrainingSettings, training_settings};
use influence_coordinator::dataset::json_lines;
use influence_engine::model::Model;
use influence_engine::train::{Checkpoints, Step, TrainError, TrainReport, TrainingFiles, train as train_adapter};
use influence_worker::training::{train_options, training_data};
use serde_json::json;
use tokio::task::spawn_blocking;
use tokio_util::sync::CancellationToken;

use crate::args::TrainArguments;
use crate::steps::{StepLog, Steps};
use crate::terminal::print;
use crate::{interrupt, place};

pub(crate) async fn train(arguments: TrainArguments) -> anyhow::Result<()> {
    anyhow::ensure!(
        !arguments.output.exists(),
        "{} exists already; choose another --output, or move it away",
        arguments.output.display()
    );
    let settings = settings(&arguments)?;
    let checkpoint = beside(&arguments.output, "checkpoint");
    match (arguments.resume, checkpoint.exists()) {
        (true, false) => anyhow::bail!("there is no checkpoint {}; leave --resume out", checkpoint.display()),
        (false, true) => anyhow::bail!(
            "{} is left of a training that was broken off; go on with --resume, or remove it",
            checkpoint.display()
        ),
        _ => {}
    }
    let rows = json_lines(&arguments.data).with_context(|| format!("{} cannot be read", arguments.data.display()))?;
    let cancel = interrupt::token()?;
    let model = match arguments.device.as_str() {
        "cpu" => place::load(&arguments.model, &arguments.place).await?,
        device => place::load_for(&arguments.model, device, &arguments.place).await?.0,
    };
    let (json, output) = (arguments.json, arguments.output.clone());
    let job = Job { arguments, settings, checkpoint };
    let (report, last) =
        spawn_blocking(move || job.run(&model, rows, &cancel)).await.context("training broke off")??;
    print(&if json { as_json(&report, &last) } else { as_text(&report, &last, &output) })
}

fn settings(arguments: &TrainArguments) -> anyhow::Result<TrainingSettings> {
    let mut given = vec![("algorithm", arguments.algorithm.as_str(), "--algorithm".to_owned())];
    given.extend(arguments.set.iter().map(|(key, value)| (&**key, &**value, format!("--set {key}"))));
    Ok(training_settings(&given)?)
}

/// A file that belongs to the adapter in `output`, while that is made.
fn beside(output: &Path, what: &str) -> PathBuf {
    let mut name = output.as_os_str().to_owned();
    name.push(format!(".{what}"));
    name.into()
}

struct Job {
    arguments: TrainArguments,
    settings: TrainingSettings,
    checkpoint: PathBuf,
}

impl Job {
    fn run(
        &self,
        model: &Model,
        rows: impl BufRead,
        cancel: &CancellationToken,
    ) -> anyhow::Result<(TrainReport, Step)> {
        let TrainArguments { data, output, adapter, seed, checkpoint_steps, .. } = &self.arguments;
        let settings = &self.settings;
        // The settings of a file of rows know no other trainer.
        let Trainer::Local(local) = &settings.trainer else { anyhow::bail!("a file of rows is trained on here") };
        let optimiser = settings.optimiser(local, 0);
        let rows = training_data(model, settings.algorithm, rows);
        let rows = rows.with_context(|| format!("{} cannot be trained on", data.display()))?;
        let options = train_options(model, &self.arguments.model, &local.lora, &optimiser, *seed)?;
        let checkpoints = Some(Checkpoints { file: self.checkpoint.clone(), every: *checkpoint_steps as usize });
        let files = TrainingFiles { start: adapter.as_deref(), output, checkpoints };
        let mut steps = Steps::new(StepLog::new(beside(output, "steps.jsonl")));
        let report = train_adapter(model, &rows, &options, &files, &mut |progress| {
            if steps.hear(progress).is_err() || cancel.is_cancelled() {
                return ControlFlow::Break(());
            }
            ControlFlow::Continue(())
        });
        let last = steps.finish()?;
        let report = report.map_err(|error| match error {
            TrainError::Stopped { .. } if self.checkpoint.exists() => anyhow::Error::new(error)
                .context("its state is kept: the same command with --resume goes on from there"),
            other => other.into(),
        })?;
        Ok((report, last.context("no step was taken")?))
    }
}

fn as_json(report: &TrainReport, last: &Step) -> String {
    let object = json!({
        "steps": report.steps,
        "rows": report.rows,
        "dropped_rows": report.dropped,
        "cut_rows": report.cut,
        "tokens": report.tokens,
        "target_tokens": report.target_tokens,
        "first_loss": report.first_loss,
        "last_loss": report.last_loss,
        "last_step": last,
        "seconds": report.seconds,
    });
    format!("{object}\n")
}

fn as_text(report: &TrainReport, last: &Step, output: &Path) -> String {
    let mut table = Table::new();
    table.load_preset(presets::UTF8_FULL_CONDENSED);
    let mut rows = vec![
        ("rows", report.rows.to_string()),
        ("dropped, cut for their length", format!("{}, {}", report.dropped, report.cut)),
        ("steps", report.steps.to_string()),
        ("target tokens", report.target_tokens.to_string()),
        ("loss, first and last step", format!("{:.3} → {:.3}", report.first_loss, report.last_loss)),
    ];
    let measures = &last.measures;
    let shown = [
        ("accuracy, last step", measures.accuracy),
        ("KL estimate, last step", measures.kl),
        ("reward of what to favour, last step", measures.chosen_reward),
        ("reward of what to avoid, last step", measures.rejected_reward),
    ];
    rows.extend(shown.into_iter().filter_map(|(name, value)| Some((name, format!("{:.3}", value?)))));
    rows.push(("seconds", format!("{:.0}", report.seconds)));
    for (name, value) in rows {
        table.add_row([name.to_owned(), value]);
    }
    if let Some(column) = table.column_mut(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    let steps = beside(output, "steps.jsonl");
    format!("{table}\nadapter: {}\nevery step: {}\n", output.display(), steps.display())
}
