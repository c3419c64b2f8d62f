//! The cluster that faults happen to, and what must hold in the end.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use influence_proto::RunId;
use turmoil::Sim;

use super::faults::{COORDINATORS, Fault, Faults, WORKERS};
use super::node::Node;
use super::worker::{Worker, seen};
use crate::config::Experiment;
use crate::config::tests::fixture::Configs;
use crate::experiment::open_run;
use crate::store::memory::{Link, MemoryStore};
use crate::store::{EpisodeStatus, RunStatus, Store};

const EXPERIMENT: &str = "
seed: 3
iterations: 1
environments: {class: clinic, initial_states: 2, siblings: 2, held_out: 0.25, max_turns: 3}
selection: {level: environment, best: 1/2}
evaluation: {initial_states: 1, at: [first]}
training: {lora: {rank: 2, alpha: 4}}
leases: {seconds: 1}
attempts: 100
max_failed: 0
";

/// No fault lasts for so long that a run would need more simulated time.
const LONGEST: Duration = Duration::from_secs(240);

pub(super) struct World {
    configs: Configs,
    store: MemoryStore,
    links: BTreeMap<&'static str, Link>,
    complaints: Arc<Mutex<Vec<String>>>,
}

impl World {
    pub(super) fn new(fenced: bool) -> Self {
        let store = if fenced { MemoryStore::new() } else { MemoryStore::unfenced() };
        let links = COORDINATORS.map(|name| (name, Link::default())).into();
        Self { configs: Configs::new(), store, links, complaints: Arc::default() }
    }

    /// Runs the cluster to the run's end.
    pub(super) fn run(&self, seed: u64, faults: &Faults) -> Result<(), String> {
        let experiment = self.configs.experiment(EXPERIMENT);
        let opened = futures::executor::block_on(open_run(&self.store, &experiment, false)).unwrap();
        let run = opened.run().clone();
        let mut sim = turmoil::Builder::new()
            .rng_seed(seed)
            .simulation_duration(LONGEST)
            .tick_duration(Duration::from_millis(5))
            .max_message_latency(Duration::from_millis(30))
            .build();
        self.start(&mut sim, &run, &experiment);
        let mut open: Vec<_> = faults.0.iter().map(|fault| (fault, false)).collect();
        while !self.finished(&run) {
            let now = sim.elapsed();
            if now >= LONGEST - Duration::from_secs(1) {
                return Err(format!("the run does not end: {:?}", self.complaints.lock().unwrap()));
            }
            for (fault, begun) in &mut open {
                if !*begun && now >= fault.from {
                    *begun = true;
                    self.begin(&mut sim, &fault.fault);
                }
            }
            open.retain(|(fault, begun)| {
                let over = *begun && now >= fault.to;
                if over {
                    self.end(&mut sim, &fault.fault);
                }
                !over
            });
            sim.step().map_err(|error| error.to_string())?;
        }
        self.check(&run)
    }

    fn start(&self, sim: &mut Sim<'_>, run: &RunId, experiment: &Experiment) {
        for (handle, name) in (1..).zip(COORDINATORS) {
            let (link, processes) = (self.links[name].clone(), AtomicU64::new(0));
            // Each process has a handle of its own: a crash loses the lead.
            let store = self.store.another(0, link.clone());
            let (run, experiment, data) = (run.clone(), experiment.clone(), self.configs.path("data"));
            sim.host(name, move || {
                let process = processes.fetch_add(1, Ordering::SeqCst);
                let store = Arc::new(store.another(handle + 10 * process, link.clone()));
                let (run, experiment, data) = (run.clone(), experiment.clone(), data.clone());
                Node { name, run, store, experiment, data }.coordinate()
            });
        }
        for (number, name) in (1..).zip(WORKERS) {
            let (processes, complaints) = (AtomicU64::new(0), self.complaints.clone());
            sim.host(name, move || {
                let process = processes.fetch_add(1, Ordering::SeqCst);
                Worker::new(name, number + 10 * process, complaints.clone()).work()
            });
        }
    }

    fn begin(&self, sim: &mut Sim<'_>, fault: &Fault) {
        match fault {
            Fault::Partition(a, b) => sim.partition(*a, *b),
            Fault::OneWay(from, to) => sim.partition_oneway(*from, *to),
            Fault::Hold(a, b) => sim.hold(*a, *b),
            Fault::Crash(host) => sim.crash(*host),
            Fault::StoreAway(name) => self.links[name].cut(),
            Fault::AnswersLost(name) => self.links[name].lose_answers(),
        }
    }

    fn end(&self, sim: &mut Sim<'_>, fault: &Fault) {
        match fault {
            Fault::Partition(a, b) => sim.repair(*a, *b),
            Fault::OneWay(from, to) => sim.repair_oneway(*from, *to),
            Fault::Hold(a, b) => sim.release(*a, *b),
            Fault::Crash(host) => sim.bounce(*host),
            Fault::StoreAway(name) | Fault::AnswersLost(name) => self.links[name].mend(),
        }
    }

    fn finished(&self, run: &RunId) -> bool {
        futures::executor::block_on(self.store.run(run)).unwrap().status == RunStatus::Finished
    }

    /// Every episode ended once, and each turn's author had seen exactly what stands before it.
    fn check(&self, run: &RunId) -> Result<(), String> {
        futures::executor::block_on(async {
            let mut episodes = 0;
            for at in self.store.iterations(run).await.unwrap() {
                for episode in self.store.episodes(run, at.phase, at.iteration).await.unwrap() {
                    let name = &episode.id;
                    if episode.status != EpisodeStatus::Finished || episode.verdict.is_none() {
                        return Err(format!("episode {name} did not end: {:?}", episode.status));
                    }
                    let turns = self.store.journal(run, name).await.unwrap();
                    for (index, turn) in turns.iter().enumerate() {
                        if !turn.reply.text.ends_with(&seen(&turns[..index])) {
                            return Err(format!("turn {index} of {name} does not follow what stands before it"));
                        }
                    }
                    let last = turns.last().is_some_and(|turn| turn.environment.is_none());
                    if !last || turns.len() != 3 {
                        return Err(format!("episode {name} has {} turns", turns.len()));
                    }
                    episodes += 1;
                }
            }
            let complaints = self.complaints.lock().unwrap();
            if !complaints.is_empty() {
                return Err(format!("workers were contradicted: {complaints:?}"));
            }
            if episodes != 15 { Err(format!("{episodes} episodes")) } else { Ok(()) }
        })
    }
}
