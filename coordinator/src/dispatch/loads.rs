//! What workers do per second, and say about themselves. For people: nothing is decided by it.

use std::collections::HashMap;

use influence_proto::{Standing, WorkerId, WorkerLoad};

/// Tokens are counted over this long, and the part of the next such time that has passed.
const WINDOW_MS: u64 = 15_000;

/// Of workers that are known; others are left out.
#[derive(Debug, Default)]
pub(super) struct Loads(HashMap<WorkerId, Load>);

#[derive(Debug, Default)]
struct Load {
    said: WorkerLoad,
    tokens: Rate,
}

/// A count over the last one to two windows.
#[derive(Debug, Default)]
struct Rate {
    since: u64,
    before: u64,
    now: u64,
}

impl Rate {
    fn add(&mut self, count: u64, now: u64) {
        self.turn(now);
        self.now += count;
    }

    fn per_second(&mut self, now: u64) -> u64 {
        self.turn(now);
        (self.before + self.now) * 1000 / (WINDOW_MS + now - self.since)
    }

    fn turn(&mut self, now: u64) {
        let passed = now.saturating_sub(self.since) / WINDOW_MS;
        if passed > 0 {
            self.before = if passed == 1 { self.now } else { 0 };
            self.now = 0;
            self.since += passed * WINDOW_MS;
        }
    }
}

impl Loads {
    /// A worker tells.
    pub(super) fn say(&mut self, worker: &WorkerId, said: WorkerLoad) {
        self.0.entry(worker.clone()).or_default().said = said;
    }

    /// A turn of a worker was stored.
    pub(super) fn turn(&mut self, worker: &WorkerId, tokens: u64, now: u64) {
        self.0.entry(worker.clone()).or_default().tokens.add(tokens, now);
    }

    /// Forgets those that are known no more.
    pub(super) fn retain(&mut self, known: impl Fn(&WorkerId) -> bool) {
        self.0.retain(|worker, _| known(worker));
    }

    /// Fills in what is known.
    pub(super) fn tell(&mut self, standing: &mut Standing, now: u64) {
        for worker in &mut standing.workers {
            if let Some(load) = self.0.get_mut(&worker.id) {
                worker.load = load.said;
                worker.tokens_per_second = u32::try_from(load.tokens.per_second(now)).unwrap_or(u32::MAX);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// By hand: 300 tokens within 15 s are 20 per second, whenever one looks; after two windows of silence there are none.
    #[test]
    fn a_rate_is_that_of_the_last_seconds() {
        let mut rate = Rate::default();
        rate.add(150, 1_000);
        rate.add(150, 14_000);
        assert_eq!(rate.per_second(15_000), 20);
        rate.add(150, 16_000);
        assert_eq!(rate.per_second(22_500), 450 * 1000 / 22_500);
        assert_eq!(rate.per_second(30_000), 10, "the first window is out of sight");
        assert_eq!(rate.per_second(45_000), 0);
    }
}
