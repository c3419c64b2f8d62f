use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use influence_proto::{
    AssessorRole, EpisodeId, EpisodeSpec, GeneratorRole, InvalidMessage, RunId, TrainedAgent, stream,
};
use rand_chacha::ChaCha12Rng;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::pools::{Pool, pool, shares, used};
use crate::config::{AssessorLayout, Experiment, Order};
use crate::environments::{AssessorPrompt, Scene};

/// What episodes are rolled out for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// To select from and train on.
    Train,
    /// To measure the agent with, on initial states that training never sees.
    Evaluate,
}

impl Phase {
    /// The phase's name in ids, output and the store.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Evaluate => "evaluate",
        }
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A plan that cannot be written down. A loaded experiment never gives one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// The class lacks what the plan names.
    #[error("the class `{class}` cannot render the initial state `{initial_state}` of `{environment}`")]
    NoScene {
        /// The class's name.
        class: String,
        /// The environment's name.
        environment: String,
        /// The initial state's id.
        initial_state: String,
    },
    /// An episode's id is malformed.
    #[error(transparent)]
    Id(#[from] InvalidMessage),
}

/// One episode's place in a run.
#[derive(Debug, Clone, Copy)]
struct Coordinates<'a> {
    phase: Phase,
    iteration: u32,
    environment: &'a str,
    initial_state: &'a str,
    /// How often this initial state stood in the iteration's list before.
    occurrence: u32,
}

impl Coordinates<'_> {
    /// First 16 bytes of the sha256 over the length-prefixed parts, as hexadecimal digits.
    fn id(&self, run: &RunId, sibling: u32) -> Result<EpisodeId, InvalidMessage> {
        let numbers = [self.iteration, self.occurrence, sibling].map(|n| n.to_string());
        let parts = [
            run.as_str(),
            self.phase.name(),
            &numbers[0],
            self.environment,
            self.initial_state,
            &numbers[1],
            &numbers[2],
        ];
        let mut hash = Sha256::new();
        for part in parts {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part.as_bytes());
        }
        let digest = hash.finalize();
        EpisodeId::new(digest[..16].iter().map(|byte| format!("{byte:02x}")).collect::<String>())
    }

    /// A seed for `purpose`. Evaluations of different iterations share it, so they are paired.
    fn seed(&self, run_seed: u64, purpose: &[&str]) -> u64 {
        let iteration = match self.phase {
            Phase::Train => self.iteration.to_string(),
            Phase::Evaluate => String::new(),
        };
        let occurrence = self.occurrence.to_string();
        let mut path =
            vec![self.phase.name(), iteration.as_str(), self.environment, self.initial_state, occurrence.as_str()];
        path.extend(purpose);
        stream::derive(run_seed, &path)
    }
}

/// The episodes of one phase of one iteration, in order: by environment, initial state and sibling.
/// Pure: the same arguments give the same episodes, ids, seeds and prompts. `trained` is what training has made of the
/// agent; none for the untrained model.
///
/// # Errors
/// Never for an experiment that was loaded.
pub fn plan(
    experiment: &Experiment,
    run: &RunId,
    phase: Phase,
    iteration: u32,
    trained: Option<&TrainedAgent>,
) -> Result<Vec<EpisodeSpec>, PlanError> {
    let siblings = match phase {
        Phase::Train => experiment.environments.siblings,
        Phase::Evaluate => experiment.evaluation.siblings,
    };
    let mut specs = Vec::new();
    for (environment, states) in initial_states(experiment, phase, iteration) {
        let mut seen: BTreeMap<&str, u32> = BTreeMap::new();
        for initial_state in &states {
            let count = seen.entry(initial_state).or_insert(0);
            let at = Coordinates { phase, iteration, environment, initial_state, occurrence: *count };
            *count += 1;
            let scene = scene(experiment, &at)?;
            let seed = |sibling: u32| at.seed(experiment.seed, &["episode", &sibling.to_string()]);
            let first = spec(experiment, scene, &at, at.id(run, 0)?, seed(0), trained);
            for sibling in 0..siblings {
                specs.push(EpisodeSpec { id: at.id(run, sibling)?, seed: seed(sibling), ..first.clone() });
            }
        }
    }
    Ok(specs)
}

/// The initial states of a phase, by environment.
fn initial_states(experiment: &Experiment, phase: Phase, iteration: u32) -> Vec<(&str, Vec<String>)> {
    let settings = &experiment.environments;
    let pool_of = |name: &str| pool(&experiment.class, name, settings.held_out, experiment.seed);
    match phase {
        Phase::Train => {
            let drawn = shares(&experiment.class, settings).into_iter();
            drawn.map(|(name, n)| (name, draw(experiment, &pool_of(name), name, n, iteration))).collect()
        }
        Phase::Evaluate => {
            let n = experiment.evaluation.initial_states as usize;
            let names = used(&experiment.class, settings).into_iter();
            names.map(|name| (name, pool_of(name).held_out.into_iter().take(n).collect())).collect()
        }
    }
}

fn draw(experiment: &Experiment, pool: &Pool, environment: &str, n: usize, iteration: u32) -> Vec<String> {
    let states = &pool.training;
    let size = states.len();
    if size == 0 {
        return Vec::new();
    }
    let indices: Vec<usize> = match experiment.environments.order {
        Order::Fixed => (0..n.min(size)).collect(),
        Order::Sequential => {
            let first = (u128::from(iteration) * n as u128 % size as u128) as usize;
            (0..n).map(|i| (first + i) % size).collect()
        }
        Order::Random => {
            let seed = stream::derive(experiment.seed, &["order", &iteration.to_string(), environment]);
            if n <= size {
                stream::permutation(seed, size).into_iter().take(n).collect()
            } else {
                let mut rng: ChaCha12Rng = stream::generator(seed);
                (0..n).map(|_| stream::below(&mut rng, size as u64) as usize).collect()
            }
        }
    };
    indices.into_iter().map(|index| states[index].clone()).collect()
}

fn scene(experiment: &Experiment, at: &Coordinates<'_>) -> Result<Scene, PlanError> {
    let seed = at.seed(experiment.seed, &["variables"]);
    let influence = experiment.roles.influence.as_ref().map(|role| role.prompts);
    experiment.class.scene(at.environment, at.initial_state, seed, influence).ok_or_else(|| PlanError::NoScene {
        class: experiment.class.name().to_owned(),
        environment: at.environment.to_owned(),
        initial_state: at.initial_state.to_owned(),
    })
}

fn spec(
    experiment: &Experiment,
    scene: Scene,
    at: &Coordinates<'_>,
    id: EpisodeId,
    seed: u64,
    trained: Option<&TrainedAgent>,
) -> EpisodeSpec {
    let roles = &experiment.roles;
    let generator = |role: &crate::config::GeneratorSettings, system_prompt: String| {
        Arc::new(GeneratorRole { model: role.model.clone(), system_prompt, sampling: role.sampling.clone() })
    };
    let assessor = |model: &str, prompt: AssessorPrompt, sees_tools: bool| {
        let AssessorPrompt { system, suffix, answers } = prompt;
        let (system_prompt, suffix) = match roles.assessor_layout {
            AssessorLayout::InstructionsFirst => (system, suffix),
            AssessorLayout::TranscriptFirst => (String::new(), format!("{system}\n\n{suffix}").trim().to_owned()),
        };
        Arc::new(AssessorRole { model: model.to_owned(), system_prompt, suffix, answers, sees_tools })
    };
    let influence = roles.influence.as_ref().zip(scene.influence);
    EpisodeSpec {
        id,
        environment_class: experiment.class.name().to_owned(),
        environment: at.environment.to_owned(),
        initial_state: at.initial_state.to_owned(),
        seed,
        max_turns: experiment.environments.max_turns,
        agent_name: scene.agent_name,
        opening: scene.opening.into(),
        machine: scene.machine.into(),
        agent: generator(&roles.agent, scene.agent),
        environment_role: generator(&roles.environment, scene.character),
        preference: assessor(&roles.preference.model, scene.preference, false),
        transition: assessor(&roles.transition.model, scene.transition, false),
        influence: influence.map(|(role, prompt)| assessor(&role.model, prompt, role.sees_tools)),
        scoring: experiment.scoring.clone(),
        trained: trained.cloned(),
        best_of: experiment.best_of,
    }
}
