//! One piece of unfinished work.

use std::sync::Arc;

use influence_proto::WorkId;

use super::event::{Kind, Task};
use super::worker::Seat;

/// The position of work in the order of submission; never given twice.
pub(super) type Place = u64;

/// A piece of work that has not ended.
#[derive(Debug)]
pub(super) struct Item {
    pub(super) work: Arc<WorkId>,
    pub(super) kind: Kind,
    /// The highest attempt ever granted.
    pub(super) attempt: u32,
    /// The attempt beside which that one was granted: the store accepts these two and no other.
    pub(super) partner: Option<u32>,
    /// Started attempts that were lost or failed.
    pub(super) losses: u32,
    /// The highest attempt was lost by expiry: should its holder be heard of again, it was not.
    pub(super) suspect: bool,
    /// The highest attempt is over, by its holder's own word or for standing still: a renewal that was
    /// on its way does not bring it back, and a repeated report does not count again.
    pub(super) barred: bool,
    /// It is not granted before that time.
    pub(super) not_before: u64,
    /// One, or two that run beside each other. Without any the work is in the queue.
    pub(super) leases: Vec<Held>,
    /// Since when it is listed among the episodes of which exactly one attempt runs.
    pub(super) lone: Option<u64>,
    pub(super) last_error: String,
}

/// A live lease.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) seat: Seat,
    pub(super) attempt: u32,
    pub(super) granted: u64,
    pub(super) expires: u64,
    /// When it is looked at next: never after it may have to end.
    pub(super) due: u64,
    pub(super) progress: u64,
    pub(super) progressed: u64,
    /// The holder has been heard of.
    pub(super) started: bool,
}

impl Item {
    pub(super) fn new(task: Task, not_before: u64) -> Self {
        Self {
            work: Arc::new(task.work),
            kind: task.kind,
            attempt: task.attempt,
            partner: None,
            losses: 0,
            suspect: false,
            barred: false,
            not_before,
            leases: Vec::new(),
            lone: None,
            last_error: String::new(),
        }
    }

    pub(super) fn lease(&self, attempt: u32) -> Option<&Held> {
        self.leases.iter().find(|lease| lease.attempt == attempt)
    }

    pub(super) fn take_lease(&mut self, attempt: u32) -> Option<Held> {
        let at = self.leases.iter().position(|lease| lease.attempt == attempt)?;
        Some(self.leases.remove(at))
    }

    pub(super) fn held_by(&self, seat: Seat) -> bool {
        self.leases.iter().any(|lease| lease.seat == seat)
    }

    /// Whether the store would still accept this attempt's result, as far as this machine granted.
    pub(super) fn accepts(&self, attempt: u32) -> bool {
        attempt == self.attempt || Some(attempt) == self.partner
    }

    /// Whether the holder's word about the end of this attempt says anything new.
    pub(super) fn open(&self, attempt: u32) -> bool {
        self.lease(attempt).is_some() || (attempt == self.attempt && !self.barred)
    }
}

impl Held {
    pub(super) const fn new(seat: Seat, attempt: u32, now: u64, lease_ms: u64) -> Self {
        let expires = now + lease_ms;
        Self { seat, attempt, granted: now, expires, due: expires, progress: 0, progressed: now, started: false }
    }

    /// A sign of life, and perhaps of progress: a stored turn is one in itself.
    pub(super) fn heard(&mut self, progress: Option<u64>, now: u64, lease_ms: u64) {
        self.started = true;
        self.expires = now + lease_ms;
        if progress.is_none_or(|p| p > self.progress) {
            self.progress = progress.unwrap_or(self.progress);
            self.progressed = now;
        }
    }
}
