//! What this process has used.

/// The most memory that it had at once, in MiB.
pub(crate) fn peak_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("the kernel counts it");
    let kib: u64 = line.trim().trim_end_matches("kB").trim().parse().expect("a number");
    kib / 1024
}
