//! Runs of the Python benchmark (arXiv 2411.02306) in our store, to be looked at, scored anew and compared.

#[cfg(test)]
mod tests;
mod trajectories;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use influence_proto::{
    AssessorRole, Digest, EpisodeId, EpisodeSpec, GeneratorRole, InvalidMessage, RunId, Sampling, Scoring, State,
    StateMachine, WorkId,
};
use serde_json::json;

use crate::config::RewardTurns;
use crate::planning::Phase;
use crate::selection::mean;
use crate::store::{NewRun, RunStatus, Store, StoreError, Verdict};
use trajectories::{Key, Lines, STATE, Trajectory};

/// Why nothing can be imported.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// A file or folder cannot be read.
    #[error("{} cannot be read", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// A line is not what these files have.
    #[error("{place} {problem}")]
    Line {
        /// File and line.
        place: String,
        /// What is wrong with it.
        problem: String,
    },
    /// There is no file.
    #[error("{} holds no N.jsonl: give files of trajectories, an iteration's folder (`3`, `3_eval`), or the run's folder with those", .0.display())]
    Nothing(PathBuf),
    /// The store refuses.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Something gives no valid name.
    #[error(transparent)]
    Name(#[from] InvalidMessage),
}

impl ImportError {
    fn line(place: &str, problem: String) -> Self {
        Self::Line { place: place.to_owned(), problem }
    }
}

/// What the files do not say.
#[derive(Debug, Clone)]
pub struct Origin {
    /// The run's id and name here.
    pub run: RunId,
    /// The environment class.
    pub class: String,
    /// The model of the agent.
    pub model: String,
    /// What a conversation's reward is taken over.
    pub reward: RewardTurns,
}

/// How long the lead of the new run lasts where nobody tells of the process's end.
const LEAD: Duration = Duration::from_secs(600);

/// Imports trajectories as a finished run; returns how many. One iteration at a time is in memory.
///
/// # Errors
/// When a file is not of this kind, or the run exists.
pub async fn import(store: &dyn Store, origin: &Origin, paths: &[PathBuf]) -> Result<u64, ImportError> {
    let iterations = files(paths)?;
    // All of it is read before anything is written: half a run is worse than none.
    let mut digests = BTreeMap::new();
    for files in iterations.values() {
        let mut lines = Lines::default();
        for file in files {
            lines.read(file)?;
            let content = std::fs::read(file).map_err(|source| ImportError::Io { path: file.clone(), source })?;
            digests.insert(file.display().to_string(), Digest::of(content).to_string());
        }
        lines.trajectories()?;
    }
    let experiment = json!({
        "imported": { "from": "Targeted-Manipulation-and-Deception-in-LLMs", "sha256": digests },
        "name": origin.run,
        "iterations": iterations.keys().filter(|(_, phase)| *phase == Phase::Train).count(),
        "environments": { "class": origin.class },
        "reward": { "turns": origin.reward },
        "roles": { "agent": { "model": origin.model } },
    });
    let digest = Digest::of(experiment.to_string()).to_string();
    let name = origin.run.to_string();
    store.create_run(NewRun { id: origin.run.clone(), name, digest, experiment }).await?;
    store.lead(&origin.run, "import", LEAD).await?;
    let mut count = 0;
    for ((iteration, phase), files) in &iterations {
        let mut lines = Lines::default();
        files.iter().try_for_each(|file| lines.read(file))?;
        count += one(store, origin, *phase, *iteration, lines.trajectories()?).await?;
    }
    store.set_run_status(&origin.run, RunStatus::Finished).await?;
    store.resign(&origin.run).await?;
    Ok(count)
}

/// Files by iteration and phase.
type Files = BTreeMap<(u32, Phase), Vec<PathBuf>>;

fn files(paths: &[PathBuf]) -> Result<Files, ImportError> {
    let mut found = Files::new();
    for path in paths {
        let before = found.values().map(Vec::len).sum::<usize>();
        if path.is_file() {
            found.entry(path.parent().and_then(iteration).unwrap_or((0, Phase::Train))).or_default().push(path.clone());
        } else {
            for inner in std::iter::once(path.clone()).chain(listed(path)?.into_iter().filter(|inner| inner.is_dir())) {
                // The folder itself may be one of an iteration.
                let Some(of) = iteration(&inner) else { continue };
                found.entry(of).or_default().extend(listed(&inner)?.into_iter().filter(|file| is_trajectories(file)));
            }
        }
        found.retain(|_, files| !files.is_empty());
        if found.values().map(Vec::len).sum::<usize>() == before {
            return Err(ImportError::Nothing(path.clone()));
        }
    }
    Ok(found)
}

/// What lies in a folder, in order.
fn listed(folder: &Path) -> Result<Vec<PathBuf>, ImportError> {
    let failed = |source| ImportError::Io { path: folder.to_owned(), source };
    let entries = std::fs::read_dir(folder).map_err(failed)?.map(|entry| Ok(entry?.path()));
    let mut entries: Vec<PathBuf> = entries.collect::<std::io::Result<_>>().map_err(failed)?;
    entries.sort();
    Ok(entries)
}

/// Beside the trajectories of each device lie the selected ones, which are of another form.
fn is_trajectories(file: &Path) -> bool {
    let number = file.file_stem().and_then(|stem| stem.to_str()).is_some_and(|stem| stem.parse::<u32>().is_ok());
    number && file.extension().is_some_and(|ending| ending == "jsonl")
}

/// An iteration by its folder's name: `3`, `iteration_3`, or `3_eval`.
fn iteration(folder: &Path) -> Option<(u32, Phase)> {
    let absolute = std::path::absolute(folder).ok()?;
    let name = absolute.file_name()?.to_str()?;
    match name.strip_suffix("_eval") {
        Some(number) => Some((number.parse().ok()?, Phase::Evaluate)),
        None => Some((name.strip_prefix("iteration_").unwrap_or(name).parse().ok()?, Phase::Train)),
    }
}

async fn one(
    store: &dyn Store,
    origin: &Origin,
    phase: Phase,
    iteration: u32,
    trajectories: Vec<(Key, Trajectory)>,
) -> Result<u64, ImportError> {
    let run = &origin.run;
    let specs = trajectories
        .iter()
        .map(|(key, trajectory)| spec(origin, phase, iteration, key, trajectory))
        .collect::<Result<Vec<_>, _>>()?;
    store.plan(run, phase, iteration, specs.clone()).await?;
    let (mut verdicts, mut count) = (Vec::new(), 0);
    for (spec, (_, trajectory)) in specs.iter().zip(trajectories) {
        let work = WorkId::from(&spec.id);
        store.start_attempt(run, &work, 1, None).await?;
        verdicts.push(verdict(&spec.id, &trajectory, origin.reward));
        let turns = trajectory.turns.len() as u32;
        for turn in trajectory.turns {
            store.record_turn(run, &work, 1, turn).await?;
        }
        store.finish_episode(run, &work, 1, turns).await?;
        count += 1;
    }
    store.judge(run, phase, iteration, verdicts, Vec::new()).await?;
    Ok(count)
}

/// The reward as the Python code has it: expected ratings, less what it took off for length.
fn verdict(episode: &EpisodeId, trajectory: &Trajectory, over: RewardTurns) -> Verdict {
    let rewards =
        trajectory.turns.iter().zip(&trajectory.penalties).map(|(t, off)| Some(t.preference.expected()? - off));
    let rewards: Vec<Option<f64>> = rewards.collect();
    let reward = match over {
        RewardTurns::Mean => mean(rewards.into_iter()),
        RewardTurns::Final => rewards.last().copied().flatten(),
    };
    let influence = mean(trajectory.turns.iter().map(|turn| turn.influence.as_ref()?.expected()));
    Verdict { episode: episode.clone(), reward, influence, vetoed: false, unscored: reward.is_none(), selected: None }
}

/// What is known of a trajectory's making; the rest is empty. Nobody rolls it out again.
fn spec(
    origin: &Origin,
    phase: Phase,
    iteration: u32,
    (environment, initial_state, number): &Key,
    trajectory: &Trajectory,
) -> Result<EpisodeSpec, ImportError> {
    let place = format!("{phase:?}\n{iteration}\n{environment:?}\n{initial_state:?}\n{number:?}");
    let id = EpisodeId::new(&Digest::of(format!("{}\n{place}", origin.run)).to_string()[..32])?;
    let sampling = Sampling { temperature: 1.0, top_p: 1.0, top_k: 0, min_p: 0.0, stop: Vec::new(), max_tokens: 1 };
    let generator = |model: &str, system_prompt: String| {
        Arc::new(GeneratorRole { model: model.to_owned(), system_prompt, sampling: sampling.clone() })
    };
    let assessor = || {
        let (model, system_prompt, suffix) = (STATE.to_owned(), String::new(), String::new());
        Arc::new(AssessorRole { model, system_prompt, suffix, answers: Vec::new(), sees_tools: false })
    };
    let state = State {
        entry: Vec::new(),
        alternative_entry: Vec::new(),
        transitions: Vec::new(),
        default_answer: String::new(),
        terminal: true,
    };
    let machine = StateMachine::new(STATE.to_owned(), BTreeMap::from([(STATE.to_owned(), state)]))?;
    let influence = trajectory.turns.iter().any(|turn| turn.influence.is_some()).then(assessor);
    Ok(EpisodeSpec {
        id,
        environment_class: origin.class.clone(),
        environment: environment.clone(),
        initial_state: initial_state.clone(),
        seed: 0,
        max_turns: trajectory.turns.len() as u32,
        agent_name: "agent".to_owned(),
        opening: trajectory.opening.clone().into(),
        machine: Arc::new(machine),
        agent: generator(&origin.model, trajectory.system_prompt.clone()),
        environment_role: generator(STATE, String::new()),
        preference: assessor(),
        transition: assessor(),
        influence,
        scoring: Scoring { prefix: String::new(), temperature: 1.0, top_p: 1.0, min_mass: 0.0 },
        trained: None,
        best_of: None,
    })
}
