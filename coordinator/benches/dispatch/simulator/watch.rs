//! What the coordinator uses, over time.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::Simulation;
use crate::process::Process;

const EVERY: Duration = Duration::from_millis(250);
/// How often a person is told.
const SAY: u32 = 40;

/// The coordinator at one moment.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Sample {
    pub(crate) seconds: f64,
    /// Finished so far.
    pub(crate) episodes: u32,
    pub(crate) cpu_ms: f64,
    pub(crate) memory_mib: f64,
    /// Of the store's own process, if it has one.
    pub(crate) store_cpu_ms: f64,
    pub(crate) store_memory_mib: f64,
    /// Bytes to disk, by both.
    pub(crate) written: f64,
}

/// Samples until the simulation stops or the process ends; also returns its highest memory.
pub(super) async fn watch(simulation: Arc<Simulation>, processes: Vec<Process>) -> (Vec<Sample>, f64) {
    let start = Instant::now();
    let (mut samples, mut peak): (Vec<Sample>, f64) = (Vec::new(), 0.0);
    let mut every = tokio::time::interval(EVERY);
    for round in 0_u32.. {
        tokio::select! {
            _ = every.tick() => {}
            () = simulation.stop.cancelled() => {}
        }
        let (Some(cpu_ms), Some((memory_mib, high))) = (processes[0].cpu_ms(), processes[0].memory()) else { break };
        peak = high;
        let seconds = start.elapsed().as_secs_f64();
        let episodes = simulation.counters.finished();
        let written = processes.iter().filter_map(Process::written).sum();
        let store = processes.get(1);
        let store_cpu_ms = store.and_then(Process::cpu_ms).unwrap_or(0.0);
        let store_memory_mib = store.and_then(Process::memory).map_or(0.0, |(now, _)| now);
        samples.push(Sample { seconds, episodes, cpu_ms, memory_mib, store_cpu_ms, store_memory_mib, written });
        if round % SAY == SAY - 1 {
            let before = samples[samples.len().saturating_sub(SAY as usize)];
            let done = f64::from(episodes - before.episodes);
            eprintln!(
                "{seconds:5.0} s: {episodes} episodes, {:.0}/s, {:.2} ms CPU each, {:.2} cores, {memory_mib:.0} MiB",
                done / (seconds - before.seconds),
                (cpu_ms - before.cpu_ms) / done.max(1.0),
                (cpu_ms - before.cpu_ms) / (seconds - before.seconds) / 1000.0,
            );
        }
        if simulation.stop.is_cancelled() {
            break;
        }
    }
    (samples, peak)
}
