//! `influence run` and `influence worker`.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use influence_coordinator::access::Access;
use influence_coordinator::{RunHandle, summary};
use influence_worker::{CACHE_BYTES, Credentials, SHARE_EVERY, WorkerError, WorkerOptions};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::args::{RolloutArguments, RunArguments, WorkerArguments};
use crate::coordinate::{Door, Open, Waits};
use crate::place::{DownloadBar, cache_folder};
use crate::stored::whole;
use crate::table::table;
use crate::telemetry::measured;
use crate::terminal::print;
use crate::{credentials, dashboard, interrupt, progress};

/// What a worker in this process may still do when the run is asked to stop.
const GRACE: Duration = Duration::from_secs(5);
/// This run's only worker ends with it, nobody else can lead, and somebody watches.
pub(crate) const WAITS: Waits =
    Waits { takeover: Duration::from_secs(10), reclaim: Duration::ZERO, store_patience: Some(Duration::from_secs(60)) };

pub(crate) async fn alone(arguments: RunArguments) -> anyhow::Result<()> {
    let cancel = interrupt::token()?;
    let open = Open::new(&arguments.experiment, &arguments.data, None).await?;
    if !open.finished {
        let pages = dashboard::beside(arguments.dashboard, &arguments.login, &open.store, &open.live).await?;
        let connected = watch::Sender::new(false);
        let measured = measured(&arguments.metrics, connected.subscribe()).await?;
        let ended = here(&open, &arguments.rollouts, connected, cancel).await;
        pages.end().await;
        measured.end().await;
        ended?;
    }
    conclude(&open, arguments.json).await
}

/// Carries a run to its end, with one worker, in this process. `connected` is told whether that has its session.
pub(crate) async fn here(
    open: &Open,
    rollouts: &RolloutArguments,
    connected: watch::Sender<bool>,
    cancel: CancellationToken,
) -> anyhow::Result<()> {
    // Reached from this machine only, so without credentials.
    let door = Door { listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), access: Access::default() };
    let stop = CancellationToken::new();
    let handle = open.start(open.lead(&WAITS).await?, &door, &WAITS, stop.clone()).await?;
    let worker = worker_beside(rollouts, handle.address, connected, cancel.clone())?;
    both(handle, worker, stop, cancel).await
}

/// A worker of this process, until `cancel` or until the coordinator lets it go.
pub(crate) fn worker_beside(
    rollouts: &RolloutArguments,
    coordinator: SocketAddr,
    connected: watch::Sender<bool>,
    cancel: CancellationToken,
) -> anyhow::Result<JoinHandle<Result<(), WorkerError>>> {
    let options = WorkerOptions {
        connected,
        coordinators: vec![format!("http://{coordinator}")],
        name: "here".to_owned(),
        grace: GRACE,
        ..worker_options(rollouts, "cpu")?
    };
    Ok(tokio::spawn(influence_worker::run(options, cancel)))
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

pub(crate) async fn worker(arguments: WorkerArguments) -> anyhow::Result<()> {
    let connected = watch::Sender::new(false);
    let measured = measured(&arguments.metrics, connected.subscribe()).await?;
    let options = WorkerOptions {
        connected,
        coordinators: arguments.coordinators,
        credentials: credentials::of_worker(&arguments.credentials)?,
        name: arguments.name.unwrap_or_else(|| format!("worker-{}", std::process::id())),
        grace: Duration::from_secs(arguments.grace),
        cache_bytes: arguments.cache_size << 30,
        share_every: Duration::from_secs(arguments.share_checkpoints),
        ..worker_options(&arguments.rollouts, &arguments.device)?
    };
    let ended = influence_worker::run(options, interrupt::token()?).await;
    measured.end().await;
    Ok(ended?)
}

fn worker_options(rollouts: &RolloutArguments, device: &str) -> anyhow::Result<WorkerOptions> {
    let bar = DownloadBar::new();
    Ok(WorkerOptions {
        coordinators: Vec::new(),
        credentials: Credentials::default(),
        name: String::new(),
        slots: rollouts.slots_on(device),
        kv_bytes: rollouts.kv_memory.map(|mib| usize::try_from(mib << 20)).transpose()?,
        device: device.to_owned(),
        cache: cache_folder(rollouts.cache.as_deref())?,
        cache_bytes: CACHE_BYTES,
        models: rollouts.models.iter().cloned().collect::<BTreeMap<_, _>>(),
        response_cache: rollouts.response_cache.clone(),
        grace: GRACE,
        share_every: SHARE_EVERY,
        connected: watch::Sender::new(false),
        on_download: Some(Arc::new(move |progress| bar.show(&progress))),
    })
}

/// The table, and where everything is.
pub(crate) async fn conclude(open: &Open, as_json: bool) -> anyhow::Result<()> {
    let (store, run) = (&*open.store, &open.run);
    if as_json {
        return print(&format!("{:#}\n", whole(store, &store.run(run).await?).await?));
    }
    let adapters = open.data.data.join(run.as_str()).join("adapters");
    // An agent that its server trains has none.
    let adapters = if adapters.is_dir() { format!("adapters:      {}\n", adapters.display()) } else { String::new() };
    print(&format!(
        "{}store:         {}\n{adapters}conversations: influence episodes {run}{}\n",
        table(&summary(store, run).await?),
        open.address,
        open.data.store.as_ref().map(|url| format!(" --store {url}")).unwrap_or_default(),
    ))
}
