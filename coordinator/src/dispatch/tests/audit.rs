//! The indexes by search: what the machine finds at once, found the long way.

use std::cmp::Reverse;
use std::collections::BTreeSet;

use super::*;
use crate::dispatch::worker::Worker;

/// How near an episode is to what a worker holds: 2 for a sibling, 1 for an episode of its environment.
fn affinity(d: &Dispatch, worker: &Worker, wanted: &Kind) -> u8 {
    let Kind::Episode { environment, initial_state } = wanted else { return 0 };
    let near = |place| match &d.items[place].kind {
        Kind::Episode { environment: e, initial_state: s } if e == environment => 1 + u8::from(s == initial_state),
        _ => 0,
    };
    worker.held.iter().map(near).max().unwrap_or(0)
}

/// Compares the indexes with a search over everything.
pub(super) fn audit(d: &Dispatch) -> Result<(), String> {
    let check = |holds: bool, what: &str| if holds { Ok(()) } else { Err(format!("{what}: {d:#?}")) };
    let free = |w: &Worker| w.connected && !w.draining && w.credits > 0 && w.held.len() < w.peak as usize;
    let least = d.workers.values().filter(|w| free(w)).map(|w| w.held.len()).min();
    check(least.is_some() == d.index.has_room(), "the index of workers with room")?;
    check(d.connected() == d.workers.values().filter(|w| w.connected).count(), "the count of streams")?;
    let (mut lone, mut queued) = (BTreeSet::new(), 0);
    for (place, item) in &d.items {
        let near = d.workers.iter().filter(|(_, w)| free(w) && Some(w.held.len()) <= least.map(|l| l + 2));
        let best = near.max_by_key(|(seat, w)| (affinity(d, w, &item.kind), Reverse(w.held.len()), Reverse(**seat)));
        let found = d.index.nearest(&item.kind, &d.workers);
        check(found == best.map(|(seat, _)| *seat), &format!("the nearest worker of {}", item.work))?;
        queued += usize::from(item.leases.is_empty());
        if let [lease] = &item.leases[..]
            && lease.started
        {
            lone.insert((lease.granted, *place));
        }
        let booked = |seat| d.workers.get(&seat).is_some_and(|w| w.held.contains(place));
        check(item.leases.iter().all(|lease| booked(lease.seat)), "the holders' books")?;
    }
    let held: usize = d.workers.values().map(|w| w.held.len()).sum();
    check(held == d.items.values().map(|item| item.leases.len()).sum::<usize>(), "no book holds more than there is")?;
    let leases = d.items.iter().flat_map(|(place, item)| item.leases.iter().map(move |lease| (*place, lease)));
    let early = leases.clone().all(|(place, lease)| {
        let ends = lease.expires.min(lease.progressed + d.limits.stall_ms);
        lease.due <= ends && d.deadlines.contains(&(lease.due, place, lease.attempt))
    });
    check(early && d.deadlines.len() == leases.count(), "the list of deadlines")?;
    check(queued == d.queues.episodes.len(), "the queue")?;
    check(lone == d.lone, "the list of lone attempts")
}
