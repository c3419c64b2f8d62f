use crate::wire;
use crate::{ClusterStatus, InvalidMessage, RunId, Standing, WorkerId, WorkerLoad, WorkerStanding};

use super::list;

impl From<ClusterStatus> for wire::StatusReply {
    fn from(status: ClusterStatus) -> Self {
        let Standing { paused, pending, leased, workers } = status.standing;
        Self {
            run_id: status.run.into(),
            phase: status.phase,
            paused,
            episodes_total: status.episodes_total,
            episodes_done: status.episodes_done,
            episodes_failed: status.episodes_failed,
            pending,
            leased,
            turns: status.turns,
            uptime_ms: status.uptime_ms,
            store_problem: status.store_problem,
            workers: workers.into_iter().map(Into::into).collect(),
            version: status.version,
        }
    }
}

impl TryFrom<wire::StatusReply> for ClusterStatus {
    type Error = InvalidMessage;
    fn try_from(reply: wire::StatusReply) -> Result<Self, InvalidMessage> {
        Ok(Self {
            run: RunId::new(reply.run_id)?,
            phase: reply.phase,
            episodes_total: reply.episodes_total,
            episodes_done: reply.episodes_done,
            episodes_failed: reply.episodes_failed,
            turns: reply.turns,
            uptime_ms: reply.uptime_ms,
            store_problem: reply.store_problem,
            version: reply.version,
            standing: Standing {
                paused: reply.paused,
                pending: reply.pending,
                leased: reply.leased,
                workers: list(reply.workers, "workers")?,
            },
        })
    }
}

impl From<WorkerStanding> for wire::WorkerStatus {
    fn from(worker: WorkerStanding) -> Self {
        Self {
            id: worker.id.into(),
            device: worker.device,
            version: worker.version,
            connected: worker.connected,
            draining: worker.draining,
            can_train: worker.can_train,
            credits: worker.credits,
            held: worker.held,
            duplicates: worker.duplicates,
            stalled: worker.stalled,
            turns: worker.turns,
            silent_ms: worker.silent_ms,
            slots: worker.slots,
            still_ms: worker.still_ms,
            tokens_per_second: worker.tokens_per_second,
            memory_bytes: worker.load.memory_bytes,
            backing_off: worker.load.backing_off,
        }
    }
}

impl TryFrom<wire::WorkerStatus> for WorkerStanding {
    type Error = InvalidMessage;
    fn try_from(worker: wire::WorkerStatus) -> Result<Self, InvalidMessage> {
        Ok(Self {
            id: WorkerId::new(worker.id)?,
            device: worker.device,
            version: worker.version,
            connected: worker.connected,
            draining: worker.draining,
            can_train: worker.can_train,
            credits: worker.credits,
            held: worker.held,
            duplicates: worker.duplicates,
            stalled: worker.stalled,
            turns: worker.turns,
            silent_ms: worker.silent_ms,
            slots: worker.slots,
            still_ms: worker.still_ms,
            tokens_per_second: worker.tokens_per_second,
            load: WorkerLoad { memory_bytes: worker.memory_bytes, backing_off: worker.backing_off },
        })
    }
}
