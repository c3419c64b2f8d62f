//! What people see of the machine.

use influence_proto::{Standing, WorkerId, WorkerLoad, WorkerStanding};

use super::handle::DispatchError;
use super::state::Dispatch;
use super::worker::{Seat, Worker};

impl Dispatch {
    /// How things stand at `now`: workers in order of their ids.
    pub fn standing(&self, now: u64) -> Standing {
        let pending = self.queues.len();
        let mut workers: Vec<_> =
            self.workers.iter().map(|(seat, worker)| self.worker_standing(*seat, worker, now)).collect();
        workers.sort_by(|a, b| a.id.cmp(&b.id));
        Standing { paused: self.paused, pending: pending as u32, leased: (self.items.len() - pending) as u32, workers }
    }

    /// The worker of this id, or the one of this name.
    pub(super) fn find(&self, asked: &str) -> Result<WorkerId, DispatchError> {
        let mut ids: Vec<&WorkerId> = self.seats.keys().collect();
        ids.sort();
        if let Some(id) = ids.iter().find(|id| id.as_str() == asked) {
            return Ok((*id).clone());
        }
        // An id is the worker's name, `-` and its incarnation.
        let name_of = |id: &WorkerId| id.as_str().rsplit_once('-').map(|(name, _)| name.to_owned());
        let named: Vec<&WorkerId> = ids.iter().copied().filter(|id| name_of(id).as_deref() == Some(asked)).collect();
        match named.as_slice() {
            [only] => Ok((*only).clone()),
            [] if ids.is_empty() => {
                Err(DispatchError::NoSuchWorker { asked: plain(asked), known: "no worker has joined".to_owned() })
            }
            [] => Err(DispatchError::NoSuchWorker {
                asked: plain(asked),
                known: format!("those there are: {}", listed(&ids)),
            }),
            several => Err(DispatchError::SeveralWorkers { name: plain(asked), ids: listed(several) }),
        }
    }

    fn worker_standing(&self, seat: Seat, worker: &Worker, now: u64) -> WorkerStanding {
        let second = |place| {
            let leases = self.items.get(place).map(|item| item.leases.as_slice()).unwrap_or_default();
            let first = leases.iter().map(|lease| lease.attempt).min();
            leases.iter().any(|lease| lease.seat == seat && Some(lease.attempt) != first)
        };
        let still = |place| {
            let lease = self.items.get(place)?.leases.iter().find(|lease| lease.seat == seat)?;
            Some(now.saturating_sub(lease.progressed))
        };
        WorkerStanding {
            id: worker.id.clone(),
            device: worker.device.clone(),
            version: worker.version.clone(),
            connected: worker.connected,
            draining: worker.draining,
            can_train: worker.can_train,
            credits: worker.credits,
            held: worker.held.len() as u32,
            duplicates: worker.held.iter().filter(|place| second(place)).count() as u32,
            stalled: worker.stalled,
            turns: worker.turns,
            silent_ms: now.saturating_sub(worker.last_seen),
            slots: worker.peak,
            still_ms: worker.held.iter().filter_map(still).max().unwrap_or_default(),
            tokens_per_second: 0,
            load: WorkerLoad::default(),
        }
    }
}

/// Enough workers to recognise one's own.
fn listed(ids: &[&WorkerId]) -> String {
    let shown: Vec<_> = ids.iter().take(20).map(|id| format!("`{id}`")).collect();
    let more = ids.len() - shown.len();
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    format!("{}{more}", shown.join(", "))
}

fn plain(asked: &str) -> String {
    asked.chars().take(100).flat_map(char::escape_default).collect()
}
