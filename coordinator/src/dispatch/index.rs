//! Which workers can take something, and what they are near to. Nothing here is searched from end to
//! end, however many workers there are.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use super::event::Kind;
use super::worker::{Seat, Worker};

/// A worker may hold this many episodes more than the least loaded one and still be preferred for
/// what it has cached. Beyond it load wins.
const SLACK: usize = 2;

/// Workers by load.
type ByLoad = BTreeSet<(usize, Seat)>;

/// Indexes over workers.
#[derive(Debug, Default)]
pub(super) struct Index {
    /// Workers that can take an episode.
    room: ByLoad,
    /// Workers that can take a training job.
    trainers: ByLoad,
    /// By environment: workers that hold episodes of it and can take one more.
    environments: HashMap<Arc<str>, ByLoad>,
    /// By environment and initial state: who holds how many of the siblings.
    states: HashMap<(Arc<str>, Arc<str>), BTreeMap<Seat, usize>>,
}

impl Index {
    /// Lists a worker as its `listed` says.
    pub(super) fn list(&mut self, seat: Seat, worker: &Worker) {
        let (room, trains) = worker.listed;
        if let Some(load) = room {
            self.room.insert((load, seat));
            for environment in worker.environments.keys() {
                self.environments.entry(environment.clone()).or_default().insert((load, seat));
            }
        }
        self.trainers.extend(trains.map(|load| (load, seat)));
    }

    /// Takes a worker out of the lists in which its `listed` says it is.
    pub(super) fn unlist(&mut self, seat: Seat, worker: &Worker) {
        let (room, trains) = worker.listed;
        if let Some(load) = room {
            self.room.remove(&(load, seat));
            for environment in worker.environments.keys() {
                if let Some(near) = self.environments.get_mut(environment) {
                    near.remove(&(load, seat));
                    if near.is_empty() {
                        self.environments.remove(environment);
                    }
                }
            }
        }
        if let Some(load) = trains {
            self.trainers.remove(&(load, seat));
        }
    }

    /// Counts an episode that a worker now holds.
    pub(super) fn hold(&mut self, seat: Seat, kind: &Kind) {
        if let Some(state) = state(kind) {
            *self.states.entry(state).or_default().entry(seat).or_default() += 1;
        }
    }

    /// Counts an episode that a worker no longer holds.
    pub(super) fn let_go(&mut self, seat: Seat, kind: &Kind) {
        let Some(state) = state(kind) else { return };
        let Some(holders) = self.states.get_mut(&state) else { return };
        if let Entry::Occupied(mut count) = holders.entry(seat) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
        if holders.is_empty() {
            self.states.remove(&state);
        }
    }

    /// Whether any worker can take an episode.
    pub(super) fn has_room(&self) -> bool {
        !self.room.is_empty()
    }

    /// The least loaded worker that can take a training job.
    pub(super) fn trainer(&self) -> Option<Seat> {
        self.trainers.first().map(|(_, seat)| *seat)
    }

    /// The least loaded worker that can take an episode and that `fits`.
    pub(super) fn least(&self, mut fits: impl FnMut(Seat) -> bool) -> Option<Seat> {
        self.room.iter().map(|(_, seat)| *seat).find(|seat| fits(*seat))
    }

    /// The worker for an episode: of those that are hardly more loaded than the least loaded one,
    /// preferably one that holds a sibling, or else an episode of the environment.
    pub(super) fn nearest(&self, kind: &Kind, workers: &BTreeMap<Seat, Worker>) -> Option<Seat> {
        let (least, seat) = *self.room.first()?;
        let Some(state) = state(kind) else { return Some(seat) };
        let near_enough = |found: &(usize, Seat)| found.0 <= least + SLACK;
        let load = |seat: &Seat| Some((workers.get(seat)?.listed.0?, *seat));
        let sibling = self.states.get(&state).and_then(|holders| holders.keys().filter_map(load).min());
        let neighbour = || self.environments.get(&state.0).and_then(|near| near.first().copied());
        let chosen = sibling.filter(near_enough).or_else(|| neighbour().filter(near_enough));
        Some(chosen.map_or(seat, |(_, seat)| seat))
    }

    /// Entries of all lists that are about held work.
    #[cfg(test)]
    pub(super) fn held_entries(&self) -> usize {
        self.environments.len() + self.states.len()
    }
}

fn state(kind: &Kind) -> Option<(Arc<str>, Arc<str>)> {
    match kind {
        Kind::Episode { environment, initial_state } => Some((environment.clone(), initial_state.clone())),
        Kind::Training | Kind::Calls => None,
    }
}
