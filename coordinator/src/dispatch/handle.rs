//! What the rest of the coordinator calls.

use influence_proto::{
    Digest, Failure, HeldLease, Join, Lease, ModelAnswer, ModelCall, Standing, TrainingProgress, WorkId, WorkerId,
    WorkerLoad,
};
use tokio::sync::{mpsc, oneshot, watch};

use super::calls::Reply;
use super::event::{Event, Task};

/// What a worker is told on its stream.
#[derive(Debug, Clone, PartialEq)]
pub enum SessionEvent {
    /// It may do this.
    Lease(Box<Lease>),
    /// It no longer holds this.
    Cancel {
        /// Which work.
        work: WorkId,
        /// Which attempt.
        attempt: u32,
        /// Why.
        reason: String,
    },
    /// Somebody wants it to drain and leave; the run goes on.
    Drain(String),
    /// The run is over.
    Goodbye(String),
}

/// One open stream of a worker.
#[derive(Debug)]
pub struct Session {
    /// What to tell it; the stream ends with this.
    pub events: mpsc::Receiver<SessionEvent>,
    /// Tells this stream from the worker's earlier ones.
    pub generation: u64,
}

/// How far a batch of submitted work has come.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Batch {
    /// Submitted.
    pub total: usize,
    /// Done.
    pub finished: usize,
    /// Given up.
    pub failed: usize,
    /// Why the last one was given up.
    pub last_error: Option<String>,
}

impl Batch {
    /// Whether nothing is left to wait for.
    pub const fn complete(&self) -> bool {
        self.finished + self.failed >= self.total
    }
}

/// Why a call to the dispatcher failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DispatchError {
    /// The worker never joined, or was gone for so long that it was forgotten.
    #[error("worker `{0}` is not known here; it must join (again)")]
    UnknownWorker(String),
    /// Somebody means a worker that is not there.
    #[error("there is no worker `{asked}`; {known}")]
    NoSuchWorker {
        /// The id or name that was given, without what could upset a terminal.
        asked: String,
        /// Which there are.
        known: String,
    },
    /// A name alone does not say which worker is meant.
    #[error("several workers are named `{name}`: {ids}; give the id of one")]
    SeveralWorkers {
        /// The name that was given.
        name: String,
        /// Their ids.
        ids: String,
    },
    /// No worker could make the calls.
    #[error("the models gave no answer: {0}")]
    Unanswered(String),
    /// The dispatcher has stopped.
    #[error("the coordinator is stopping")]
    Closed,
}

#[derive(Debug)]
pub(super) enum Request {
    Join {
        join: Box<Join>,
        reply: oneshot::Sender<WorkerId>,
    },
    Connect {
        worker: WorkerId,
        reply: oneshot::Sender<Result<Session, DispatchError>>,
    },
    Disconnect {
        worker: WorkerId,
        generation: u64,
    },
    Renew {
        worker: WorkerId,
        held: Vec<HeldLease>,
        load: WorkerLoad,
        reply: oneshot::Sender<Result<Vec<SessionEvent>, DispatchError>>,
    },
    Submit {
        batch: Vec<Task>,
        reply: oneshot::Sender<watch::Receiver<Batch>>,
    },
    Training {
        worker: WorkerId,
        progress: TrainingProgress,
    },
    Turn {
        worker: WorkerId,
        work: WorkId,
        attempt: u32,
        tokens: u64,
    },
    Checkpoint {
        worker: WorkerId,
        work: WorkId,
        attempt: u32,
        state: Digest,
        reply: oneshot::Sender<Option<Digest>>,
    },
    ForgetCheckpoint {
        work: WorkId,
        reply: oneshot::Sender<Option<Digest>>,
    },
    Call {
        calls: Vec<ModelCall>,
        reply: Reply,
    },
    Answered {
        work: WorkId,
        attempt: u32,
        answers: Vec<ModelAnswer>,
    },
    Standing {
        reply: oneshot::Sender<Standing>,
    },
    Drain {
        worker: String,
        reply: oneshot::Sender<Result<WorkerId, DispatchError>>,
    },
    Tell(Event),
    Goodbye(String),
}

/// Calls to the dispatcher; cheap to clone.
#[derive(Debug, Clone)]
pub struct DispatchHandle {
    pub(super) requests: mpsc::Sender<Request>,
}

impl DispatchHandle {
    async fn send(&self, request: Request) -> Result<(), DispatchError> {
        self.requests.send(request).await.map_err(|_| DispatchError::Closed)
    }

    async fn ask<T>(&self, request: impl FnOnce(oneshot::Sender<T>) -> Request) -> Result<T, DispatchError> {
        let (reply, answer) = oneshot::channel();
        self.send(request(reply)).await?;
        answer.await.map_err(|_| DispatchError::Closed)
    }

    /// Lets a worker in. The same name and incarnation give the same id, before and after a restart
    /// of the coordinator.
    pub async fn join(&self, join: Join) -> Result<WorkerId, DispatchError> {
        self.ask(|reply| Request::Join { join: Box::new(join), reply }).await
    }

    /// Opens a worker's stream; an older one of the same worker ends.
    pub async fn connect(&self, worker: WorkerId) -> Result<Session, DispatchError> {
        self.ask(|reply| Request::Connect { worker, reply }).await?
    }

    /// A worker's stream has ended.
    pub async fn disconnect(&self, worker: WorkerId, generation: u64) -> Result<(), DispatchError> {
        self.send(Request::Disconnect { worker, generation }).await
    }

    /// Renews leases; returns a [`SessionEvent::Cancel`] for each that is no longer held.
    pub async fn renew(
        &self,
        worker: WorkerId,
        held: Vec<HeldLease>,
        load: WorkerLoad,
    ) -> Result<Vec<SessionEvent>, DispatchError> {
        self.ask(|reply| Request::Renew { worker, held, load, reply }).await?
    }

    /// How many more episodes a worker takes.
    pub async fn credits(&self, worker: WorkerId, episodes: u32) -> Result<(), DispatchError> {
        self.send(Request::Tell(Event::Credits(worker, episodes))).await
    }

    /// A worker wants no more work.
    pub async fn draining(&self, worker: WorkerId) -> Result<(), DispatchError> {
        self.send(Request::Tell(Event::Draining(worker))).await
    }

    /// A worker says how far its training job has come.
    pub async fn training(&self, worker: WorkerId, progress: TrainingProgress) -> Result<(), DispatchError> {
        self.send(Request::Training { worker, progress }).await
    }

    /// A worker has uploaded its training's state; the next attempt hears of it, if this one is current. Returns the state
    /// before, which nobody needs any more.
    pub async fn checkpoint(
        &self,
        worker: WorkerId,
        work: WorkId,
        attempt: u32,
        state: Digest,
    ) -> Result<Option<Digest>, DispatchError> {
        self.ask(|reply| Request::Checkpoint { worker, work, attempt, state, reply }).await
    }

    /// A training has ended; returns its last state, which nobody needs any more.
    pub async fn forget_checkpoint(&self, work: WorkId) -> Result<Option<Digest>, DispatchError> {
        self.ask(|reply| Request::ForgetCheckpoint { work, reply }).await
    }

    /// A turn was stored, which took so many tokens of all roles.
    pub async fn turn_recorded(
        &self,
        worker: WorkerId,
        work: WorkId,
        attempt: u32,
        tokens: u64,
    ) -> Result<(), DispatchError> {
        self.send(Request::Turn { worker, work, attempt, tokens }).await
    }

    /// An attempt's end was stored.
    pub async fn finished(&self, work: WorkId, attempt: u32) -> Result<(), DispatchError> {
        self.send(Request::Tell(Event::Finished { work, attempt })).await
    }

    /// An attempt failed.
    pub async fn failed(&self, work: WorkId, attempt: u32, failure: Failure) -> Result<(), DispatchError> {
        self.send(Request::Tell(Event::Failed { work, attempt, failure })).await
    }

    /// An attempt was handed back.
    pub async fn returned(&self, work: WorkId, attempt: u32) -> Result<(), DispatchError> {
        self.send(Request::Tell(Event::Returned { work, attempt })).await
    }

    /// Hands work out, in this order; the receiver tells how far it has come. One batch at a time:
    /// counts start anew with each.
    pub async fn submit(&self, batch: Vec<Task>) -> Result<watch::Receiver<Batch>, DispatchError> {
        self.ask(|reply| Request::Submit { batch, reply }).await
    }

    /// Has a worker make calls, all at once, and waits for the answers, which come in the calls' order. Dropped before
    /// that, it takes them back.
    ///
    /// # Errors
    /// [`DispatchError::Unanswered`] when the calls were tried as often as work is tried here, or cannot be made.
    pub async fn call(&self, calls: Vec<ModelCall>) -> Result<Vec<ModelAnswer>, DispatchError> {
        self.ask(|reply| Request::Call { calls, reply }).await?
    }

    /// A worker's answers to calls.
    pub async fn answered(&self, work: WorkId, attempt: u32, answers: Vec<ModelAnswer>) -> Result<(), DispatchError> {
        self.send(Request::Answered { work, attempt, answers }).await
    }

    /// How the handing out of work stands.
    pub async fn standing(&self) -> Result<Standing, DispatchError> {
        self.ask(|reply| Request::Standing { reply }).await
    }

    /// From now on nothing is handed out. What is held goes on.
    pub async fn pause(&self) -> Result<(), DispatchError> {
        self.send(Request::Tell(Event::Paused(true))).await
    }

    /// Work is handed out again.
    pub async fn resume(&self) -> Result<(), DispatchError> {
        self.send(Request::Tell(Event::Paused(false))).await
    }

    /// Asks one worker to drain and leave. It is given by its id, or by its name if no other has it.
    pub async fn drain_worker(&self, worker: impl Into<String>) -> Result<WorkerId, DispatchError> {
        let worker = worker.into();
        self.ask(|reply| Request::Drain { worker, reply }).await?
    }

    /// Tells all workers that the run is over, and ends their streams.
    pub async fn goodbye(&self, reason: impl Into<String>) -> Result<(), DispatchError> {
        self.send(Request::Goodbye(reason.into())).await
    }
}
