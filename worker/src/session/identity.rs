//! Who this worker is to the coordinator.

use std::hash::{BuildHasher as _, RandomState};
use std::sync::{Arc, Mutex, PoisonError};

use influence_proto::WorkerId;
use tokio::sync::watch;

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
    /// The name that the coordinator did not know, until there is a new one.
    forgotten: watch::Sender<Option<WorkerId>>,
}

/// A number that no other worker process draws. The standard library's hasher is keyed by the system's randomness, and
/// the process and the time are mixed in.
pub(crate) fn draw_incarnation() -> u64 {
    let now = std::time::SystemTime::now();
    RandomState::new().hash_one((std::process::id(), now))
}

impl Identity {
    pub(crate) fn new(id: WorkerId, incarnation: u64) -> Self {
        Self { shared: Arc::new(Shared { id: Mutex::new(id), incarnation, forgotten: watch::Sender::new(None) }) }
    }

    /// The name that calls carry now.
    pub(crate) fn id(&self) -> WorkerId {
        self.shared.id.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The coordinator knows this worker again, by this name.
    pub(crate) fn rename(&self, id: WorkerId) {
        *self.shared.id.lock().unwrap_or_else(PoisonError::into_inner) = id;
        // Several calls may have reported the old name: one handshake answers them all.
        self.shared.forgotten.send_replace(None);
    }

    pub(crate) fn incarnation(&self) -> u64 {
        self.shared.incarnation
    }

    /// A call under the name `id` was answered with "unknown worker". An old name says nothing about the present one.
    pub(crate) fn forgotten(&self, id: &WorkerId) {
        if *id == self.id() {
            self.shared.forgotten.send_replace(Some(id.clone()));
        }
    }

    /// Waits until the coordinator has forgotten the present name.
    pub(crate) async fn until_forgotten(&self) {
        // Its sender is in `self`.
        let present = |name: &Option<WorkerId>| name.as_ref().is_some_and(|name| *name == self.id());
        let _ = self.shared.forgotten.subscribe().wait_for(present).await;
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::time::Duration;

    use super::*;

    fn name(text: &str) -> WorkerId {
        WorkerId::new(text).unwrap()
    }

    #[tokio::test]
    async fn one_handshake_answers_every_report_and_old_names_say_nothing() {
        let identity = Identity::new(name("w1"), 1);
        let forgotten = || tokio::time::timeout(Duration::from_millis(20), identity.until_forgotten());
        assert!(forgotten().await.is_err());
        identity.forgotten(&name("w1"));
        identity.forgotten(&name("w1"));
        assert!(forgotten().await.is_ok());
        identity.rename(name("w2"));
        assert!(forgotten().await.is_err(), "the second report was about the old name");
        identity.forgotten(&name("w1"));
        assert!(forgotten().await.is_err(), "a late report is about the old name too");
        identity.forgotten(&name("w2"));
        assert!(forgotten().await.is_ok());
        identity.rename(name("w2"));
        assert!(forgotten().await.is_err(), "the same name, given again, is known again");
    }
}
