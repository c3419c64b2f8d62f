//! A whole cluster in one thread of simulated time and network (turmoil): coordinators, workers and
//! what comes between them. Real services, real gRPC, real run; only models, sockets and clock are
//! not. A seed decides everything that happens, but for the order in which the file system answers.
//!
//! The load-bearing assertion is [`world::World::check`]: whatever was cut, delayed or crashed, every
//! episode ends once, with a journal whose every turn was written by somebody who had seen exactly the
//! turns before it.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod faults;
mod network;
mod node;
mod worker;
mod world;

use faults::Faults;
use world::World;

/// Seeds of one test: several tests, so that they run beside each other.
fn seeds(from: u64) -> std::ops::Range<u64> {
    from..from + 25
}

fn survive(seeds: std::ops::Range<u64>) {
    for seed in seeds {
        let world = World::new(true);
        let end = world.run(seed, &Faults::of(seed));
        assert_eq!(end, Ok(()), "seed {seed}: {:?}", Faults::of(seed));
    }
}

#[test]
fn partitions_delays_and_crashes_leave_every_episode_whole_in_seeds_0_to_24() {
    survive(seeds(0));
}

#[test]
fn partitions_delays_and_crashes_leave_every_episode_whole_in_seeds_25_to_49() {
    survive(seeds(25));
}

#[test]
fn without_the_fence_some_episode_breaks() {
    let broken = (0..200).find(|seed| World::new(false).run(*seed, &Faults::of(*seed)).is_err());
    assert!(broken.is_some(), "the simulation does not notice a missing fence: it shows nothing");
}
