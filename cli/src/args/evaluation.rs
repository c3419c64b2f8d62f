use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use influence_coordinator::catalogue::RunIteration;
use influence_coordinator::evaluation::benchmark::Task;
use influence_coordinator::planning::Phase;

use super::{AccessArguments, DataArguments, RolloutArguments};

/// Which episodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum PhaseName {
    /// Those of evaluations.
    Evaluate,
    /// Those that are selected from.
    Train,
}

impl From<PhaseName> for Phase {
    fn from(name: PhaseName) -> Self {
        match name {
            PhaseName::Evaluate => Self::Evaluate,
            PhaseName::Train => Self::Train,
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct CompareArguments {
    /// A run, or one of its iterations: RUN, RUN:2, RUN:last. A run alone is its last iteration.
    pub a: RunIteration,
    /// The other: differences are B less A.
    pub b: RunIteration,
    /// Compare these episodes. Default: of evaluations, where both sides have one.
    #[arg(long)]
    pub phase: Option<PhaseName>,
    /// Compare only this: `reward`, `influence`, `reply-length`, or a metric. Repeatable.
    #[arg(long, value_name = "NAME")]
    pub metric: Vec<String>,
    #[command(flatten)]
    pub data: DataArguments,
    /// Print JSON, with the intervals of the bootstrap too.
    #[arg(long)]
    pub json: bool,
}

/// Which iteration's agent: iteration k is the agent after k trainings, 0 the untrained one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum IterationName {
    Number(u32),
    /// The highest that there is.
    Last,
}

fn iteration(text: &str) -> Result<IterationName, String> {
    match text {
        "last" => Ok(IterationName::Last),
        number => number.parse().map(IterationName::Number).map_err(|_| "must be a number or `last`".to_owned()),
    }
}

/// What a benchmark measures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum TaskName {
    /// Whether answers to questions follow what the user believes.
    SycophancyAnswers,
    /// Whether comments on texts follow what the user feels about them.
    SycophancyFeedback,
    /// What replies to prompts are like, by the questions of --metrics.
    Prompts,
}

impl From<TaskName> for Task {
    fn from(name: TaskName) -> Self {
        match name {
            TaskName::SycophancyAnswers => Self::SycophancyAnswers,
            TaskName::SycophancyFeedback => Self::SycophancyFeedback,
            TaskName::Prompts => Self::Prompts,
        }
    }
}

/// A benchmark from a file.
#[derive(Debug, Args)]
pub(crate) struct BenchmarkArguments {
    /// Put this file of questions, texts or prompts to the agents: JSON lines, or Parquet, as --task says.
    #[arg(long, value_name = "FILE", requires = "task", conflicts_with = "rollout")]
    pub dataset: Option<PathBuf>,
    /// What the file is for.
    #[arg(long, requires = "dataset")]
    pub task: Option<TaskName>,
    /// Of the file, only the first N questions, texts or prompts.
    #[arg(long, value_name = "N", requires = "dataset", value_parser = clap::value_parser!(u32).range(1..))]
    pub limit: Option<u32>,
    /// Write every reply and probability to this file, as JSON lines.
    #[arg(long, value_name = "FILE", requires = "dataset")]
    pub out: Option<PathBuf>,
    /// Replace that file.
    #[arg(long, requires = "out")]
    pub overwrite: bool,
}

#[derive(Debug, Args)]
pub(crate) struct EvaluateArguments {
    /// The runs whose conversations are judged, or whose agents are rolled out or asked.
    #[arg(required = true)]
    pub runs: Vec<String>,
    /// Only these, as in `0,5,last`: 0 is the untrained agent, k the agent after k trainings. Default: all; with
    /// --rollout and --dataset the first and the last.
    #[arg(long, value_delimiter = ',', value_name = "LIST", value_parser = iteration)]
    pub iterations: Vec<IterationName>,
    /// The file of the questions. Default: `evaluations/influence.yaml` in the configuration folder; with --rollout, none
    /// unless --metric or --judge is given.
    #[arg(long, value_name = "FILE")]
    pub metrics: Option<PathBuf>,
    /// Ask only this question of the file. Repeatable.
    #[arg(long, value_name = "NAME")]
    pub metric: Vec<String>,
    /// Who judges: a name from `models.yaml`, a .gguf file or a folder. Default: the model that the run's ratings are by.
    #[arg(long, value_name = "MODEL")]
    pub judge: Option<String>,
    /// Have the agents converse anew, in this class: a name, or the path of a folder. Repeatable.
    #[arg(long, value_name = "CLASS")]
    pub rollout: Vec<String>,
    /// About how many episodes each agent is rolled out for in a class: shared among its environments, rounded up.
    #[arg(long, default_value_t = 24, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub episodes: u32,
    /// Sample so many replies for each that is given, and give the one with the highest rating: what selection alone does to an
    /// agent, at the time of inference.
    #[arg(long, value_name = "K", requires = "rollout", value_parser = clap::value_parser!(u32).range(2..=256))]
    pub best_of: Option<u32>,
    /// Of these, give none whose influence score reaches this; where all do, the least harmful one.
    #[arg(long, value_name = "THRESHOLD", requires = "best_of")]
    pub veto: Option<f64>,
    /// Roll out anew, though it was done before; under a further run id.
    #[arg(long, requires = "rollout")]
    pub fresh: bool,
    #[command(flatten)]
    pub benchmark: BenchmarkArguments,
    /// The folder with `models.yaml`, `environments/` and `evaluations/`.
    #[arg(long, default_value = "configs", value_name = "DIR")]
    pub configs: PathBuf,
    /// Where the runs' adapters are. Default: `artifacts` in the data folder.
    #[arg(long, value_name = "URL")]
    pub artifacts: Option<OsString>,
    #[command(flatten)]
    pub data: DataArguments,
    #[command(flatten)]
    pub rollouts: RolloutArguments,
    /// Have workers of other processes do it, which join here: `influence worker --coordinator http://ADDR`. Default: this
    /// process has one of its own.
    #[arg(long, value_name = "ADDR")]
    pub listen: Option<SocketAddr>,
    #[command(flatten)]
    pub access: AccessArguments,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ReproduceArguments {
    /// The environment class, as in `therapy-talk`.
    pub class: String,
    /// The run of that class. Default: the last finished one that trains.
    #[arg(long)]
    pub run: Option<String>,
    /// Whose answers make up our curve, where several judged the run.
    #[arg(long, value_name = "MODEL")]
    pub judge: Option<String>,
    /// What `influence evaluate RUN --dataset FILE --task TASK --json` printed, to be set beside the published figures.
    /// Repeatable.
    #[arg(long, value_name = "FILE")]
    pub benchmark: Vec<PathBuf>,
    /// The folder with `published.yaml`.
    #[arg(long, default_value = "configs", value_name = "DIR")]
    pub configs: PathBuf,
    #[command(flatten)]
    pub data: DataArguments,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}
