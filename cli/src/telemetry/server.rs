//! Metrics and health over HTTP, for whoever watches over processes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, bail};
use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use influence_coordinator::metrics::METRICS as COORDINATOR;
use influence_worker::metrics::METRICS as WORKER;
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{HealthArguments, MetricsArguments, say};
use crate::terminal::print;

/// Upper bounds of durations, in seconds: calls of a store take milliseconds, those of models up to minutes.
const SECONDS: [f64; 14] = [0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0];
/// How often durations are sorted in, whether or not anybody asks.
const UPKEEP: Duration = Duration::from_secs(5);
/// No answer about health is longer.
const MOST_BYTES: u64 = 16 << 10;
/// How long a process may take to say how it is.
const ANSWER: Duration = Duration::from_secs(3);

/// Everything that any process of ours measures.
fn all() -> impl Iterator<Item = &'static influence_proto::Metric> {
    COORDINATOR.iter().chain(WORKER)
}

/// Metrics that are served, until this is ended or dropped.
#[derive(Debug, Default)]
pub(crate) struct Measured(Option<(DropGuard, JoinHandle<()>)>);

impl Measured {
    pub(crate) async fn end(self) {
        let Some((stop, serving)) = self.0 else { return };
        drop(stop);
        if let Err(error) = serving.await {
            say(format!("the metrics broke off: {error}"));
        }
    }
}

#[derive(Debug, Clone)]
struct Shown {
    metrics: PrometheusHandle,
    ready: watch::Receiver<bool>,
}

/// Serves metrics where they are asked for; `ready` says whether the process does what it is for.
pub(crate) async fn measured(at: &MetricsArguments, ready: watch::Receiver<bool>) -> anyhow::Result<Measured> {
    let Some(address) = at.metrics else { return Ok(Measured::default()) };
    let listener = TcpListener::bind(address)
        .await
        .with_context(|| format!("metrics cannot be served at {address}; give another address by --metrics"))?;
    let address = listener.local_addr()?;
    let recorder = PrometheusBuilder::new().set_buckets(&SECONDS).context("buckets of our own")?;
    let metrics = recorder.install_recorder().context("metrics are collected already")?;
    all().for_each(influence_proto::Metric::describe);
    say(format!("metrics: http://{address}/metrics"));
    let stop = CancellationToken::new();
    let (stopped, upkeep) = (stop.clone(), metrics.clone());
    let app = Router::new()
        .route("/metrics", get(page))
        .route("/healthz", get(|| async { "alive\n" }))
        .route("/readyz", get(readiness))
        .with_state(Shown { metrics, ready });
    let serving = tokio::spawn(async move {
        let sort_in = async {
            loop {
                tokio::time::sleep(UPKEEP).await;
                upkeep.run_upkeep();
            }
        };
        tokio::select! {
            // Nobody waits for a watcher's last page.
            () = stopped.cancelled() => {}
            ended = axum::serve(listener, app) => {
                if let Err(error) = ended {
                    tracing::error!(%error, "metrics are no longer served");
                }
            }
            () = sort_in => {}
        }
    });
    Ok(Measured(Some((stop.drop_guard(), serving))))
}

async fn page(State(shown): State<Shown>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], shown.metrics.render())
}

async fn readiness(State(shown): State<Shown>) -> impl IntoResponse {
    if *shown.ready.borrow() { (StatusCode::OK, "ready\n") } else { (StatusCode::SERVICE_UNAVAILABLE, "not ready\n") }
}

/// `influence health`: of another process of this machine.
pub(crate) async fn health(arguments: HealthArguments) -> anyhow::Result<()> {
    let mut address = arguments.metrics;
    // Where it listens on all addresses, it is reached here.
    match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => address.set_ip(Ipv4Addr::LOCALHOST.into()),
        IpAddr::V6(ip) if ip.is_unspecified() => address.set_ip(Ipv6Addr::LOCALHOST.into()),
        _ => {}
    }
    let path = if arguments.ready { "readyz" } else { "healthz" };
    let url = format!("http://{address}/{path}");
    let (status, said) = tokio::time::timeout(ANSWER, ask(address, path))
        .await
        .with_context(|| format!("{url} does not answer within {} s", ANSWER.as_secs()))?
        .with_context(|| format!("{url} does not answer; is --metrics (or INFLUENCE_METRICS) the same there?"))?;
    if status != 200 {
        bail!("{url} says: {}", said.trim());
    }
    print(&said)
}

/// Status and body of one page. By HTTP/1.0 an answer ends with its connection, and is not cut into chunks.
async fn ask(address: SocketAddr, path: &str) -> anyhow::Result<(u16, String)> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(format!("GET /{path} HTTP/1.0\r\nHost: localhost\r\n\r\n").as_bytes()).await?;
    let mut answer = Vec::new();
    stream.take(MOST_BYTES).read_to_end(&mut answer).await?;
    let answer = String::from_utf8_lossy(&answer);
    let status = answer.strip_prefix("HTTP/1.").and_then(|rest| rest.get(2..5)?.parse().ok());
    let status = status.context("it speaks something other than HTTP")?;
    let body = answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned());
    Ok((status, body.unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::collections::BTreeSet;
    use std::path::Path;

    use super::*;

    /// Names of metrics in a file, without what Prometheus adds to those of histograms.
    fn named(file: &str) -> BTreeSet<String> {
        let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(file)).unwrap();
        let word = |c: char| !(c.is_ascii_alphanumeric() || c == '_');
        let ours = text.split(word).filter(|word| word.starts_with("influence_") && *word != "influence_worker");
        let plain = |name: &str| name.trim_end_matches("_bucket").trim_end_matches("_count").to_owned();
        ours.map(plain).collect()
    }

    /// Protects: documents, dashboards and alerts speak of metrics that exist, and none is without a document.
    #[test]
    fn what_is_measured_is_what_is_documented() {
        let measured: BTreeSet<String> = all().map(|metric| metric.name.to_owned()).collect();
        assert_eq!(measured.len(), all().count(), "a name is taken twice");
        let documented = named("docs/operations.md");
        assert_eq!(documented, measured);
        for file in ["alerts.yaml", "grafana/dashboards/influence.json"] {
            let used = named(&format!("deploy/observability/{file}"));
            assert!(used.len() > 4 && used.is_subset(&measured), "{file}: {:?}", used.difference(&measured));
        }
        for metric in all() {
            let counts = metric.kind == influence_proto::MetricKind::Counter;
            assert_eq!(counts, metric.name.ends_with("_total"), "{}", metric.name);
        }
    }
}
