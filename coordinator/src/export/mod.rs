//! A run as files for other people's tools: tables, training rows, adapters, logs and curves.
//!
//! Episodes pass through one at a time, so that memory does not grow with the run. A file gets its name once it is
//! complete; one that is there already is replaced only if that is asked for.

mod cells;
mod chat;
mod columns;
mod curves;
mod error;
mod file;
mod inspect;
mod parquet;
mod tables;
mod tensorboard;

use std::path::{Path, PathBuf};

use influence_proto::TrainedAgent;
use serde::Serialize;

pub use cells::ColumnHelp;
pub use error::ExportError;

use crate::artifacts::Artifacts;
use crate::catalogue::{self, EpisodeView, Filter};
use crate::experiment::RunFolder;
use crate::planning::Phase;
use crate::store::{RunRecord, Store};
pub use file::NewFile;

/// What a run can be written as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// A table of episodes and one of turns, as JSON lines.
    Jsonl,
    /// The same tables as Parquet.
    Parquet,
    /// The training rows as text, in TRL's columns.
    Trl,
    /// The best conversations as OpenAI's fine-tuning takes them.
    Openai,
    /// The adapters as PEFT folders.
    Adapters,
    /// Logs that Inspect opens, one for each iteration and evaluation.
    Inspect,
    /// The curves as TensorBoard's event files.
    Tensorboard,
    /// The curves as a table.
    Csv,
}

/// What is written, and where.
#[derive(Debug)]
pub struct Export<'a> {
    /// Where the run is remembered.
    pub store: &'a dyn Store,
    /// Where its adapters lie; without it there are no [`Format::Adapters`].
    pub artifacts: Option<&'a Artifacts>,
    /// The run.
    pub run: &'a RunRecord,
    /// The folder for the files; it is made if it does not exist.
    pub folder: &'a Path,
    /// Replace what is there.
    pub overwrite: bool,
}

/// The columns of the tables `episodes`, `turns` and `curves`; `docs/exports.md` lists them.
pub fn columns() -> [(&'static str, Vec<ColumnHelp>); 3] {
    let names = columns::EPISODES.iter().take(4).map(cells::Column::help);
    let curves = curves::CURVES.iter().map(|c| ColumnHelp { name: c.name, kind: "number", meaning: c.meaning });
    [
        ("episodes", columns::EPISODES.iter().map(cells::Column::help).collect()),
        ("turns", columns::TURNS.iter().map(cells::Column::help).collect()),
        ("curves", names.chain(curves).collect()),
    ]
}

/// A file that was written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Exported {
    /// Which format it is of.
    pub format: Format,
    /// Where it is.
    pub path: PathBuf,
    /// Rows, samples or points in it; of an adapter, files.
    pub rows: u64,
}

impl Export<'_> {
    /// Writes a run in one format. A run that goes on is written as far as it is.
    ///
    /// # Errors
    /// When a file is there already, cannot be written, or the run cannot be read.
    pub async fn write(&self, format: Format) -> Result<Vec<Exported>, ExportError> {
        let written = match format {
            Format::Jsonl => tables::jsonl(self).await?,
            Format::Parquet => tables::parquet(self).await?,
            Format::Trl => chat::trl(self).await?,
            Format::Openai => chat::openai(self).await?,
            Format::Adapters => self.adapters().await?,
            Format::Inspect => inspect::logs(self).await?,
            Format::Tensorboard => tensorboard::events(self).await?,
            Format::Csv => curves::csv(self).await?,
        };
        Ok(written.into_iter().map(|(path, rows)| Exported { format, path, rows }).collect())
    }

    /// A file of the export.
    fn file(&self, below: &str) -> Result<NewFile, ExportError> {
        NewFile::create(self.folder.join(below), self.overwrite)
    }

    /// The episodes of the run in plan order, each with which of its initial state's it is in its phase, from 0.
    async fn episodes(
        &self,
        mut each: impl FnMut(u32, EpisodeView) -> Result<(), ExportError>,
    ) -> Result<(), ExportError> {
        let mut siblings = Siblings::default();
        let everything = |view: EpisodeView| each(siblings.number(&view), view);
        catalogue::episodes(self.store, &self.run.id, None, &Filter::default(), everything).await
    }

    async fn adapters(&self) -> Result<Vec<(PathBuf, u64)>, ExportError> {
        let Some(artifacts) = self.artifacts else { return Ok(Vec::new()) };
        let folder = RunFolder::at(self.folder);
        let mut written = Vec::new();
        for training in self.store.trainings(&self.run.id).await? {
            let Some(report) = training.report else { continue };
            let adapter = match report.agent {
                TrainedAgent::Adapter(adapter) => adapter,
                TrainedAgent::Served { model } => {
                    return Err(ExportError::NoFiles { iteration: training.iteration, model: model.to_string() });
                }
            };
            let path = folder.adapter_path(training.iteration);
            if !folder.has_adapter(training.iteration, adapter).await {
                if path.exists() && !self.overwrite {
                    return Err(ExportError::Exists(path));
                }
                let config = artifacts.get(adapter.config).await?;
                let weights = artifacts.get(adapter.weights).await?;
                folder.write_adapter(training.iteration, config, weights).await?;
            }
            written.push((path, 2));
        }
        Ok(written)
    }
}

/// Numbers the episodes of an initial state, in plan order.
#[derive(Debug, Default)]
struct Siblings {
    of: Option<(Phase, u32)>,
    seen: std::collections::HashMap<(String, String), u32>,
}

impl Siblings {
    /// Which of its initial state's episodes in its phase it is, from 0. Phases come one after the other.
    fn number(&mut self, view: &EpisodeView) -> u32 {
        let phase = Some((view.phase, view.iteration));
        if self.of != phase {
            self.of = phase;
            self.seen.clear();
        }
        let state = (view.spec.environment.clone(), view.spec.initial_state.clone());
        let seen = self.seen.entry(state).or_default();
        *seen += 1;
        *seen - 1
    }
}

/// What files of a phase are called, as in `iteration-0`.
fn phase_name(phase: Phase, iteration: u32) -> String {
    let name = match phase {
        Phase::Train => "iteration",
        Phase::Evaluate => "evaluation",
    };
    format!("{name}-{iteration}")
}
