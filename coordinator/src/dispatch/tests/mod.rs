//! Every rule by a small example, and all of them over random histories.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod attempts;
mod audit;
mod duplicates;
mod histories;
mod leases;
mod placing;
mod scale;
mod standing;
mod world;

use std::sync::LazyLock;

use influence_proto::{Failure, HeldLease, WorkId, WorkerId};

use super::item::Item;
use super::{Dispatch, Effect, Event, Kind, Limits, Task};

const LIMITS: Limits = Limits {
    lease_ms: 1000,
    grace_ms: 500,
    stall_ms: 5000,
    reclaim_ms: 0,
    retry_ms: 10,
    straggler_ms: 2000,
    attempts: 3,
};

fn work(i: usize) -> WorkId {
    // Histories ask for the same few a million times.
    static FEW: LazyLock<Vec<WorkId>> = LazyLock::new(|| (0..40).map(new_work).collect());
    FEW.get(i).cloned().unwrap_or_else(|| new_work(i))
}

fn new_work(i: usize) -> WorkId {
    WorkId::new(format!("w{i}")).unwrap()
}

fn worker(i: usize) -> WorkerId {
    static FEW: LazyLock<Vec<WorkerId>> = LazyLock::new(|| (0..8).map(new_worker).collect());
    FEW.get(i).cloned().unwrap_or_else(|| new_worker(i))
}

fn new_worker(i: usize) -> WorkerId {
    WorkerId::new(format!("worker{i}")).unwrap()
}

fn kind(environment: &str, state: &str) -> Kind {
    Kind::Episode { environment: environment.into(), initial_state: state.into() }
}

fn episode(i: usize, environment: &str, state: &str) -> Event {
    Event::Submit(Task { work: work(i), attempt: 0, kind: kind(environment, state) })
}

fn joined(i: usize, can_train: bool) -> Event {
    Event::Joined { worker: worker(i), version: "0.1".into(), device: "cpu".into(), can_train }
}

/// A dispatcher with connected workers of so many credits each; the first one trains.
fn with_workers(limits: Limits, credits: &[u32]) -> Dispatch {
    let mut d = Dispatch::new(limits);
    for (i, credits) in credits.iter().enumerate() {
        d.handle(joined(i, i == 0), 0);
        d.handle(Event::Connected(worker(i)), 0);
        d.handle(Event::Credits(worker(i), *credits), 0);
    }
    d
}

fn item(d: &Dispatch, i: usize) -> &Item {
    &d.items[&d.places[&work(i)]]
}

fn grants(effects: &[Effect]) -> Vec<(String, String, u32)> {
    effects
        .iter()
        .filter_map(|e| match e {
            Effect::Grant { worker, work, attempt, .. } => Some((worker.to_string(), work.to_string(), *attempt)),
            _ => None,
        })
        .collect()
}

fn granted(worker: &str, work: &str, attempt: u32) -> Vec<(String, String, u32)> {
    vec![(worker.into(), work.into(), attempt)]
}

/// Who must drop which attempt.
fn revoked(effects: &[Effect]) -> Vec<(String, u32)> {
    effects
        .iter()
        .filter_map(|e| match e {
            Effect::Revoke { worker, attempt, .. } => Some((worker.to_string(), *attempt)),
            _ => None,
        })
        .collect()
}

fn held(i: usize, attempt: u32, progress: u64) -> HeldLease {
    HeldLease { work: work(i), attempt, progress }
}

fn renewed(w: usize, i: usize, attempt: u32, progress: u64) -> Event {
    Event::Renewed(worker(w), vec![held(i, attempt, progress)])
}

fn finished(i: usize, attempt: u32) -> Event {
    Event::Finished { work: work(i), attempt }
}

fn failed(i: usize, attempt: u32, retryable: bool) -> Event {
    Event::Failed { work: work(i), attempt, failure: Failure { retryable, message: "boom".into() } }
}

/// Nothing is remembered of work that has ended.
fn empty(d: &Dispatch) -> bool {
    let work = d.items.len() + d.places.len() + d.names.len() + d.queues.len() + d.lone.len();
    let held: usize = d.workers.values().map(|w| w.held.len() + w.trainings + w.environments.len()).sum();
    work + held + d.deadlines.len() + d.index.held_entries() == 0
}
