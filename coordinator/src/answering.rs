//! Workers that answer calls of models, of a run that nobody carries on: they judge what is stored, or play a conversation.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use influence_proto::{ModelSpec, RunId};

use crate::access::Access;
use crate::artifacts::Artifacts;
use crate::cluster::Cluster;
use crate::dispatch::Limits;
use crate::progress::RunPhase;
use crate::service::{ListenError, Listener};
use crate::serving::{Served, Serving};
use crate::store::Store;

/// What calls are answered with.
#[derive(Debug)]
pub struct AnsweringOptions {
    /// Which run it is about.
    pub run: RunId,
    /// What workers must have loaded.
    pub models: Vec<ModelSpec>,
    /// Where the run is remembered; nothing is written to it.
    pub store: Arc<dyn Store>,
    /// Where its adapters lie.
    pub artifacts: Artifacts,
    /// Where workers find it; port 0 takes any free one.
    pub listen: SocketAddr,
    /// Who may call it.
    pub access: Access,
}

/// A coordinator that has no run to carry on, and workers all the same.
#[derive(Debug)]
pub struct Answering {
    /// Where workers find it.
    pub address: SocketAddr,
    serving: Serving,
}

impl Answering {
    /// Listens for workers.
    ///
    /// # Errors
    /// When the port cannot be had.
    pub async fn start(options: AnsweringOptions) -> Result<Self, ListenError> {
        let AnsweringOptions { run, models, store, artifacts, listen, access } = options;
        let listener = Listener::bind(listen, &access).await?;
        let address = listener.address;
        let served = Served { run, models: models.into(), store, artifacts, limits: Limits::default(), access };
        let serving = Serving::start(served, listener.incoming());
        serving.progress.enter(RunPhase::Answering);
        Ok(Self { address, serving })
    }

    /// Where calls are asked for.
    pub fn cluster(&self) -> &Cluster {
        &self.serving.cluster
    }

    /// Lets the workers leave, and ends; but first those that come for so long after it are let go, too.
    pub async fn end(self, lingers: Duration) {
        self.serving.farewell("there is nothing more to ask".to_owned()).await;
        tokio::time::sleep(lingers).await;
        self.serving.end().await;
    }
}
