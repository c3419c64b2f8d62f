//! `influence run`, `influence coordinator`, `influence worker`.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use influence_coordinator::artifacts::Artifacts;
use influence_coordinator::config::Experiment;
use influence_coordinator::store::{SqliteStore, Store};
use influence_coordinator::{Coordinator, CoordinatorOptions, Opened, RunHandle, open_run, summary};
use influence_proto::RunId;
use influence_worker::{CACHE_BYTES, WorkerError, WorkerOptions};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::args::{
    CoordinatorArguments, DataArguments, ExperimentArguments, ModelArguments, RunArguments, WorkerArguments,
};
use crate::place::{DownloadBar, cache_folder};
use crate::stored::{STORE_FILE, whole};
use crate::table::table;
use crate::terminal::print;
use crate::{interrupt, progress};

/// What a worker in this process may still do when the run is asked to stop.
const GRACE: Duration = Duration::from_secs(5);
/// How long work waits for workers that outlived an earlier coordinator.
const RECLAIM: Duration = Duration::from_secs(15);
/// How long the store may refuse every write, as with a full disk, before the run stops.
const STORE_PATIENCE: Duration = Duration::from_secs(60);

pub(crate) async fn alone(arguments: RunArguments) -> anyhow::Result<()> {
    let cancel = interrupt::token()?;
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    // Workers of an earlier process ended with it: nobody waits for them.
    let stop = CancellationToken::new();
    let begun = begin(&arguments.experiment, &arguments.data, None, address, Duration::ZERO, &stop).await?;
    let run = match begun {
        Begun { run, handle: None } => run,
        Begun { run, handle: Some(handle) } => {
            let worker = WorkerOptions {
                coordinator: format!("http://{}", handle.address),
                name: "here".to_owned(),
                slots: arguments.slots,
                device: "cpu".to_owned(),
                grace: GRACE,
                ..worker_options(&arguments.models)?
            };
            let worker = tokio::spawn(influence_worker::run(worker, cancel.clone()));
            both(handle, worker, stop, cancel).await?;
            run
        }
    };
    conclude(&arguments.data, &run, arguments.json).await
}

/// Waits for the run. When its only worker leaves first, because it was asked to stop or because it
/// failed, the run is stopped: what the worker handed back is stored by then.
async fn both(
    handle: RunHandle,
    mut worker: JoinHandle<Result<(), WorkerError>>,
    stop: CancellationToken,
    cancel: CancellationToken,
) -> anyhow::Result<()> {
    let bars = tokio::spawn(progress::show(handle.progress.clone()));
    let mut end = Box::pin(handle.wait());
    let (outcome, left) = tokio::select! {
        outcome = &mut end => {
            // It was told goodbye; should that not have reached it, it must not wait for more.
            cancel.cancel();
            (outcome, worker.await)
        }
        left = &mut worker => {
            stop.cancel();
            (end.await, left)
        }
    };
    bars.await.context("the progress bars broke off")?;
    left.context("the worker broke off")??;
    Ok(outcome?)
}

pub(crate) async fn coordinator(arguments: CoordinatorArguments) -> anyhow::Result<()> {
    let cancel = interrupt::token()?;
    let artifacts = arguments.artifacts.as_deref();
    let begun = begin(&arguments.experiment, &arguments.data, artifacts, arguments.listen, RECLAIM, &cancel).await?;
    if let Some(handle) = begun.handle {
        eprintln!("workers join with: influence worker --coordinator http://{}", handle.address);
        let bars = tokio::spawn(progress::show(handle.progress.clone()));
        let outcome = handle.wait().await;
        bars.await.context("the progress bars broke off")?;
        outcome?;
    }
    conclude(&arguments.data, &begun.run, arguments.json).await
}

/// A run that was opened; no handle if it is finished.
struct Begun {
    run: RunId,
    handle: Option<RunHandle>,
}

async fn begin(
    arguments: &ExperimentArguments,
    data: &DataArguments,
    artifacts: Option<&OsStr>,
    listen: SocketAddr,
    reclaim: Duration,
    cancel: &CancellationToken,
) -> anyhow::Result<Begun> {
    let experiment = load(arguments)?;
    let store: Arc<dyn Store> = Arc::new(SqliteStore::open(&data.data.join(STORE_FILE))?);
    let opened = open_run(&*store, &experiment, arguments.fresh).await?;
    let run = opened.run().clone();
    match &opened {
        Opened::New(run) => eprintln!("run {run} begins"),
        Opened::Resumed(run) => eprintln!("run {run} goes on"),
        Opened::Finished(run) => {
            eprintln!("run {run} is finished; --fresh starts over under a new run id");
            return Ok(Begun { run: run.clone(), handle: None });
        }
    }
    let place = artifacts.map_or_else(|| data.data.join("artifacts").into_os_string(), OsStr::to_owned);
    let options = CoordinatorOptions {
        run: run.clone(),
        store,
        artifacts: Artifacts::open(place, &data.data.join(run.as_str())).await?,
        data: data.data.clone(),
        listen,
        reclaim,
        store_patience: STORE_PATIENCE,
    };
    let handle = Coordinator::start(options, experiment, cancel.clone()).await?;
    Ok(Begun { run, handle: Some(handle) })
}

pub(crate) async fn worker(arguments: WorkerArguments) -> anyhow::Result<()> {
    let options = WorkerOptions {
        coordinator: arguments.coordinator,
        name: arguments.name.unwrap_or_else(|| format!("worker-{}", std::process::id())),
        slots: arguments.slots,
        device: arguments.device,
        grace: Duration::from_secs(arguments.grace),
        cache_bytes: arguments.cache_size << 30,
        ..worker_options(&arguments.models)?
    };
    Ok(influence_worker::run(options, interrupt::token()?).await?)
}

fn worker_options(models: &ModelArguments) -> anyhow::Result<WorkerOptions> {
    let bar = DownloadBar::new();
    Ok(WorkerOptions {
        coordinator: String::new(),
        name: String::new(),
        slots: 1,
        device: String::new(),
        cache: cache_folder(models.cache.as_deref())?,
        cache_bytes: CACHE_BYTES,
        models: models.models.iter().cloned().collect::<BTreeMap<_, _>>(),
        grace: GRACE,
        on_download: Some(Arc::new(move |progress| bar.show(&progress))),
    })
}

fn load(arguments: &ExperimentArguments) -> anyhow::Result<Experiment> {
    let ExperimentArguments { experiment, set, seed, name, configs, .. } = arguments;
    let loaded = Experiment::load(experiment, configs.as_deref(), set, *seed, name.as_deref());
    Ok(loaded?)
}

/// The table, and where everything is.
async fn conclude(data: &DataArguments, run: &RunId, as_json: bool) -> anyhow::Result<()> {
    let file = data.data.join(STORE_FILE);
    let store = SqliteStore::open(&file)?;
    if as_json {
        return print(&format!("{:#}\n", whole(&store, &store.run(run).await?).await?));
    }
    let adapters = data.data.join(run.as_str()).join("adapters");
    print(&format!(
        "{}store:         {}\nadapters:      {}\nconversations: influence episodes {run}\n",
        table(&summary(&store, run).await?),
        file.display(),
        adapters.display(),
    ))
}
