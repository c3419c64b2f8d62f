//! One worker's stream.

use std::time::Duration;

use futures::{StreamExt as _, stream};
use influence_proto::wire::{coordinator_event, worker_event};
use influence_proto::{Failure, MAX_MESSAGE, TrainingProgress, WorkerId, wire};
use prost::Message as _;
use tonic::{Code, Status, Streaming};

use super::calls::Service;
use super::{models, status};
use crate::dispatch::{DispatchError, DispatchHandle, SessionEvent};

/// For the first event of a stream.
const HELLO: Duration = Duration::from_secs(10);
/// Room for what gRPC adds to a lease.
const FRAME: usize = 1024;

/// What goes down the stream.
type Down = stream::BoxStream<'static, Result<wire::CoordinatorEvent, Status>>;

pub(super) async fn open(service: &Service, mut events: Streaming<wire::WorkerEvent>) -> Result<Down, Status> {
    let first = tokio::time::timeout(HELLO, events.message())
        .await
        .map_err(|_| Status::invalid_argument("the stream's first event, `hello`, did not come within 10 s"))??;
    let Some(worker_event::Event::Hello(hello)) = first.and_then(|event| event.event) else {
        return Err(Status::invalid_argument("the stream's first event must be `hello`"));
    };
    let worker = WorkerId::new(hello.worker_id).map_err(status::invalid)?;
    // First: one that joined an earlier run of this address has that run's models, and has to join again.
    let session = service.dispatch.connect(worker.clone()).await.map_err(status::dispatch)?;
    // A worker with other files has got no lease so far, as nobody has heard of room that it has, and gets none.
    if let Err(refused) = models::pin(service, hello.models).await {
        let _ = service.dispatch.disconnect(worker, session.generation).await;
        return Err(refused);
    }
    let dispatch = service.dispatch.clone();
    let (generation, stop) = (session.generation, service.stop.clone());
    service.readers.spawn(async move {
        tokio::select! {
            () = stop.cancelled() => {}
            () = listen(&dispatch, &worker, events) => {}
        }
        if dispatch.disconnect(worker, generation).await.is_err() {
            tracing::debug!("a session ended after the dispatcher");
        }
    });
    let dispatch = service.dispatch.clone();
    let down = stream::unfold((session.events, dispatch), |(mut events, dispatch)| async move {
        loop {
            let event = events.recv().await?;
            if let Some(event) = encode(event, &dispatch).await {
                return Some((Ok(wire::CoordinatorEvent { event: Some(event) }), (events, dispatch)));
            }
        }
    });
    Ok(down.boxed())
}

/// Hears a worker out until its stream ends.
async fn listen(dispatch: &DispatchHandle, worker: &WorkerId, mut events: Streaming<wire::WorkerEvent>) {
    loop {
        let event = match events.message().await {
            Ok(Some(wire::WorkerEvent { event: Some(event) })) => event,
            Ok(Some(_)) => {
                tracing::warn!(%worker, "an event of a kind that this release does not know was ignored");
                continue;
            }
            Ok(None) => return,
            Err(status) if status.code() == Code::OutOfRange => {
                tracing::warn!(%worker, status = status.message(), "a session's event is too large: its stream ends");
                return;
            }
            Err(status) => {
                tracing::debug!(%worker, %status, "a session's stream broke");
                return;
            }
        };
        if tell(dispatch, worker, event).await.is_err() {
            return;
        }
    }
}

async fn tell(dispatch: &DispatchHandle, worker: &WorkerId, event: worker_event::Event) -> Result<(), DispatchError> {
    match event {
        // It was said already.
        worker_event::Event::Hello(_) => Ok(()),
        worker_event::Event::Credits(credits) => dispatch.credits(worker.clone(), credits.episodes).await,
        worker_event::Event::Draining(_) => dispatch.draining(worker.clone()).await,
        worker_event::Event::Training(progress) => match TrainingProgress::try_from(progress) {
            Ok(progress) => dispatch.training(worker.clone(), progress).await,
            Err(error) => {
                tracing::warn!(%worker, %error, "a training job's progress cannot be read");
                Ok(())
            }
        },
    }
}

/// The event as it goes out. A lease that no worker could receive fails at once, instead of making
/// every worker that is offered it look dead.
async fn encode(event: SessionEvent, dispatch: &DispatchHandle) -> Option<coordinator_event::Event> {
    match event {
        SessionEvent::Cancel { work, attempt, reason } => {
            Some(coordinator_event::Event::Cancel(wire::Cancel { work: work.into(), attempt, reason }))
        }
        SessionEvent::Drain(reason) => Some(coordinator_event::Event::Drain(wire::Drain { reason })),
        SessionEvent::Goodbye(reason) => Some(coordinator_event::Event::Goodbye(wire::Goodbye { reason })),
        SessionEvent::Lease(lease) => {
            let (work, attempt) = (lease.work.clone(), lease.attempt);
            let lease = wire::Lease::from(*lease);
            let bytes = lease.encoded_len();
            if bytes + FRAME <= MAX_MESSAGE {
                return Some(coordinator_event::Event::Lease(lease));
            }
            let message = format!(
                "the lease of `{work}` takes {bytes} bytes, more than the {MAX_MESSAGE} that a message may have; \
                 shorten the prompts or the conversation"
            );
            if dispatch.failed(work, attempt, Failure { retryable: false, message }).await.is_err() {
                tracing::debug!("a lease was too large after the dispatcher had ended");
            }
            None
        }
    }
}
