//! Workers without models.

pub(crate) mod figures;
mod training;
mod turns;
pub(crate) mod watch;
mod worker;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::options::Options;
use crate::process::{Process, machine};
use crate::report::Measured;
use figures::Counters;
use turns::Turns;
use worker::Worker;

/// What all workers share.
struct Simulation {
    options: Options,
    address: SocketAddr,
    turns: Turns,
    counters: Counters,
    stop: CancellationToken,
}

/// Simulates until the run is over or the time is; writes what was measured as one line.
pub(crate) fn run(options: Options, address: SocketAddr, pids: &[u32]) {
    // With its parent it ends.
    std::thread::spawn(|| {
        let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
        std::process::exit(1);
    });
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    let measured = runtime.block_on(simulate(options, address, pids));
    println!("{}", serde_json::to_string(&measured).expect("figures"));
}

async fn simulate(options: Options, address: SocketAddr, pids: &[u32]) -> Measured {
    let this = Process::of(std::process::id());
    let processes: Vec<Process> = pids.iter().map(|pid| Process::of(*pid)).collect();
    let cpu_ms = || processes.iter().filter_map(Process::cpu_ms).sum::<f64>();
    let limit = Duration::from_secs(options.seconds);
    let simulation = Arc::new(Simulation {
        turns: Turns::new(options.bytes, options.turns),
        counters: Counters::new(options.per_iteration()),
        stop: CancellationToken::new(),
        options,
        address,
    });
    let before = (machine().0, cpu_ms(), this.cpu_ms().unwrap_or(0.0));
    let watching = tokio::spawn(watch::watch(simulation.clone(), processes.clone()));
    let workers: Vec<_> =
        (0..simulation.options.workers).map(|i| tokio::spawn(Worker::new(simulation.clone(), i).work())).collect();
    let all = async {
        for worker in workers {
            worker.await.expect("a worker does not panic");
        }
    };
    if tokio::time::timeout(limit, all).await.is_err() {
        eprintln!("stopped after {} s", limit.as_secs());
    }
    simulation.stop.cancel();
    let (samples, peak_mib) = watching.await.expect("watching does not panic");
    let wall = samples.last().map_or(1.0, |s| s.seconds) * 1000.0;
    let (after, processors) = machine();
    let coordinator = samples.last().map_or(0.0, |s| s.cpu_ms + s.store_cpu_ms) - before.1;
    let simulator = this.cpu_ms().unwrap_or(0.0) - before.2;
    Measured {
        others: (after - before.0 - coordinator - simulator).max(0.0) / wall,
        simulator: simulator / wall,
        processors,
        samples,
        peak_mib,
        figures: simulation.counters.take(),
    }
}
