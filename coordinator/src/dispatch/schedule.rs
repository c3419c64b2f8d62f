//! Who gets what. In plan order; to the least loaded worker, but with a little room for affinity:
//! siblings, and then episodes of one environment, share what a worker's prefix cache holds. Near the
//! end of a batch, when workers stand idle, the episodes that take longest get a second one.

use super::event::{Effect, Kind};
use super::item::{Held, Place};
use super::rules::Rule;
use super::state::Dispatch;
use super::worker::Seat;

impl Dispatch {
    /// Grants what can be granted.
    pub(super) fn schedule(&mut self, now: u64, effects: &mut Vec<Effect>) {
        if self.paused && self.keeps(Rule::Paused) {
            return;
        }
        self.queues.ripen(now);
        while let Some(place) = self.queues.trainings.first()
            && let Some(seat) = self.index.trainer()
        {
            self.grant(seat, place, None, now, effects);
        }
        // Before episodes: they are short, and somebody waits for them.
        while let Some(place) = self.queues.calls.first()
            && let Some(seat) = self.index.least(|_| true)
        {
            self.grant(seat, place, None, now, effects);
        }
        while let Some(place) = self.queues.episodes.first()
            && let Some(item) = self.items.get(&place)
            && let Some(seat) = self.index.nearest(&item.kind, &self.workers)
        {
            self.grant(seat, place, None, now, effects);
        }
    }

    /// Gives stragglers to a second worker. Only what [`Dispatch::schedule`] left over is used.
    pub(super) fn duplicate(&mut self, now: u64, effects: &mut Vec<Effect>) {
        if (self.paused && self.keeps(Rule::Paused)) || self.queues.episodes.first().is_some() {
            return;
        }
        let longest = self.limits.straggler_ms.max(2 * self.mean_ms());
        let Some(before) = now.checked_sub(longest) else { return };
        let late: Vec<Place> = self.lone.range(..(before, 0)).map(|(_, place)| *place).collect();
        for place in late {
            if !self.index.has_room() {
                return;
            }
            let Some(item) = self.items.get(&place) else { continue };
            if now < item.not_before || item.losses >= self.limits.attempts {
                continue;
            }
            let once = self.keeps(Rule::OncePerWorker);
            let beside = item.leases.first().map(|lease| lease.attempt);
            if let Some(seat) = self.index.least(|seat| !(once && item.held_by(seat))) {
                self.grant(seat, place, beside, now, effects);
            }
        }
    }

    /// How long a finished episode of this batch was held by the worker that finished it.
    fn mean_ms(&self) -> u64 {
        let (episodes, all_ms) = self.finished;
        all_ms.checked_div(episodes).unwrap_or(0)
    }

    fn grant(&mut self, seat: Seat, place: Place, beside: Option<u32>, now: u64, effects: &mut Vec<Effect>) {
        let Some(worker) = self.workers.get(&seat).map(|w| w.id.clone()) else { return };
        let Some(item) = self.items.get_mut(&place) else { return };
        if item.leases.is_empty() {
            self.queues.of(&item.kind).remove(place, item.not_before);
        }
        item.attempt += 1;
        item.partner = beside;
        item.suspect = false;
        item.barred = false;
        let lease = Held::new(seat, item.attempt, now, self.limits.lease_ms);
        self.deadlines.insert((lease.due, place, lease.attempt));
        item.leases.push(lease);
        effects.push(Effect::Grant { worker, work: (*item.work).clone(), attempt: item.attempt, beside });
        self.hold(seat, place, true);
        self.relist(place);
    }

    /// Keeps the list of episodes of which one attempt runs, by the time since when it does.
    pub(super) fn relist(&mut self, place: Place) {
        let Some(item) = self.items.get_mut(&place) else { return };
        let lone = match item.leases.as_slice() {
            [lease] if lease.started && matches!(item.kind, Kind::Episode { .. }) => Some(lease.granted),
            _ => None,
        };
        if let Some(since) = std::mem::replace(&mut item.lone, lone) {
            self.lone.remove(&(since, place));
        }
        self.lone.extend(lone.map(|since| (since, place)));
    }
}
