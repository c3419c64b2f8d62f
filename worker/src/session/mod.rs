//! A worker's life with a coordinator: it joins, loads the models it is told, takes leases over one stream, renews them
//! from a thread of its own, comes back after every interruption, and leaves without losing anything.

mod connection;
mod error;
mod identity;
mod join;
mod leases;
mod liveness;
mod models;
mod tasks;

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use influence_engine::model::Placement;
use influence_proto::{Joined, ModelSpec, WorkerLoad};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

pub use error::WorkerError;
pub(crate) use identity::Identity;
pub(crate) use leases::Leases;

use crate::artifacts::ArtifactCache;
use crate::client::{Client, ClientOptions, Credentials};
use crate::metrics;
use crate::models::{FetchProgress, ModelCache};
use crate::outbox::Backoff;
use connection::{Connection, End};
use join::Handshake;
use liveness::{Liveness, Pace, memory_bytes};
use models::{LocalModels, ModelLoader};
use tasks::Tasks;

/// After the grace period, for results that are on their way.
const FLUSH: Duration = Duration::from_secs(2);

/// What artifacts may take in a worker's cache unless it is said otherwise: 20 GiB.
pub const CACHE_BYTES: u64 = 20 << 30;

/// How often the state of a training is uploaded unless it is said otherwise.
pub const SHARE_EVERY: Duration = Duration::from_secs(60);

/// A session that lived for longer was a good one: the next break is the first again.
const STEADY: Duration = Duration::from_secs(10);

/// Is told about downloads as they go on; called from the thread that fetches.
pub type OnDownload = Arc<dyn Fn(FetchProgress) + Send + Sync>;

/// How to run a worker.
#[derive(Clone)]
pub struct WorkerOptions {
    /// Addresses of the coordinator and its standbys, as in `http://127.0.0.1:50051`.
    pub coordinators: Vec<String>,
    /// What it shows there.
    pub credentials: Credentials,
    /// For people to read; need not be unique.
    pub name: String,
    /// Episodes at once, 1 or more.
    pub slots: u32,
    /// Bytes for keys and values of each model. Default: a share of what is free.
    pub kv_bytes: Option<usize>,
    /// What models run on: `cpu`, `cuda:N`, `metal`.
    pub device: String,
    /// For models, artifacts and scratch files; see [`crate::models::default_cache`].
    pub cache: PathBuf,
    /// Bytes that artifacts may take in the cache; those in use stay in any case. Models do not count.
    pub cache_bytes: u64,
    /// Models that are on this machine already: name to a `.gguf` file or a folder of safetensors.
    pub models: BTreeMap<String, PathBuf>,
    /// A folder in which answers of models behind APIs are kept, and looked for before a server is asked.
    pub response_cache: Option<PathBuf>,
    /// How long work in progress may go on after the worker was asked to stop.
    pub grace: Duration,
    /// How often the state of a training is uploaded, so that another worker can take it up.
    pub share_every: Duration,
    /// Is told whether the session with the coordinator is open.
    pub connected: watch::Sender<bool>,
    /// Hears of downloads. Without it they go to the log.
    pub on_download: Option<OnDownload>,
}

impl fmt::Debug for WorkerOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WorkerOptions")
            .field("coordinators", &self.coordinators)
            .field("credentials", &self.credentials)
            .field("name", &self.name)
            .field("slots", &self.slots)
            .field("kv_bytes", &self.kv_bytes)
            .field("device", &self.device)
            .field("cache", &self.cache)
            .field("cache_bytes", &self.cache_bytes)
            .field("models", &self.models)
            .field("response_cache", &self.response_cache)
            .field("grace", &self.grace)
            .field("share_every", &self.share_every)
            .finish_non_exhaustive()
    }
}

/// Runs a worker until the coordinator says goodbye, or until `cancel`: then it takes nothing new, hands back what it
/// cannot finish within the grace period, and returns.
///
/// # Errors
/// [`WorkerError`]: options that cannot work, a coordinator that refuses this worker, a model that cannot be had. A
/// coordinator that is away is no error: the worker waits for it.
pub async fn run(options: WorkerOptions, cancel: CancellationToken) -> Result<(), WorkerError> {
    // Before anything is asked of the coordinator.
    Placement::device(&options.device)?;
    let cache = ModelCache::new(&options.cache, options.models.clone());
    let loader = Arc::new(LocalModels::new(cache, &options));
    run_with(options, loader, cancel).await
}

/// As [`run`], with models from `loader`.
async fn run_with(
    options: WorkerOptions,
    loader: Arc<dyn ModelLoader>,
    cancel: CancellationToken,
) -> Result<(), WorkerError> {
    if options.slots == 0 {
        return Err(WorkerError::NoSlots);
    }
    let (addresses, credentials) = (options.coordinators.clone(), options.credentials.clone());
    let client = Client::new(ClientOptions { addresses, credentials })?;
    let handshake = Handshake::new(client.clone(), &options, loader.can_train());
    let Some(joined) = handshake.join(&cancel).await? else { return Ok(()) };
    let Some(worker) = Worker::start(&options, client, handshake, loader, joined, &cancel).await? else {
        return Ok(());
    };
    let end = worker.work(&cancel, options.grace).await;
    worker.stop().await;
    end
}

/// A worker that has joined and has its models.
struct Worker {
    client: Client,
    handshake: Handshake,
    loader: Arc<dyn ModelLoader>,
    artifacts: ArtifactCache,
    identity: Identity,
    leases: Leases,
    liveness: Liveness,
    tasks: Tasks,
    connected: watch::Sender<bool>,
}

impl Worker {
    /// Loads the models and begins to renew. None when it was cancelled meanwhile.
    async fn start(
        options: &WorkerOptions,
        client: Client,
        handshake: Handshake,
        loader: Arc<dyn ModelLoader>,
        joined: Joined,
        cancel: &CancellationToken,
    ) -> Result<Option<Self>, WorkerError> {
        let identity = Identity::new(joined.worker.clone(), handshake.incarnation());
        let artifacts =
            ArtifactCache::new(client.clone(), &options.cache, handshake.incarnation(), options.cache_bytes);
        let loaded = unless(cancel, load(&loader, &joined.models, &artifacts)).await.transpose()?;
        let Some(models) = loaded else { return Ok(None) };
        let leases = Leases::new(options.slots as usize);
        let models_now = loader.clone();
        let load = move || WorkerLoad { memory_bytes: memory_bytes(), backing_off: models_now.backing_off() };
        let (connect, who) = (client.options(), identity.clone());
        let liveness = Liveness::start(connect, who, leases.clone(), pace(&joined), load).await?;
        let (scratch, connected) = (options.cache.join("scratch"), options.connected.clone());
        let tasks = Tasks::new(
            client.clone(),
            identity.clone(),
            leases.clone(),
            artifacts.clone(),
            models,
            (scratch, options.share_every),
        );
        Ok(Some(Self { client, handshake, loader, artifacts, identity, leases, liveness, tasks, connected }))
    }

    /// Sessions one after the other, until the run is over or the worker has drained.
    async fn work(&self, cancel: &CancellationToken, grace: Duration) -> Result<(), WorkerError> {
        tokio::select! {
            biased;
            () = self.drain(cancel, grace) => Ok(()),
            () = self.tasks.measure() => Ok(()),
            end = self.sessions() => {
                // The coordinator has no more use for what is still in progress.
                self.tasks.hand_back();
                if tokio::time::timeout(FLUSH, self.tasks.ended()).await.is_err() {
                    tracing::warn!("work in progress was given up at the end of the run");
                }
                end
            }
        }
    }

    async fn sessions(&self) -> Result<(), WorkerError> {
        let mut backoff = Backoff::new(self.handshake.incarnation());
        // Apart: a coordinator that answers again is no reason to wait as long as while it did not.
        let mut forgotten = backoff.clone();
        loop {
            let (client, identity, leases, tasks) = (&self.client, &self.identity, &self.leases, &self.tasks);
            let connection = Connection { client, identity, leases, tasks, connected: &self.connected };
            let opened = Instant::now();
            let end = connection.serve().await;
            self.connected.send_replace(false);
            metrics::connected(false);
            if opened.elapsed() > STEADY {
                backoff.reset();
                forgotten.reset();
            }
            match end {
                End::Goodbye(reason) => {
                    tracing::info!(%reason, "the coordinator says goodbye");
                    return Ok(());
                }
                End::Refused(reason) => {
                    let address = self.client.address().to_owned();
                    return Err(WorkerError::Session { address, reason });
                }
                End::Forgotten => {
                    self.join_again().await?;
                    backoff.reset();
                    tokio::time::sleep(forgotten.next()).await;
                }
                End::Lost(reason) => {
                    if backoff.tries() == 0 {
                        tracing::warn!(%reason, "the connection to the coordinator is lost; work goes on");
                    }
                    tokio::time::sleep(backoff.next()).await;
                }
            }
        }
    }

    /// A coordinator that was started anew is told who this is, and which models it needs is asked.
    async fn join_again(&self) -> Result<(), WorkerError> {
        let never = CancellationToken::new();
        let Some(joined) = self.handshake.join(&never).await? else { return Ok(()) };
        self.tasks.serve(load(&self.loader, &joined.models, &self.artifacts).await?);
        self.liveness.follow(pace(&joined));
        self.identity.rename(joined.worker);
        Ok(())
    }

    /// Waits to be cancelled, then for the work to end: by itself within the grace period, by force after it.
    async fn drain(&self, cancel: &CancellationToken, grace: Duration) {
        cancel.cancelled().await;
        tracing::info!(grace_s = grace.as_secs_f64(), "draining: no new work is taken");
        self.tasks.drain();
        if tokio::time::timeout(grace, self.tasks.ended()).await.is_ok() {
            return;
        }
        self.tasks.hand_back();
        if tokio::time::timeout(FLUSH, self.tasks.ended()).await.is_err() {
            tracing::warn!("the coordinator did not take back all work; its leases will run out");
        }
    }

    async fn stop(self) {
        self.liveness.stop().await;
        self.tasks.stop().await;
        self.loader.stop().await;
    }
}

/// The pace of renewals that the coordinator asks for.
fn pace(joined: &Joined) -> Pace {
    let span = |ms: u32| Duration::from_millis(ms.into());
    Pace { renew: span(joined.renew_ms), lease: span(joined.lease_ms) }
}

async fn load(
    loader: &Arc<dyn ModelLoader>,
    specs: &[ModelSpec],
    artifacts: &ArtifactCache,
) -> Result<models::Serving, WorkerError> {
    let started = Instant::now();
    let serving = loader.load(specs, artifacts).await?;
    let names: Vec<_> = specs.iter().map(|spec| spec.name.as_str()).collect();
    tracing::info!(models = names.join(", "), seconds = started.elapsed().as_secs_f64(), "models ready");
    Ok(serving)
}

/// The future's output, unless the token is cancelled first.
async fn unless<T>(cancel: &CancellationToken, future: impl Future<Output = T>) -> Option<T> {
    tokio::select! {
        biased;
        () = cancel.cancelled() => None,
        output = future => Some(output),
    }
}

#[cfg(test)]
mod adapter_tests;
#[cfg(test)]
mod local_tests;
#[cfg(test)]
pub(crate) mod rehearsal;
#[cfg(test)]
mod tests;
