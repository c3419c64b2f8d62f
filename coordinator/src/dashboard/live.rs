use std::sync::{Arc, Mutex, PoisonError};

use influence_proto::{ClusterStatus, RunId};

use crate::Cluster;

/// The run that this process carries on, if it does: what only its coordinator knows. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Live(Arc<Mutex<Option<Cluster>>>);

impl Live {
    /// From now on it is this one.
    pub fn follow(&self, cluster: Cluster) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(cluster);
    }

    /// Whoever carries a run on, if this process does.
    pub(super) fn cluster(&self, run: &RunId) -> Option<Cluster> {
        let cluster = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        cluster.filter(|cluster| cluster.run == *run)
    }

    /// How a run stands, if this process carries it on now.
    pub(super) async fn status(&self, run: &RunId) -> Option<ClusterStatus> {
        self.cluster(run)?.status().await.ok()
    }
}
