//! Work without a lease.

use std::collections::BTreeSet;

use super::event::Kind;
use super::item::Place;

/// Work without a lease, of all kinds.
#[derive(Debug, Default)]
pub(super) struct Queues {
    pub(super) episodes: Queue,
    pub(super) trainings: Queue,
    pub(super) calls: Queue,
}

impl Queues {
    /// The one for work of this kind.
    pub(super) const fn of(&mut self, kind: &Kind) -> &mut Queue {
        match kind {
            Kind::Episode { .. } => &mut self.episodes,
            Kind::Training => &mut self.trainings,
            Kind::Calls => &mut self.calls,
        }
    }

    /// As [`Queue::ripen`].
    pub(super) fn ripen(&mut self, now: u64) {
        for queue in [&mut self.episodes, &mut self.trainings, &mut self.calls] {
            queue.ripen(now);
        }
    }

    /// All that is in.
    pub(super) fn len(&self) -> usize {
        self.episodes.len() + self.trainings.len() + self.calls.len()
    }
}

/// Work of one kind without a lease: in plan order, and kept apart from it what must not be given out
/// yet, so that nobody looks at that before its time.
#[derive(Debug, Default)]
pub(super) struct Queue {
    ready: BTreeSet<Place>,
    waiting: BTreeSet<(u64, Place)>,
}

impl Queue {
    /// Puts work in, to be given out from `not_before` on.
    pub(super) fn put(&mut self, place: Place, not_before: u64) {
        self.waiting.insert((not_before, place));
    }

    /// Takes work out that was put in with this `not_before`, if it is there.
    pub(super) fn remove(&mut self, place: Place, not_before: u64) {
        if !self.waiting.remove(&(not_before, place)) {
            self.ready.remove(&place);
        }
    }

    /// Moves what may be given out at `now` into plan order.
    pub(super) fn ripen(&mut self, now: u64) {
        while let Some((not_before, place)) = self.waiting.first().copied()
            && not_before <= now
        {
            self.waiting.pop_first();
            self.ready.insert(place);
        }
    }

    /// The first that may be given out, as of the last [`Queue::ripen`].
    pub(super) fn first(&self) -> Option<Place> {
        self.ready.first().copied()
    }

    /// All that is in.
    pub(super) fn len(&self) -> usize {
        self.ready.len() + self.waiting.len()
    }
}
