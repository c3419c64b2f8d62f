//! What the engine has done so far.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Live counters, written by the step loop.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) generations: AtomicU64,
    pub(super) scores: AtomicU64,
    pub(super) failed: AtomicU64,
    pub(super) cancelled: AtomicU64,
    pub(super) generate_prompt_tokens: AtomicU64,
    pub(super) score_prompt_tokens: AtomicU64,
    pub(super) generate_reused_tokens: AtomicU64,
    pub(super) score_reused_tokens: AtomicU64,
    pub(super) generated_tokens: AtomicU64,
    pub(super) score_tokens: AtomicU64,
    pub(super) steps: AtomicU64,
    pub(super) step_rows: AtomicU64,
    pub(super) running_rows: AtomicU64,
    pub(super) waiting_rows: AtomicU64,
    pub(super) kv_bytes: AtomicU64,
    by_label: Mutex<BTreeMap<&'static str, Tally>>,
}

/// What the requests of one label took.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// Requests that were admitted.
    pub requests: u64,
    /// Tokens of their prompts.
    pub prompt_tokens: u64,
    /// Of these, known from earlier requests.
    pub reused_tokens: u64,
    /// Tokens that were sampled for those that are complete.
    pub generated_tokens: u64,
    /// How long they waited for a row and memory, all together.
    pub queued: Duration,
}

/// A reading of the engine's counters. Token counts and requests only grow; the last three are of this moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct EngineCounters {
    /// Generations that were completed.
    pub generations: u64,
    /// Scores that were completed.
    pub scores: u64,
    /// Requests that ended with an error inside the step loop.
    pub failed: u64,
    /// Requests whose asker went away.
    pub cancelled: u64,
    /// Prompt tokens that were run for generations.
    pub generate_prompt_tokens: u64,
    /// Prompt tokens that were run for scores.
    pub score_prompt_tokens: u64,
    /// Prompt tokens of generations that were known from earlier requests.
    pub generate_reused_tokens: u64,
    /// Prompt tokens of scores that were known from earlier requests.
    pub score_reused_tokens: u64,
    /// Tokens that were sampled.
    pub generated_tokens: u64,
    /// Tokens of answers' forms that were run for scores, after their prompts.
    pub score_tokens: u64,
    /// Forward passes.
    pub steps: u64,
    /// Rows of all passes together: over `steps`, how full they are.
    pub step_rows: u64,
    /// Rows that hold a cache now.
    pub running_rows: u64,
    /// Requests that wait for room now.
    pub waiting_rows: u64,
    /// Bytes of keys and values that are held, remembered ones included.
    pub kv_bytes: u64,
}

impl Counters {
    pub(super) fn add(counter: &AtomicU64, amount: usize) {
        counter.fetch_add(amount as u64, Relaxed);
    }

    pub(super) fn tally(&self, label: &'static str, count: impl FnOnce(&mut Tally)) {
        count(self.by_label.lock().unwrap_or_else(PoisonError::into_inner).entry(label).or_default());
    }

    pub(super) fn tallies(&self) -> BTreeMap<&'static str, Tally> {
        self.by_label.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn read(&self) -> EngineCounters {
        EngineCounters {
            generations: self.generations.load(Relaxed),
            scores: self.scores.load(Relaxed),
            failed: self.failed.load(Relaxed),
            cancelled: self.cancelled.load(Relaxed),
            generate_prompt_tokens: self.generate_prompt_tokens.load(Relaxed),
            score_prompt_tokens: self.score_prompt_tokens.load(Relaxed),
            generate_reused_tokens: self.generate_reused_tokens.load(Relaxed),
            score_reused_tokens: self.score_reused_tokens.load(Relaxed),
            generated_tokens: self.generated_tokens.load(Relaxed),
            score_tokens: self.score_tokens.load(Relaxed),
            steps: self.steps.load(Relaxed),
            step_rows: self.step_rows.load(Relaxed),
            running_rows: self.running_rows.load(Relaxed),
            waiting_rows: self.waiting_rows.load(Relaxed),
            kv_bytes: self.kv_bytes.load(Relaxed),
        }
    }
}
