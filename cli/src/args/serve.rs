//! The command line of `influence serve`.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;

use super::ModelsFileArguments;

#[derive(Debug, Args)]
pub(crate) struct ServeArguments {
    /// A name from `models.yaml`, a .gguf file or a folder of safetensors; NAME= before it serves it under another name.
    /// Default: the agent's model of `--run`, else `smollm2-135m`.
    #[arg(long, value_name = "[NAME=]MODEL", value_parser = super::perhaps_named)]
    pub model: Option<(Option<String>, String)>,
    /// Serve this PEFT directory as well, under its folder's name or another. Repeatable.
    #[arg(long = "adapter", value_name = "[NAME=]DIR", value_parser = super::perhaps_named)]
    pub adapters: Vec<(Option<String>, String)>,
    /// Serve the adapters of this run's iterations as well, as RUN/0, RUN/1 and so on.
    #[arg(long)]
    pub run: Option<String>,
    /// Of these, serve this iteration's only.
    #[arg(long, value_name = "N", requires = "run")]
    pub iteration: Option<u32>,
    /// Let clients load and drop adapters while it runs, by vLLM's paths `/v1/load_lora_adapter` and `/v1/unload_lora_adapter`:
    /// any folder that this process can read. For workers whose agent is served here.
    #[arg(long)]
    pub allow_adapters: bool,
    /// The folder with the runs' files.
    #[arg(long, env = "INFLUENCE_DATA", default_value = "runs", value_name = "DIR")]
    pub data: PathBuf,
    /// Where clients reach it. Addresses that other machines can reach need a token. Port 0 takes any free one.
    #[arg(long, default_value = "127.0.0.1:8000", value_name = "ADDR")]
    pub listen: SocketAddr,
    /// The file with the token that clients must send. Default: the variable INFLUENCE_SERVE_TOKEN, if it is set.
    #[arg(long, value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// What the model runs on: `cpu`, `cuda:N` (N counts from 0) or `metal`. The latter two need a build with the feature
    /// of that name.
    #[arg(long, default_value = "cpu", value_name = "DEVICE")]
    pub device: String,
    /// How many replies and scores are worked on at once; others wait.
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub slots: u32,
    /// What keys and values may take, in MiB. Default: a quarter of the memory that is free, on a GPU most of it.
    #[arg(long, value_name = "MIB", value_parser = clap::value_parser!(u64).range(1..=1 << 30))]
    pub kv_memory: Option<u64>,
    #[command(flatten)]
    pub place: ModelsFileArguments,
}
