//! One session's stream, from its opening to its end.

use influence_proto::{Failure, Outcome, TrainingProgress, wire};
use tokio::sync::{mpsc, watch};
use wire::worker_event::Event as Wire;

use super::identity::Identity;
use super::leases::Leases;
use super::tasks::Tasks;
use crate::client::{CallError, Client, Ended, Event};
use crate::metrics;

/// Events that wait to be sent: a few, because a later count of credits replaces an earlier one.
const OUTGOING: usize = 4;

/// Why a session ended.
#[derive(Debug)]
pub(super) enum End {
    /// The run is over.
    Goodbye(String),
    /// The coordinator does not know this worker: it must join again.
    Forgotten,
    /// The stream broke; leases live on.
    Lost(String),
    /// The coordinator does not accept what this worker says. Saying it again changes nothing.
    Refused(String),
}

impl From<CallError> for End {
    fn from(error: CallError) -> Self {
        match error {
            CallError::Unknown(_) => Self::Forgotten,
            // Of a session, fenced off says that this worker's models are not the run's.
            CallError::Refused(reason) | CallError::Denied(reason) | CallError::Fenced(reason) => Self::Refused(reason),
            other => Self::Lost(other.to_string()),
        }
    }
}

/// What a session works with.
#[derive(Debug)]
pub(super) struct Connection<'a> {
    pub(super) client: &'a Client,
    pub(super) identity: &'a Identity,
    pub(super) leases: &'a Leases,
    pub(super) tasks: &'a Tasks,
    /// Set once the stream is open.
    pub(super) connected: &'a watch::Sender<bool>,
}

/// What is still to be said; each word replaces the one before.
#[derive(Debug, Default)]
struct ToSay {
    draining: bool,
    credits: Option<u32>,
    training: Option<TrainingProgress>,
}

impl Connection<'_> {
    /// Opens a stream and serves it to its end.
    pub(super) async fn serve(&self) -> End {
        let (sender, outgoing) = mpsc::channel(OUTGOING);
        let models = self.tasks.loaded().into_iter().map(Into::into).collect();
        let hello = Wire::Hello(wire::Hello { worker_id: self.identity.id().to_string(), models });
        // The channel is new and has room.
        let _ = sender.try_send(event(hello));
        let mut events = match self.client.session(outgoing).await {
            Ok(events) => events,
            Err(error) => return error.into(),
        };
        tracing::debug!("session open");
        self.connected.send_replace(true);
        metrics::connected(true);
        let mut free = self.leases.free();
        let mut training = self.tasks.training();
        free.mark_changed();
        training.mark_changed();
        let draining = self.tasks.draining();
        let mut said_draining = false;
        let mut to_say = ToSay::default();
        loop {
            tokio::select! {
                // Room first: what there is to say must not wait behind what comes in.
                biased;
                room = sender.reserve(), if to_say.any() => match room {
                    Ok(room) => {
                        if let Some(word) = to_say.next() {
                            room.send(event(word));
                        }
                    }
                    Err(_) => return End::Lost("the stream is closed".to_owned()),
                },
                () = self.identity.until_forgotten() => return End::Forgotten,
                () = draining.cancelled(), if !said_draining => {
                    said_draining = true;
                    to_say.draining = true;
                    to_say.credits = Some(0);
                }
                Ok(()) = free.changed() => {
                    let free = if said_draining { 0 } else { *free.borrow_and_update() };
                    to_say.credits = Some(u32::try_from(free).unwrap_or(u32::MAX));
                }
                Ok(()) = training.changed() => to_say.training.clone_from(&training.borrow_and_update()),
                incoming = events.next() => match incoming {
                    Ok(Event::Goodbye(reason)) => return End::Goodbye(reason),
                    Ok(event) => self.act(event),
                    Err(Ended::Closed) => return End::Lost("the coordinator closed the stream".to_owned()),
                    Err(Ended::Failed(error)) => return error.into(),
                },
            }
        }
    }

    fn act(&self, event: Event) {
        match event {
            Event::Lease(lease) => self.tasks.take(lease),
            Event::Cancel(lost) => self.leases.lose(&lost),
            Event::Drain(reason) => {
                tracing::info!(%reason, "asked to drain");
                self.tasks.drain();
            }
            Event::Unreadable { work, attempt, problem } => {
                tracing::error!(%work, attempt, %problem, "a lease cannot be read");
                let message = format!("the worker cannot read the lease: {problem}; use the same release for both");
                self.tasks.answer(work, attempt, Outcome::Failed(Failure { retryable: true, message }));
            }
            // Handled where it ends the session.
            Event::Goodbye(_) => {}
        }
    }
}

impl ToSay {
    const fn any(&self) -> bool {
        self.draining || self.credits.is_some() || self.training.is_some()
    }

    fn next(&mut self) -> Option<Wire> {
        if std::mem::take(&mut self.draining) {
            return Some(Wire::Draining(wire::Draining {}));
        }
        if let Some(episodes) = self.credits.take() {
            return Some(Wire::Credits(wire::Credits { episodes }));
        }
        self.training.take().map(|progress| Wire::Training(progress.into()))
    }
}

fn event(event: Wire) -> wire::WorkerEvent {
    wire::WorkerEvent { event: Some(event) }
}
