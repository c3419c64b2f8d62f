//! What a process uses, as Linux tells.

use std::path::PathBuf;

/// Clock ticks are hundredths of a second on every Linux that Rust knows.
const TICK_MS: f64 = 10.0;

/// A process, by its id.
#[derive(Debug, Clone)]
pub(crate) struct Process(PathBuf);

impl Process {
    pub(crate) fn of(pid: u32) -> Self {
        Self(PathBuf::from(format!("/proc/{pid}")))
    }

    /// User and system time, in milliseconds. None once it has ended.
    pub(crate) fn cpu_ms(&self) -> Option<f64> {
        let text = std::fs::read_to_string(self.0.join("stat")).ok()?;
        // Behind the command's name, which is in parentheses and may hold anything: field 3 and on.
        let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
        let ticks: f64 = fields.get(11..13)?.iter().filter_map(|f| f.parse::<f64>().ok()).sum();
        Some(ticks * TICK_MS)
    }

    /// Resident memory now, and at its most, in MiB.
    pub(crate) fn memory(&self) -> Option<(f64, f64)> {
        let text = std::fs::read_to_string(self.0.join("status")).ok()?;
        let kib = |name: &str| -> Option<f64> {
            text.lines().find_map(|l| l.strip_prefix(name))?.split_whitespace().next()?.parse().ok()
        };
        Some((kib("VmRSS:")? / 1024.0, kib("VmHWM:")? / 1024.0))
    }

    /// Bytes that it had written to disks.
    pub(crate) fn written(&self) -> Option<f64> {
        let text = std::fs::read_to_string(self.0.join("io")).ok()?;
        text.lines().find_map(|l| l.strip_prefix("write_bytes: "))?.parse().ok()
    }
}

/// Time that the machine's processors were busy with anything, in milliseconds, and their number.
pub(crate) fn machine() -> (f64, usize) {
    let text = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    let all: Vec<f64> =
        text.lines().next().unwrap_or_default().split_whitespace().filter_map(|f| f.parse().ok()).collect();
    // user nice system idle iowait irq softirq steal
    let busy: f64 = all.iter().take(8).enumerate().filter(|(i, _)| ![3, 4].contains(i)).map(|(_, ticks)| ticks).sum();
    (busy * TICK_MS, std::thread::available_parallelism().map_or(1, usize::from))
}
