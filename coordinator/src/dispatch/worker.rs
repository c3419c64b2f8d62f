//! One worker, and the indexes that every change of one keeps right.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use influence_proto::WorkerId;

use super::event::Kind;
use super::item::Place;
use super::rules::Rule;
use super::state::Dispatch;

/// A worker's number, in order of joining; never given twice.
pub(super) type Seat = u64;

/// A worker that was let in.
#[derive(Debug)]
pub(super) struct Worker {
    pub(super) id: WorkerId,
    pub(super) version: String,
    pub(super) device: String,
    pub(super) can_train: bool,
    pub(super) connected: bool,
    pub(super) draining: bool,
    pub(super) credits: u32,
    /// The most credits it ever had at once: it holds no more episodes than this, even when its
    /// credits and our leases crossed on the way.
    pub(super) peak: u32,
    pub(super) held: BTreeSet<Place>,
    /// Of these, training jobs.
    pub(super) trainings: usize,
    /// How many episodes of each environment it holds.
    pub(super) environments: BTreeMap<Arc<str>, usize>,
    pub(super) last_seen: u64,
    /// Leases that it lost for standing still.
    pub(super) stalled: u32,
    /// Turns of its that were stored.
    pub(super) turns: u64,
    /// The load under which the indexes list it: for episodes, for training.
    pub(super) listed: (Option<usize>, Option<usize>),
}

impl Worker {
    fn new(id: WorkerId) -> Self {
        Self {
            id,
            version: String::new(),
            device: String::new(),
            can_train: false,
            connected: false,
            draining: false,
            credits: 0,
            peak: 0,
            held: BTreeSet::new(),
            trainings: 0,
            environments: BTreeMap::new(),
            last_seen: 0,
            stalled: 0,
            turns: 0,
            listed: (None, None),
        }
    }

    fn has_room(&self) -> bool {
        self.credits > 0 && self.held.len() < self.peak as usize
    }
}

impl Dispatch {
    pub(super) fn joined(&mut self, worker: WorkerId, version: String, device: String, can_train: bool, now: u64) {
        let seat = *self.seats.entry(worker.clone()).or_insert_with(|| {
            self.joins += 1;
            self.workers.insert(self.joins, Worker::new(worker));
            self.joins
        });
        self.change(seat, |w| (w.version, w.device, w.can_train, w.last_seen) = (version, device, can_train, now));
    }

    pub(super) fn connect(&mut self, worker: &WorkerId, connected: bool, now: u64) {
        let Some(seat) = self.seats.get(worker).copied() else { return };
        let before = self.change(seat, |w| {
            w.last_seen = now;
            if !connected {
                w.credits = 0;
            }
            std::mem::replace(&mut w.connected, connected)
        });
        self.connected = self.connected + usize::from(connected) - usize::from(before == Some(true));
        if connected {
            return;
        }
        let Some(gone) = self.workers.get(&seat) else { return };
        for place in &gone.held {
            let leases = self.items.get_mut(place).map(|item| item.leases.as_mut_slice()).unwrap_or_default();
            for lease in leases.iter_mut().filter(|lease| lease.seat == seat) {
                lease.expires = lease.expires.min(now + self.limits.grace_ms);
                if lease.expires < lease.due {
                    self.deadlines.remove(&(lease.due, *place, lease.attempt));
                    lease.due = lease.expires;
                    self.deadlines.insert((lease.due, *place, lease.attempt));
                }
            }
        }
    }

    /// Something that the worker says about itself.
    pub(super) fn says(&mut self, worker: &WorkerId, now: u64, change: impl FnOnce(&mut Worker)) {
        if let Some(seat) = self.seats.get(worker).copied() {
            self.change(seat, |w| {
                w.last_seen = now;
                change(w);
            });
        }
    }

    /// The worker is alive; nothing else about it has changed.
    pub(super) fn seen(&mut self, worker: &WorkerId, now: u64) -> Option<Seat> {
        let seat = self.seats.get(worker).copied()?;
        self.workers.get_mut(&seat)?.last_seen = now;
        Some(seat)
    }

    /// Changes a worker in a way that may change what it can take.
    pub(super) fn change<T>(&mut self, seat: Seat, change: impl FnOnce(&mut Worker) -> T) -> Option<T> {
        let bounded = self.keeps(Rule::Credits);
        let worker = self.workers.get_mut(&seat)?;
        self.index.unlist(seat, worker);
        let result = change(worker);
        let present = worker.connected && !worker.draining;
        let load = worker.held.len();
        let room = present && (worker.has_room() || !bounded);
        let trains = present && worker.can_train && worker.trainings == 0;
        worker.listed = (room.then_some(load), trains.then_some(load));
        self.index.list(seat, worker);
        Some(result)
    }

    /// Enters a lease into its holder's books.
    pub(super) fn hold(&mut self, seat: Seat, place: Place, paid: bool) {
        let Some(kind) = self.items.get(&place).map(|item| item.kind.clone()) else { return };
        self.change(seat, |w| {
            w.held.insert(place);
            match &kind {
                Kind::Episode { environment, .. } => {
                    *w.environments.entry(environment.clone()).or_default() += 1;
                    w.credits = w.credits.saturating_sub(u32::from(paid));
                }
                Kind::Training => w.trainings += 1,
                Kind::Calls => w.credits = w.credits.saturating_sub(u32::from(paid)),
            }
        });
        self.index.hold(seat, &kind);
    }

    /// Strikes a lease out of its holder's books.
    pub(super) fn let_go(&mut self, seat: Seat, place: Place, kind: &Kind) {
        self.change(seat, |w| {
            w.held.remove(&place);
            match kind {
                Kind::Episode { environment, .. } => {
                    if let Some(count) = w.environments.get_mut(environment) {
                        *count -= 1;
                        if *count == 0 {
                            w.environments.remove(environment);
                        }
                    }
                }
                Kind::Training => w.trainings -= 1,
                Kind::Calls => {}
            }
        });
        self.index.let_go(seat, kind);
    }

    /// Forgets workers that have been away for so long that nothing of theirs can come any more.
    pub(super) fn forget(&mut self, now: u64) {
        let forget_ms = self.limits.grace_ms.max(self.limits.lease_ms);
        self.workers.retain(|seat, w| {
            let keep = w.connected || !w.held.is_empty() || now < w.last_seen + forget_ms;
            if !keep {
                self.index.unlist(*seat, w);
                self.seats.remove(&w.id);
            }
            keep
        });
    }
}
