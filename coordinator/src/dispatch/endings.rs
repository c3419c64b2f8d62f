//! How attempts and work end.

use influence_proto::{Failure, WorkId};

use super::event::{Effect, Kind};
use super::item::{Item, Place};
use super::rules::Rule;
use super::state::Dispatch;
use super::worker::Seat;

impl Dispatch {
    /// The work is done, by this attempt or by one that is not known. Whoever else is at it may stop.
    pub(super) fn finished(&mut self, work: WorkId, winner: Option<u32>, now: u64, effects: &mut Vec<Effect>) {
        let Some(place) = self.places.get(&work).copied() else {
            if !self.keeps(Rule::EndOnce) {
                effects.push(Effect::Finished(work));
            }
            return;
        };
        let Some(item) = self.items.get(&place) else { return };
        if winner.is_some_and(|attempt| !item.accepts(attempt)) && self.keeps(Rule::Fence) {
            return;
        }
        let reason = winner.map_or_else(
            || "another attempt finished first".to_owned(),
            |attempt| format!("attempt {attempt} finished first"),
        );
        if let Some(lease) = winner.and_then(|attempt| item.lease(attempt))
            && matches!(item.kind, Kind::Episode { .. })
        {
            let (episodes, all_ms) = &mut self.finished;
            *episodes += 1;
            *all_ms += now - lease.granted;
        }
        self.end(place, winner, &reason, effects);
        effects.push(Effect::Finished(work));
    }

    /// Nobody wants the work any more.
    pub(super) fn withdrawn(&mut self, work: &WorkId, effects: &mut Vec<Effect>) {
        if let Some(place) = self.places.get(work).copied() {
            self.end(place, None, "nobody waits for it any more", effects);
        }
    }

    /// The holder says that its attempt failed.
    pub(super) fn failed(
        &mut self,
        work: &WorkId,
        attempt: u32,
        failure: Failure,
        now: u64,
        effects: &mut Vec<Effect>,
    ) {
        let Some((place, item)) = self.item_mut(work) else { return };
        if !item.open(attempt) {
            return;
        }
        // An expiry may have counted it already.
        if attempt != item.attempt || !std::mem::take(&mut item.suspect) {
            item.losses += 1;
        }
        item.last_error = failure.message;
        if failure.retryable {
            self.lost(place, attempt, now + self.limits.retry_ms, true, effects);
        } else {
            self.exhausted(place, attempt, effects);
        }
    }

    /// The holder hands its attempt back.
    pub(super) fn returned(&mut self, work: &WorkId, attempt: u32, now: u64, effects: &mut Vec<Effect>) {
        if let Some((place, item)) = self.item_mut(work)
            && item.open(attempt)
        {
            self.lost(place, attempt, now, true, effects);
        }
    }

    /// The attempt never reached its holder.
    pub(super) fn grant_lost(&mut self, work: &WorkId, attempt: u32, stored: u32, now: u64, effects: &mut Vec<Effect>) {
        if let Some((place, item)) = self.item_mut(work)
            && item.open(attempt)
        {
            self.lost(place, attempt, now + self.limits.retry_ms, true, effects);
        }
        if let Some((_, item)) = self.item_mut(work) {
            item.attempt = item.attempt.max(stored);
        }
    }

    /// Ends what ran out or stands still, and forgets who is gone.
    pub(super) fn expire(&mut self, now: u64, effects: &mut Vec<Effect>) {
        while let Some((due, place, attempt)) = self.deadlines.first().copied()
            && due <= now
        {
            self.deadlines.pop_first();
            let Some(item) = self.items.get_mut(&place) else { continue };
            let Some(lease) = item.leases.iter_mut().find(|lease| lease.attempt == attempt) else { continue };
            let stands_until = lease.progressed + self.limits.stall_ms;
            // Renewals do not move a lease's place here: it is looked at again when it would have ended.
            lease.due = lease.expires.min(stands_until);
            self.deadlines.insert((lease.due, place, attempt));
            if lease.due <= now {
                let (seat, stalled) = (lease.seat, stands_until <= now);
                self.ran_out(place, attempt, seat, stalled, now, effects);
            }
        }
        self.forget(now);
    }

    fn ran_out(&mut self, place: Place, attempt: u32, seat: Seat, stalled: bool, now: u64, effects: &mut Vec<Effect>) {
        let started_only = self.keeps(Rule::StartedOnly);
        let Some(worker) = self.workers.get_mut(&seat) else { return };
        // Another lease's end may have ended the work.
        let Some(item) = self.items.get_mut(&place) else { return };
        let Some(started) = item.lease(attempt).map(|lease| lease.started) else { return };
        worker.stalled += u32::from(stalled);
        let worker = worker.id.clone();
        let reason = if stalled {
            format!("it made no progress for {} s", self.limits.stall_ms / 1000)
        } else {
            "the lease ran out without being renewed".to_owned()
        };
        item.last_error = format!("attempt {attempt} on worker `{worker}`: {reason}");
        let counts = started || !started_only;
        item.losses += u32::from(counts);
        if attempt == item.attempt {
            item.suspect = counts && !stalled;
        }
        effects.push(Effect::Revoke { worker, work: (*item.work).clone(), attempt, reason });
        self.lost(place, attempt, now, stalled, effects);
    }

    /// An attempt has ended without a result. If it was the last one alive, the work goes back to its
    /// place in the queue, or is given up. Unless the attempt is `over`, a sign of life of its holder
    /// brings it back.
    fn lost(&mut self, place: Place, attempt: u32, not_before: u64, over: bool, effects: &mut Vec<Effect>) {
        let Some(item) = self.items.get_mut(&place) else { return };
        let queue = self.queues.of(&item.kind);
        if item.leases.is_empty() {
            queue.remove(place, item.not_before);
        }
        item.barred = item.barred || (over && attempt == item.attempt);
        item.not_before = not_before;
        let lease = item.take_lease(attempt);
        if let Some(lease) = &lease {
            self.deadlines.remove(&(lease.due, place, attempt));
        }
        let given_up = item.losses >= self.limits.attempts;
        if item.leases.is_empty() {
            queue.put(place, not_before);
        }
        if let Some(lease) = lease {
            let kind = item.kind.clone();
            self.let_go(lease.seat, place, &kind);
        }
        let alone = self.items.get(&place).is_some_and(|item| item.leases.is_empty());
        if alone && given_up {
            return self.exhausted(place, attempt, effects);
        }
        self.relist(place);
    }

    fn exhausted(&mut self, place: Place, attempt: u32, effects: &mut Vec<Effect>) {
        if let Some(item) = self.end(place, Some(attempt), "the work was given up", effects) {
            effects.push(Effect::Exhausted { work: (*item.work).clone(), attempt, error: item.last_error });
        }
    }

    /// Takes work out of all books. Leases of other attempts than `by` are revoked.
    fn end(&mut self, place: Place, by: Option<u32>, reason: &str, effects: &mut Vec<Effect>) -> Option<Item> {
        let item = self.items.remove(&place)?;
        self.places.remove(&item.work);
        if item.leases.is_empty() {
            self.queues.of(&item.kind).remove(place, item.not_before);
        }
        if let Some(since) = item.lone {
            self.lone.remove(&(since, place));
        }
        for lease in &item.leases {
            if Some(lease.attempt) != by
                && let Some(worker) = self.workers.get(&lease.seat)
            {
                let (worker, work) = (worker.id.clone(), (*item.work).clone());
                effects.push(Effect::Revoke { worker, work, attempt: lease.attempt, reason: reason.to_owned() });
            }
            self.deadlines.remove(&(lease.due, place, lease.attempt));
            self.let_go(lease.seat, place, &item.kind);
        }
        if self.items.is_empty() {
            self.names.clear();
        }
        Some(item)
    }
}
