//! Adapters that a backend holds: loaded once, dropped with their last user.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Weak};

use influence_proto::AdapterRef;
use tokio::sync::Mutex;

use super::{Backend, BackendError};

/// An adapter that a backend holds. It is dropped with the last clone of its `Arc`.
#[derive(Debug)]
pub struct LoadedAdapter {
    name: String,
    backend: Arc<dyn Backend>,
}

impl LoadedAdapter {
    /// Its name in requests.
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl Drop for LoadedAdapter {
    fn drop(&mut self) {
        self.backend.drop_adapter(&self.name);
    }
}

/// The adapters of one backend. The latest stays loaded between its users; an earlier one leaves with its last user.
#[derive(Debug)]
pub struct AdapterTable {
    backend: Arc<dyn Backend>,
    held: Mutex<Held>,
}

#[derive(Debug, Default)]
struct Held {
    latest: Option<Arc<LoadedAdapter>>,
    all: HashMap<AdapterRef, Weak<LoadedAdapter>>,
    /// Makes every load's name unique, so that dropping an old load never hits a new one.
    loads: u64,
}

impl AdapterTable {
    /// Of a backend that holds none yet.
    pub fn new(backend: Arc<dyn Backend>) -> Self {
        Self { backend, held: Mutex::default() }
    }

    /// The adapter, loaded from `folder` unless it is held. Callers that come meanwhile wait and share it.
    ///
    /// # Errors
    /// What [`Backend::load_adapter`] reports.
    pub async fn load(&self, adapter: AdapterRef, folder: &Path) -> Result<Arc<LoadedAdapter>, BackendError> {
        let mut held = self.held.lock().await;
        if let Some(loaded) = held.all.get(&adapter).and_then(Weak::upgrade) {
            return Ok(loaded);
        }
        held.loads += 1;
        let name = format!("{}-{}", adapter.weights, held.loads);
        self.backend.load_adapter(&name, folder).await?;
        let loaded = Arc::new(LoadedAdapter { name, backend: self.backend.clone() });
        held.all.retain(|_, weak| weak.strong_count() > 0);
        held.all.insert(adapter, Arc::downgrade(&loaded));
        held.latest = Some(loaded.clone());
        Ok(loaded)
    }
}
