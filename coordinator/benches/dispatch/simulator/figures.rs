//! Waiting times, and counts.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// A slot that waits for a lease.
#[derive(Debug, Clone, Copy)]
pub(super) struct FreeSlot {
    since: Instant,
    /// Of the episode that it was free of; none before the first.
    iteration: Option<u32>,
}

/// What the workers count while they work.
#[derive(Debug)]
pub(super) struct Counters {
    per_iteration: u32,
    leases: AtomicU32,
    finished: AtomicU32,
    figures: Mutex<Figures>,
}

/// All waiting times in microseconds, and what went wrong.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Figures {
    /// From a slot's last episode to its next lease, both of one iteration: there was work all the while.
    pub(crate) refills: Vec<u32>,
    /// The same for slots that were empty when the iteration began, from the first lease of that iteration on.
    pub(crate) fills: Vec<u32>,
    /// Calls of `RecordTurn`.
    pub(crate) records: Vec<u32>,
    /// Leases that were taken away.
    pub(crate) lost: u32,
    /// Calls and streams that failed.
    pub(crate) errors: u32,
    #[serde(skip)]
    began: Vec<Option<Instant>>,
}

impl Counters {
    pub(super) fn new(per_iteration: u32) -> Self {
        Self { per_iteration, leases: AtomicU32::new(0), finished: AtomicU32::new(0), figures: Mutex::default() }
    }

    pub(super) fn slot(iteration: Option<u32>) -> FreeSlot {
        FreeSlot { since: Instant::now(), iteration }
    }

    /// A slot got a lease. Returns the iteration that it is of, as an iteration begins when the last has ended, and
    /// whether it is the slot's first of it.
    pub(super) fn leased(&self, slot: FreeSlot) -> (u32, bool) {
        let iteration = self.leases.fetch_add(1, Relaxed) / self.per_iteration;
        let mut figures = self.figures.lock().expect("nobody panics with it");
        let at = iteration as usize;
        if figures.began.len() <= at {
            figures.began.resize(at + 1, None);
        }
        let began = *figures.began[at].get_or_insert_with(Instant::now);
        let first = slot.iteration != Some(iteration);
        match first {
            false => figures.refills.push(micros(slot.since.elapsed())),
            true => figures.fills.push(micros(began.max(slot.since).elapsed())),
        }
        (iteration, first)
    }

    pub(super) fn recorded(&self, took: Duration) {
        self.figures.lock().expect("nobody panics with it").records.push(micros(took));
    }

    pub(super) fn episode(&self) {
        self.finished.fetch_add(1, Relaxed);
    }

    pub(super) fn finished(&self) -> u32 {
        self.finished.load(Relaxed)
    }

    pub(super) fn lost(&self, why: &str) {
        let mut figures = self.figures.lock().expect("nobody panics with it");
        figures.lost += 1;
        if figures.lost <= 5 {
            eprintln!("a lease was lost: {why}");
        }
    }

    /// Says the first few.
    pub(super) fn error(&self, what: &str, error: &dyn std::fmt::Display) {
        let mut figures = self.figures.lock().expect("nobody panics with it");
        figures.errors += 1;
        if figures.errors <= 5 {
            eprintln!("{what}: {error}");
        }
    }

    pub(super) fn take(&self) -> Figures {
        std::mem::take(&mut self.figures.lock().expect("nobody panics with it"))
    }
}

impl Figures {
    pub(crate) fn refill(&self) -> (f64, f64) {
        median_and_high(&self.refills)
    }

    pub(crate) fn fill(&self) -> (f64, f64) {
        median_and_high(&self.fills)
    }

    pub(crate) fn record(&self) -> (f64, f64) {
        median_and_high(&self.records)
    }

    pub(crate) fn json(&self) -> Value {
        let pair = |(median, high): (f64, f64)| json!({"p50_ms": median, "p99_ms": high});
        json!({
            "free_slot_to_lease": pair(self.refill()), "plan_to_lease": pair(self.fill()),
            "record_turn": pair(self.record()), "turns": self.records.len(),
            "leases": self.refills.len() + self.fills.len(), "lost_leases": self.lost, "errors": self.errors,
        })
    }
}

fn micros(time: Duration) -> u32 {
    u32::try_from(time.as_micros()).unwrap_or(u32::MAX)
}

/// In milliseconds; 0 of nothing.
fn median_and_high(micros: &[u32]) -> (f64, f64) {
    let mut sorted = micros.to_vec();
    sorted.sort_unstable();
    let at = |share: f64| sorted.get((sorted.len() as f64 * share) as usize).map_or(0.0, |m| f64::from(*m) / 1000.0);
    (at(0.5), at(0.99))
}
