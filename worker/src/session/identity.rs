//! Who this worker is to the coordinator.

use std::hash::{BuildHasher as _, RandomState};
use std::sync::{Arc, Mutex, PoisonError};

use influence_proto::WorkerId;
use tokio::sync::Notify;

/// A worker's name in the coordinator's books. It changes when a coordinator that was started anew gives another one; the
/// incarnation stays. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Identity {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    id: Mutex<WorkerId>,
    incarnation: u64,
    forgotten: Notify,
}

/// A number that no other worker process draws. The standard library's hasher is keyed by the system's randomness, and
/// the process and the time are mixed in.
pub(crate) fn draw_incarnation() -> u64 {
    let now = std::time::SystemTime::now();
    RandomState::new().hash_one((std::process::id(), now))
}

impl Identity {
    pub(crate) fn new(id: WorkerId, incarnation: u64) -> Self {
        Self { shared: Arc::new(Shared { id: Mutex::new(id), incarnation, forgotten: Notify::new() }) }
    }

    /// The name that calls carry now.
    pub(crate) fn id(&self) -> WorkerId {
        self.shared.id.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn rename(&self, id: WorkerId) {
        *self.shared.id.lock().unwrap_or_else(PoisonError::into_inner) = id;
    }

    pub(crate) fn incarnation(&self) -> u64 {
        self.shared.incarnation
    }

    /// A call under the name `id` was answered with "unknown worker". An old name says nothing about the present one.
    pub(crate) fn forgotten(&self, id: &WorkerId) {
        if *id == self.id() {
            self.shared.forgotten.notify_one();
        }
    }

    /// Waits for [`Identity::forgotten`].
    pub(crate) async fn until_forgotten(&self) {
        self.shared.forgotten.notified().await;
    }
}
