//! Models that answer calls: on a worker of this process, or on workers that join from others.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use influence_coordinator::access::Access;
use influence_coordinator::artifacts::Artifacts;
use influence_coordinator::store::Store;
use influence_coordinator::{Answering, AnsweringOptions, Cluster};
use influence_proto::{ModelSpec, RunId};
use influence_worker::WorkerError;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::args::RolloutArguments;
use crate::coordinate::Door;
use crate::run::worker_beside;
use crate::telemetry::say;

/// A worker that lost its coordinator comes again within so long.
const COMES_AGAIN: Duration = Duration::from_secs(6);

/// What is asked about, and of whom.
pub(crate) struct Asked {
    pub(crate) run: RunId,
    pub(crate) models: Vec<ModelSpec>,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) artifacts: Artifacts,
}

/// Lets workers leave that were kept at a door for more, wherever they are between two tries to connect.
pub(crate) async fn dismiss(asked: Asked, door: &Door) -> anyhow::Result<()> {
    let Asked { run, models, store, artifacts } = asked;
    let (listen, access) = (door.listen, door.access.clone());
    let answering = Answering::start(AnsweringOptions { run, models, store, artifacts, listen, access }).await?;
    answering.end(COMES_AGAIN).await;
    Ok(())
}

/// Workers that answer; until this is ended or dropped.
pub(crate) struct Answers {
    answering: Answering,
    /// The worker of this process, if it has one.
    here: Option<(DropGuard, JoinHandle<Result<(), WorkerError>>)>,
}

impl Answers {
    /// `door`: where workers join; without it this process has one of its own.
    pub(crate) async fn start(asked: Asked, door: Option<&Door>, rollouts: &RolloutArguments) -> anyhow::Result<Self> {
        let Asked { run, models, store, artifacts } = asked;
        let (listen, access) = match door {
            Some(door) => (door.listen, door.access.clone()),
            // Reached from this machine only, so without credentials.
            None => (SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), Access::default()),
        };
        let options = AnsweringOptions { run, models, store, artifacts, listen, access };
        let answering = Answering::start(options).await?;
        let here = if let Some(door) = door {
            say(door.invitation(answering.address));
            None
        } else {
            let stop = CancellationToken::new();
            let worker = worker_beside(rollouts, answering.address, watch::Sender::new(false), stop.clone())?;
            Some((stop.drop_guard(), worker))
        };
        Ok(Self { answering, here })
    }

    /// Where calls are asked for.
    pub(crate) fn cluster(&self) -> &Cluster {
        self.answering.cluster()
    }

    /// Comes back only if the worker of this process ends before it should: with what stopped it.
    pub(crate) async fn broken(&mut self) -> anyhow::Error {
        match &mut self.here {
            None => std::future::pending().await,
            Some((_, worker)) => match worker.await {
                Ok(Ok(())) => anyhow::anyhow!("the worker left"),
                Ok(Err(error)) => error.into(),
                Err(panic) => anyhow::Error::new(panic).context("the worker broke off"),
            },
        }
    }

    /// Lets the workers leave.
    pub(crate) async fn end(self) -> anyhow::Result<()> {
        self.answering.end(Duration::ZERO).await;
        if let Some((stop, worker)) = self.here {
            drop(stop);
            worker.await??;
        }
        Ok(())
    }
}
