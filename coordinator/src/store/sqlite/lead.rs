//! Who leads a run: the process that holds its lock file. The operating system gives the lock back
//! however the process ends, so nobody has to wait for a lease to run out.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use influence_proto::RunId;

use crate::store::{LockError, RunLock, StoreError};

/// The runs that one handle leads.
#[derive(Debug)]
pub(super) struct Leads {
    /// The store's folder: each run has a folder of its own below it.
    folder: PathBuf,
    held: Mutex<HashMap<RunId, RunLock>>,
}

impl Leads {
    pub(super) fn new(file: &Path) -> Self {
        Self { folder: file.parent().unwrap_or(Path::new("")).to_owned(), held: Mutex::default() }
    }

    pub(super) fn take(&self, run: &RunId) -> Result<(), StoreError> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        if held.contains_key(run) {
            return Ok(());
        }
        let lock = RunLock::acquire(&self.folder.join(run.as_str()), run).map_err(|error| match error {
            LockError::Held { holder, .. } => StoreError::Led { run: run.to_string(), leader: holder },
            LockError::Io { path, source } => {
                StoreError::Io { store: path.display().to_string(), detail: source.to_string() }
            }
        })?;
        held.insert(run.clone(), lock);
        Ok(())
    }

    pub(super) fn give_up(&self, run: &RunId) {
        self.held.lock().unwrap_or_else(PoisonError::into_inner).remove(run);
    }

    /// Refuses what only the leader may do.
    pub(super) fn must_hold(&self, run: &RunId) -> Result<(), StoreError> {
        if self.held.lock().unwrap_or_else(PoisonError::into_inner).contains_key(run) {
            return Ok(());
        }
        Err(StoreError::NotLeader { run: run.to_string(), leader: "another process, or nobody,".to_owned() })
    }
}
