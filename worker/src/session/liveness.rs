//! Renewals, apart from everything else: a thread with its own runtime and its own connection, so that a worker whose
//! cores are all busy with a model does not look dead.

use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use influence_proto::WorkerLoad;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::identity::Identity;
use super::leases::Leases;
use super::{WorkerError, unless};
use crate::client::{CallError, Client, ClientOptions};

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

struct Renewals<L> {
    client: Client,
    load: L,
    identity: Identity,
    leases: Leases,
    /// When the last renewal that got through was asked for.
    renewed: Instant,
    /// Renewals that failed, one after the other.
    failures: u32,
}

impl Liveness {
    /// Starts to renew `leases`, and says with each renewal what `load` says.
    pub(super) async fn start(
        coordinator: ClientOptions,
        identity: Identity,
        leases: Leases,
        pace: Pace,
        load: impl Fn() -> WorkerLoad + Send + 'static,
    ) -> Result<Self, WorkerError> {
        let pace = Arc::new(Mutex::new(pace));
        let stop = CancellationToken::new();
        let (ready, started) = oneshot::channel();
        let (stopped, asked) = (stop.clone(), pace.clone());
        let thread = std::thread::Builder::new().name("liveness".into()).spawn(move || {
            // A runtime must neither be made nor dropped inside another.
            let made = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let (runtime, made) = match made {
                Ok(runtime) => (Some(runtime), Ok(())),
                Err(error) => (None, Err(error)),
            };
            let _ = ready.send(made);
            if let Some(runtime) = runtime {
                runtime.block_on(Renewals::run(coordinator, identity, leases, asked, load, &stopped));
            }
        })?;
        let dead = || std::io::Error::other("the liveness thread ended at once");
        started.await.unwrap_or_else(|_| Err(dead()))?;
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

/// Memory of this process; 0 where the system does not tell.
pub(super) fn memory_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let kib =
        status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    kib.unwrap_or_default() * 1024
}

impl Drop for Liveness {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl<L: Fn() -> WorkerLoad> Renewals<L> {
    /// Renews until it is stopped. The connection belongs to the runtime that it is made in: to this thread's.
    async fn run(
        coordinator: ClientOptions,
        identity: Identity,
        leases: Leases,
        pace: Arc<Mutex<Pace>>,
        load: L,
        stop: &CancellationToken,
    ) {
        let client = match Client::new(coordinator) {
            Ok(client) => client,
            // The same options have served the worker's own client.
            Err(error) => return tracing::error!(%error, "leases cannot be renewed"),
        };
        let mut renewals = Self { client, load, identity, leases, renewed: Instant::now(), failures: 0 };
        loop {
            let Pace { renew, lease } = *pace.lock().unwrap_or_else(PoisonError::into_inner);
            let period = renew.max(SHORTEST);
            let beat = async {
                renewals.renew(period).await;
                renewals.leases.set_lapsed(renewals.renewed.elapsed() > lease);
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
        match self.client.renew(&worker, self.leases.report(), (self.load)(), limit).await {
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
