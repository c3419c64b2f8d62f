//! `influence run`, `influence coordinator`, `influence worker`.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use influence_coordinator::catalogue;
use influence_coordinator::config::Experiment;
use influence_coordinator::store::SqliteStore;
use influence_coordinator::{Coordinator, CoordinatorOptions, Started};
use influence_proto::RunId;
use influence_worker::{WorkerError, WorkerOptions};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::args::{
    CoordinatorArguments, DataArguments, ExperimentArguments, ModelArguments, RunArguments, WorkerArguments,
};
use crate::place::{DownloadBar, cache_folder};
use crate::table::table;
use crate::terminal::print;
use crate::{interrupt, progress};

/// What a worker in this process may still do when the run is asked to stop.
const GRACE: Duration = Duration::from_secs(5);

pub(crate) async fn alone(arguments: RunArguments) -> anyhow::Result<()> {
    let cancel = interrupt::token()?;
    let experiment = load(&arguments.experiment)?;
    let options = CoordinatorOptions {
        data: arguments.data.data.clone(),
        listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
        fresh: arguments.experiment.fresh,
        workers_outlive: false,
    };
    let run = match Coordinator::start(options, experiment, cancel.clone()).await? {
        Started::Finished(run) => finished(run),
        Started::Running(coordinator) => {
            announce(&coordinator);
            let worker = WorkerOptions {
                coordinator: format!("http://{}", coordinator.address),
                name: "here".to_owned(),
                slots: arguments.slots,
                device: "cpu".to_owned(),
                grace: GRACE,
                ..worker_options(&arguments.models)?
            };
            let worker = tokio::spawn(influence_worker::run(worker, cancel.clone()));
            both(coordinator, worker, cancel).await?
        }
    };
    conclude(&arguments.data, &run, arguments.json).await
}

/// Waits for the coordinator. Without its only worker it would wait forever, so the worker's failure
/// ends it.
async fn both(
    coordinator: Coordinator,
    mut worker: JoinHandle<Result<(), WorkerError>>,
    cancel: CancellationToken,
) -> anyhow::Result<RunId> {
    let run = coordinator.run.clone();
    let bars = tokio::spawn(progress::show(coordinator.progress.clone()));
    let mut end = Box::pin(coordinator.end());
    let outcome = tokio::select! {
        outcome = &mut end => {
            worker.await.context("the worker broke off")??;
            outcome
        }
        failure = &mut worker => {
            cancel.cancel();
            let outcome = end.await;
            failure.context("the worker broke off")??;
            outcome
        }
    };
    bars.await.context("the progress bars broke off")?;
    outcome?;
    Ok(run)
}

pub(crate) async fn coordinator(arguments: CoordinatorArguments) -> anyhow::Result<()> {
    let cancel = interrupt::token()?;
    let experiment = load(&arguments.experiment)?;
    let options = CoordinatorOptions {
        data: arguments.data.data.clone(),
        listen: arguments.listen,
        fresh: arguments.experiment.fresh,
        workers_outlive: true,
    };
    let run = match Coordinator::start(options, experiment, cancel).await? {
        Started::Finished(run) => finished(run),
        Started::Running(coordinator) => {
            announce(&coordinator);
            eprintln!("workers join with: influence worker --coordinator http://{}", coordinator.address);
            let bars = tokio::spawn(progress::show(coordinator.progress.clone()));
            let run = coordinator.run.clone();
            let outcome = coordinator.end().await;
            bars.await.context("the progress bars broke off")?;
            outcome?;
            run
        }
    };
    conclude(&arguments.data, &run, arguments.json).await
}

pub(crate) async fn worker(arguments: WorkerArguments) -> anyhow::Result<()> {
    let options = WorkerOptions {
        coordinator: arguments.coordinator,
        name: arguments.name.unwrap_or_else(|| format!("worker-{}", std::process::id())),
        slots: arguments.slots,
        device: arguments.device,
        grace: Duration::from_secs(arguments.grace),
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

fn announce(coordinator: &Coordinator) {
    let how = if coordinator.resumed { "goes on" } else { "begins" };
    eprintln!("run {} {how}", coordinator.run);
}

fn finished(run: RunId) -> RunId {
    eprintln!("run {run} is finished; --fresh starts over under a new run id");
    run
}

/// The table, and where everything is.
async fn conclude(data: &DataArguments, run: &RunId, as_json: bool) -> anyhow::Result<()> {
    let file = data.data.join("influence.sqlite");
    let store = SqliteStore::open(&file)?;
    let summary = catalogue::summary(&store, run).await?;
    if as_json {
        return print(&format!("{}\n", serde_json::to_string_pretty(&summary)?));
    }
    let folder = data.data.join(run.as_str());
    print(&format!("{}{}", table(&summary), whereabouts(&file, &folder, run)))
}

fn whereabouts(store: &Path, folder: &Path, run: &RunId) -> String {
    format!(
        "store:         {}\nadapters:      {}\nconversations: influence episodes {run}\n",
        store.display(),
        folder.join("adapters").display(),
    )
}
