//! `make bench`: the engine's side of it. `scripts/bench` runs this and its peers, and compares them.
//!
//! - `rollout EXPERIMENT --configs DIR --episodes N --model FILE --out FILE` rolls out the first episodes of the plan, and
//!   writes how long that took and every call of a model, by its tokens.
//! - `tokens --model FILE` prints how fast prompts are read and how fast rows are decoded.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a bench prints, and ends with whatever is wrong"
)]

mod calls;
mod process;
mod rollout;
mod tokens;

use std::path::PathBuf;

use clap::Parser;

// As in the binary.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[derive(Parser)]
#[command(about = "Measures the engine; see scripts/bench.")]
enum Command {
    /// Roll out episodes.
    Rollout(RolloutArgs),
    /// Read a prompt, decode rows.
    Tokens {
        /// A `.gguf` file or a folder.
        #[arg(long)]
        model: PathBuf,
    },
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
    /// Where the figures and calls go, as JSON.
    #[arg(long)]
    out: PathBuf,
}

fn main() {
    // SAFETY: there is no other thread yet.
    unsafe { influence_engine::leave_threads_to_rayon() };
    // `cargo bench` adds it.
    match Command::parse_from(std::env::args().filter(|argument| argument != "--bench")) {
        Command::Rollout(args) => rollout::run(&args),
        Command::Tokens { model } => tokens::run(&model),
    }
}
