//! Which run a command means.

use influence_proto::{InvalidMessage, RunId};

use crate::config::Experiment;
use crate::store::{NewRun, RunRecord, RunStatus, Store, StoreError};

/// Ids that would meet a folder of another purpose beside the runs' own.
const RESERVED: [&str; 1] = ["artifacts"];

/// The run that a command means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Opened {
    /// It begins.
    New(RunId),
    /// It goes on.
    Resumed(RunId),
    /// There is nothing left to do.
    Finished(RunId),
}

impl Opened {
    /// The run's id.
    pub const fn run(&self) -> &RunId {
        match self {
            Self::New(run) | Self::Resumed(run) | Self::Finished(run) => run,
        }
    }
}

/// Why no run could be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The latest run of that name was another experiment.
    #[error("run `{run}` was started with other settings; these keys differ: {}. Undo the change to go on with it, or start over under a new run id with --fresh", keys.join(", "))]
    Changed {
        /// The latest run of that name.
        run: RunId,
        /// Dotted keys.
        keys: Vec<String>,
    },
    /// The store refuses.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The name gives no run id.
    #[error(transparent)]
    Name(#[from] InvalidMessage),
}

/// The run to carry on for `experiment`: the latest one of its name if their digests are equal, a
/// new one if there is none or `fresh` is asked for.
///
/// # Errors
/// [`OpenError::Changed`] if the latest run of that name was another experiment.
pub async fn open_run(store: &dyn Store, experiment: &Experiment, fresh: bool) -> Result<Opened, OpenError> {
    loop {
        let runs = store.runs().await?;
        let latest = runs.iter().rev().find(|run| run.name == experiment.name).filter(|_| !fresh);
        if let Some(latest) = latest {
            return reopen(latest, experiment);
        }
        let id = free_id(&experiment.name, &runs)?;
        let new = NewRun {
            id: id.clone(),
            name: experiment.name.clone(),
            digest: experiment.digest().to_string(),
            experiment: experiment.resolved(),
        };
        match store.create_run(new).await {
            Ok(()) => return Ok(Opened::New(id)),
            // Another process was faster: look again.
            Err(StoreError::RunExists(_)) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

fn reopen(latest: &RunRecord, experiment: &Experiment) -> Result<Opened, OpenError> {
    if latest.digest != experiment.digest().to_string() {
        let keys = experiment.changed_keys(&latest.experiment);
        return Err(OpenError::Changed { run: latest.id.clone(), keys });
    }
    Ok(match latest.status {
        RunStatus::Finished => Opened::Finished(latest.id.clone()),
        RunStatus::Running | RunStatus::Failed(_) => Opened::Resumed(latest.id.clone()),
    })
}

/// `NAME`, `NAME-2`, `NAME-3`, ...: the first that no run has.
fn free_id(name: &str, runs: &[RunRecord]) -> Result<RunId, InvalidMessage> {
    let taken = |id: &str| RESERVED.contains(&id) || runs.iter().any(|run| run.id.as_str() == id);
    let mut id = name.to_owned();
    for number in 2_u64.. {
        if !taken(&id) {
            break;
        }
        id = format!("{name}-{number}");
    }
    RunId::new(id)
}
