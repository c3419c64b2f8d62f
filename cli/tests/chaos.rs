//! A cluster of real processes in which workers, the coordinator and Redis are killed and stopped at
//! seeded random moments. In the end the run must be the undisturbed one, bit for bit, and no attempt may
//! have gone on from fewer turns than were acknowledged before it.
//!
//! `CHAOS_SEEDS=0..100` runs a campaign (`make chaos`); without it one seed runs.
//!
//! Races of the harness itself: a fault may hit a process that is still starting (it counts), and a
//! worker that is down when the run ends never hears goodbye (it is killed).
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde_json::Value;
use support::acknowledged::nothing_acknowledged_is_missing;
use support::outcome::outcome;
use support::processes::{Place, send};
use support::servers::{Redis, free_port};
use support::{LARGE, Lab};

const FAULTS: usize = 20;
/// More than what other tests need: the run must outlast all faults, also where they do little harm.
const LARGER: [&str; 2] = ["--set", "environments.siblings=18"];
const WORKERS: usize = 3;
/// A run without an end is a failed run.
const LIMIT: Duration = Duration::from_secs(150);

/// Draws of one seed.
struct Draws(u64);

impl Draws {
    fn next(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) * n) >> 31
    }

    fn between(&mut self, low_ms: u64, high_ms: u64) -> Duration {
        Duration::from_millis(low_ms + self.next(high_ms - low_ms))
    }
}

struct Cluster {
    lab: Lab,
    redis: Redis,
    coordinator: Place,
    workers: Vec<Place>,
}

impl Cluster {
    fn start() -> Self {
        let lab = Lab::new();
        let redis = Redis::start(lab.path("redis"));
        let port = free_port();
        let (store, listen) = (format!("redis://127.0.0.1:{}", redis.port), format!("127.0.0.1:{port}"));
        let options = ["--store", &store, "--listen", &listen, "--takeover", "2"];
        let command = [&["coordinator", "configs/experiments/tiny.yaml"][..], &LARGE, &LARGER, &options].concat();
        let coordinator = Place::start(&lab, "coordinator", &command);
        let workers = (0..WORKERS).map(|i| {
            let (name, url) = (format!("worker{i}"), format!("http://{listen}"));
            let command = ["worker", "--coordinator", &url, "--name", &name, "--slots", "3"];
            Place::start(&lab, &name, &command)
        });
        let workers = workers.collect();
        Self { lab, redis, coordinator, workers }
    }

    /// Lets one thing go wrong and mends it; returns what it was.
    fn suffer(&mut self, draws: &mut Draws) -> String {
        let worker = draws.next(WORKERS as u64) as usize;
        let (down, stopped) = (draws.between(0, 500), draws.between(300, 2500));
        match draws.next(8) {
            0..=2 => {
                self.workers[worker].kill();
                std::thread::sleep(down);
                self.workers[worker].start_again(&self.lab);
                format!("worker {worker} killed")
            }
            3 => {
                self.workers[worker].signal("STOP");
                std::thread::sleep(stopped);
                self.workers[worker].signal("CONT");
                format!("worker {worker} stopped for {stopped:?}")
            }
            4 | 5 => {
                self.coordinator.kill();
                std::thread::sleep(down);
                self.coordinator.start_again(&self.lab);
                "coordinator killed".to_owned()
            }
            6 => {
                self.redis.kill();
                std::thread::sleep(down);
                self.redis.start_again();
                "redis killed".to_owned()
            }
            _ => {
                let process = self.redis.pid();
                send("STOP", process);
                std::thread::sleep(stopped);
                send("CONT", process);
                format!("redis stopped for {stopped:?}")
            }
        }
    }

    fn logs(&self) -> String {
        let tail = |place: &Place| {
            let text = place.said();
            text.lines().rev().take(25).collect::<Vec<_>>().into_iter().rev().collect::<Vec<_>>().join("\n")
        };
        let workers: Vec<_> = self.workers.iter().map(tail).collect();
        format!("coordinator:\n{}\nworkers:\n{}", tail(&self.coordinator), workers.join("\n--\n"))
    }
}

fn survive(seed: u64, expected: &BTreeMap<String, Value>) {
    let started = Instant::now();
    let mut draws = Draws(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15));
    let mut cluster = Cluster::start();
    let mut faults = Vec::new();
    std::thread::sleep(draws.between(500, 1500));
    while faults.len() < FAULTS {
        faults.push(cluster.suffer(&mut draws));
        let ended = cluster.coordinator.status();
        assert!(ended.is_none(), "the run ended ({ended:?}) after {faults:?}\n{}", cluster.logs());
        std::thread::sleep(draws.between(50, 250));
    }
    let troubled = started.elapsed();
    let end = cluster.coordinator.wait(LIMIT.saturating_sub(troubled));
    let ended = started.elapsed();
    assert!(end.is_some_and(|e| e.success()), "seed {seed}: {end:?} after {faults:?}\n{}", cluster.logs());
    let store = format!("redis://127.0.0.1:{}", cluster.redis.port);
    let actual = outcome(&cluster.lab, &["--store", &store]);
    assert_eq!(actual.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>(), "seed {seed}");
    for (key, value) in expected {
        assert_eq!(&actual[key], value, "seed {seed}: {key} differs after {faults:?}");
    }
    let said: String = cluster.workers.iter().map(Place::said).collect();
    let acknowledged = nothing_acknowledged_is_missing(&said).unwrap_or_else(|e| panic!("seed {seed}: {e}"));
    eprintln!(
        "seed {seed}: {} faults in {troubled:.1?}, ended after {ended:.1?}, {} episodes, {acknowledged} acknowledged turns",
        faults.len(),
        actual.len() - 2,
    );
}

#[test]
fn kills_and_stops_of_any_process_change_nothing() {
    let calm = Lab::new();
    calm.succeed(&[&["run", "configs/experiments/tiny.yaml"][..], &LARGE, &LARGER].concat());
    let expected = outcome(&calm, &[]);
    let seeds = std::env::var("CHAOS_SEEDS").unwrap_or_else(|_| "2026..2027".to_owned());
    let (from, to) = seeds.split_once("..").expect("CHAOS_SEEDS is FROM..TO");
    for seed in from.parse::<u64>().unwrap()..to.parse().unwrap() {
        survive(seed, &expected);
    }
}
