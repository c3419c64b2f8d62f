//! Which artifacts are in use now, and may not be deleted.

use std::collections::BTreeMap;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use influence_proto::Digest;

/// How many users each artifact has. Clones share it.
#[derive(Debug, Clone, Default)]
pub(super) struct Uses {
    counts: Arc<Mutex<BTreeMap<Digest, usize>>>,
}

/// One use of an artifact, until it is dropped.
#[derive(Debug)]
pub(super) struct Use {
    uses: Uses,
    digest: Digest,
}

/// A cached file or folder that stays where it is for as long as this lives.
#[derive(Debug)]
pub(crate) struct Held {
    path: PathBuf,
    uses: Vec<Use>,
}

impl Uses {
    pub(super) fn begin(&self, digest: Digest) -> Use {
        *self.lock().entry(digest).or_default() += 1;
        Use { uses: self.clone(), digest }
    }

    /// What is in use. Nothing else comes into use while the guard lives.
    pub(super) fn lock(&self) -> MutexGuard<'_, BTreeMap<Digest, usize>> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Use {
    fn drop(&mut self) {
        let mut counts = self.uses.lock();
        if let Some(count) = counts.get_mut(&self.digest) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.digest);
            }
        }
    }
}

impl Held {
    pub(super) const fn new(path: PathBuf, uses: Vec<Use>) -> Self {
        Self { path, uses }
    }

    /// What is held, and what keeps it.
    pub(super) fn into_uses(self) -> Vec<Use> {
        self.uses
    }
}

impl Deref for Held {
    type Target = Path;
    fn deref(&self) -> &Path {
        &self.path
    }
}
