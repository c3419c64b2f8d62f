//! `influence train`: an adapter from a file of conversations.

use std::fs::File;
use std::io::{BufReader, IsTerminal};
use std::ops::ControlFlow;

use anyhow::Context;
use indicatif::{ProgressBar, ProgressStyle};
use influence_engine::lora::LoraConfig;
use influence_engine::train::{LongRows, SftOptions, Step, TrainReport, sft};
use influence_worker::training::rows_from_jsonl;
use serde_json::json;
use tokio::task::spawn_blocking;

use crate::args::TrainArguments;
use crate::terminal::print;
use crate::{interrupt, place};

pub(crate) async fn train(arguments: TrainArguments) -> anyhow::Result<()> {
    anyhow::ensure!(
        !arguments.output.exists(),
        "{} exists already; choose another --output, or move it away",
        arguments.output.display()
    );
    let file = File::open(&arguments.data).with_context(|| format!("{} cannot be read", arguments.data.display()))?;
    let cancel = interrupt::token()?;
    let model = place::load(&arguments.model, &arguments.place).await?;
    let options = options(&arguments);
    let json = arguments.json;
    let output = arguments.output.clone();
    let report = spawn_blocking(move || {
        let rows = rows_from_jsonl(&model, BufReader::new(file), &arguments.data.display().to_string())?;
        let bar = bar();
        let report = sft(&model, arguments.adapter.as_deref(), &rows, &options, &arguments.output, &mut |step| {
            show(&bar, &step);
            if cancel.is_cancelled() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        bar.finish();
        Ok::<_, anyhow::Error>(report?)
    })
    .await
    .context("training broke off")??;
    print(&if json { as_json(&report) } else { as_text(&report, &output.display().to_string()) })
}

fn options(arguments: &TrainArguments) -> SftOptions {
    SftOptions {
        lora: LoraConfig {
            rank: arguments.rank as usize,
            alpha: arguments.alpha,
            dropout: arguments.dropout,
            ..LoraConfig::default()
        },
        learning_rate: arguments.learning_rate,
        batch_size: arguments.batch_size as usize,
        epochs: arguments.epochs as usize,
        max_length: arguments.max_length as usize,
        long_rows: LongRows::Drop,
        seed: arguments.seed,
        base_model: Some(arguments.model.clone()),
        ..SftOptions::default()
    }
}

fn bar() -> ProgressBar {
    let bar = ProgressBar::new(0);
    if let Ok(style) = ProgressStyle::with_template("training {bar:24} {pos}/{len} {msg} ETA {eta}") {
        bar.set_style(style);
    }
    bar
}

fn show(bar: &ProgressBar, step: &Step) {
    let text = format!("loss {:.3}  {:.0} tokens/s", step.loss, step.tokens as f64 / step.seconds.max(1e-3));
    bar.set_length(step.total as u64);
    bar.set_position(step.step as u64);
    if !std::io::stderr().is_terminal() {
        eprintln!("step {}/{}  {text}", step.step, step.total);
    }
    bar.set_message(text);
}

fn as_json(report: &TrainReport) -> String {
    let object = json!({
        "steps": report.steps,
        "rows": report.rows,
        "dropped_rows": report.dropped,
        "tokens": report.tokens,
        "target_tokens": report.target_tokens,
        "first_loss": report.first_loss,
        "last_loss": report.last_loss,
        "seconds": report.seconds,
    });
    format!("{object}\n")
}

fn as_text(report: &TrainReport, output: &str) -> String {
    format!(
        "{} rows ({} dropped for their length), {} steps, {} target tokens in {:.0} s; loss {:.3} → {:.3}\nadapter: {output}\n",
        report.rows,
        report.dropped,
        report.steps,
        report.target_tokens,
        report.seconds,
        report.first_loss,
        report.last_loss,
    )
}
