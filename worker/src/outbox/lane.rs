//! What leaves for one piece of work, in order.

use influence_proto::{Failure, Outcome, Turn, WorkId};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

use super::Backoff;
use crate::client::{CallError, Client};
use crate::metrics;
use crate::session::Identity;

/// Turns that a lane holds before its episode waits.
const ROOM: usize = 4;

/// What became of a result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Delivery {
    /// The coordinator has stored it.
    Stored,
    /// It is no longer wanted: the attempt is another worker's, or over.
    Dropped(String),
}

enum Item {
    Turn(Box<Turn>),
    Finish(Outcome),
}

/// The way out for one attempt. Dropped without a result, it sends what it holds and no more.
#[derive(Debug)]
pub(crate) struct Lane {
    items: mpsc::Sender<Item>,
    task: JoinHandle<Delivery>,
}

struct Sender {
    client: Client,
    identity: Identity,
    work: WorkId,
    attempt: u32,
    lost: CancellationToken,
}

impl Lane {
    /// Opens the lane of an attempt. `lost` ends it; the lane cancels `lost` itself when the coordinator fences it off.
    pub(crate) fn open(
        client: Client,
        identity: Identity,
        work: WorkId,
        attempt: u32,
        lost: CancellationToken,
    ) -> Self {
        let (items, inbox) = mpsc::channel(ROOM);
        let sender = Sender { client, identity, work, attempt, lost };
        Self { items, task: tokio::spawn(sender.run(inbox).in_current_span()) }
    }

    /// Hands over a turn; waits while the lane is full.
    pub(crate) async fn turn(&self, turn: Turn) {
        // A lane that is gone has cancelled `lost`: the episode sees that.
        let _ = self.items.send(Item::Turn(Box::new(turn))).await;
    }

    /// Hands over the result and waits until it is stored, or not wanted.
    pub(crate) async fn finish(self, outcome: Outcome) -> Delivery {
        let _ = self.items.send(Item::Finish(outcome)).await;
        drop(self.items);
        self.task.await.unwrap_or_else(|e| Delivery::Dropped(format!("the lane ended early: {e}")))
    }
}

impl Sender {
    async fn run(self, mut inbox: mpsc::Receiver<Item>) -> Delivery {
        loop {
            let item = tokio::select! {
                biased;
                () = self.lost.cancelled() => return Delivery::Dropped("the lease was lost".to_owned()),
                item = inbox.recv() => item,
            };
            let Some(item) = item else {
                return Delivery::Dropped("the work was given up".to_owned());
            };
            let last = matches!(item, Item::Finish(_));
            let failed = match self.deliver(&item).await {
                Ok(()) if last => return Delivery::Stored,
                Ok(()) => {
                    if let Item::Turn(turn) = &item {
                        tracing::debug!(work = %self.work, attempt = self.attempt, turn = turn.index, "turn stored");
                    }
                    continue;
                }
                Err(error) => error,
            };
            // Whatever comes next for this work, it will not be accepted: the episode need not go on.
            self.lost.cancel();
            if let CallError::Refused(reason) = &failed
                && !last
            {
                tracing::error!(work = %self.work, attempt = self.attempt, %reason, "a turn was refused");
                let message = format!("the coordinator refused a turn: {reason}");
                let failure = Item::Finish(Outcome::Failed(Failure { retryable: false, message }));
                if self.deliver_lost(&failure).await.is_ok() {
                    return Delivery::Stored;
                }
            }
            return Delivery::Dropped(failed.to_string());
        }
    }

    /// Sends an item until it is stored, refused, or the lease is lost.
    async fn deliver(&self, item: &Item) -> Result<(), CallError> {
        tokio::select! {
            biased;
            () = self.lost.cancelled() => Err(CallError::Fenced("the lease was lost".to_owned())),
            result = self.deliver_lost(item) => result,
        }
    }

    async fn deliver_lost(&self, item: &Item) -> Result<(), CallError> {
        let mut backoff = Backoff::new(self.identity.incarnation());
        loop {
            let worker = self.identity.id();
            let result = match item {
                Item::Turn(turn) => self.client.record_turn(&worker, &self.work, self.attempt, (**turn).clone()).await,
                Item::Finish(outcome) => self.client.finish(&worker, &self.work, self.attempt, outcome.clone()).await,
            };
            match result {
                Ok(()) => return Ok(()),
                // The coordinator was started anew and does not know this worker yet: the session joins again.
                Err(CallError::Unknown(reason)) => {
                    self.identity.forgotten(&worker);
                    tracing::debug!(work = %self.work, %reason, "the coordinator does not know this worker");
                }
                Err(error) if error.retryable() => {
                    if backoff.tries() == 0 {
                        tracing::warn!(work = %self.work, attempt = self.attempt, %error, "kept until it can be sent");
                    }
                }
                Err(error) => return Err(error),
            }
            metrics::delivery_repeated();
            tokio::time::sleep(backoff.next()).await;
        }
    }
}
