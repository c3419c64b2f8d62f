//! Renewals, apart from everything else: a thread with its own runtime and its own connection, so that a worker whose
//! cores are all busy with a model does not look dead.

use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use super::identity::Identity;
use super::leases::Leases;
use super::{WorkerError, unless};
use crate::client::{CallError, Client};

/// Renewals are never asked for more often, whatever the coordinator says.
const SHORTEST: Duration = Duration::from_millis(50);

/// What the coordinator asks for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pace {
    /// Between renewals.
    pub(super) renew: Duration,
    /// How long a lease lives without one.
    pub(super) lease: Duration,
}

/// The running thread.
#[derive(Debug)]
pub(super) struct Liveness {
    pace: Arc<Mutex<Pace>>,
    stop: CancellationToken,
    thread: Option<JoinHandle<()>>,
}

struct Renewals {
    client: Client,
    identity: Identity,
    leases: Leases,
    pace: Arc<Mutex<Pace>>,
    /// When the last renewal that got through was asked for.
    renewed: Instant,
    /// Renewals that failed, one after the other.
    failures: u32,
}

impl Liveness {
    /// Starts to renew `leases`.
    pub(super) fn start(address: &str, identity: Identity, leases: Leases, pace: Pace) -> Result<Self, WorkerError> {
        let pace = Arc::new(Mutex::new(pace));
        let stop = CancellationToken::new();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        // The connection belongs to the runtime that it is made in.
        let client = {
            let _inside = runtime.enter();
            Client::new(address)?
        };
        let renewals = Renewals { client, identity, leases, pace: pace.clone(), renewed: Instant::now(), failures: 0 };
        let stopped = stop.clone();
        let thread = std::thread::Builder::new()
            .name("liveness".into())
            .spawn(move || runtime.block_on(renewals.run(&stopped)))?;
        Ok(Self { pace, stop, thread: Some(thread) })
    }

    /// Renews at another pace from now on.
    pub(super) fn follow(&self, pace: Pace) {
        *self.pace.lock().unwrap_or_else(PoisonError::into_inner) = pace;
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
            let Pace { renew, lease } = *self.pace.lock().unwrap_or_else(PoisonError::into_inner);
            let period = renew.max(SHORTEST);
            let beat = async {
                self.renew(period).await;
                self.leases.set_lapsed(self.renewed.elapsed() > lease);
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
        let asked = Instant::now();
        match self.client.renew(&worker, self.leases.report(), limit).await {
            Ok(lost) => {
                if self.failures > 0 {
                    tracing::info!(failed = self.failures, "leases are renewed again");
                }
                self.failures = 0;
                self.renewed = asked;
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
