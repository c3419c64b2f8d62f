//! What a process tells of itself while it runs: its log, its traces, its metrics, its health.

mod log;
mod server;
mod traces;

use std::net::SocketAddr;

use anyhow::Context;
use clap::{Args, ValueEnum};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

pub(crate) use log::{fail, say};
pub(crate) use server::{health, measured};
use traces::Traces;

/// What is told, how, and to whom.
#[derive(Debug, Args)]
#[command(next_help_heading = "Observability")]
pub(crate) struct TelemetryArguments {
    /// What to log to stderr, as in `info` or `influence_worker=debug,warn`.
    #[arg(long, global = true, env = "INFLUENCE_LOG", default_value = "warn", value_name = "FILTER")]
    log: String,
    /// How to log: lines for people, or one JSON object per line.
    #[arg(long, global = true, env = "INFLUENCE_LOG_FORMAT", default_value = "text", value_name = "FORMAT")]
    log_format: LogFormat,
    /// Send traces to the OpenTelemetry collector at this address, by OTLP over gRPC, as in http://localhost:4317.
    #[arg(long, global = true, env = "OTEL_EXPORTER_OTLP_ENDPOINT", value_name = "URL")]
    otlp: Option<String>,
    /// Which share of episodes and trainings is traced, from 0 to 1.
    #[arg(long, global = true, env = "INFLUENCE_TRACE_SHARE", default_value_t = 1.0, value_name = "SHARE", value_parser = share)]
    trace_share: f64,
    /// Put what models were told, and what they said, into the traces.
    #[arg(long, global = true)]
    trace_content: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum LogFormat {
    Text,
    Json,
}

/// Where a process shows its metrics and its health.
#[derive(Debug, Clone, Args)]
pub(crate) struct MetricsArguments {
    /// Where `/metrics` (Prometheus), `/healthz` and `/readyz` are served, as in 127.0.0.1:9464. They ask for no credential.
    /// Default: nowhere.
    #[arg(long, env = "INFLUENCE_METRICS", value_name = "ADDR")]
    pub(crate) metrics: Option<SocketAddr>,
}

#[derive(Debug, Args)]
pub(crate) struct HealthArguments {
    /// Where the process serves its metrics.
    #[arg(long, env = "INFLUENCE_METRICS", default_value = "127.0.0.1:9464", value_name = "ADDR")]
    pub(crate) metrics: SocketAddr,
    /// Ask whether it is ready, too: a coordinator that leads, a worker that has its models and its coordinator.
    #[arg(long)]
    pub(crate) ready: bool,
}

/// What ends with the process.
#[derive(Debug)]
pub(crate) struct Telemetry {
    traces: Option<Traces>,
}

impl Telemetry {
    /// Begins to log and to trace; `command` names the process to whoever collects. Call it inside a runtime.
    pub(crate) fn start(arguments: &TelemetryArguments, command: &str) -> anyhow::Result<Self> {
        let log = log::layer(&arguments.log, arguments.log_format)?;
        // Compose files pass variables on that are empty.
        let collector = arguments.otlp.as_deref().filter(|url| !url.is_empty());
        let traces = collector.map(|url| Traces::to(url, arguments.trace_share, command)).transpose()?;
        let layer = traces.as_ref().map(|traces| traces.layer(arguments.trace_content));
        tracing_subscriber::registry().with(layer).with(log).try_init().context("the log could not be started")?;
        Ok(Self { traces })
    }

    /// Sends what is left.
    pub(crate) fn end(self) {
        if let Some(traces) = self.traces {
            traces.end();
        }
    }
}

fn share(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(share) if (0.0..=1.0).contains(&share) => Ok(share),
        Ok(_) => Err("must be from 0 to 1".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}
