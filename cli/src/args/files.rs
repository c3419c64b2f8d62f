//! Runs as files, and files as runs: `export`, `report`, `import`.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use influence_coordinator::export::Format;

use super::DataArguments;

#[derive(Debug, Args)]
pub(crate) struct ExportArguments {
    /// The run.
    pub run: String,
    /// What to write; several with commas between them.
    #[arg(long = "format", required = true, value_delimiter = ',', value_name = "FORMAT")]
    pub formats: Vec<FormatName>,
    /// The folder for the files. Default: `export` in the run's folder.
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Replace files that are there already.
    #[arg(long)]
    pub overwrite: bool,
    #[command(flatten)]
    pub data: DataArguments,
    /// Where the run's adapters are kept. Default: `artifacts` in the data folder.
    #[arg(long, value_name = "URL")]
    pub artifacts: Option<OsString>,
    /// Print what was written as JSON.
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ReportArguments {
    /// The run.
    pub run: String,
    /// The file to write: HTML if it ends in `.html`, else Markdown. Default: Markdown to standard output.
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
    /// Write the dashboard's pages of the run into this folder instead, as files that can be published.
    #[arg(long, value_name = "DIR", conflicts_with_all = ["out", "seed"])]
    pub html: Option<PathBuf>,
    /// Replace files that are there already.
    #[arg(long)]
    pub overwrite: bool,
    /// Chooses the random conversations.
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    #[command(flatten)]
    pub data: DataArguments,
    /// Where the digests of the run's models are kept. Default: `artifacts` in the data folder, if it is there.
    #[arg(long, value_name = "URL")]
    pub artifacts: Option<OsString>,
}

#[derive(Debug, Args)]
pub(crate) struct ImportArguments {
    /// Files of trajectories (`0.jsonl`), folders of an iteration (`3`, `3_eval`), or the run's folder with those.
    #[arg(required = true, value_name = "PATH")]
    pub paths: Vec<PathBuf>,
    /// The run's name here; it must be new.
    #[arg(long)]
    pub name: String,
    /// The environment class that it was of, which the files do not tell.
    #[arg(long, default_value = "imported", value_name = "NAME")]
    pub class: String,
    /// The model of its agent, which they do not tell either.
    #[arg(long, default_value = "unknown", value_name = "NAME")]
    pub model: String,
    /// What of a conversation its reward is: the mean over its turns, or the final one.
    #[arg(long, default_value = "mean", value_parser = ["mean", "final"])]
    pub reward: String,
    #[command(flatten)]
    pub data: DataArguments,
    /// Print what was imported as JSON.
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum FormatName {
    /// Tables of episodes and of turns, as JSON lines.
    Jsonl,
    /// The same tables as Parquet.
    Parquet,
    /// Training rows as text, in TRL's columns.
    Trl,
    /// The best conversations, for OpenAI's fine-tuning.
    Openai,
    /// Adapters as PEFT folders.
    Adapters,
    /// Logs that Inspect opens.
    Inspect,
    /// Curves for TensorBoard.
    Tensorboard,
    /// Curves as a table.
    Csv,
}

impl From<FormatName> for Format {
    fn from(name: FormatName) -> Self {
        match name {
            FormatName::Jsonl => Self::Jsonl,
            FormatName::Parquet => Self::Parquet,
            FormatName::Trl => Self::Trl,
            FormatName::Openai => Self::Openai,
            FormatName::Adapters => Self::Adapters,
            FormatName::Inspect => Self::Inspect,
            FormatName::Tensorboard => Self::Tensorboard,
            FormatName::Csv => Self::Csv,
        }
    }
}
