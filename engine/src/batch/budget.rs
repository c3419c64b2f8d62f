//! How much memory keys and values may take.

use candle_core::Device;
use sysinfo::{MemoryRefreshKind, RefreshKind, System};

use crate::model::Placement;

/// Of the memory that is free; the rest is for the pass itself, for training and for everybody else.
const SHARE: u64 = 4;
/// Below this nothing useful fits.
const LEAST: u64 = 64 << 20;
/// Where the system does not say what is free.
const UNKNOWN: u64 = 1 << 30;

/// Bytes for keys and values of one engine at `placement`: a share of what is free there now. Call it after the weights
/// are there.
pub fn kv_budget(placement: &Placement) -> usize {
    match placement {
        #[cfg(feature = "cuda")]
        Placement::Device { .. } => match device_memory(placement) {
            // Nobody else computes on a device; what is left is for a step's own tensors, and for training.
            Some(DeviceMemory { free, .. }) => usize::try_from(free / 10 * 7).unwrap_or(usize::MAX),
            None => share_of(0),
        },
        _ => host_budget(),
    }
}

/// Memory of a device, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeviceMemory {
    /// Of it, what nobody uses.
    pub free: u64,
    /// All of it.
    pub total: u64,
}

/// What a CUDA device says of its memory now; none of other places, and of a device that does not answer.
pub fn device_memory(placement: &Placement) -> Option<DeviceMemory> {
    match placement {
        Placement::Device { device, .. } => memory_of(device),
        Placement::Cpu { .. } => None,
    }
}

#[cfg(feature = "cuda")]
fn memory_of(device: &Device) -> Option<DeviceMemory> {
    crate::cuda::memory(device)
}

#[cfg(not(feature = "cuda"))]
fn memory_of(_device: &Device) -> Option<DeviceMemory> {
    None
}

/// Bytes for a training's graphs: a share of what is free now where it runs.
pub(crate) fn graph_budget(device: &Device) -> usize {
    match device {
        Device::Cpu => host_budget(),
        device => {
            // The rest is for gradients, logits and what operations need while they run.
            let half = |memory: DeviceMemory| usize::try_from(memory.free / 2).unwrap_or(usize::MAX);
            memory_of(device).map_or_else(|| share_of(0), half)
        }
    }
}

/// A quarter of what is free now on this machine, or in this container.
fn host_budget() -> usize {
    let what = RefreshKind::nothing().with_memory(MemoryRefreshKind::nothing().with_ram());
    let free = System::new_with_specifics(what).map_or(0, |system| {
        let free = system.available_memory();
        system.cgroup_limits().map_or(free, |limits| free.min(limits.free_memory))
    });
    share_of(free)
}

fn share_of(free: u64) -> usize {
    let bytes = if free == 0 { UNKNOWN } else { (free / SHARE).max(LEAST) };
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Protects: a machine that is nearly full, or does not say, still gets an engine.
    #[test]
    fn the_share_is_of_what_is_free() {
        assert_eq!(share_of(8 << 30), 2 << 30);
        assert_eq!(share_of(1 << 20), 64 << 20);
        assert_eq!(share_of(0), 1 << 30);
        assert!(kv_budget(&Placement::CPU) >= 64 << 20);
    }
}
