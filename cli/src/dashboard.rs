//! The web pages, beside a run or alone.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::str::FromStr;
use std::sync::Arc;

use anyhow::Context as _;
use influence_coordinator::dashboard::{Dashboard, DashboardAddress, DashboardError, Live};
use influence_coordinator::store::{RunRecord, Store};
use influence_proto::{ModelSpec, RunId};
use serde::Deserialize as _;
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::answering::{Answers, Asked};
use crate::args::{DashboardArguments, LoginArguments};
use crate::coordinate::Door;
use crate::stored::{artifacts, existing};
use crate::telemetry::say;
use crate::{credentials, interrupt};

/// Where the dashboard of a run is, if it is to have one.
#[derive(Debug, Clone, Copy)]
pub(crate) enum DashboardAt {
    Off,
    Address(SocketAddr),
}

impl FromStr for DashboardAt {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "off" => Ok(Self::Off),
            address => {
                address.parse().map(Self::Address).map_err(|_| "must be `off`, or as in 127.0.0.1:5000".to_owned())
            }
        }
    }
}

/// Pages that are served while a run goes on; until they are ended, or this is dropped.
#[derive(Debug, Default)]
pub(crate) struct Beside(Option<(DropGuard, JoinHandle<Result<(), DashboardError>>)>);

impl Beside {
    /// Stops serving and waits for it. A run does not fail because its pages did.
    pub(crate) async fn end(self) {
        let Some((stop, serving)) = self.0 else { return };
        drop(stop);
        match serving.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => say(error.to_string()),
            Err(error) => say(format!("the dashboard broke off: {error}")),
        }
    }
}

/// An address with what is asked for there.
fn locked(address: SocketAddr, login: &LoginArguments) -> anyhow::Result<DashboardAddress> {
    let token = credentials::of_readers(login.dashboard_token.as_deref())?;
    Ok(DashboardAddress { address, token, allow_plaintext: login.dashboard_plaintext })
}

/// Serves the pages of a run. It goes on without them where their port is taken.
pub(crate) async fn beside(
    at: DashboardAt,
    login: &LoginArguments,
    store: &Arc<dyn Store>,
    live: &Live,
) -> anyhow::Result<Beside> {
    let DashboardAt::Address(address) = at else { return Ok(Beside::default()) };
    let dashboard = match Dashboard::bind(locked(address, login)?, store.clone(), live.clone()).await {
        Ok(dashboard) => dashboard,
        Err(error @ DashboardError::Listen { .. }) => {
            say(format!("no dashboard: {error} by --dashboard, or turn it off by --dashboard off"));
            return Ok(Beside::default());
        }
        Err(error) => return Err(error.into()),
    };
    say(format!("dashboard: http://localhost:{}", dashboard.address.port()));
    let stop = CancellationToken::new();
    let serving = tokio::spawn(dashboard.serve(stop.clone()));
    Ok(Beside(Some((stop.drop_guard(), serving))))
}

/// `influence dashboard`: of runs that nobody is at, until it is stopped.
pub(crate) async fn alone(arguments: DashboardArguments) -> anyhow::Result<()> {
    let cancel = interrupt::token()?;
    let store = existing(&arguments.data).await?;
    let live = Live::default();
    let dashboard = Dashboard::bind(locked(arguments.listen, &arguments.login)?, store.clone(), live.clone()).await?;
    let Some(run) = &arguments.play else {
        say(format!("dashboard: http://localhost:{}; Ctrl-C ends it", dashboard.address.port()));
        return Ok(dashboard.serve(cancel).await?);
    };
    let run = store.run(&RunId::new(run)?).await?;
    let mut answers = answers(store, &run, &arguments).await?;
    live.follow(answers.cluster().clone());
    say(format!("playground: http://localhost:{}/runs/{}/play; Ctrl-C ends it", dashboard.address.port(), run.id));
    tokio::select! {
        served = dashboard.serve(cancel) => served?,
        broken = answers.broken() => return Err(broken),
    }
    answers.end().await
}

/// Workers that have a run's models.
async fn answers(store: Arc<dyn Store>, run: &RunRecord, arguments: &DashboardArguments) -> anyhow::Result<Answers> {
    let models = BTreeMap::<String, ModelSpec>::deserialize(&run.experiment["models"])
        .with_context(|| format!("run `{}` does not say which models it uses", run.id))?;
    let asked = Asked {
        run: run.id.clone(),
        models: models.into_values().collect(),
        store,
        artifacts: artifacts(&arguments.data, arguments.artifacts.as_ref(), &run.id).await?,
    };
    let door = Door::at(arguments.workers, &arguments.access)?;
    Answers::start(asked, door.as_ref(), &arguments.rollouts).await
}
