use std::time::Duration;

use askama::Template;
use axum::extract::{Path, State};
use influence_proto::{ClusterStatus, WorkerStanding};

use super::head::Head;
use super::{Page, render, run_id};
use crate::dashboard::Pages;
use crate::store::RunStatus;

#[derive(Template)]
#[template(path = "workers.html")]
struct WorkersPage {
    head: Head,
    /// What is being done, if this process is at it.
    now: Option<String>,
    problem: Option<String>,
    nobody: &'static str,
    workers: Vec<Line>,
}

struct Line {
    id: String,
    device: String,
    version: String,
    state: &'static str,
    /// Its class.
    shown: String,
    /// Told beside the state.
    why: String,
    slots: String,
    tokens: u32,
    turns: u64,
    memory: String,
    lost: u32,
    heard: String,
}

/// Who works on a run, as its coordinator sees it.
pub(in crate::dashboard) async fn workers(State(pages): State<Pages>, Path(run): Path<String>) -> Page {
    let run = pages.store.run(&run_id(run)?).await?;
    let status = pages.live.status(&run.id).await;
    let nobody = match (&status, &run.status) {
        (Some(_), _) => "No worker has joined yet.",
        (None, RunStatus::Running) => {
            "The process that serves this page does not carry the run on, so it knows of no workers. Its coordinator's own \
             dashboard shows them, and so does `influence cluster status`."
        }
        (None, _) => "Nobody works on this run now: it has ended.",
    };
    render(&WorkersPage {
        head: Head::new(&run, "workers"),
        now: status.as_ref().map(now),
        problem: status.as_ref().and_then(|status| status.store_problem.clone()),
        nobody,
        workers: status.iter().flat_map(|status| &status.standing.workers).map(line).collect(),
    })
}

fn now(status: &ClusterStatus) -> String {
    let paused = if status.standing.paused { ", paused" } else { "" };
    let failed =
        if status.episodes_failed > 0 { format!(", {} failed", status.episodes_failed) } else { String::new() };
    format!(
        "{}{paused} · {} of {} episodes finished{failed} · work: {} pending, {} leased · up {}",
        status.phase,
        status.episodes_done,
        status.episodes_total,
        status.standing.pending,
        status.standing.leased,
        span(status.uptime_ms),
    )
}

fn line(worker: &WorkerStanding) -> Line {
    let state = worker.state();
    let mut why = match state {
        "backing off" => vec![format!("{} requests are made again", worker.load.backing_off)],
        "stalled" => vec![format!("no progress for {}", span(worker.still_ms))],
        "away" => vec!["its leases wait a little for it".to_owned()],
        _ => Vec::new(),
    };
    why.extend(worker.draining.then(|| "draining".to_owned()));
    Line {
        id: worker.id.to_string(),
        device: worker.device.clone(),
        version: worker.version.clone(),
        state,
        shown: state.replace(' ', "-"),
        why: why.join(", "),
        slots: format!("{} of {}", worker.held, worker.slots.max(worker.held)),
        tokens: worker.tokens_per_second,
        turns: worker.turns,
        memory: match worker.load.memory_bytes {
            0 => "–".to_owned(),
            bytes => format!("{:.1} GiB", bytes as f64 / f64::from(1 << 30)),
        },
        lost: worker.stalled,
        heard: format!("{:.1} s ago", worker.silent_ms as f64 / 1000.0),
    }
}

/// A time, by its largest unit.
pub(super) fn span(milliseconds: u64) -> String {
    match Duration::from_millis(milliseconds).as_secs() {
        seconds @ 0..120 => format!("{seconds} s"),
        seconds @ 120..7_200 => format!("{} min", seconds / 60),
        seconds => format!("{} h", seconds / 3_600),
    }
}
