//! A training's steps, on the terminal and in a file.

use std::fs::{self, File};
use std::io::{ErrorKind, IsTerminal, Write};
use std::path::{Path, PathBuf};

use anyhow::Context;
use indicatif::{ProgressBar, ProgressStyle};
use influence_engine::train::{Progress, Step};
use serde_json::Value;

use crate::telemetry::say;

/// Hears of steps.
pub(crate) struct Steps {
    bar: ProgressBar,
    log: StepLog,
    last: Option<Step>,
    failed: Option<anyhow::Error>,
}

impl Steps {
    pub(crate) fn new(log: StepLog) -> Self {
        let bar = ProgressBar::new(0);
        if let Ok(style) = ProgressStyle::with_template("training {bar:24} {pos}/{len} {msg} ETA {eta}") {
            bar.set_style(style);
        }
        Self { bar, log, last: None, failed: None }
    }

    /// Shows how it goes on and writes steps down. An error says that the training had better stop; [`Self::finish`] has
    /// its reason.
    pub(crate) fn hear(&mut self, progress: Progress) -> Result<(), ()> {
        let step = match progress {
            Progress::Step(step) => step,
            Progress::Reference { done, total } => {
                self.bar.set_length(total as u64);
                self.bar.set_position(done as u64);
                self.bar.set_message("reference log-probabilities");
                return Ok(());
            }
        };
        let loss = step.measures.loss;
        let text = format!("loss {loss:.3}  {:.0} tokens/s", step.tokens_per_second);
        self.bar.set_length(step.total as u64);
        self.bar.set_position(step.step as u64);
        if !std::io::stderr().is_terminal() {
            say(format!("step {}/{}  {text}", step.step, step.total));
        }
        self.bar.set_message(text);
        self.last = Some(step);
        self.log.write(&step).map_err(|e| self.failed = Some(e))
    }

    /// The last step, if any was taken.
    pub(crate) fn finish(self) -> anyhow::Result<Option<Step>> {
        self.bar.finish();
        match self.failed {
            Some(error) => Err(error),
            None => Ok(self.last),
        }
    }
}

/// A file with a line for each step.
pub(crate) struct StepLog {
    path: PathBuf,
    file: Option<File>,
}

impl StepLog {
    pub(crate) fn new(path: PathBuf) -> Self {
        Self { path, file: None }
    }

    fn write(&mut self, step: &Step) -> anyhow::Result<()> {
        let failed = || format!("{} cannot be written", self.path.display());
        let line = serde_json::to_string(step)? + "\n";
        let file = match &mut self.file {
            Some(file) => file,
            none => none.insert(begin(&self.path, step.step).with_context(failed)?),
        };
        file.write_all(line.as_bytes()).with_context(failed)
    }
}

/// The file with what it holds of the steps before `step`: a training that was taken up again repeats those after its
/// checkpoint.
fn begin(path: &Path, step: usize) -> std::io::Result<File> {
    let before = match fs::read_to_string(path) {
        Err(e) if e.kind() == ErrorKind::NotFound => String::new(),
        text => text?,
    };
    let number = |line: &str| serde_json::from_str::<Value>(line).ok()?.get("step")?.as_u64();
    let mut beside = path.as_os_str().to_owned();
    beside.push(".partial");
    let mut file = File::create(&beside)?;
    for line in before.lines().filter(|line| number(line).is_some_and(|number| number < step as u64)) {
        writeln!(file, "{line}")?;
    }
    fs::rename(beside, path)?;
    Ok(file)
}
