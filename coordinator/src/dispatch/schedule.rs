//! Who gets what. In plan order; to the least loaded worker, but with a little room for affinity:
//! siblings, and then episodes of one environment, share what a worker's prefix cache holds.

use std::cmp::Reverse;

use influence_proto::{WorkId, WorkerId};

use super::event::{Effect, Kind};
use super::state::{Dispatch, Held, Worker};

/// A worker may hold this many episodes more than the least loaded one and still be preferred for
/// what it has cached. Beyond it load wins.
const SLACK: usize = 2;

impl Dispatch {
    pub(super) fn schedule(&mut self, now: u64, effects: &mut Vec<Effect>) {
        let mut skipped = Vec::new();
        while self.trainings > 0 || self.workers.values().any(Worker::has_room) {
            let Some((position, work)) = self.pending.pop_first() else { break };
            let ready = self.items.get(&work).is_some_and(|item| item.not_before <= now);
            match ready.then(|| self.choose(&work)).flatten() {
                Some(worker) => self.grant(worker, work, now, effects),
                None => skipped.push((position, work)),
            }
        }
        self.pending.extend(skipped);
    }

    fn choose(&self, work: &WorkId) -> Option<WorkerId> {
        let kind = &self.items.get(work)?.kind;
        let fits = |w: &Worker| match kind {
            Kind::Episode { .. } => w.has_room(),
            Kind::Training => w.may_train() && !w.held.iter().any(|h| self.is_training(h)),
        };
        let least = self.workers.values().filter(|w| fits(w)).map(|w| w.held.len()).min()?;
        self.workers
            .iter()
            .filter(|(_, w)| fits(w) && w.held.len() <= least + SLACK)
            .max_by_key(|(id, w)| (self.affinity(w, kind), Reverse(w.held.len()), Reverse(*id)))
            .map(|(id, _)| id.clone())
    }

    fn is_training(&self, work: &WorkId) -> bool {
        self.items.get(work).is_some_and(|item| item.kind == Kind::Training)
    }

    /// 2 for a worker that holds a sibling, 1 for one that holds an episode of the environment.
    fn affinity(&self, worker: &Worker, wanted: &Kind) -> u8 {
        let Kind::Episode { environment, initial_state } = wanted else { return 0 };
        let near = |work: &WorkId| match self.items.get(work).map(|item| &item.kind) {
            Some(Kind::Episode { environment: e, initial_state: s }) if e == environment => {
                1 + u8::from(s == initial_state)
            }
            _ => 0,
        };
        worker.held.iter().map(near).max().unwrap_or(0)
    }

    fn grant(&mut self, worker: WorkerId, work: WorkId, now: u64, effects: &mut Vec<Effect>) {
        let (Some(item), Some(holder)) = (self.items.get_mut(&work), self.workers.get_mut(&worker)) else { return };
        item.attempt += 1;
        item.suspect = false;
        item.barred = false;
        item.lease = Some(Held {
            worker: worker.clone(),
            expires: now + self.limits.lease_ms,
            progress: 0,
            progressed: now,
            started: false,
        });
        holder.held.insert(work.clone());
        if item.kind != Kind::Training {
            holder.credits -= 1;
        }
        effects.push(Effect::Grant { worker, work, attempt: item.attempt });
    }
}

impl Worker {
    fn has_room(&self) -> bool {
        self.connected && !self.draining && self.credits > 0 && self.held.len() < self.peak as usize
    }

    fn may_train(&self) -> bool {
        self.connected && !self.draining && self.can_train
    }
}
