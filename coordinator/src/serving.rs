//! Dispatcher and gRPC service of a run, while they are up.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::Stream;
use influence_proto::{ModelSpec, RunId};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::access::Access;
use crate::artifacts::Artifacts;
use crate::cluster::Cluster;
use crate::dispatch::{DispatchHandle, DispatchService, Limits};
use crate::progress::ProgressHandle;
use crate::service::{Service, serve};
use crate::store::Store;

/// How long workers have to leave after they were told that there is nothing more to do.
const FAREWELL: Duration = Duration::from_secs(3);

/// What workers are served with.
pub(crate) struct Served {
    pub(crate) run: RunId,
    /// What they must have loaded.
    pub(crate) models: Arc<[ModelSpec]>,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) artifacts: Artifacts,
    pub(crate) limits: Limits,
    pub(crate) access: Access,
}

/// Ends, at the latest, when it is dropped.
#[derive(Debug)]
pub(crate) struct Serving {
    pub(crate) dispatch: DispatchHandle,
    pub(crate) progress: ProgressHandle,
    pub(crate) cluster: Cluster,
    readers: TaskTracker,
    stop: CancellationToken,
    dispatcher_stop: CancellationToken,
    servants: JoinSet<()>,
}

impl Serving {
    pub(crate) fn start<I, IO>(served: Served, incoming: I) -> Self
    where
        I: Stream<Item = io::Result<(IO, SocketAddr)>> + Send + 'static,
        IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let Served { run, models, store, artifacts, limits, access } = served;
        let progress = ProgressHandle::new();
        let (dispatcher, dispatch) = DispatchService::new(run.clone(), store.clone(), limits, progress.clone());
        let cluster = Cluster::new(run.clone(), dispatch.clone(), progress.watch());
        let (stop, dispatcher_stop, readers) = (CancellationToken::new(), CancellationToken::new(), TaskTracker::new());
        let service = Service {
            run,
            models,
            lease_ms: limits.lease_ms as u32,
            store,
            artifacts,
            dispatch: dispatch.clone(),
            progress: progress.clone(),
            readers: readers.clone(),
            stop: stop.clone(),
            cluster: cluster.clone(),
        };
        let mut servants = JoinSet::new();
        servants.spawn(dispatcher.run(dispatcher_stop.clone()));
        servants.spawn(serve(incoming, service, access));
        Self { dispatch, progress, cluster, readers, stop, dispatcher_stop, servants }
    }

    /// Tells the workers that they may leave, and waits for it a little.
    pub(crate) async fn farewell(&self, reason: String) {
        if self.dispatch.goodbye(reason).await.is_err() {
            return;
        }
        self.readers.close();
        if tokio::time::timeout(FAREWELL, self.readers.wait()).await.is_err() {
            tracing::warn!("some workers did not leave when they were told that there is nothing more to do");
        }
    }

    pub(crate) async fn end(mut self) {
        self.stop.cancel();
        self.servants.join_next().await;
        self.dispatcher_stop.cancel();
        while self.servants.join_next().await.is_some() {}
    }
}
