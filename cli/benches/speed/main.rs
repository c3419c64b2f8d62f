//! `make bench`: the engine's side of it. `scripts/bench` runs this and its peers, and compares them.
//!
//! - `rollout EXPERIMENT --configs DIR --episodes N --model FILE --out FILE` rolls out the first episodes of the plan, and
//!   writes how long that took and every call of a model, by its tokens.
//! - `tokens --model FILE` prints how fast prompts are read and how fast rows are decoded.
//! - `logits --model FILE --tokens N` prints the logits after N tokens.
//! - `train --model FILE` takes steps of training.
//!
//! `tokens`, `logits` and `train` run on any device; `scripts/gpu` compares them with transformers.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a bench prints, and ends with whatever is wrong"
)]

#[path = "../../src/allocator.rs"]
mod allocator;
mod calls;
mod process;
mod rollout;
mod tokens;
mod train;

use std::path::PathBuf;
use std::sync::Arc;

use clap::Parser;
use influence_engine::model::{Model, Placement};

#[derive(Parser)]
#[command(about = "Measures the engine; see scripts/bench.")]
enum Command {
    /// Roll out episodes.
    Rollout(RolloutArgs),
    /// Read a prompt, decode rows.
    Tokens {
        #[command(flatten)]
        place: Place,
        /// To decode at once; several are measured one after the other.
        #[arg(long, num_args = 1.., default_values_t = [32])]
        rows: Vec<usize>,
    },
    /// Take steps of training.
    Train(TrainArgs),
    /// The logits after the last of some tokens.
    Logits {
        #[command(flatten)]
        place: Place,
        #[arg(long)]
        tokens: usize,
        /// Of which the last are run one by one.
        #[arg(long, default_value_t = 0)]
        decoded: usize,
    },
}

/// Where a model runs.
#[derive(clap::Args)]
struct Place {
    /// A `.gguf` file or a folder.
    #[arg(long)]
    model: PathBuf,
    #[arg(long, default_value = "cpu")]
    device: String,
    #[arg(long, default_value = "f32")]
    dtype: String,
}

impl Place {
    fn load(&self) -> Arc<Model> {
        let placement = Placement::new(&self.device, &self.dtype, None).unwrap_or_else(|e| panic!("{e}"));
        Arc::new(Model::load_for(&self.model, &placement).unwrap_or_else(|e| panic!("{e}")))
    }
}

#[derive(clap::Args)]
struct RolloutArgs {
    experiment: PathBuf,
    /// The folder with `environments/`.
    #[arg(long)]
    configs: PathBuf,
    #[arg(long, default_value_t = 16)]
    episodes: usize,
    /// A `.gguf` file or a folder.
    #[arg(long)]
    model: PathBuf,
    /// Memory for keys and values, in MiB. Default: as a worker takes.
    #[arg(long)]
    kv_mib: Option<usize>,
    #[arg(long, default_value = "f32")]
    dtype: String,
    /// Keys and values are kept in.
    #[arg(long, default_value = "f32")]
    kv_dtype: String,
    /// Episodes at once; by default as many as a worker takes.
    #[arg(long, default_value_t = 6)]
    at_once: usize,
    /// Where the figures and calls go, as JSON.
    #[arg(long)]
    out: PathBuf,
}

#[derive(clap::Args)]
struct TrainArgs {
    #[command(flatten)]
    place: Place,
    /// In each step.
    #[arg(long, default_value_t = 8)]
    rows: usize,
    /// Tokens of a row.
    #[arg(long, default_value_t = 512)]
    length: usize,
    #[arg(long, default_value_t = 2)]
    steps: usize,
    /// For layers' graphs, in MiB; 0 runs every layer again.
    #[arg(long)]
    graph_mib: Option<usize>,
}

fn main() {
    // SAFETY: there is no other thread yet.
    unsafe { influence_engine::leave_threads_to_rayon() };
    allocator::keep_freed_memory();
    // `cargo bench` adds it.
    match Command::parse_from(std::env::args().filter(|argument| argument != "--bench")) {
        Command::Rollout(args) => rollout::run(&args),
        Command::Tokens { place, rows } => tokens::run(&place.load(), &rows),
        Command::Train(args) => train::run(&args),
        Command::Logits { place, tokens, decoded } => tokens::logits(&place.load(), tokens, decoded),
    }
}
