//! The figures, for people and for machines.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::options::{Options, StoreKind};
use crate::simulator::figures::Figures;
use crate::simulator::watch::Sample;

/// What the simulator brings back.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Measured {
    pub(crate) samples: Vec<Sample>,
    /// The highest resident memory of the coordinator, in MiB.
    pub(crate) peak_mib: f64,
    pub(crate) figures: Figures,
    /// Processors that others kept busy meanwhile, of how many.
    pub(crate) others: f64,
    pub(crate) processors: usize,
    /// Processors that the simulator kept busy.
    pub(crate) simulator: f64,
}

/// The stretch between two numbers of finished episodes.
struct Stretch<'a>(&'a Sample, &'a Sample);

impl Stretch<'_> {
    fn episodes(&self) -> f64 {
        f64::from(self.1.episodes - self.0.episodes).max(1.0)
    }

    fn per_second(&self) -> f64 {
        self.episodes() / (self.1.seconds - self.0.seconds).max(0.001)
    }

    fn cpu_ms(&self) -> f64 {
        (self.1.cpu_ms - self.0.cpu_ms) / self.episodes()
    }

    fn store_cpu_ms(&self) -> f64 {
        (self.1.store_cpu_ms - self.0.store_cpu_ms) / self.episodes()
    }

    fn written_kib(&self) -> f64 {
        (self.1.written - self.0.written) / self.episodes() / 1024.0
    }

    fn cores(&self) -> f64 {
        (self.1.cpu_ms - self.0.cpu_ms) / (self.1.seconds - self.0.seconds).max(0.001) / 1000.0
    }
}

impl Measured {
    /// The first sample with that share of the episodes done.
    fn at(&self, share: f64) -> &Sample {
        let end = self.samples.last().expect("there is a first sample");
        let wanted = f64::from(end.episodes) * share;
        self.samples.iter().find(|s| f64::from(s.episodes) >= wanted).unwrap_or(end)
    }

    fn whole(&self) -> Stretch<'_> {
        Stretch(&self.samples[0], self.at(1.0))
    }

    fn middle(&self) -> Stretch<'_> {
        Stretch(self.at(0.1), self.at(0.8))
    }
}

pub(crate) fn json(options: &Options, measured: &Measured, ended: &str) -> Value {
    let stretch = |s: &Stretch<'_>| {
        json!({
            "cpu_ms_per_episode": s.cpu_ms(), "store_cpu_ms_per_episode": s.store_cpu_ms(), "episodes_per_second": s.per_second(), "cores": s.cores(),
            "written_kib_per_episode": s.written_kib(), "seconds": s.1.seconds - s.0.seconds,
        })
    };
    json!({
        "options": options,
        "turn_seconds": options.turn_seconds(),
        "ended": ended,
        "whole": stretch(&measured.whole()),
        "middle": stretch(&measured.middle()),
        "memory_mib": {
            "start": measured.samples[0].memory_mib, "tenth": measured.at(0.1).memory_mib,
            "half": measured.at(0.5).memory_mib, "end": measured.at(1.0).memory_mib, "peak": measured.peak_mib, "store_end": measured.at(1.0).store_memory_mib,
        },
        "figures": measured.figures.json(),
        "others_cores": measured.others,
        "simulator_cores": measured.simulator,
        "processors": measured.processors,
    })
}

pub(crate) fn print(options: &Options, measured: &Measured, ended: &str) {
    let (whole, middle) = (measured.whole(), measured.middle());
    let figures = &measured.figures;
    println!(
        "{} workers of {} slots, {} episodes in {} iterations, {} turns of {} bytes, store {:?}, {} episodes/s offered \
         ({:.2} s a turn)\nthe run: {ended}",
        options.workers,
        options.slots,
        options.episodes,
        options.iterations,
        options.turns,
        options.bytes,
        options.store,
        options.rate,
        options.turn_seconds(),
    );
    let row = |name: &str, value: String| println!("  {name:<58} {value}");
    row("coordinator CPU per episode, whole run", format!("{:.3} ms", whole.cpu_ms()));
    row("coordinator CPU per episode, from 10% to 80%", format!("{:.3} ms", middle.cpu_ms()));
    if options.store != StoreKind::Sqlite {
        let memory = measured.at(1.0).store_memory_mib;
        row("Redis: CPU per episode, memory at the end", format!("{:.3} ms, {memory:.0} MiB", whole.store_cpu_ms()));
    }
    row("episodes per second, whole run", format!("{:.0}", whole.per_second()));
    row("episodes per second, from 10% to 80%", format!("{:.0}", middle.per_second()));
    let at = |share| measured.at(share).memory_mib;
    row(
        "resident memory at the start, 10%, 50%, end",
        format!("{:.0}, {:.0}, {:.0}, {:.0} MiB", measured.samples[0].memory_mib, at(0.1), at(0.5), at(1.0)),
    );
    row("resident memory at its peak", format!("{:.0} MiB", measured.peak_mib));
    let ms = |(median, high): (f64, f64)| format!("{median:.1} / {high:.1} ms");
    row("free slot to lease, p50 / p99", ms(figures.refill()));
    row("plan to lease while all slots are filled, p50 / p99", ms(figures.fill()));
    row("RecordTurn, p50 / p99", ms(figures.record()));
    row("written to disk per episode", format!("{:.1} KiB", whole.written_kib()));
    row("seconds from the first to the last episode", format!("{:.0}", whole.1.seconds - whole.0.seconds));
    row(
        "processors busy: coordinator, simulator, others",
        format!("{:.2}, {:.2}, {:.2} of {}", whole.cores(), measured.simulator, measured.others, measured.processors),
    );
    row(
        "turns, leases, lost leases, errors",
        format!(
            "{}, {}, {}, {}",
            figures.records.len(),
            figures.refills.len() + figures.fills.len(),
            figures.lost,
            figures.errors
        ),
    );
}
