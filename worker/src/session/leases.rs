//! The leases that this worker holds.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use influence_proto::{HeldLease, WorkId};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::client::Lost;
use crate::metrics;

/// All leases of this worker. Clones share them.
#[derive(Debug, Clone)]
pub(crate) struct Leases {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    slots: usize,
    held: Mutex<BTreeMap<(WorkId, u32), Held>>,
    /// Every lease is lost with it.
    ending: CancellationToken,
    /// Episodes that may be taken now.
    free: watch::Sender<usize>,
    /// No renewal got through for as long as a lease lives.
    lapsed: watch::Sender<bool>,
}

#[derive(Debug)]
struct Held {
    slots: usize,
    progress: Arc<AtomicU64>,
    lost: CancellationToken,
}

/// One lease, held until this is dropped.
#[derive(Debug)]
pub(crate) struct Holding {
    leases: Leases,
    key: (WorkId, u32),
    progress: Arc<AtomicU64>,
    lost: CancellationToken,
}

impl Leases {
    /// Of a worker that takes `slots` episodes at once.
    pub(crate) fn new(slots: usize) -> Self {
        let (held, ending) = (Mutex::default(), CancellationToken::new());
        let shared = Shared { slots, held, ending, free: watch::Sender::new(slots), lapsed: watch::Sender::new(false) };
        Self { shared: Arc::new(shared) }
    }

    /// Takes a lease that occupies `slots` slots. None when it is held already. Another attempt of the same work is lost
    /// by it.
    pub(crate) fn take(&self, work: WorkId, attempt: u32, slots: usize) -> Option<Holding> {
        let mut held = self.lock();
        let key = (work, attempt);
        if held.contains_key(&key) {
            return None;
        }
        for (other, lease) in held.iter() {
            if other.0 == key.0 {
                lease.lost.cancel();
            }
        }
        let (progress, lost) = (Arc::new(AtomicU64::new(0)), self.shared.ending.child_token());
        held.insert(key.clone(), Held { slots, progress: progress.clone(), lost: lost.clone() });
        self.tell(&held);
        Some(Holding { leases: self.clone(), key, progress, lost })
    }

    /// The coordinator took a lease back.
    pub(crate) fn lose(&self, lost: &Lost) {
        if let Some(held) = self.lock().get(&(lost.work.clone(), lost.attempt)) {
            tracing::info!(work = %lost.work, attempt = lost.attempt, reason = %lost.reason, "lease lost");
            metrics::lease_lost();
            held.lost.cancel();
        }
    }

    /// What a renewal says. Leases that are lost already are left out.
    pub(crate) fn report(&self) -> Vec<HeldLease> {
        let held = self.lock();
        let alive = held.iter().filter(|(_, lease)| !lease.lost.is_cancelled());
        alive
            .map(|((work, attempt), lease)| HeldLease {
                work: work.clone(),
                attempt: *attempt,
                progress: lease.progress.load(Ordering::Relaxed),
            })
            .collect()
    }

    /// Episodes that may be held at once.
    pub(crate) fn slots(&self) -> usize {
        self.shared.slots
    }

    /// Loses every lease when it is cancelled.
    pub(crate) fn ending(&self) -> &CancellationToken {
        &self.shared.ending
    }

    /// How many episodes may be taken, now and whenever that changes.
    pub(crate) fn free(&self) -> watch::Receiver<usize> {
        self.shared.free.subscribe()
    }

    /// As far as this worker can tell, its leases live, or have run out and others may have them.
    pub(crate) fn set_lapsed(&self, lapsed: bool) {
        let changed = self.shared.lapsed.send_if_modified(|now| std::mem::replace(now, lapsed) != lapsed);
        if changed && lapsed {
            tracing::warn!("no renewal got through for as long as a lease lives: work pauses at its next turn");
        }
    }

    /// Waits while the leases have run out: to go on would be in vain.
    pub(crate) async fn alive(&self) {
        // Its sender is in `self`.
        let _ = self.shared.lapsed.subscribe().wait_for(|lapsed| !lapsed).await;
    }

    fn tell(&self, held: &BTreeMap<(WorkId, u32), Held>) {
        let taken: usize = held.values().map(|lease| lease.slots).sum();
        let free = self.shared.slots.saturating_sub(taken);
        metrics::slots(self.shared.slots, free);
        self.shared.free.send_replace(free);
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<(WorkId, u32), Held>> {
        self.shared.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Holding {
    pub(crate) fn work(&self) -> &WorkId {
        &self.key.0
    }

    pub(crate) fn attempt(&self) -> u32 {
        self.key.1
    }

    /// Cancelled when the lease is lost.
    pub(crate) fn lost(&self) -> &CancellationToken {
        &self.lost
    }

    /// The work has moved on. The counter may be given to whoever moves it.
    pub(crate) fn progress(&self) -> &Arc<AtomicU64> {
        &self.progress
    }
}

impl Drop for Holding {
    fn drop(&mut self) {
        let mut held = self.leases.lock();
        held.remove(&self.key);
        self.leases.tell(&held);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn work(name: &str) -> WorkId {
        WorkId::new(name).unwrap()
    }

    #[test]
    fn slots_are_free_again_when_the_work_ends() {
        let leases = Leases::new(3);
        let free = leases.free();
        let first = leases.take(work("a"), 1, 1).unwrap();
        assert_eq!(*free.borrow(), 2);
        let training = leases.take(work("t"), 1, 3).unwrap();
        assert_eq!(*free.borrow(), 0, "a training takes all, and never fewer than none are left");
        drop(training);
        drop(first);
        assert_eq!(*free.borrow(), 3);
    }

    #[test]
    fn a_repeated_lease_is_ignored_and_a_newer_attempt_replaces_the_older() {
        let leases = Leases::new(2);
        let first = leases.take(work("a"), 1, 1).unwrap();
        assert!(leases.take(work("a"), 1, 1).is_none());
        let second = leases.take(work("a"), 2, 1).unwrap();
        assert!(first.lost().is_cancelled());
        assert!(!second.lost().is_cancelled());
        second.progress().store(7, Ordering::Relaxed);
        assert_eq!(leases.report(), [HeldLease { work: work("a"), attempt: 2, progress: 7 }]);
    }

    #[test]
    fn only_the_named_attempt_is_lost() {
        let leases = Leases::new(2);
        let held = leases.take(work("a"), 2, 1).unwrap();
        leases.lose(&Lost { work: work("a"), attempt: 1, reason: "expired".into() });
        assert!(!held.lost().is_cancelled());
        leases.lose(&Lost { work: work("a"), attempt: 2, reason: "expired".into() });
        assert!(held.lost().is_cancelled());
        assert!(leases.report().is_empty(), "a lost lease is not renewed");
    }
}
