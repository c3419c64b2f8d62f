//! A coordinator's host: stands by, leads, and stands by again when it is deposed.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use influence_proto::RunId;
use tokio_util::sync::CancellationToken;

use super::network::{self, PORT};
use crate::access::Access;
use crate::artifacts::Artifacts;
use crate::config::Experiment;
use crate::coordinator::{Coordinator, CoordinatorOptions};
use crate::experiment::RunError;
use crate::leadership::Leadership;
use crate::store::{RunStatus, Store};

/// How long the store waits for a silent leader.
const TTL: Duration = Duration::from_secs(2);

/// What a coordinator's process is started with.
#[derive(Clone)]
pub(super) struct Node {
    pub(super) name: &'static str,
    pub(super) run: RunId,
    pub(super) store: Arc<dyn Store>,
    pub(super) experiment: Experiment,
    pub(super) data: PathBuf,
}

impl Node {
    pub(super) async fn coordinate(self) -> turmoil::Result {
        let never = CancellationToken::new();
        loop {
            let (store, run) = (self.store.clone(), self.run.clone());
            let lead = Leadership::wait(store, run, self.name.to_owned(), TTL, |_| {}, &never).await?;
            let Some(leadership) = lead else { return Ok(()) };
            match self.lead(leadership).await {
                Ok(()) => return Ok(()),
                Err(RunError::Deposed) => {}
                Err(RunError::Store(error)) if error.retryable() => {}
                Err(error) => return Err(format!("{} gave up: {error}", self.name).into()),
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    async fn lead(&self, leadership: Leadership) -> Result<(), RunError> {
        if self.store.run(&self.run).await?.status == RunStatus::Finished {
            leadership.resign().await;
            return Ok(());
        }
        let options = CoordinatorOptions {
            run: self.run.clone(),
            leadership,
            store: self.store.clone(),
            artifacts: Artifacts::open(self.data.join("artifacts"), &self.data.join(self.name)).await?,
            data: self.data.clone(),
            listen: ([0, 0, 0, 0], PORT).into(),
            access: Access::default(),
            reclaim: Duration::from_secs(2),
            store_patience: None,
            budget: None,
            keeps_workers: false,
        };
        let incoming = network::incoming().await;
        let started = Coordinator::start_on(options, self.experiment.clone(), incoming, CancellationToken::new()).await;
        match started {
            Ok(handle) => handle.wait().await,
            Err(crate::coordinator::StartError::Store(error)) => Err(error.into()),
            Err(error) => Err(RunError::Panicked(error.to_string())),
        }
    }
}
