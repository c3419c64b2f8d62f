#![allow(clippy::print_stdout, reason = "timings are for people who ask for them")]
use std::time::{Duration, Instant};

use super::*;

const WORKERS: usize = 1000;
const SLOTS: u32 = 16;
const EPISODES: usize = 100_000;

/// What one kind of event took in all.
#[derive(Default)]
struct Cost {
    events: u32,
    all: Duration,
}

impl Cost {
    fn of(&mut self, d: &mut Dispatch, event: Event, now: u64) -> Vec<Effect> {
        let before = Instant::now();
        let effects = d.handle(event, now);
        self.all += before.elapsed();
        self.events += 1;
        effects
    }

    fn show(&self, what: &str) {
        let each = self.all / self.events.max(1);
        println!("{what:>12}: {:>8} events, {each:>9.2?} each, {:>8.2?} in all", self.events, self.all);
    }
}

/// A large batch on many workers, from the first grant to the last: counts are asserted, times only
/// printed (`--no-capture` shows them).
#[test]
fn a_large_batch_on_many_workers_ends() {
    let mut d = with_workers(LIMITS, &[SLOTS; WORKERS]);
    let (mut submits, mut ends, mut credits, mut renewals, mut ticks) =
        (Cost::default(), Cost::default(), Cost::default(), Cost::default(), Cost::default());
    d.handle(Event::Paused(true), 0);
    for i in 0..EPISODES {
        let (environment, state) = (format!("class/environment-{}", i / 10_000), format!("state-{}", i / 8));
        submits.of(&mut d, episode(i, &environment, &state), 0);
    }
    assert_eq!((d.queues.episodes.len(), d.names.len()), (EPISODES, 10 + EPISODES / 8));
    let start = Instant::now();
    let mut running: std::collections::VecDeque<Effect> = d.handle(Event::Paused(false), 0).into();
    println!("{:>12}: {} leases in {:.2?}", "first", running.len(), start.elapsed());
    assert_eq!(running.len(), WORKERS * SLOTS as usize);
    let loads: Vec<_> = d.standing(0).workers.iter().map(|w| w.held).collect();
    assert!(loads.iter().all(|held| *held == SLOTS), "{loads:?}");
    let (mut now, mut ended) = (0, 0);
    while let Some(Effect::Grant { worker, work, attempt, .. }) = running.pop_front() {
        let held = vec![HeldLease { work: work.clone(), attempt, progress: 1 }];
        renewals.of(&mut d, Event::Renewed(worker.clone(), held), now);
        let done = ends.of(&mut d, Event::Finished { work: work.clone(), attempt }, now);
        assert_eq!(done, [Effect::Finished(work)]);
        ended += 1;
        running.extend(credits.of(&mut d, Event::Credits(worker, 1), now));
        if ended % 5000 == 0 {
            now += 5;
            assert_eq!(ticks.of(&mut d, Event::Tick, now), []);
        }
    }
    assert_eq!(ended, EPISODES);
    assert!(empty(&d));
    for (cost, what) in
        [(submits, "submit"), (renewals, "renewed"), (ends, "finished"), (credits, "credits"), (ticks, "tick")]
    {
        cost.show(what);
    }
}
