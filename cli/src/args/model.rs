//! The command lines about models alone.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::CredentialArguments;

#[derive(Debug, Subcommand)]
pub(crate) enum ModelCommand {
    /// Show the models that `models.yaml` names, and which are already here.
    List {
        #[command(flatten)]
        place: ModelsFileArguments,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Download a model into the cache and verify it.
    Fetch {
        /// A name from `models.yaml`.
        name: String,
        #[command(flatten)]
        place: ModelsFileArguments,
        /// Print nothing but the path.
        #[arg(long)]
        print_path: bool,
    },
    /// Upload a model's files to a coordinator, which gives them to workers that cannot have the
    /// model elsewhere. The same command goes on where it stopped.
    Push(PushArguments),
    /// Let a model answer a conversation.
    Generate(GenerateArguments),
    /// Read the probabilities of answers.
    Score(ScoreArguments),
}

#[derive(Debug, Args)]
pub(crate) struct PushArguments {
    /// The run's name for the model: one of `models.yaml`.
    pub name: String,
    /// The coordinator's address.
    #[arg(long, default_value = "http://127.0.0.1:50051", value_name = "URL")]
    pub coordinator: String,
    #[command(flatten)]
    pub credentials: CredentialArguments,
    /// Push these local files (a .gguf file, or a folder of safetensors).
    #[arg(long, value_name = "NAME=PATH", value_parser = super::name_and_path)]
    pub model: Option<(String, PathBuf)>,
    #[command(flatten)]
    pub place: ModelsFileArguments,
}

/// Where models are named and kept.
#[derive(Debug, Clone, Args)]
pub(crate) struct ModelsFileArguments {
    /// The folder with `models.yaml`.
    #[arg(long, default_value = "configs", value_name = "DIR")]
    pub configs: PathBuf,
    /// Where fetched models are kept. Default: `influence` in the user's cache folder.
    #[arg(long, env = "INFLUENCE_CACHE", value_name = "DIR")]
    pub cache: Option<PathBuf>,
}

/// Which conversation goes to which model.
#[derive(Debug, Args)]
pub(crate) struct PromptArguments {
    /// A name from `models.yaml`, a .gguf file or a folder of safetensors.
    #[arg(long, default_value = "smollm2-135m")]
    pub model: String,
    /// A JSON list of `{"role": .., "content": ..}`; `-` is standard input.
    #[arg(long, value_name = "FILE")]
    pub messages: PathBuf,
    /// A PEFT directory to apply.
    #[arg(long, value_name = "DIR")]
    pub adapter: Option<PathBuf>,
    #[command(flatten)]
    pub place: ModelsFileArguments,
    /// Print one JSON object.
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct GenerateArguments {
    #[command(flatten)]
    pub prompt: PromptArguments,
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..))]
    pub max_tokens: u32,
    /// 0 is greedy.
    #[arg(long, default_value_t = 0.0)]
    pub temperature: f64,
    /// Nucleus: the share of the probability that is sampled from.
    #[arg(long, default_value_t = 1.0)]
    pub top_p: f64,
    /// Sample from the k most probable tokens; 0: from all.
    #[arg(long, default_value_t = 0)]
    pub top_k: u32,
    /// Sample from tokens that are at least this share as probable as the most probable one.
    #[arg(long, default_value_t = 0.0)]
    pub min_p: f64,
    /// End the reply at this text; may be repeated.
    #[arg(long, value_name = "TEXT")]
    pub stop: Vec<String>,
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
}

#[derive(Debug, Args)]
pub(crate) struct ScoreArguments {
    #[command(flatten)]
    pub prompt: PromptArguments,
    /// The allowed answers.
    #[arg(long, required = true, value_delimiter = ',')]
    pub answers: Vec<String>,
    /// What the answer continues, after the chat template's generation prompt. `''` turns it off.
    #[arg(long, default_value = "The answer is: ")]
    pub prefix: String,
}

#[derive(Debug, Args)]
pub(crate) struct TrainArguments {
    /// A name from `models.yaml`, a .gguf file or a folder of safetensors.
    #[arg(long)]
    pub model: String,
    /// JSON lines, in the columns of the algorithm: `messages`, or `prompt` and `completion`; for kto `prompt`,
    /// `completion` and `label`; for dpo `prompt`, `chosen` and `rejected`.
    #[arg(long, value_name = "ROWS.jsonl")]
    pub data: PathBuf,
    /// The loss.
    #[arg(long, default_value = "sft", value_parser = ["sft", "kto", "dpo"])]
    pub algorithm: String,
    /// Set a key of an experiment's `training`, as in `lora.rank=8` or `learning_rate=1e-4`. Repeatable.
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = super::key_and_value)]
    pub set: Vec<(String, String)>,
    /// Where to train: `cpu` in f32; `cuda:N` or `metal` in the type that `models.yaml` names, bf16 for a path.
    #[arg(long, default_value = "cpu")]
    pub device: String,
    /// The PEFT directory to write. Must not exist.
    #[arg(long, value_name = "DIR")]
    pub output: PathBuf,
    /// A PEFT directory to continue from.
    #[arg(long, value_name = "DIR")]
    pub adapter: Option<PathBuf>,
    /// Of the initial weights, the order of the rows and the dropout.
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// Steps between two checkpoints.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..))]
    pub checkpoint_steps: u32,
    /// Go on from the checkpoint of a training that was broken off.
    #[arg(long)]
    pub resume: bool,
    #[command(flatten)]
    pub place: ModelsFileArguments,
    /// Print the final report as JSON.
    #[arg(long)]
    pub json: bool,
}
