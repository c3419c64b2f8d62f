//! How long an iteration has been worked on, over all processes.

use std::sync::Arc;
use std::time::{Duration, Instant};

use influence_proto::RunId;

use crate::planning::Phase;
use crate::store::{Store, StoreError};

/// At most this much of the time is lost when the process is killed.
const SAVE: Duration = Duration::from_secs(5);

/// The time that processes spend on an iteration's phase: what was stored when this process took it
/// up, and what has passed since. Time during which no process was at it does not count.
#[derive(Debug)]
pub(super) struct ActiveTime {
    store: Arc<dyn Store>,
    run: RunId,
    phase: Phase,
    iteration: u32,
    before: Duration,
    since: Instant,
    saved: Instant,
}

impl ActiveTime {
    pub(super) async fn resume(
        store: Arc<dyn Store>,
        run: RunId,
        phase: Phase,
        iteration: u32,
    ) -> Result<Self, StoreError> {
        let known = store.iterations(&run).await?;
        let this = known.iter().find(|i| i.phase == phase && i.iteration == iteration);
        let before = this.map(|i| i.active).unwrap_or_default();
        let now = Instant::now();
        Ok(Self { store, run, phase, iteration, before, since: now, saved: now })
    }

    /// Whether it was time to.
    pub(super) async fn save_now_and_then(&mut self) -> Result<bool, StoreError> {
        if self.saved.elapsed() < SAVE {
            return Ok(false);
        }
        self.save().await.map(|()| true)
    }

    pub(super) async fn save(&mut self) -> Result<(), StoreError> {
        self.saved = Instant::now();
        let active = self.before + self.since.elapsed();
        self.store.set_active(&self.run, self.phase, self.iteration, active).await
    }
}
