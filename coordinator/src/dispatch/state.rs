//! The state machine: who holds what. No sockets, no clock, no sleep.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use influence_proto::{Failure, HeldLease, WorkId, WorkerId};

use super::event::{Effect, Event, Kind, Limits, Task};

/// All leases of a run. One owner calls [`Dispatch::handle`] and carries the effects out.
#[derive(Debug)]
pub struct Dispatch {
    pub(super) limits: Limits,
    pub(super) items: HashMap<WorkId, Item>,
    /// Work without a lease, in the order in which it was submitted.
    pub(super) pending: BTreeMap<u64, WorkId>,
    pub(super) workers: BTreeMap<WorkerId, Worker>,
    /// Unfinished training jobs.
    pub(super) trainings: usize,
    submitted: u64,
    /// When the first event came: until `reclaim_ms` later, unknown work may yet be submitted.
    born: Option<u64>,
}

#[derive(Debug)]
pub(super) struct Item {
    pub(super) kind: Kind,
    pub(super) position: u64,
    /// The highest attempt ever granted.
    pub(super) attempt: u32,
    /// Started attempts that were lost or failed.
    pub(super) losses: u32,
    /// The last loss was an expiry: should its holder be heard of again, it was none.
    pub(super) suspect: bool,
    /// The last attempt is over, by its holder's own word or for standing still: a renewal that was
    /// on its way does not bring it back, and a repeated report does not count again.
    pub(super) barred: bool,
    pub(super) not_before: u64,
    pub(super) lease: Option<Held>,
    pub(super) last_error: String,
}

#[derive(Debug)]
pub(super) struct Held {
    pub(super) worker: WorkerId,
    pub(super) expires: u64,
    pub(super) progress: u64,
    pub(super) progressed: u64,
    /// The holder has been heard of.
    pub(super) started: bool,
}

#[derive(Debug, Default)]
pub(super) struct Worker {
    pub(super) can_train: bool,
    pub(super) connected: bool,
    pub(super) draining: bool,
    pub(super) credits: u32,
    /// The most credits it ever had at once: it holds no more episodes than this, even when its
    /// credits and our leases crossed on the way.
    pub(super) peak: u32,
    pub(super) held: BTreeSet<WorkId>,
    pub(super) last_seen: u64,
}

impl Dispatch {
    /// Nothing to do, and nobody to do it.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            items: HashMap::new(),
            pending: BTreeMap::new(),
            workers: BTreeMap::new(),
            trainings: 0,
            submitted: 0,
            born: None,
        }
    }

    /// Takes in what happened at `now` and says what to do, in this order.
    pub fn handle(&mut self, event: Event, now: u64) -> Vec<Effect> {
        let born = *self.born.get_or_insert(now);
        let mut effects = Vec::new();
        match event {
            Event::Submit(task) => self.submit(task, born, now),
            Event::Joined { worker, can_train } => {
                let entry = self.workers.entry(worker).or_default();
                entry.can_train = can_train;
                entry.last_seen = now;
            }
            Event::Connected(worker) => self.with_worker(&worker, now, |w| w.connected = true),
            Event::Disconnected(worker) => self.disconnected(&worker, now),
            Event::Credits(worker, credits) => self.with_worker(&worker, now, |w| {
                w.credits = credits;
                w.peak = w.peak.max(credits);
            }),
            Event::Draining(worker) => self.with_worker(&worker, now, |w| w.draining = true),
            Event::Renewed(worker, held) => self.renewed(&worker, held, born, now, &mut effects),
            Event::TurnRecorded { worker, work, attempt } => {
                self.heard(&worker, &work, attempt, None, now);
            }
            Event::Finished { work, attempt } => {
                if self.items.get(&work).is_some_and(|item| item.attempt == attempt) {
                    self.finished(work, &mut effects);
                }
            }
            Event::AlreadyFinished(work) => self.finished(work, &mut effects),
            Event::Failed { work, attempt, failure } => self.failed(work, attempt, failure, now, &mut effects),
            Event::Returned { work, attempt } => {
                if self.is_current(&work, attempt) {
                    self.release(&work, now, true);
                }
            }
            Event::GrantLost { work, attempt, stored } => {
                if self.is_current(&work, attempt) {
                    self.release(&work, now + self.limits.retry_ms, true);
                    if let Some(item) = self.items.get_mut(&work) {
                        item.attempt = item.attempt.max(stored);
                    }
                }
            }
            Event::Tick => self.expire(now, &mut effects),
        }
        self.schedule(now, &mut effects);
        effects
    }

    /// Workers whose stream is open.
    pub fn connected(&self) -> usize {
        self.workers.values().filter(|w| w.connected).count()
    }

    /// Whether the worker was let in and has not been forgotten.
    pub fn knows(&self, worker: &WorkerId) -> bool {
        self.workers.contains_key(worker)
    }

    /// Whether this attempt is the work's current one, leased or not.
    pub fn is_current(&self, work: &WorkId, attempt: u32) -> bool {
        self.items.get(work).is_some_and(|item| item.attempt == attempt)
    }

    /// Whether the worker holds this attempt now.
    pub fn holds(&self, worker: &WorkerId, work: &WorkId, attempt: u32) -> bool {
        self.items
            .get(work)
            .is_some_and(|i| i.attempt == attempt && i.lease.as_ref().is_some_and(|l| l.worker == *worker))
    }

    fn submit(&mut self, task: Task, born: u64, now: u64) {
        if self.items.contains_key(&task.work) {
            return;
        }
        let position = self.submitted;
        self.trainings += usize::from(task.kind == Kind::Training);
        self.submitted += 1;
        let may_return = task.attempt > 0 && now < born + self.limits.reclaim_ms;
        self.pending.insert(position, task.work.clone());
        self.items.insert(
            task.work,
            Item {
                kind: task.kind,
                position,
                attempt: task.attempt,
                losses: 0,
                suspect: false,
                barred: false,
                not_before: if may_return { born + self.limits.reclaim_ms } else { now },
                lease: None,
                last_error: String::new(),
            },
        );
    }

    fn with_worker(&mut self, worker: &WorkerId, now: u64, change: impl FnOnce(&mut Worker)) {
        if let Some(worker) = self.workers.get_mut(worker) {
            worker.last_seen = now;
            change(worker);
        }
    }

    fn disconnected(&mut self, worker: &WorkerId, now: u64) {
        let Some(gone) = self.workers.get_mut(worker) else { return };
        gone.connected = false;
        gone.credits = 0;
        gone.last_seen = now;
        for work in &gone.held {
            if let Some(lease) = self.items.get_mut(work).and_then(|item| item.lease.as_mut()) {
                lease.expires = lease.expires.min(now + self.limits.grace_ms);
            }
        }
    }

    fn renewed(&mut self, worker: &WorkerId, held: Vec<HeldLease>, born: u64, now: u64, effects: &mut Vec<Effect>) {
        self.with_worker(worker, now, |_| {});
        for HeldLease { work, attempt, progress } in held {
            if self.heard(worker, &work, attempt, Some(progress), now) {
                continue;
            }
            let reason = match self.items.get(&work) {
                Some(item) if item.attempt == attempt => "the lease ran out and cannot be renewed".to_owned(),
                Some(item) => format!("attempt {} has taken its place", item.attempt),
                None if now < born + self.limits.reclaim_ms => continue,
                None => "it is finished or given up".to_owned(),
            };
            effects.push(Effect::Revoke { worker: worker.clone(), work, attempt, reason });
        }
    }

    /// A sign of life of an attempt. Renews its lease, or gives it back one that had run out; false
    /// if the attempt is not the current one or another worker holds it.
    fn heard(&mut self, worker: &WorkerId, work: &WorkId, attempt: u32, progress: Option<u64>, now: u64) -> bool {
        let Some(known) = self.workers.get_mut(worker) else { return false };
        let Some(item) = self.items.get_mut(work).filter(|item| item.attempt == attempt) else { return false };
        if item.barred {
            return false;
        }
        let lease_ms = self.limits.lease_ms;
        let lease = item.lease.get_or_insert_with(|| {
            item.losses -= u32::from(std::mem::take(&mut item.suspect));
            let worker = worker.clone();
            Held { worker, expires: now, progress: progress.unwrap_or(0), progressed: now, started: true }
        });
        if lease.worker != *worker {
            return false;
        }
        self.pending.remove(&item.position);
        known.held.insert(work.clone());
        known.last_seen = now;
        lease.started = true;
        lease.expires = now + lease_ms;
        if progress.is_none_or(|p| p > lease.progress) {
            lease.progress = progress.unwrap_or(lease.progress);
            lease.progressed = now;
        }
        true
    }

    fn finished(&mut self, work: WorkId, effects: &mut Vec<Effect>) {
        let Some(item) = self.items.remove(&work) else { return };
        self.forget(&work, &item);
        effects.push(Effect::Finished(work));
    }

    /// Takes a removed item out of the indexes.
    fn forget(&mut self, work: &WorkId, item: &Item) {
        self.pending.remove(&item.position);
        self.trainings -= usize::from(item.kind == Kind::Training);
        if let Some(worker) = item.lease.as_ref().and_then(|lease| self.workers.get_mut(&lease.worker)) {
            worker.held.remove(work);
        }
    }

    fn failed(&mut self, work: WorkId, attempt: u32, failure: Failure, now: u64, effects: &mut Vec<Effect>) {
        let attempts = self.limits.attempts;
        let current = |item: &&mut Item| item.attempt == attempt && !item.barred;
        let Some(item) = self.items.get_mut(&work).filter(current) else { return };
        if !std::mem::take(&mut item.suspect) {
            item.losses += 1;
        }
        item.last_error = failure.message;
        if !failure.retryable || item.losses >= attempts {
            return self.exhausted(work, effects);
        }
        self.release(&work, now + self.limits.retry_ms, true);
    }

    fn exhausted(&mut self, work: WorkId, effects: &mut Vec<Effect>) {
        let Some(item) = self.items.remove(&work) else { return };
        self.forget(&work, &item);
        effects.push(Effect::Exhausted { work, attempt: item.attempt, error: item.last_error });
    }

    /// Puts work back to its place in the queue. Unless `over`, a sign of life of its last attempt
    /// takes it out again.
    fn release(&mut self, work: &WorkId, not_before: u64, over: bool) {
        let Some(item) = self.items.get_mut(work) else { return };
        item.barred = over;
        if let Some(lease) = item.lease.take()
            && let Some(worker) = self.workers.get_mut(&lease.worker)
        {
            worker.held.remove(work);
        }
        item.not_before = not_before;
        self.pending.insert(item.position, work.clone());
    }

    fn expire(&mut self, now: u64, effects: &mut Vec<Effect>) {
        let held: Vec<WorkId> = self.workers.values().flat_map(|w| w.held.iter().cloned()).collect();
        for work in held {
            let Some(item) = self.items.get_mut(&work) else { continue };
            let Some(lease) = &item.lease else { continue };
            let stalled = now >= lease.progressed + self.limits.stall_ms;
            if now < lease.expires && !stalled {
                continue;
            }
            let (worker, attempt) = (lease.worker.clone(), item.attempt);
            let reason = if stalled {
                format!("it made no progress for {} s", self.limits.stall_ms / 1000)
            } else {
                "the lease ran out without being renewed".to_owned()
            };
            item.last_error = format!("attempt {attempt} on worker `{worker}`: {reason}");
            item.suspect = lease.started && !stalled;
            item.losses += u32::from(lease.started);
            effects.push(Effect::Revoke { worker, work: work.clone(), attempt, reason });
            if item.losses >= self.limits.attempts {
                self.exhausted(work, effects);
            } else {
                self.release(&work, now, stalled);
            }
        }
        let forget_ms = self.limits.grace_ms.max(self.limits.lease_ms);
        self.workers.retain(|_, w| w.connected || !w.held.is_empty() || now < w.last_seen + forget_ms);
    }
}
