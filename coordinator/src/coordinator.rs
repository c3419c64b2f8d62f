//! Everything that carries a run on, as one thing that is started and awaited.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures::Stream;
use influence_proto::RunId;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::access::Access;
use crate::artifacts::Artifacts;
use crate::cluster::Cluster;
use crate::config::Experiment;
use crate::dispatch::Limits;
use crate::experiment::{Budget, NANO, Run, RunError, RunFolder, spent};
use crate::leadership::Leadership;
use crate::metrics;
use crate::progress::Progress;
use crate::service::{ListenError, Listener};
use crate::serving::{Served, Serving};
use crate::store::{RunStatus, Store, StoreError};

/// How long to wait before a store that was away is asked again.
const STORE_RETRY: Duration = Duration::from_secs(1);

/// What a coordinator works with.
#[derive(Debug)]
pub struct CoordinatorOptions {
    /// The run to carry on, from [`open_run`](crate::open_run).
    pub run: RunId,
    /// The right to do so.
    pub leadership: Leadership,
    /// Where it is remembered.
    pub store: Arc<dyn Store>,
    /// Where its datasets and adapters lie.
    pub artifacts: Artifacts,
    /// The folder under which the run has its own.
    pub data: PathBuf,
    /// Where workers find it; port 0 takes any free one. Addresses that others can reach need credentials in
    /// `access`.
    pub listen: SocketAddr,
    /// Who may call it.
    pub access: Access,
    /// How long work of an earlier process waits for its holder to come back, a lease's time at most. Zero
    /// where the workers ended with that process.
    pub reclaim: Duration,
    /// How long the store may refuse every write, as with a full disk, before the run stops; none: for
    /// as long as it takes.
    pub store_patience: Option<Duration>,
    /// What the run may cost before it pauses, in dollars; counted are models with a price.
    pub budget: Option<f64>,
    /// Workers are not told that they may leave when the run is finished: another coordinator follows at this address.
    pub keeps_workers: bool,
}

/// Why a run could not be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The port cannot be had.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The store refuses.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The run is one of another experiment.
    #[error("run `{0}` belongs to an experiment with other settings; open the run with this experiment first")]
    OtherExperiment(RunId),
    /// A file of the run's folder cannot be written.
    #[error(transparent)]
    Folder(#[from] RunError),
}

/// Starts coordinators.
#[derive(Debug)]
pub struct Coordinator;

/// A run being carried on.
#[derive(Debug)]
pub struct RunHandle {
    /// Where workers find it.
    pub address: SocketAddr,
    /// What it is doing.
    pub progress: watch::Receiver<Progress>,
    /// How it and its workers stand.
    pub cluster: Cluster,
    task: JoinHandle<Result<(), RunError>>,
}

impl RunHandle {
    /// Waits until the run is finished, has failed or was stopped, and everything has ended.
    ///
    /// # Errors
    /// Why it stopped before its end; [`RunError::Stopped`] if it was cancelled.
    pub async fn wait(self) -> Result<(), RunError> {
        self.task.await.unwrap_or_else(|panic| Err(RunError::Panicked(panic.to_string())))
    }
}

impl Coordinator {
    /// Listens, and carries the run on in the background until its end or `cancel`.
    ///
    /// # Errors
    /// When the port cannot be had, or the store refuses.
    pub async fn start(
        options: CoordinatorOptions,
        experiment: Experiment,
        cancel: CancellationToken,
    ) -> Result<RunHandle, StartError> {
        let listener = Listener::bind(options.listen, &options.access).await?;
        let address = listener.address;
        let handle = Self::start_on(options, experiment, listener.incoming(), cancel).await?;
        Ok(RunHandle { address, ..handle })
    }

    /// As [`Coordinator::start`], on connections that come from anywhere.
    pub(crate) async fn start_on<I, IO>(
        options: CoordinatorOptions,
        experiment: Experiment,
        incoming: I,
        cancel: CancellationToken,
    ) -> Result<RunHandle, StartError>
    where
        I: Stream<Item = io::Result<(IO, SocketAddr)>> + Send + 'static,
        IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let CoordinatorOptions { run, leadership, store, artifacts, data, listen, access, .. } = options;
        let CoordinatorOptions { reclaim, store_patience, budget, keeps_workers, .. } = options;
        let folder = RunFolder::new(&data, &run);
        let record = store.run(&run).await?;
        if record.digest != experiment.digest().to_string() {
            return Err(StartError::OtherExperiment(run));
        }
        folder.write_experiment(&record.experiment).await?;
        store.set_run_status(&run, RunStatus::Running).await?;

        let budget = match budget {
            Some(dollars) => {
                let spent_before = spent(&*store, &run).await?;
                Some(Budget { limit: (dollars * NANO) as u64, spent_before })
            }
            None => None,
        };
        tracing::info!(%run, address = %listen, ?access, "carrying on");
        let served = Served {
            run: run.clone(),
            models: experiment.models.values().cloned().collect(),
            store: store.clone(),
            artifacts: artifacts.clone(),
            limits: limits(&experiment, reclaim),
            access,
        };
        let serving = Serving::start(served, incoming);
        let (watched, cluster) = (serving.progress.watch(), serving.cluster.clone());
        let run = Run {
            run,
            experiment: Arc::new(experiment),
            store,
            artifacts,
            dispatch: serving.dispatch.clone(),
            progress: serving.progress.clone(),
            folder,
            retry_failed: matches!(record.status, RunStatus::Failed(_)),
            store_patience,
            budget,
        };
        let task = tokio::spawn(async move {
            metrics::leads(true);
            let result = tokio::select! {
                result = patiently(&run) => result,
                () = cancel.cancelled() => Err(RunError::Stopped),
                () = leadership.lost().cancelled() => Err(RunError::Deposed),
            };
            let result = conclude(&run, result).await;
            if let Some(reason) = goodbye(&result).filter(|_| !keeps_workers || result.is_err()) {
                serving.farewell(reason).await;
            }
            serving.end().await;
            leadership.resign().await;
            metrics::leads(false);
            result
        });
        Ok(RunHandle { address: listen, progress: watched, cluster, task })
    }
}

fn limits(experiment: &Experiment, reclaim: Duration) -> Limits {
    let lease = Duration::from_secs(experiment.leases.seconds.into());
    Limits {
        lease_ms: lease.as_millis() as u64,
        attempts: experiment.attempts,
        // Without a coordinator no lease was renewed: a holder that is alive waits for it, and comes at once.
        reclaim_ms: reclaim.min(lease).as_millis() as u64,
        straggler_ms: u64::from(experiment.leases.straggler_seconds) * 1000,
        ..Limits::default()
    }
}

/// Carries the run on, and on again after a store that was away is back: every step is derived from
/// what is stored.
async fn patiently(run: &Run) -> Result<(), RunError> {
    let mut away: Option<Instant> = None;
    loop {
        let begun = Instant::now();
        let problem = match run.carry_on().await {
            Err(RunError::Store(error)) if error.retryable() => error.to_string(),
            other => return other,
        };
        // A failure long after the one before is the first of its own.
        let since = match away {
            Some(since) if begun.elapsed() < STORE_RETRY * 10 => since,
            _ => Instant::now(),
        };
        away = Some(since);
        tracing::warn!(%problem, "the run waits for the store");
        run.progress.store_says(Some(problem.clone()));
        if run.store_patience.is_some_and(|patience| since.elapsed() > patience) {
            return Err(RunError::StoreAway { seconds: since.elapsed().as_secs(), problem });
        }
        tokio::time::sleep(STORE_RETRY).await;
    }
}

/// Writes down how the run stands now. One that was stopped goes on being `running`.
async fn conclude(run: &Run, result: Result<(), RunError>) -> Result<(), RunError> {
    let status = match &result {
        Ok(()) => RunStatus::Finished,
        Err(RunError::Stopped | RunError::Deposed | RunError::Budget { .. }) => return result,
        Err(error) => RunStatus::Failed(error.to_string()),
    };
    let stored = run.store.set_run_status(&run.run, status).await;
    match (result, stored) {
        (Ok(()), Err(error)) => Err(error.into()),
        (result, Err(error)) => {
            tracing::warn!(%error, "the run's end could not be written down");
            result
        }
        (result, Ok(())) => result,
    }
}

/// What the workers are told, unless the run goes on later.
fn goodbye(result: &Result<(), RunError>) -> Option<String> {
    match result {
        Ok(()) => Some("the run is finished".to_owned()),
        Err(RunError::Stopped | RunError::Deposed) => None,
        Err(error) => Some(format!("the run has stopped: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::tests::fixture::{CLINIC, Configs};

    /// Protects: after a restart nothing waits for a lost holder longer than its lease would have lived.
    #[test]
    fn a_lost_holder_is_waited_for_no_longer_than_its_lease() {
        let waits = |settings: &str| {
            let experiment = Configs::new().experiment(&format!("{CLINIC}{settings}"));
            limits(&experiment, Duration::from_secs(15)).reclaim_ms
        };
        assert_eq!(waits(""), 15_000);
        assert_eq!(waits("leases: {seconds: 2}\n"), 2000);
    }
}
