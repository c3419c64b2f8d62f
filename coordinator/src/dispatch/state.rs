//! The state machine: who holds what. No sockets, no clock, no sleep.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use influence_proto::{HeldLease, WorkId, WorkerId};

use super::event::{Effect, Event, Kind, Limits, Task};
use super::index::Index;
use super::item::{Held, Item, Place};
use super::queue::Queues;
use super::rules::Rule;
use super::worker::{Seat, Worker};

/// All leases of a run. One owner calls [`Dispatch::handle`] and carries the effects out.
///
/// An event costs about the logarithm of what there is.
#[derive(Debug)]
pub struct Dispatch {
    pub(super) limits: Limits,
    pub(super) items: HashMap<Place, Item>,
    pub(super) places: HashMap<Arc<WorkId>, Place>,
    /// Names of environments and initial states, each kept once.
    pub(super) names: HashSet<Arc<str>>,
    /// Work without a lease.
    pub(super) queues: Queues,
    /// All leases, by when they are looked at next.
    pub(super) deadlines: BTreeSet<(u64, Place, u32)>,
    /// Episodes of which exactly one attempt runs, by the time since when it does.
    pub(super) lone: BTreeSet<(u64, Place)>,
    /// Episodes of this batch that finished while they were held, and for how long they were in all.
    pub(super) finished: (u64, u64),
    pub(super) workers: BTreeMap<Seat, Worker>,
    pub(super) seats: HashMap<WorkerId, Seat>,
    pub(super) index: Index,
    /// Workers whose stream is open.
    pub(super) connected: usize,
    pub(super) joins: Seat,
    pub(super) paused: bool,
    submitted: Place,
    /// When the first event came: until `reclaim_ms` later, unknown work may yet be submitted.
    born: Option<u64>,
    /// The rule that this machine goes without.
    #[cfg(test)]
    pub(super) without: Option<Rule>,
}

impl Dispatch {
    /// Nothing to do, and nobody to do it.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            items: HashMap::new(),
            places: HashMap::new(),
            names: HashSet::new(),
            queues: Queues::default(),
            deadlines: BTreeSet::new(),
            lone: BTreeSet::new(),
            finished: (0, 0),
            workers: BTreeMap::new(),
            seats: HashMap::new(),
            index: Index::default(),
            connected: 0,
            joins: 0,
            paused: false,
            submitted: 0,
            born: None,
            #[cfg(test)]
            without: None,
        }
    }

    /// Takes in what happened at `now` and says what to do, in this order.
    pub fn handle(&mut self, event: Event, now: u64) -> Vec<Effect> {
        let born = *self.born.get_or_insert(now);
        let mut effects = Vec::new();
        let tick = event == Event::Tick;
        match event {
            Event::Submit(task) => self.submit(task, born, now),
            Event::Joined { worker, version, device, can_train } => {
                self.joined(worker, version, device, can_train, now);
            }
            Event::Connected(worker) => self.connect(&worker, true, now),
            Event::Disconnected(worker) => self.connect(&worker, false, now),
            Event::Credits(worker, credits) => self.says(&worker, now, |w| {
                w.credits = credits;
                w.peak = w.peak.max(credits);
            }),
            Event::Draining(worker) => self.says(&worker, now, |w| w.draining = true),
            Event::Paused(paused) => self.paused = paused,
            Event::Renewed(worker, held) => self.renewed(&worker, held, born, now, &mut effects),
            Event::TurnRecorded { worker, work, attempt } => self.turn_recorded(&worker, &work, attempt, now),
            Event::Finished { work, attempt } => self.finished(work, Some(attempt), now, &mut effects),
            Event::AlreadyFinished(work) => self.finished(work, None, now, &mut effects),
            Event::Withdrawn(work) => self.withdrawn(&work, &mut effects),
            Event::Failed { work, attempt, failure } => self.failed(&work, attempt, failure, now, &mut effects),
            Event::Returned { work, attempt } => self.returned(&work, attempt, now, &mut effects),
            Event::GrantLost { work, attempt, stored } => {
                self.grant_lost(&work, attempt, stored, now, &mut effects);
            }
            Event::Tick => self.expire(now, &mut effects),
        }
        self.schedule(now, &mut effects);
        if tick {
            self.duplicate(now, &mut effects);
        }
        effects
    }

    /// Workers whose stream is open.
    pub const fn connected(&self) -> usize {
        self.connected
    }

    /// Whether the worker was let in and has not been forgotten.
    pub fn knows(&self, worker: &WorkerId) -> bool {
        self.seats.contains_key(worker)
    }

    /// Whether the worker holds this attempt now.
    pub fn holds(&self, worker: &WorkerId, work: &WorkId, attempt: u32) -> bool {
        let seat = self.seats.get(worker);
        let item = self.places.get(work).and_then(|place| self.items.get(place));
        item.and_then(|item| item.lease(attempt)).is_some_and(|lease| Some(&lease.seat) == seat)
    }

    /// Whether the worker wants no more work, or shall get no more.
    pub fn is_draining(&self, worker: &WorkerId) -> bool {
        self.seats.get(worker).and_then(|seat| self.workers.get(seat)).is_some_and(|w| w.draining)
    }

    pub(super) fn item_mut(&mut self, work: &WorkId) -> Option<(Place, &mut Item)> {
        let place = *self.places.get(work)?;
        Some((place, self.items.get_mut(&place)?))
    }

    fn submit(&mut self, mut task: Task, born: u64, now: u64) {
        if self.places.contains_key(&task.work) {
            return;
        }
        if self.items.is_empty() {
            self.finished = (0, 0);
        }
        if let Kind::Episode { environment, initial_state } = &mut task.kind {
            for name in [environment, initial_state] {
                if !self.names.insert(name.clone())
                    && let Some(known) = self.names.get(name)
                {
                    *name = known.clone();
                }
            }
        }
        let place = self.submitted;
        self.submitted += 1;
        let reclaimed = born + self.limits.reclaim_ms;
        let may_return = task.attempt > 0 && now < reclaimed;
        let item = Item::new(task, if may_return { reclaimed } else { now });
        self.queues.of(&item.kind).put(place, item.not_before);
        self.places.insert(item.work.clone(), place);
        self.items.insert(place, item);
    }

    fn renewed(&mut self, worker: &WorkerId, held: Vec<HeldLease>, born: u64, now: u64, effects: &mut Vec<Effect>) {
        let Some(seat) = self.seen(worker, now) else { return };
        for HeldLease { work, attempt, progress } in held {
            if self.heard(seat, &work, attempt, Some(progress), now) {
                continue;
            }
            let item = self.places.get(&work).and_then(|place| self.items.get(place));
            let reason = match item {
                Some(item) if item.attempt == attempt => "the lease ran out and cannot be renewed".to_owned(),
                Some(item) => format!("attempt {} has taken its place", item.attempt),
                None if now < born + self.limits.reclaim_ms => continue,
                None => "it is finished or given up".to_owned(),
            };
            effects.push(Effect::Revoke { worker: worker.clone(), work, attempt, reason });
        }
    }

    fn turn_recorded(&mut self, worker: &WorkerId, work: &WorkId, attempt: u32, now: u64) {
        let Some(seat) = self.seen(worker, now) else { return };
        if let Some(worker) = self.workers.get_mut(&seat) {
            worker.turns += 1;
        }
        self.heard(seat, work, attempt, None, now);
    }

    /// A sign of life of an attempt. Renews its lease, or gives back one that had run out; false if
    /// another has taken its place or another worker holds it.
    fn heard(&mut self, seat: Seat, work: &WorkId, attempt: u32, progress: Option<u64>, now: u64) -> bool {
        let lease_ms = self.limits.lease_ms;
        let Some((place, item)) = self.item_mut(work) else { return false };
        let Some(lease) = item.leases.iter_mut().find(|lease| lease.attempt == attempt) else {
            return self.revive(seat, place, attempt, progress, now);
        };
        if lease.seat != seat {
            return false;
        }
        let first = !lease.started;
        lease.heard(progress, now, lease_ms);
        if first {
            self.relist(place);
        }
        true
    }

    /// Only the highest attempt comes back, and only while nothing was granted since: that one the
    /// store still accepts for certain.
    fn revive(&mut self, seat: Seat, place: Place, attempt: u32, progress: Option<u64>, now: u64) -> bool {
        let once = self.keeps(Rule::OncePerWorker);
        let Some(item) = self.items.get_mut(&place) else { return false };
        if attempt != item.attempt || item.barred || (once && item.held_by(seat)) {
            return false;
        }
        item.losses -= u32::from(std::mem::take(&mut item.suspect));
        let queued = item.leases.is_empty().then_some(item.not_before);
        let lease = Held::new(seat, attempt, now, self.limits.lease_ms);
        self.deadlines.insert((lease.due, place, attempt));
        item.leases.push(Held { progress: progress.unwrap_or(0), started: true, ..lease });
        let kind = item.kind.clone();
        if let Some(not_before) = queued {
            self.queues.of(&kind).remove(place, not_before);
        }
        self.hold(seat, place, false);
        self.relist(place);
        true
    }
}
