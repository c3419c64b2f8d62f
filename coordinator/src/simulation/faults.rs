//! What goes wrong in a simulation, and when: drawn from its seed.

use std::time::Duration;

use influence_proto::stream;

/// One thing that goes wrong.
#[derive(Debug, Clone)]
pub(super) enum Fault {
    /// Nothing passes between two hosts.
    Partition(&'static str, &'static str),
    /// What passes from the first to the second is lost; the other way it arrives.
    OneWay(&'static str, &'static str),
    /// What is sent between two hosts arrives late, and all at once.
    Hold(&'static str, &'static str),
    /// A host's process ends, and starts anew when the fault is over.
    Crash(&'static str),
    /// The store does not answer a coordinator.
    StoreAway(&'static str),
    /// The store does what a coordinator asks, and its answers are lost.
    AnswersLost(&'static str),
}

/// A fault with its time.
#[derive(Debug, Clone)]
pub(super) struct Timed {
    pub(super) from: Duration,
    pub(super) to: Duration,
    pub(super) fault: Fault,
}

/// All faults of one simulation, in the order of their beginning.
#[derive(Debug, Clone)]
pub(super) struct Faults(pub(super) Vec<Timed>);

pub(super) const COORDINATORS: [&str; 2] = ["one", "two"];
pub(super) const WORKERS: [&str; 3] = ["ada", "bo", "cy"];

impl Faults {
    pub(super) fn of(seed: u64) -> Self {
        let draw = |name: &str, n: usize| {
            let number = stream::derive(seed, &["fault", name]);
            (stream::uniform(number) * n as f64) as usize
        };
        let mut at = 500;
        let mut faults = Vec::new();
        for i in 0..4 + draw("count", 5) {
            let pick = |what: &str, n| draw(&format!("{what} {i}"), n);
            let (coordinator, worker) = (COORDINATORS[pick("coordinator", 2)], WORKERS[pick("worker", 3)]);
            let fault = match pick("kind", 9) {
                0 | 1 => Fault::Partition(coordinator, worker),
                2 => Fault::OneWay(worker, coordinator),
                3 => Fault::OneWay(coordinator, worker),
                4 => Fault::Hold(coordinator, worker),
                5 => Fault::Crash(worker),
                6 => Fault::Crash(coordinator),
                7 => Fault::StoreAway(coordinator),
                _ => Fault::AnswersLost(coordinator),
            };
            at += pick("pause", 1500) as u64;
            let long = 300 + pick("length", 5000) as u64;
            faults.push(Timed { from: Duration::from_millis(at), to: Duration::from_millis(at + long), fault });
        }
        Self(faults)
    }
}
