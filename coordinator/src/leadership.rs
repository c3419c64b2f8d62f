//! The right to carry a run on: taken from the store, kept for as long as the run goes on.

use std::sync::Arc;
use std::time::Duration;

use influence_proto::RunId;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::store::{Store, StoreError};

/// How often a standby asks whether the lead is free.
const ASK: Duration = Duration::from_millis(500);

/// A lead that is being kept. Dropped without [`Leadership::resign`], it runs out by itself.
#[derive(Debug)]
pub struct Leadership {
    store: Arc<dyn Store>,
    run: RunId,
    lost: CancellationToken,
    keeper: JoinHandle<()>,
}

impl Leadership {
    /// Takes the lead of `run`, and keeps it in the background. `leader` says for people who leads;
    /// `ttl` is how long the store waits for a leader that is silent.
    ///
    /// # Errors
    /// [`StoreError::Led`] if another process leads.
    pub async fn take(store: Arc<dyn Store>, run: RunId, leader: String, ttl: Duration) -> Result<Self, StoreError> {
        store.lead(&run, &leader, ttl).await?;
        tracing::info!(%run, leader, "leading");
        let lost = CancellationToken::new();
        let keeper = tokio::spawn(keep(store.clone(), run.clone(), leader, ttl, lost.clone()));
        Ok(Self { store, run, lost, keeper })
    }

    /// As [`Leadership::take`], but waits for as long as another process leads, as a standby, or the
    /// store is away; `waiting` hears of each reason once. None when cancelled.
    ///
    /// # Errors
    /// What the store refuses for another reason.
    pub async fn wait(
        store: Arc<dyn Store>,
        run: RunId,
        leader: String,
        ttl: Duration,
        waiting: impl Fn(&StoreError),
        cancel: &CancellationToken,
    ) -> Result<Option<Self>, StoreError> {
        let mut told = None;
        loop {
            let reason = match Self::take(store.clone(), run.clone(), leader.clone(), ttl).await {
                Ok(leadership) => return Ok(Some(leadership)),
                Err(error) if error.retryable() || matches!(error, StoreError::Led { .. }) => error,
                Err(error) => return Err(error),
            };
            if told.as_ref() != Some(&reason) {
                waiting(&reason);
                told = Some(reason);
            }
            tokio::select! {
                () = cancel.cancelled() => return Ok(None),
                () = tokio::time::sleep(ASK) => {}
            }
        }
    }

    /// Cancelled when another process leads, or may.
    pub fn lost(&self) -> &CancellationToken {
        &self.lost
    }

    /// Gives the lead up, so that the next leader need not wait.
    pub async fn resign(mut self) {
        if self.lost.is_cancelled() {
            return;
        }
        self.keeper.abort();
        // It was ended, or had lost the lead.
        let _ = (&mut self.keeper).await;
        if let Err(error) = self.store.resign(&self.run).await {
            tracing::warn!(%error, "the lead was not given up; it runs out by itself");
        }
    }
}

impl Drop for Leadership {
    fn drop(&mut self) {
        self.keeper.abort();
    }
}

/// Keeps the lead until it is lost. A store that is away is asked again for as long as the lead lasts;
/// after that another process may have it, and workers must be free to go there. Nothing depends on
/// this clock: the store refuses whatever a former leader writes.
async fn keep(store: Arc<dyn Store>, run: RunId, leader: String, ttl: Duration, lost: CancellationToken) {
    let mut kept = Instant::now();
    loop {
        tokio::time::sleep(ttl / 3).await;
        let asked = Instant::now();
        let problem = match tokio::time::timeout(ttl / 3, store.lead(&run, &leader, ttl)).await {
            Ok(Ok(())) => {
                kept = asked;
                continue;
            }
            Ok(Err(error)) if !error.retryable() => {
                tracing::error!(%run, %error, "the lead is lost");
                return lost.cancel();
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => "the store does not answer".to_owned(),
        };
        tracing::warn!(%run, problem, "the lead cannot be renewed");
        if kept.elapsed() >= ttl {
            tracing::error!(%run, "the lead has run out");
            return lost.cancel();
        }
    }
}
