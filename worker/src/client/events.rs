//! What the coordinator says in a session.

use influence_proto::{InvalidMessage, Lease, WorkId, wire};
use tonic::Streaming;
use wire::coordinator_event::Event as Wire;

use super::CallError;

/// A lease that this worker no longer has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Lost {
    pub(crate) work: WorkId,
    pub(crate) attempt: u32,
    pub(crate) reason: String,
}

impl TryFrom<wire::Cancel> for Lost {
    type Error = InvalidMessage;
    fn try_from(cancel: wire::Cancel) -> Result<Self, InvalidMessage> {
        Ok(Self { work: WorkId::new(cancel.work)?, attempt: cancel.attempt, reason: cancel.reason })
    }
}

/// One event of a session.
#[derive(Debug)]
pub(crate) enum Event {
    /// Work to do.
    Lease(Lease),
    /// Work that this build cannot read: it must be told, or the coordinator would wait for it.
    Unreadable { work: WorkId, attempt: u32, problem: InvalidMessage },
    /// Work to drop.
    Cancel(Lost),
    /// The run is over.
    Goodbye(String),
    /// Somebody wants this worker to leave; the run goes on.
    Drain(String),
}

/// Why a session's stream ended.
#[derive(Debug)]
pub(crate) enum Ended {
    /// By the coordinator, without a word.
    Closed,
    /// By an error.
    Failed(CallError),
}

/// The coordinator's side of a session.
#[derive(Debug)]
pub(crate) struct Events {
    stream: Streaming<wire::CoordinatorEvent>,
}

impl Events {
    pub(super) const fn new(stream: Streaming<wire::CoordinatorEvent>) -> Self {
        Self { stream }
    }

    /// The next event. An event that no one could act on is skipped with a warning.
    pub(crate) async fn next(&mut self) -> Result<Event, Ended> {
        loop {
            let message = match self.stream.message().await {
                Ok(Some(message)) => message,
                Ok(None) => return Err(Ended::Closed),
                Err(status) => return Err(Ended::Failed(status.into())),
            };
            match read(message) {
                Ok(event) => return Ok(event),
                Err(problem) => tracing::warn!(%problem, "the coordinator sent an event that cannot be read"),
            }
        }
    }
}

fn read(message: wire::CoordinatorEvent) -> Result<Event, InvalidMessage> {
    match message.event.ok_or_else(|| InvalidMessage::new("event", "is missing"))? {
        Wire::Lease(lease) => {
            let (work, attempt) = (lease.work.clone(), lease.attempt);
            Lease::try_from(lease).map(Event::Lease).or_else(|problem| {
                Ok(Event::Unreadable { work: WorkId::new(work)?, attempt, problem: problem.inside("lease") })
            })
        }
        Wire::Cancel(cancel) => Ok(Event::Cancel(cancel.try_into()?)),
        Wire::Goodbye(goodbye) => Ok(Event::Goodbye(goodbye.reason)),
        Wire::Drain(drain) => Ok(Event::Drain(drain.reason)),
    }
}
