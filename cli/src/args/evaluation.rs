use clap::{Args, ValueEnum};
use influence_coordinator::catalogue::RunIteration;
use influence_coordinator::planning::Phase;

use super::DataArguments;

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
