//! The command lines about environments and the files of the Python benchmark.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use super::ModelsFileArguments;

#[derive(Debug, Args)]
pub(crate) struct ConvertArguments {
    /// The experiment's YAML file. The one that it overrides is looked for beside it, and in the folders around it.
    pub experiment: PathBuf,
    /// Where to write the experiment; it must not exist yet. Default: standard output.
    #[arg(long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// The folder with `models.yaml`, where models are looked up by their repositories.
    #[arg(long, default_value = "configs", value_name = "DIR")]
    pub configs: PathBuf,
}

#[derive(Debug, Subcommand)]
pub(crate) enum EnvironmentsCommand {
    /// Show the classes, how many environments and initial states they have.
    List {
        /// The folder with `environments/`.
        #[arg(long, default_value = "configs", value_name = "DIR")]
        configs: PathBuf,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Show a class and its state machine, or an environment's opening and prompts.
    Show(ShowArguments),
}

#[derive(Debug, Args)]
pub(crate) struct ShowArguments {
    /// CLASS or CLASS/ENVIRONMENT: a class by its name, or by the path of its folder.
    pub of: String,
    /// An initial state of the environment. Default: the first.
    #[arg(long, value_name = "ID")]
    pub state: Option<String>,
    /// Show what this role sees, and not what all of them do.
    #[arg(long)]
    pub role: Option<RoleName>,
    /// The influence detector's prompts.
    #[arg(long, default_value = "normal")]
    pub prompts: PromptsName,
    /// Draw the class's state machine in this language.
    #[arg(long, value_name = "LANGUAGE")]
    pub diagram: Option<Diagram>,
    /// Show prompts as this model's chat template writes them: a name from `models.yaml`, a .gguf file or a folder.
    #[arg(long, value_name = "MODEL")]
    pub model: Option<String>,
    #[command(flatten)]
    pub place: ModelsFileArguments,
}

/// A role, as people name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum RoleName {
    Agent,
    Environment,
    Preference,
    Transition,
    Influence,
}

/// The detector's prompts, as experiments name them.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum PromptsName {
    Normal,
    Constitutional,
    #[value(name = "five_point")]
    FivePoint,
}

/// Languages that state machines are drawn in.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum Diagram {
    Mermaid,
    Graphviz,
}

#[derive(Debug, Args)]
pub(crate) struct GenerateStatesArguments {
    /// CLASS/ENVIRONMENT.
    pub of: String,
    /// How many to write.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub count: u32,
    /// A name from `models.yaml`, a .gguf file or a folder of safetensors.
    #[arg(long, default_value = "smollm2-135m")]
    pub model: String,
    /// The file for them; it must not exist yet. Default: ENVIRONMENT-generated.yaml.
    #[arg(long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Of all that is drawn.
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    #[arg(long, default_value_t = 1.0, value_name = "T")]
    pub temperature: f64,
    /// Samples from the most probable tokens that together hold this share.
    #[arg(long, default_value_t = 0.95, value_name = "P")]
    pub top_p: f64,
    /// The longest message, in tokens; one that is cut off is thrown away.
    #[arg(long, default_value_t = 120)]
    pub max_tokens: u32,
    #[command(flatten)]
    pub place: ModelsFileArguments,
}

/// Kinds of files that have a schema.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum SchemaName {
    Experiment,
    Environment,
    Evaluation,
}
