//! Renewals, apart from everything else: a thread with its own runtime and its own connection, so that a worker whose
//! cores are all busy with a model does not look dead.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::identity::Identity;
use super::leases::Leases;
use super::{WorkerError, unless};
use crate::client::{CallError, Client};

/// Renewals are never asked for more often, whatever the coordinator says.
const SHORTEST: Duration = Duration::from_millis(50);

/// The running thread.
#[derive(Debug)]
pub(super) struct Liveness {
    /// Milliseconds between renewals.
    period: Arc<AtomicU64>,
    stop: CancellationToken,
    thread: Option<JoinHandle<()>>,
}

struct Renewals {
    client: Client,
    identity: Identity,
    leases: Leases,
    period: Arc<AtomicU64>,
    /// Renewals that failed, one after the other.
    failures: u32,
}

impl Liveness {
    /// Starts to renew `leases` every `period`.
    pub(super) fn start(
        address: &str,
        identity: Identity,
        leases: Leases,
        period: Duration,
    ) -> Result<Self, WorkerError> {
        let period = Arc::new(AtomicU64::new(millis(period)));
        let stop = CancellationToken::new();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        // The connection belongs to the runtime that it is made in.
        let client = {
            let _inside = runtime.enter();
            Client::new(address)?
        };
        let renewals = Renewals { client, identity, leases, period: period.clone(), failures: 0 };
        let stopped = stop.clone();
        let thread = std::thread::Builder::new()
            .name("liveness".into())
            .spawn(move || runtime.block_on(renewals.run(&stopped)))?;
        Ok(Self { period, stop, thread: Some(thread) })
    }

    /// Renews at another pace from now on.
    pub(super) fn renew_every(&self, period: Duration) {
        self.period.store(millis(period), Ordering::Relaxed);
    }

    /// Ends the thread and waits for it.
    pub(super) async fn stop(mut self) {
        self.stop.cancel();
        if let Some(thread) = self.thread.take() {
            let joined = tokio::task::spawn_blocking(move || thread.join()).await;
            if !matches!(joined, Ok(Ok(()))) {
                tracing::error!("the liveness thread had panicked");
            }
        }
    }
}

impl Drop for Liveness {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Renewals {
    async fn run(mut self, stop: &CancellationToken) {
        loop {
            let period = Duration::from_millis(self.period.load(Ordering::Relaxed)).max(SHORTEST);
            let beat = async {
                self.renew(period).await;
                tokio::time::sleep(period).await;
            };
            if unless(stop, beat).await.is_none() {
                return;
            }
        }
    }

    async fn renew(&mut self, period: Duration) {
        let worker = self.identity.id();
        // Twice the period: an answer that takes longer is worth less than another try.
        let limit = (period * 2).max(Duration::from_secs(1));
        match self.client.renew(&worker, self.leases.report(), limit).await {
            Ok(lost) => {
                if self.failures > 0 {
                    tracing::info!(failed = self.failures, "leases are renewed again");
                }
                self.failures = 0;
                lost.iter().for_each(|lease| self.leases.lose(lease));
            }
            Err(CallError::Unknown(reason)) => {
                tracing::debug!(%reason, "the coordinator does not know this worker");
                self.identity.forgotten(&worker);
            }
            Err(error) => {
                if self.failures == 0 {
                    tracing::warn!(%error, "leases cannot be renewed");
                }
                self.failures = self.failures.saturating_add(1);
            }
        }
    }
}

fn millis(period: Duration) -> u64 {
    u64::try_from(period.as_millis()).unwrap_or(u64::MAX)
}
