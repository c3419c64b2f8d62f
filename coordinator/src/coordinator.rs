use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use influence_proto::RunId;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::artifacts::{ArtifactError, Artifacts};
use crate::config::Experiment;
use crate::dispatch::{DispatchService, Limits};
use crate::experiment::{Opened, Run, RunError, open_run};
use crate::progress::{Progress, ProgressHandle};
use crate::service::{ListenError, Listener, Service, serve};
use crate::store::{LockError, RunLock, SqliteStore, Store, StoreError};

/// What a coordinator is told, beside its experiment.
#[derive(Debug, Clone)]
pub struct CoordinatorOptions {
    /// Folder of the store, the artifacts and the runs' own files.
    pub data: PathBuf,
    /// Where workers reach it; port 0 takes any free one.
    pub listen: SocketAddr,
    /// Start a new run, though one of this name exists.
    pub fresh: bool,
    /// Whether workers of an earlier coordinator may come back with what they hold. They cannot when
    /// they live in its process; then nobody waits for them.
    pub workers_outlive: bool,
}

/// Why a coordinator cannot start, or stopped.
#[derive(Debug, thiserror::Error)]
pub enum CoordinatorError {
    /// Workers cannot reach it there.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// Another process carries the run on.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// The store cannot be opened.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The artifacts cannot be opened.
    #[error(transparent)]
    Artifacts(#[from] ArtifactError),
    /// The run cannot begin or go on.
    #[error(transparent)]
    Run(#[from] RunError),
    /// A task of the coordinator panicked.
    #[error("a part of the coordinator broke off: {0}")]
    Broken(#[from] tokio::task::JoinError),
}

/// What starting an experiment came to.
#[derive(Debug)]
pub enum Started {
    /// It is complete already.
    Finished(RunId),
    /// It goes on.
    Running(Coordinator),
}

/// A coordinator at work. It ends by itself when the run does.
#[derive(Debug)]
pub struct Coordinator {
    /// The run.
    pub run: RunId,
    /// Whether an earlier process began it.
    pub resumed: bool,
    /// Where workers reach it.
    pub address: SocketAddr,
    /// How the run stands.
    pub progress: watch::Receiver<Progress>,
    outcome: JoinHandle<Result<(), CoordinatorError>>,
}

impl Coordinator {
    /// Opens or resumes the experiment's run and begins to coordinate it, unless it is complete.
    /// Cancelling `cancel` stops it; the same call later goes on from there.
    ///
    /// # Errors
    /// When the run was started from something else, another process is at it, or the store, the
    /// artifacts or the address cannot be used.
    pub async fn start(
        options: CoordinatorOptions,
        experiment: Experiment,
        cancel: CancellationToken,
    ) -> Result<Started, CoordinatorError> {
        let store: Arc<dyn Store> = Arc::new(SqliteStore::open(&options.data.join("influence.sqlite"))?);
        let opened = open_run(&*store, &experiment, options.fresh).await?;
        let run = match &opened {
            Opened::Finished(run) => return Ok(Started::Finished(run.clone())),
            Opened::New(run) | Opened::Resumed(run) => run.clone(),
        };
        let folder = options.data.join(run.as_str());
        let lock = RunLock::acquire(&folder, &run)?;
        let artifacts = Artifacts::open(&options.data.join("artifacts")).await?;
        let listener = Listener::bind(options.listen).await?;
        let address = listener.address;
        let progress = ProgressHandle::new();
        let watched = progress.watch();
        let limits = limits(&experiment, options.workers_outlive);
        let parts = Parts { run: run.clone(), folder, lock, store, artifacts, listener, progress, limits };
        let outcome = tokio::spawn(carry_on(parts, experiment, cancel));
        let resumed = matches!(opened, Opened::Resumed(_));
        Ok(Started::Running(Self { run, resumed, address, progress: watched, outcome }))
    }

    /// Waits for the run's end.
    ///
    /// # Errors
    /// What stopped it, [`RunError::Cancelled`] included.
    pub async fn end(self) -> Result<(), CoordinatorError> {
        self.outcome.await?
    }
}

fn limits(experiment: &Experiment, workers_outlive: bool) -> Limits {
    let defaults = Limits::default();
    Limits {
        lease_ms: u64::from(experiment.leases.seconds) * 1000,
        attempts: experiment.attempts,
        reclaim_ms: if workers_outlive { defaults.reclaim_ms } else { 0 },
        ..defaults
    }
}

/// What a coordinator is made of.
struct Parts {
    run: RunId,
    folder: PathBuf,
    lock: RunLock,
    store: Arc<dyn Store>,
    artifacts: Artifacts,
    listener: Listener,
    progress: ProgressHandle,
    limits: Limits,
}

/// How long sessions get to hear that the run is over before the server stops.
const FAREWELL: Duration = Duration::from_millis(500);

/// Owns the dispatcher, the server and the run, and ends all three.
async fn carry_on(parts: Parts, experiment: Experiment, cancel: CancellationToken) -> Result<(), CoordinatorError> {
    let Parts { run, folder, lock, store, artifacts, listener, progress, limits } = parts;
    let stop = CancellationToken::new();
    let (dispatcher, dispatch) = DispatchService::new(run.clone(), store.clone(), limits, progress.clone());
    let dispatching = tokio::spawn(dispatcher.run(stop.clone()));
    let service = Service {
        run: run.clone(),
        models: experiment.models.values().cloned().collect(),
        lease_ms: limits.lease_ms as u32,
        store: store.clone(),
        artifacts: artifacts.clone(),
        dispatch: dispatch.clone(),
        progress: progress.clone(),
        readers: TaskTracker::new(),
        stop: stop.clone(),
    };
    let serving = tokio::spawn(serve(listener, service));
    let experiment = Arc::new(experiment);
    let run = Run { id: run, experiment, store, artifacts, dispatch, progress, folder, cancel };
    let outcome = run.run().await;
    tokio::time::sleep(FAREWELL).await;
    stop.cancel();
    dispatching.await?;
    serving.await?;
    drop(lock);
    Ok(outcome?)
}
