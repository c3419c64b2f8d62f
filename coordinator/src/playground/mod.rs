//! Conversations that a person begins, and watches or takes part in. They live here and end with the process: nothing of
//! them is stored, selected or trained on. What models say comes from the run's workers, a few calls at a time.

mod play;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use influence_proto::{EpisodeSpec, RunId};
use tokio::sync::Notify;
use tokio::task::AbortHandle;

use crate::cluster::Cluster;
pub(crate) use play::{Need, Part, Play};

/// Conversations that are kept; the one that nobody has touched for longest makes room.
const MOST: usize = 32;

/// All conversations of this process that people play. Clones share them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Playground(Arc<Mutex<Plays>>);

#[derive(Debug, Default)]
struct Plays {
    all: BTreeMap<String, Kept>,
    touches: u64,
}

#[derive(Debug)]
struct Kept {
    playing: Playing,
    touched: u64,
    task: AbortHandle,
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// One of them. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Playing {
    pub(crate) run: RunId,
    shared: Arc<Shared>,
}

/// How far a conversation has come.
#[derive(Debug, Clone, Default)]
struct Progress {
    steps: u64,
    /// What keeps it from going on.
    problem: Option<String>,
}

#[derive(Debug)]
struct Shared {
    play: Mutex<Play>,
    said: Notify,
    progress: Mutex<Progress>,
}

impl Playing {
    /// The conversation as it stands.
    pub(crate) fn play(&self) -> MutexGuard<'_, Play> {
        self.shared.play.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the person's words were taken: only when it is their turn, and it goes on.
    pub(crate) fn say(&self, text: String) -> bool {
        let taken = self.problem().is_none() && self.play().say(text);
        if taken {
            self.moved(None);
            self.shared.said.notify_one();
        }
        taken
    }

    /// Why it cannot go on.
    pub(crate) fn problem(&self) -> Option<String> {
        self.progress().problem.clone()
    }

    /// Grows with all that changes.
    pub(crate) fn steps(&self) -> u64 {
        self.progress().steps
    }

    fn moved(&self, problem: Option<String>) {
        let mut progress = self.progress();
        progress.steps += 1;
        progress.problem = problem;
    }

    fn progress(&self) -> MutexGuard<'_, Progress> {
        self.shared.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Carries the conversation on to its end.
    async fn go_on(self, cluster: Cluster) {
        loop {
            let need = self.play().need();
            match need {
                Need::Nothing => return,
                Need::Words(_) => self.shared.said.notified().await,
                Need::Models(calls) => match cluster.call(calls).await {
                    Ok(answers) => {
                        self.play().hear(answers);
                        self.moved(None);
                    }
                    Err(error) => return self.moved(Some(error.to_string())),
                },
            }
        }
    }
}

impl Playground {
    /// Begins a conversation of a run that `cluster` has workers for; returns its name.
    pub(crate) fn begin(&self, spec: EpisodeSpec, you: Option<Part>, cluster: Cluster) -> String {
        let shared = Shared { play: Mutex::new(Play::new(spec, you)), said: Notify::new(), progress: Mutex::default() };
        let playing = Playing { run: cluster.run.clone(), shared: Arc::new(shared) };
        let task = tokio::spawn(playing.clone().go_on(cluster)).abort_handle();
        let mut plays = self.plays();
        plays.touches += 1;
        let touched = plays.touches;
        let name = format!("{:016x}", RandomState::new().hash_one(touched));
        plays.all.insert(name.clone(), Kept { playing, touched, task });
        while plays.all.len() > MOST
            && let Some(oldest) = plays.all.iter().min_by_key(|(_, kept)| kept.touched).map(|(name, _)| name.clone())
        {
            plays.all.remove(&oldest);
        }
        name
    }

    /// The conversation of this name, of this run.
    pub(crate) fn find(&self, run: &RunId, name: &str) -> Option<Playing> {
        let mut plays = self.plays();
        plays.touches += 1;
        let touches = plays.touches;
        let kept = plays.all.get_mut(name).filter(|kept| kept.playing.run == *run)?;
        kept.touched = touches;
        Some(kept.playing.clone())
    }

    fn plays(&self) -> MutexGuard<'_, Plays> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
