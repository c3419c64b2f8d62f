//! The command line, as clap types.

mod environments;
mod evaluation;
mod files;
mod model;
mod serve;

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
pub(crate) use environments::*;
pub(crate) use evaluation::*;
pub(crate) use files::*;
use influence_coordinator::store::StoreAddress;
pub(crate) use model::*;
pub(crate) use serve::*;

use crate::dashboard::DashboardAt;
use crate::telemetry::{HealthArguments, MetricsArguments, TelemetryArguments};

/// Measures, and reproduces on purpose, how optimising a language model on user feedback teaches it
/// to influence the user.
#[derive(Debug, Parser)]
#[command(name = "influence", version, max_term_width = 100)]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub telemetry: TelemetryArguments,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run an experiment here: coordinator and one worker in one process. Resumes a run that was
    /// interrupted; prints the table of one that is finished.
    Run(RunArguments),
    /// Coordinate an experiment; workers join from other processes.
    Coordinator(CoordinatorArguments),
    /// Join a coordinator and take a share of its work.
    Worker(WorkerArguments),
    /// See and steer a coordinator that is running.
    Cluster(ClusterArguments),
    /// Check experiments, models files and environment folders; reports every problem.
    Validate(ValidateArguments),
    /// Find out whether an experiment can run here: one real call for every role, models and servers, disk, store.
    Doctor(DoctorArguments),
    /// Print the JSON Schema of a kind of file, for editors.
    Schema {
        /// Which kind.
        of: SchemaName,
    },
    /// Turn an experiment of the Python benchmark into one of ours.
    Convert(ConvertArguments),
    /// See environments as models will: prompts, openings, state machines.
    #[command(subcommand)]
    Environments(EnvironmentsCommand),
    /// Have a model write more openings for an environment, into a file for review.
    GenerateStates(GenerateStatesArguments),
    /// List runs, or show one run's table.
    Runs(RunsArguments),
    /// Print the conversations of a run.
    Episodes(EpisodesArguments),
    /// Judge stored conversations by questions of your own, have trained agents converse anew in any class, or put a published
    /// benchmark to them.
    Evaluate(EvaluateArguments),
    /// Compare two iterations, of one run or of two, opening by opening.
    Compare(CompareArguments),
    /// Set a run beside what was published about its environment class.
    Reproduce(ReproduceArguments),
    /// Write a run as files for other tools: tables, training rows, adapters, logs, curves.
    Export(ExportArguments),
    /// Take trajectories of the Python benchmark in as a run.
    Import(ImportArguments),
    /// Write about a run: method, figures, conversations, limits.
    Report(ReportArguments),
    /// Serve the web pages of runs: figures and conversations.
    Dashboard(DashboardArguments),
    /// Ask a coordinator or worker of this machine how it is; for container probes. Fails unless it is well.
    Health(HealthArguments),
    /// Serve a model and its adapters to other programs, by OpenAI's protocol.
    Serve(ServeArguments),
    /// List, fetch and try models.
    #[command(subcommand)]
    Model(ModelCommand),
    /// Train a LoRA adapter on a file of conversations.
    Train(TrainArguments),
    /// Make the tokens of a cluster.
    #[command(subcommand)]
    Token(TokenCommand),
}

impl Command {
    /// For whoever collects what processes say.
    pub(crate) const fn name(&self) -> &'static str {
        match self {
            Self::Coordinator(_) => "coordinator",
            Self::Worker(_) => "worker",
            Self::Run(_) => "run",
            _ => "cli",
        }
    }
}

/// Where runs live.
#[derive(Debug, Clone, Args)]
pub(crate) struct DataArguments {
    /// The folder of the store, the artifacts and the runs' files.
    #[arg(long, env = "INFLUENCE_DATA", default_value = "runs", value_name = "DIR")]
    pub data: PathBuf,
    /// Where runs are remembered: `redis://HOST:PORT`, or a SQLite file. Default: `influence.sqlite` in
    /// the data folder.
    #[arg(long, env = "INFLUENCE_STORE", value_name = "URL", hide_env_values = true)]
    pub store: Option<StoreAddress>,
}

/// How this machine rolls out.
#[derive(Debug, Args)]
pub(crate) struct RolloutArguments {
    /// How many episodes are rolled out at once. Default: 6 on a CPU, 64 on other devices.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub slots: Option<u32>,
    /// What keys and values may take for each model, in MiB. Default: a quarter of the memory that is free, on a GPU most
    /// of it.
    #[arg(long, value_name = "MIB", value_parser = clap::value_parser!(u64).range(1..=1 << 30))]
    pub kv_memory: Option<u64>,
    /// Use these local files (a .gguf file, or a folder of safetensors) for a model. Repeatable.
    #[arg(long = "model", value_name = "NAME=PATH", value_parser = name_and_path)]
    pub models: Vec<(String, PathBuf)>,
    /// Keep what models behind APIs answer in this folder, and look there before asking them again.
    #[arg(long, value_name = "DIR")]
    pub response_cache: Option<PathBuf>,
    /// Where fetched models are kept. Default: `influence` in the user's cache folder.
    #[arg(long, env = "INFLUENCE_CACHE", value_name = "DIR")]
    pub cache: Option<PathBuf>,
}

impl RolloutArguments {
    /// Episodes at once on a device. More keep more keys and values alive, by which a CPU is little faster.
    pub(crate) fn slots_on(&self, device: &str) -> u32 {
        self.slots.unwrap_or(if device == "cpu" { 6 } else { 64 })
    }

    /// Calls at once that stand alone.
    pub(crate) fn calls_at_once(&self) -> usize {
        self.slots.unwrap_or(16) as usize
    }
}

/// Which experiment, and how it differs from its file.
#[derive(Debug, Clone, Args)]
pub(crate) struct ExperimentArguments {
    /// The experiment's YAML file.
    pub experiment: PathBuf,
    /// Set a key of the experiment, as in `training.learning_rate=1e-4`. Repeatable.
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = key_and_value)]
    pub set: Vec<(String, String)>,
    /// The run's seed, instead of the file's.
    #[arg(long)]
    pub seed: Option<u64>,
    /// The run's name, instead of the file's.
    #[arg(long)]
    pub name: Option<String>,
    /// The folder with `models.yaml` and `environments/`. Default: the parent of the folder that
    /// holds the experiment.
    #[arg(long, value_name = "DIR")]
    pub configs: Option<PathBuf>,
    /// Start a new run, though one of this name exists.
    #[arg(long)]
    pub fresh: bool,
    /// What the run may cost before it pauses, in dollars, by the prices in `models.yaml`.
    #[arg(long, value_name = "DOLLARS", value_parser = dollars)]
    pub budget: Option<f64>,
}

fn dollars(text: &str) -> Result<f64, String> {
    let dollars = text.trim_start_matches('$').parse::<f64>().map_err(|e| e.to_string())?;
    if dollars > 0.0 && dollars < 1e9 { Ok(dollars) } else { Err("must be above 0 and below a billion".to_owned()) }
}

#[derive(Debug, Args)]
pub(crate) struct RunArguments {
    #[command(flatten)]
    pub experiment: ExperimentArguments,
    #[command(flatten)]
    pub data: DataArguments,
    #[command(flatten)]
    pub rollouts: RolloutArguments,
    #[command(flatten)]
    pub metrics: MetricsArguments,
    /// Where the dashboard is while the run goes on, or `off`.
    #[arg(long, default_value = "127.0.0.1:5000", value_name = "ADDR")]
    pub dashboard: DashboardAt,
    #[command(flatten)]
    pub login: LoginArguments,
    /// Print the final table as JSON.
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct DoctorArguments {
    /// The experiment's YAML file.
    pub experiment: PathBuf,
    /// Set a key of the experiment, as in `training.learning_rate=1e-4`. Repeatable.
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = key_and_value)]
    pub set: Vec<(String, String)>,
    /// The folder with `models.yaml` and `environments/`. Default: the parent of the folder that
    /// holds the experiment.
    #[arg(long, value_name = "DIR")]
    pub configs: Option<PathBuf>,
    #[command(flatten)]
    pub data: DataArguments,
    /// Use these local files (a .gguf file, or a folder of safetensors) for a model. Repeatable.
    #[arg(long = "model", value_name = "NAME=PATH", value_parser = name_and_path)]
    pub models: Vec<(String, PathBuf)>,
    /// Where fetched models are kept. Default: `influence` in the user's cache folder.
    #[arg(long, env = "INFLUENCE_CACHE", value_name = "DIR")]
    pub cache: Option<PathBuf>,
    /// The device that workers shall use here: `cpu`, `cuda:N`, `metal`. The calls are made on the CPU.
    #[arg(long, default_value = "cpu", value_name = "DEVICE")]
    pub device: String,
    /// Print the findings as JSON.
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct CoordinatorArguments {
    #[command(flatten)]
    pub experiment: ExperimentArguments,
    #[command(flatten)]
    pub data: DataArguments,
    /// Where workers reach the coordinator. Addresses that other machines can reach need a worker's
    /// credential, and TLS.
    #[arg(long, default_value = "127.0.0.1:50051", value_name = "ADDR")]
    pub listen: SocketAddr,
    /// After how many seconds of a leader's silence a standby takes over. Of stores that several
    /// coordinators share.
    #[arg(long, default_value_t = 10, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub takeover: u64,
    /// Where the dashboard is while the run goes on, or `off`.
    #[arg(long, default_value = "127.0.0.1:5000", value_name = "ADDR")]
    pub dashboard: DashboardAt,
    #[command(flatten)]
    pub login: LoginArguments,
    #[command(flatten)]
    pub access: AccessArguments,
    #[command(flatten)]
    pub metrics: MetricsArguments,
    /// Go on serving the dashboard when the run is finished, until it is stopped.
    #[arg(long)]
    pub stay: bool,
    /// Where datasets, adapters and pushed models are kept: a folder, or s3://BUCKET/PREFIX, for
    /// which the usual AWS_* variables are read. Default: `artifacts` in the data folder.
    #[arg(long, value_name = "URL")]
    pub artifacts: Option<OsString>,
    /// Print the final table as JSON.
    #[arg(long)]
    pub json: bool,
}

/// What a coordinator asks of its callers.
#[derive(Debug, Args)]
pub(crate) struct AccessArguments {
    /// The folder with worker.token and admin.token, from `influence token create`. Default: the
    /// variables INFLUENCE_WORKER_TOKEN and INFLUENCE_ADMIN_TOKEN.
    #[arg(long, value_name = "DIR")]
    pub tokens: Option<PathBuf>,
    /// The coordinator's certificate (PEM), with those that it was signed with.
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    pub tls_cert: Option<PathBuf>,
    /// The certificate's private key (PEM).
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    pub tls_key: Option<PathBuf>,
    /// Mutual TLS: nobody connects without a certificate that one of these (PEM) has signed. Such a
    /// certificate is a worker's credential, in place of the token.
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    pub tls_client_ca: Option<PathBuf>,
    /// Let tokens travel in plain text between machines. For networks that are to be trusted.
    #[arg(long)]
    pub allow_plaintext: bool,
}

/// What a worker or an admin shows to the coordinator.
#[derive(Debug, Args)]
pub(crate) struct CredentialArguments {
    /// The file with the token. Default: the variable INFLUENCE_WORKER_TOKEN of a worker, INFLUENCE_ADMIN_TOKEN
    /// of an admin.
    #[arg(long, value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// Certificates (PEM) that signed the coordinator's. An https:// address needs it.
    #[arg(long, value_name = "FILE")]
    pub tls_ca: Option<PathBuf>,
    /// A certificate (PEM) of one's own, for mutual TLS.
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    pub tls_cert: Option<PathBuf>,
    /// The certificate's private key (PEM).
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    pub tls_key: Option<PathBuf>,
    /// Let the token travel in plain text to another machine. For networks that are to be trusted.
    #[arg(long)]
    pub allow_plaintext: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum TokenCommand {
    /// Write worker.token and admin.token, which only you can read, unless they are there already.
    Create {
        /// The folder for them.
        #[arg(long, default_value = "tokens", value_name = "DIR")]
        dir: PathBuf,
    },
}

#[derive(Debug, Args)]
pub(crate) struct WorkerArguments {
    /// The coordinator's address; those of its standbys too, the option repeated.
    #[arg(long = "coordinator", default_value = "http://127.0.0.1:50051", value_name = "URL")]
    pub coordinators: Vec<String>,
    #[command(flatten)]
    pub credentials: CredentialArguments,
    /// What the models run on: `cpu`, `cuda:N` (N counts from 0) or `metal`. The latter two need a build with the feature
    /// of that name.
    #[arg(long, default_value = "cpu", value_name = "DEVICE")]
    pub device: String,
    #[command(flatten)]
    pub rollouts: RolloutArguments,
    #[command(flatten)]
    pub metrics: MetricsArguments,
    /// The name that people see. Default: `worker-` and the process id.
    #[arg(long)]
    pub name: Option<String>,
    /// How long a worker that is asked to stop may go on with what it holds, in seconds.
    #[arg(long, default_value_t = 30)]
    pub grace: u64,
    /// How often the state of a training is uploaded, in seconds: another worker goes on from there.
    #[arg(long, default_value_t = 60, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub share_checkpoints: u64,
    /// What adapters and datasets may take in the cache, in GiB. The least recently used go first;
    /// models are not counted.
    #[arg(long, default_value_t = 20, value_name = "GIB", value_parser = clap::value_parser!(u64).range(1..=1 << 20))]
    pub cache_size: u64,
}

#[derive(Debug, Args)]
pub(crate) struct ClusterArguments {
    #[command(subcommand)]
    pub command: ClusterCommand,
    /// The coordinator's address.
    #[arg(long, global = true, default_value = "http://127.0.0.1:50051", value_name = "URL")]
    pub coordinator: String,
    #[command(flatten)]
    pub credentials: CredentialArguments,
    /// Print JSON.
    #[arg(long, global = true)]
    pub json: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ClusterCommand {
    /// Show what is being done, and the workers.
    Status,
    /// Ask a worker to hand back what it holds and leave.
    Drain {
        /// Its id, or its name where no other worker has it.
        worker: String,
    },
    /// Hand out nothing until resumed; what workers hold goes on.
    Pause,
    /// Hand out work again.
    Resume,
}

#[derive(Debug, Args)]
pub(crate) struct ValidateArguments {
    /// Experiments, model tables, evaluations, environment class folders, or folders of such.
    #[arg(required = true)]
    pub files: Vec<PathBuf>,
    /// As with `run`.
    #[arg(long, value_name = "DIR")]
    pub configs: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct RunsArguments {
    /// Show this run's table.
    pub run: Option<String>,
    #[command(flatten)]
    pub data: DataArguments,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct EpisodesArguments {
    /// The run.
    pub run: String,
    /// Only the training episodes of this iteration.
    #[arg(long)]
    pub iteration: Option<u32>,
    /// Only those that meet these conditions, as in `reward > 7 and environment ~ "smok" and selected = best`.
    #[arg(long)]
    pub filter: Option<String>,
    #[command(flatten)]
    pub data: DataArguments,
    /// Print one JSON object per episode.
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct DashboardArguments {
    #[command(flatten)]
    pub data: DataArguments,
    /// Where it is. Port 0 takes any free one.
    #[arg(long, default_value = "127.0.0.1:5000", value_name = "ADDR")]
    pub listen: SocketAddr,
    #[command(flatten)]
    pub login: LoginArguments,
    /// Load the models of this run, so that its playground can be played in.
    #[arg(long, value_name = "RUN")]
    pub play: Option<String>,
    /// Have workers of other processes load them, which join here: `influence worker --coordinator http://ADDR`. Default:
    /// this process has one of its own.
    #[arg(long, value_name = "ADDR", requires = "play")]
    pub workers: Option<SocketAddr>,
    /// Where the run's adapters are. Default: `artifacts` in the data folder.
    #[arg(long, value_name = "URL", requires = "play")]
    pub artifacts: Option<OsString>,
    #[command(flatten)]
    pub rollouts: RolloutArguments,
    #[command(flatten)]
    pub access: AccessArguments,
}

#[derive(Debug, Args)]
pub(crate) struct LoginArguments {
    /// The file of the token that the dashboard asks for. Needed where other machines can reach it.
    /// Default: the variable INFLUENCE_DASHBOARD_TOKEN.
    #[arg(long, value_name = "FILE")]
    pub dashboard_token: Option<PathBuf>,
    /// Let that token travel in plain text between machines. For networks that are to be trusted.
    #[arg(long)]
    pub dashboard_plaintext: bool,
}

fn name_and_path(text: &str) -> Result<(String, PathBuf), String> {
    let (name, path) = text.split_once('=').ok_or("must be NAME=PATH, as in smollm2-135m=/models/model.gguf")?;
    Ok((name.to_owned(), PathBuf::from(path)))
}

/// NAME=VALUE, or the value alone. A value with `/` before its `=` is a path.
fn perhaps_named(text: &str) -> Result<(Option<String>, String), String> {
    match text.split_once('=') {
        Some(("", _)) | Some((_, "")) => Err("must be NAME=VALUE or a value alone, both not empty".to_owned()),
        Some((name, value)) if !name.contains('/') => Ok((Some(name.to_owned()), value.to_owned())),
        _ => Ok((None, text.to_owned())),
    }
}

fn key_and_value(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("must be KEY=VALUE, as in iterations=3")?;
    Ok((key.to_owned(), value.to_owned()))
}
