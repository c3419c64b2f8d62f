//! `influence cluster`: a running coordinator as its administrator sees it.

use std::time::Duration;

use comfy_table::{CellAlignment, Table, presets};
use indicatif::HumanDuration;
use influence_proto::{ClusterStatus, WorkerStanding};
use influence_worker::Admin;
use serde_json::json;

use crate::args::{ClusterArguments, ClusterCommand};
use crate::credentials;
use crate::terminal::{harmless, print};

pub(crate) async fn dispatch(arguments: ClusterArguments) -> anyhow::Result<()> {
    let admin = Admin::new(vec![arguments.coordinator], credentials::of_admin(&arguments.credentials)?)?;
    let as_json = arguments.json;
    match arguments.command {
        ClusterCommand::Status => {
            let status = admin.status().await?;
            if as_json {
                return print(&format!("{}\n", serde_json::to_string_pretty(&status)?));
            }
            print(&harmless(&page(&status)))
        }
        ClusterCommand::Drain { worker } => {
            let worker = admin.drain_worker(worker).await?;
            let words = format!("worker {worker} was asked to hand back what it holds and leave");
            done(as_json, json!({ "worker": worker }), &words)
        }
        ClusterCommand::Pause => {
            admin.pause().await?;
            done(as_json, json!({ "paused": true }), "paused: nothing is handed out; what workers hold goes on")
        }
        ClusterCommand::Resume => {
            admin.resume().await?;
            done(as_json, json!({ "paused": false }), "resumed: work is handed out")
        }
    }
}

fn done(as_json: bool, value: serde_json::Value, words: &str) -> anyhow::Result<()> {
    print(&if as_json { format!("{value:#}\n") } else { format!("{}\n", harmless(words)) })
}

/// The status for people.
fn page(status: &ClusterStatus) -> String {
    let ClusterStatus { run, phase, episodes_done, episodes_failed, episodes_total, standing, .. } = status;
    let paused = if standing.paused { ", paused" } else { "" };
    let failed = if *episodes_failed > 0 { format!(", {episodes_failed} failed") } else { String::new() };
    let mut text = format!(
        "run {run}: {phase}{paused}\n\
         episodes: {episodes_done} of {episodes_total} finished{failed}; work: {} pending, {} leased\n\
         coordinator: release {}, up {}, {} turns stored\n",
        standing.pending,
        standing.leased,
        status.version,
        HumanDuration(Duration::from_millis(status.uptime_ms)),
        status.turns,
    );
    if let Some(problem) = &status.store_problem {
        text.push_str(&format!("the store cannot be written: {problem}\n"));
    }
    if standing.workers.is_empty() {
        text.push_str("no worker has joined\n");
        return text;
    }
    let mut table = Table::new();
    let header = [
        "worker",
        "device",
        "release",
        "state",
        "free",
        "held",
        "duplicates",
        "stalled",
        "turns",
        "tokens/s",
        "last heard of",
    ];
    table.load_preset(presets::UTF8_FULL_CONDENSED).set_header(header);
    for column in table.column_iter_mut().skip(4) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    for worker in &standing.workers {
        table.add_row(row(worker));
    }
    text.push_str(&format!("{table}\n"));
    text
}

fn row(worker: &WorkerStanding) -> [String; 11] {
    let mut state = vec![worker.state()];
    state.extend(worker.draining.then_some("draining"));
    state.extend(worker.can_train.then_some("trains"));
    [
        worker.id.to_string(),
        worker.device.clone(),
        worker.version.clone(),
        state.join(", "),
        worker.credits.to_string(),
        worker.held.to_string(),
        worker.duplicates.to_string(),
        worker.stalled.to_string(),
        worker.turns.to_string(),
        worker.tokens_per_second.to_string(),
        format!("{:.1} s ago", worker.silent_ms as f64 / 1000.0),
    ]
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use influence_proto::{RunId, Standing, WorkerId, WorkerLoad};
    use influence_worker::Credentials;

    use super::*;

    fn status() -> ClusterStatus {
        let worker = WorkerStanding {
            id: WorkerId::new("gpu-1").unwrap(),
            device: "cuda\u{1b}[31m".into(),
            version: "0.1".into(),
            connected: true,
            draining: true,
            can_train: false,
            credits: 1,
            held: 22,
            duplicates: 3,
            stalled: 4,
            turns: 555,
            silent_ms: 1500,
            slots: 23,
            still_ms: 0,
            tokens_per_second: 6789,
            load: WorkerLoad::default(),
        };
        ClusterStatus {
            run: RunId::new("demo").unwrap(),
            phase: "rollout 3".into(),
            episodes_total: 9,
            episodes_done: 5,
            episodes_failed: 2,
            turns: 77,
            uptime_ms: 60_000,
            store_problem: Some("the disk is full".into()),
            version: "0.2".into(),
            standing: Standing { paused: true, pending: 3, leased: 1, workers: vec![worker] },
        }
    }

    #[test]
    fn the_page_says_all_that_is_known_and_obeys_no_escape_sequence() {
        let page = harmless(&page(&status()));
        for part in ["demo: rollout 3, paused", "5 of 9 finished, 2 failed", "3 pending, 1 leased", "the disk is full"]
        {
            assert!(page.contains(part), "{part} is missing in:\n{page}");
        }
        for part in ["gpu-1", "working, draining", "22", "555", "6789", "1.5 s ago", "cuda\\u{1b}[31m"] {
            assert!(page.contains(part), "{part} is missing in:\n{page}");
        }
    }

    #[test]
    fn a_cluster_without_workers_says_so() {
        let mut status = status();
        (status.standing.workers, status.episodes_failed) = (Vec::new(), 0);
        let page = page(&status);
        assert!(page.contains("no worker has joined") && !page.contains("failed"), "{page}");
    }

    #[tokio::test]
    async fn an_absent_coordinator_and_a_bad_address_are_named_with_the_way_out() {
        let admin = Admin::new(vec!["http://127.0.0.1:1".into()], Credentials::default()).unwrap();
        let away = admin.status().await.unwrap_err().to_string();
        assert!(away.contains("http://127.0.0.1:1") && away.contains("--coordinator URL"), "{away}");
        let bad = Admin::new(vec!["nonsense".into()], Credentials::default()).err().unwrap().to_string();
        assert!(bad.contains("`nonsense`") && bad.contains("http://HOST:PORT"), "{bad}");
    }
}
