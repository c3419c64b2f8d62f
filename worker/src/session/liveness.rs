//! Renewals, apart from everything else: a thread with its own runtime and its own connection, so that a worker whose
//! cores are all busy with a model does not look dead.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::oneshot;
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
    /// Renewals that failed, one after the other.
    failures: u32,
}

impl Liveness {
    /// Starts to renew `leases` every `period`.
    pub(super) async fn start(
        address: &str,
        identity: Identity,
        leases: Leases,
        period: Duration,
    ) -> Result<Self, WorkerError> {
        let period = Arc::new(AtomicU64::new(millis(period)));
        let stop = CancellationToken::new();
        let (ready, started) = oneshot::channel();
        let (address, stopped, pace) = (address.to_owned(), stop.clone(), period.clone());
        let thread = std::thread::Builder::new().name("liveness".into()).spawn(move || {
            // A runtime must neither be made nor dropped inside another.
            let made = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let (runtime, made) = match made {
                Ok(runtime) => (Some(runtime), Ok(())),
                Err(error) => (None, Err(error)),
            };
            let _ = ready.send(made);
            if let Some(runtime) = runtime {
                runtime.block_on(Renewals::run(&address, identity, leases, pace, &stopped));
            }
        })?;
        let dead = || std::io::Error::other("the liveness thread ended at once");
        started.await.unwrap_or_else(|_| Err(dead()))?;
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
    /// Renews until it is stopped. The connection belongs to the runtime that it is made in: to this thread's.
    async fn run(address: &str, identity: Identity, leases: Leases, period: Arc<AtomicU64>, stop: &CancellationToken) {
        let client = match Client::new(address) {
            Ok(client) => client,
            // The same address has served the worker's own client.
            Err(error) => return tracing::error!(%error, "leases cannot be renewed"),
        };
        let mut renewals = Self { client, identity, leases, failures: 0 };
        loop {
            let period = Duration::from_millis(period.load(Ordering::Relaxed)).max(SHORTEST);
            let beat = async {
                renewals.renew(period).await;
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
