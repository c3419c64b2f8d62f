//! A run that is opened, and carried on by the one who leads it.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use influence_coordinator::access::Access;
use influence_coordinator::artifacts::Artifacts;
use influence_coordinator::config::{Experiment, Trainer};
use influence_coordinator::dashboard::Live;
use influence_coordinator::store::{OpenStoreError, RunStatus, Store, StoreAddress, StoreError};
use influence_coordinator::{
    Coordinator, CoordinatorOptions, Leadership, OpenError, Opened, RunError, RunHandle, StartError, open_run,
};
use influence_proto::{ModelSpec, RunId};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::args::{AccessArguments, CoordinatorArguments, DataArguments, ExperimentArguments};
use crate::run::conclude;
use crate::stored::store_address;
use crate::telemetry::{measured, say};
use crate::{credentials, dashboard, interrupt, progress};

/// Between two tries of a coordinator that could not go on for lack of its store.
const AGAIN: Duration = Duration::from_secs(1);

/// How long a coordinator waits for others.
pub(crate) struct Waits {
    /// The store, for a leader that is silent.
    pub(crate) takeover: Duration,
    /// Work of an earlier coordinator, for workers that outlived it.
    pub(crate) reclaim: Duration,
    /// A run, for a store that refuses every write, as with a full disk.
    pub(crate) store_patience: Option<Duration>,
}

/// Where workers come in, and what they must show.
pub(crate) struct Door {
    pub(crate) listen: SocketAddr,
    pub(crate) access: Access,
}

impl Door {
    /// A door at an address, if one is given.
    pub(crate) fn at(listen: Option<SocketAddr>, access: &AccessArguments) -> anyhow::Result<Option<Self>> {
        listen.map(|listen| Ok(Self { listen, access: credentials::access(access)? })).transpose()
    }

    /// How workers come in at the address that was taken.
    pub(crate) fn invitation(&self, address: SocketAddr) -> String {
        let scheme = if self.access.speaks_tls() { "https" } else { "http" };
        format!("workers join with: influence worker --coordinator {scheme}://{address}")
    }
}

/// A run and what it is carried on with.
pub(crate) struct Open {
    pub(crate) run: RunId,
    pub(crate) store: Arc<dyn Store>,
    /// Nothing is left to do.
    pub(crate) finished: bool,
    /// What the run may cost, in dollars.
    budget: Option<f64>,
    pub(crate) address: StoreAddress,
    pub(crate) data: DataArguments,
    /// What the dashboard shows of the run while it is carried on.
    pub(crate) live: Live,
    artifacts: OsString,
    experiment: Experiment,
    /// Workers go on to another coordinator at the same address when this run is finished.
    pub(crate) keeps_workers: bool,
}

impl Open {
    /// The run that the arguments mean, new or known.
    /// `artifacts`: by default in the data folder.
    pub(crate) async fn new(
        arguments: &ExperimentArguments,
        data: &DataArguments,
        artifacts: Option<OsString>,
    ) -> anyhow::Result<Self> {
        let ExperimentArguments { experiment, set, seed, name, configs, fresh, .. } = arguments;
        let experiment = Experiment::load(experiment, configs.as_deref(), set, *seed, name.as_deref())?;
        if arguments.budget.is_some() {
            priced(&experiment)?;
        }
        Self::of(experiment, data, artifacts, *fresh, arguments.budget).await
    }

    /// The run of an experiment, new or known.
    pub(crate) async fn of(
        experiment: Experiment,
        data: &DataArguments,
        artifacts: Option<OsString>,
        fresh: bool,
        budget: Option<f64>,
    ) -> anyhow::Result<Self> {
        let address = store_address(data);
        let store = influence_coordinator::store::open(&address).await?.store;
        let opened = open_run(&*store, &experiment, fresh).await?;
        match &opened {
            Opened::New(run) => say(format!("run {run} begins")),
            Opened::Resumed(run) => say(format!("run {run} goes on")),
            Opened::Finished(run) => say(format!("run {run} is finished; --fresh starts over under a new run id")),
        }
        let finished = matches!(opened, Opened::Finished(_));
        let artifacts = artifacts.unwrap_or_else(|| data.data.join("artifacts").into_os_string());
        Ok(Self {
            run: opened.run().clone(),
            store,
            finished,
            budget,
            address,
            artifacts,
            experiment,
            data: data.clone(),
            live: Live::default(),
            keeps_workers: false,
        })
    }

    /// As [`Open::new`], for a coordinator: one that is started anew may come back before its store does. None when
    /// cancelled.
    async fn patiently(arguments: &CoordinatorArguments, cancel: &CancellationToken) -> anyhow::Result<Option<Self>> {
        let mut told = String::new();
        loop {
            let opened = Self::new(&arguments.experiment, &arguments.data, arguments.artifacts.clone()).await;
            let away = match opened {
                Err(error) if is_away(&error) => error.to_string(),
                other => return other.map(Some),
            };
            if told != away {
                say(format!("waiting: {away}"));
                told = away;
            }
            tokio::select! {
                () = cancel.cancelled() => return Ok(None),
                () = tokio::time::sleep(AGAIN) => {}
            }
        }
    }

    /// Takes the lead, at once or not at all.
    pub(crate) async fn lead(&self, waits: &Waits) -> anyhow::Result<Leadership> {
        let (store, run) = (self.store.clone(), self.run.clone());
        Ok(Leadership::take(store, run, this_process(None), waits.takeover).await?)
    }

    /// Takes the lead when nobody else has it (any more). None when cancelled.
    async fn stand_by(
        &self,
        door: &Door,
        waits: &Waits,
        cancel: &CancellationToken,
    ) -> Result<Option<Leadership>, StoreError> {
        let (store, run, me) = (self.store.clone(), self.run.clone(), this_process(Some(door.listen)));
        if matches!(self.address, StoreAddress::Sqlite(_)) {
            return Leadership::take(store, run, me, waits.takeover).await.map(Some);
        }
        let waiting = |reason: &StoreError| match reason {
            StoreError::Led { leader, .. } => say(format!("standing by: run {} is led by {leader}", self.run)),
            away => say(format!("waiting: {away}")),
        };
        Leadership::wait(store, run, me, waits.takeover, waiting, cancel).await
    }

    /// Carries the run on in the background.
    pub(crate) async fn start(
        &self,
        leadership: Leadership,
        door: &Door,
        waits: &Waits,
        cancel: CancellationToken,
    ) -> anyhow::Result<RunHandle> {
        let options = CoordinatorOptions {
            run: self.run.clone(),
            leadership,
            store: self.store.clone(),
            artifacts: Artifacts::open(&self.artifacts, &self.data.data.join(self.run.as_str())).await?,
            data: self.data.data.clone(),
            listen: door.listen,
            access: door.access.clone(),
            reclaim: waits.reclaim,
            store_patience: waits.store_patience,
            budget: self.budget,
            keeps_workers: self.keeps_workers,
        };
        let handle = Coordinator::start(options, self.experiment.clone(), cancel).await?;
        self.live.follow(handle.cluster.clone());
        Ok(handle)
    }

    /// Leads the run to its end. False if it has to be led again.
    pub(crate) async fn lead_on(
        &self,
        leadership: Leadership,
        door: &Door,
        waits: &Waits,
        leads: &watch::Sender<bool>,
        cancel: &CancellationToken,
    ) -> anyhow::Result<bool> {
        if self.store.run(&self.run).await?.status == RunStatus::Finished {
            leadership.resign().await;
            return Ok(true);
        }
        let handle = self.start(leadership, door, waits, cancel.clone()).await?;
        leads.send_replace(true);
        say(door.invitation(handle.address));
        let bars = tokio::spawn(progress::show(handle.progress.clone()));
        let outcome = handle.wait().await;
        bars.await.context("the progress bars broke off")?;
        outcome?;
        Ok(true)
    }
}

/// Whether everything that may cost something has a price.
fn priced(experiment: &Experiment) -> anyhow::Result<()> {
    let unpriced = |model: &&ModelSpec| model.api().is_some_and(|api| api.price.is_none());
    let agent = experiment.models.get(&experiment.roles.agent.model).filter(|_| experiment.iterations > 0);
    if matches!(experiment.training.trainer, Trainer::Api(_))
        && let Some(price) = agent.and_then(|model| model.api()?.price)
        && price.training.is_none()
    {
        anyhow::bail!(
            "--budget needs the price of training `{}`: give its `price` in models.yaml a `training: DOLLARS`, per million tokens",
            experiment.roles.agent.model
        );
    }
    match experiment.models.values().find(unpriced) {
        Some(model) => anyhow::bail!(
            "--budget needs the price of `{}`: give its `api` in models.yaml a `price: {{input: DOLLARS, output: DOLLARS}}`, per million tokens",
            model.name
        ),
        None => Ok(()),
    }
}

/// `influence coordinator`.
pub(crate) async fn coordinator(arguments: CoordinatorArguments) -> anyhow::Result<()> {
    let cancel = interrupt::token()?;
    let waits = Waits {
        takeover: Duration::from_secs(arguments.takeover),
        reclaim: Duration::from_secs(15),
        store_patience: None,
    };
    let door = Door { listen: arguments.listen, access: credentials::access(&arguments.access)? };
    // Before the run is opened: nothing is begun that cannot go on.
    door.access.permits(door.listen)?;
    let Some(open) = Open::patiently(&arguments, &cancel).await? else {
        return Err(RunError::Stopped.into());
    };
    let pages = dashboard::beside(arguments.dashboard, &arguments.login, &open.store, &open.live).await?;
    let leads = watch::Sender::new(false);
    let measured = measured(&arguments.metrics, leads.subscribe()).await?;
    let ended = carry_on(&open, &door, &waits, &leads, &cancel).await;
    let concluded = match ended {
        Ok(()) => conclude(&open, arguments.json).await,
        Err(error) => Err(error),
    };
    if concluded.is_ok() && arguments.stay {
        say("the run is finished; its pages stay until this is stopped");
        leads.send_replace(true);
        cancel.cancelled().await;
    }
    pages.end().await;
    measured.end().await;
    concluded
}

/// Leads the run to its end, whenever nobody else does.
async fn carry_on(
    open: &Open,
    door: &Door,
    waits: &Waits,
    leads: &watch::Sender<bool>,
    cancel: &CancellationToken,
) -> anyhow::Result<()> {
    let mut done = open.finished;
    while !done {
        let Some(leadership) = open.stand_by(door, waits, cancel).await? else {
            return Err(RunError::Stopped.into());
        };
        let led = open.lead_on(leadership, door, waits, leads, cancel).await;
        leads.send_replace(false);
        done = match led {
            Err(error) if passes(&error) => {
                say(error.to_string());
                tokio::time::sleep(AGAIN).await;
                false
            }
            other => other?,
        };
    }
    Ok(())
}

/// Whether the run may go on from here later: another leads, or the store is away.
fn passes(error: &anyhow::Error) -> bool {
    match (error.downcast_ref(), error.downcast_ref(), error.downcast_ref()) {
        (Some(RunError::Deposed), _, _) => true,
        (Some(RunError::Store(store)), _, _) | (_, Some(StartError::Store(store)), _) | (_, _, Some(store)) => {
            store.is_no_answer()
        }
        _ => false,
    }
}

/// Whether a run cannot be opened because its store is out of reach.
fn is_away(error: &anyhow::Error) -> bool {
    let store = match (error.downcast_ref(), error.downcast_ref()) {
        (Some(OpenStoreError::Store(store)), _) | (_, Some(OpenError::Store(store))) => Some(store),
        _ => None,
    };
    matches!(store, Some(StoreError::Away { .. }))
}

/// Who leads, for people.
fn this_process(listen: Option<SocketAddr>) -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let process = format!("process {}", std::process::id());
    let host = if host.trim().is_empty() { process } else { format!("{process} on {}", host.trim()) };
    listen.map_or_else(|| host.clone(), |listen| format!("{host}, listening on {listen}"))
}
