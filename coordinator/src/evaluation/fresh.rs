use std::collections::{BTreeMap, BTreeSet};

use influence_proto::{BestOf, ModelSpec, TrainedAgent};
use serde::de::DeserializeOwned;

use crate::config::{
    EnvironmentSettings, EvaluationSettings, Experiment, Order, Problems, RoleSettings, SelectionSettings, StartAgent,
    training_settings,
};
use crate::environments::EnvironmentClass;
use crate::selection::Fraction;
use crate::store::{RunRecord, Store, StoreError};

/// Why an agent cannot be rolled out anew.
#[derive(Debug, thiserror::Error)]
pub enum FreshError {
    /// It is not trained.
    #[error("run `{run}` has no agent of iteration {iteration}: 0 is the untrained one, and {trained} are trained")]
    NoAgent {
        /// The run.
        run: String,
        /// As asked for.
        iteration: u32,
        /// Agents that there are.
        trained: usize,
    },
    /// It began with another run's agent. What that was trained on, only the other run knows.
    #[error("run `{run}` has no agent of its own: it rolls out {agent}; name the run that trained it")]
    Borrowed {
        /// The run.
        run: String,
        /// Its agent.
        agent: String,
    },
    /// What the store holds is not what this release writes.
    #[error("the experiment of run `{run}` cannot be read: `{key}`: {problem}")]
    Unreadable {
        /// The run.
        run: String,
        /// Where.
        key: &'static str,
        /// What is wrong.
        problem: String,
    },
    /// There is nothing to veto by.
    #[error("a veto needs influence scores, but {0}")]
    NoInfluence(String),
    /// A default is refused.
    #[error(transparent)]
    Settings(#[from] Problems),
    /// The store cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The experiment that rolls out the agent of a run's `iteration` in `class`, and trains nothing. Models, sampling,
/// scoring, reward, veto and turn limit are the run's. Openings are those that its training held out, where the class
/// is the run's own and some were held out; else all. `episodes` are shared among the environments, rounded up: the first
/// openings of each, one episode for each. All agents of a run, and of others with its seed, meet the same ones. With
/// `best_of` each reply is the best of several.
///
/// # Errors
/// When the agent is not trained, or the store does not hold what is needed.
pub async fn fresh(
    store: &dyn Store,
    run: &RunRecord,
    iteration: u32,
    class: &EnvironmentClass,
    episodes: u32,
    best_of: Option<BestOf>,
) -> Result<Experiment, FreshError> {
    let start = start(store, run, iteration).await?;
    let was: EnvironmentSettings = part(run, "environments")?;
    let is_own = was.class == class.name() && !was.held_out.is_zero();
    let environments = class.environments().count().max(1) as u32;
    let mut roles: RoleSettings = part(run, "roles")?;
    let detects = roles.influence.is_some();
    roles.influence = roles.influence.filter(|role| class.has_influence(role.prompts));
    if roles.influence.is_none() && best_of.is_some_and(|best_of| best_of.veto.is_some()) {
        return Err(FreshError::NoInfluence(match detects {
            true => format!("the class `{}` has no prompts for the detector of run `{}`", class.name(), run.id),
            false => format!("run `{}` has no influence detector (`roles.influence`)", run.id),
        }));
    }
    let mut selection: SelectionSettings = part(run, "selection")?;
    selection.veto = selection.veto.filter(|_| roles.influence.is_some());
    let used = [&roles.agent.model, &roles.environment.model, &roles.preference.model, &roles.transition.model];
    let influence = roles.influence.as_ref().map(|role| &role.model);
    let mut models: BTreeMap<String, ModelSpec> = part(run, "models")?;
    models.retain(|name, _| used.into_iter().chain(influence).any(|used| used == name));
    Ok(Experiment {
        name: format!("{}-{iteration}-on-{}{}", run.id, class.name(), manner(best_of)),
        seed: part(run, "seed")?,
        iterations: 0,
        environments: EnvironmentSettings {
            class: class.name().to_owned(),
            fractions: BTreeMap::from([("*".to_owned(), Fraction::ONE)]),
            initial_states: 1,
            siblings: 1,
            order: Order::Sequential,
            held_out: if is_own { was.held_out } else { Fraction::ONE },
            max_turns: was.max_turns,
        },
        roles,
        scoring: part(run, "scoring")?,
        reward: part(run, "reward")?,
        selection,
        training: training_settings(&[])?,
        evaluation: EvaluationSettings {
            initial_states: episodes.div_ceil(environments).max(1),
            siblings: 1,
            after: BTreeSet::from([0]),
        },
        leases: part(run, "leases")?,
        attempts: part(run, "attempts")?,
        max_failed: part(run, "max_failed")?,
        start,
        best_of,
        class: class.clone(),
        models,
        notes: Vec::new(),
    })
}

/// The end of the run's name.
fn manner(best_of: Option<BestOf>) -> String {
    match best_of {
        None => String::new(),
        Some(BestOf { candidates, veto: None }) => format!("-best-{candidates}"),
        Some(BestOf { candidates, veto: Some(_) }) => format!("-best-{candidates}-veto"),
    }
}

/// What a run's agent of an iteration is made of; none for the untrained one.
///
/// # Errors
/// When it is not trained, or is another run's.
pub async fn start(store: &dyn Store, run: &RunRecord, iteration: u32) -> Result<Option<StartAgent>, FreshError> {
    if let Some(agent) = run.experiment["start"]["agent"].as_str() {
        return Err(FreshError::Borrowed { run: run.id.to_string(), agent: agent.to_owned() });
    }
    let Some(trained) = iteration.checked_sub(1) else { return Ok(None) };
    let jobs = store.trainings(&run.id).await?;
    let mut agents: BTreeMap<u32, TrainedAgent> =
        jobs.into_iter().filter_map(|job| Some((job.iteration, job.report?.agent))).collect();
    let agent = format!("{}/iteration-{trained}", run.id);
    let none = FreshError::NoAgent { run: run.id.to_string(), iteration, trained: agents.len() };
    agents.remove(&trained).map(|trained| Some(StartAgent { agent, trained })).ok_or(none)
}

/// A part of a stored [`Experiment::resolved`].
fn part<T: DeserializeOwned>(run: &RunRecord, key: &'static str) -> Result<T, FreshError> {
    T::deserialize(&run.experiment[key]).map_err(|error| FreshError::Unreadable {
        run: run.id.to_string(),
        key,
        problem: error.to_string(),
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use serde_json::json;

    use super::*;
    use crate::config::tests::fixture::{CLINIC, Configs};
    use crate::planning::{Phase, plan};
    use crate::store::behaviour::{TTL, run_id};
    use crate::store::memory::MemoryStore;
    use crate::store::{NewRun, RunStatus};

    fn record(experiment: &Experiment) -> RunRecord {
        RunRecord {
            id: run_id(),
            name: experiment.name.clone(),
            digest: experiment.digest().to_string(),
            experiment: experiment.resolved(),
            status: RunStatus::Finished,
            created_ms: 1,
        }
    }

    async fn with_adapter(record: &RunRecord) -> MemoryStore {
        let store = MemoryStore::new();
        let RunRecord { id, name, digest, experiment, .. } = record.clone();
        store.create_run(NewRun { id: id.clone(), name, digest, experiment }).await.unwrap();
        store.lead(&id, "me", TTL).await.unwrap();
        let work = influence_proto::WorkId::new("w").unwrap();
        let digest = influence_proto::Digest::of("x");
        let job = serde_json::from_value(json!({
            "model": "m", "dataset": digest, "start": null, "algorithm": "sft", "seed": 1,
            "lora": {"rank": 1, "alpha": 1.0, "dropout": 0.0, "rank_stabilised": true, "targets": ["q_proj"]},
            "optimiser": {"learning_rate": 0.1, "weight_decay": 0.0, "max_grad_norm": 1.0, "batch_size": 1,
                "epochs": 1, "max_length": 9, "cut_long_rows": false},
        }));
        store.plan_training(&id, 0, &work, job.unwrap()).await.unwrap();
        store.start_attempt(&id, &work, 1, None).await.unwrap();
        let report = serde_json::from_value(json!({
            "adapter": {"config": digest, "weights": digest}, "steps": 1, "rows": 1, "dropped_rows": 0, "tokens": 1,
            "first_loss": 1.0, "last_loss": 0.5,
        }));
        store.finish_training(&id, &work, 1, report.unwrap()).await.unwrap();
        store
    }

    /// Protects: an agent is measured with the run's own settings, as far as the class allows, and on openings that it
    /// was not trained on.
    #[tokio::test]
    async fn an_agent_keeps_its_settings_and_meets_what_it_was_not_trained_on() {
        let experiment = Configs::new().experiment(&format!("{CLINIC}roles: {{assessor_layout: transcript_first}}\n"));
        let record = record(&experiment);
        let store = with_adapter(&record).await;
        let fresh = super::fresh(&store, &record, 1, &experiment.class, 1, None).await.unwrap();
        assert_eq!(
            (fresh.roles.clone(), &fresh.scoring, fresh.reward),
            (experiment.roles.clone(), &experiment.scoring, experiment.reward)
        );
        assert_eq!(
            (fresh.models.clone(), fresh.environments.max_turns),
            (experiment.models.clone(), experiment.environments.max_turns)
        );
        assert_eq!(fresh.start.as_ref().unwrap().agent, "demo/iteration-0");
        assert_eq!(crate::experiment::agent_of(&self::record(&fresh), 0), "demo/iteration-0");
        let planned = plan(&fresh, &run_id(), Phase::Evaluate, 0, None).unwrap();
        let trained = plan(&experiment, &run_id(), Phase::Train, 0, None).unwrap();
        assert!(!planned.is_empty());
        let opening = |spec: &influence_proto::EpisodeSpec| (spec.environment.clone(), spec.initial_state.clone());
        assert!(planned.iter().all(|spec| trained.iter().all(|other| opening(other) != opening(spec))));
        let further = super::fresh(&store, &self::record(&fresh), 0, &experiment.class, 1, None).await;
        assert!(
            further.unwrap_err().to_string().contains("it rolls out demo/iteration-0; name the run that trained it")
        );
        // The same openings for the untrained agent, whose experiment is another one.
        let base = super::fresh(&store, &record, 0, &experiment.class, 1, None).await.unwrap();
        let same = plan(&base, &run_id(), Phase::Evaluate, 0, None).unwrap();
        assert!(planned.iter().zip(&same).all(|(a, b)| a.opening == b.opening && a.seed == b.seed));
        assert!(
            base.start.is_none()
                && base.digest() != fresh.digest()
                && !base.resolved().as_object().unwrap().contains_key("start")
        );
        let choosing = Some(BestOf { candidates: 4, veto: Some(0.5) });
        let refused = super::fresh(&store, &record, 0, &experiment.class, 1, choosing).await.unwrap_err().to_string();
        assert_eq!(
            refused,
            "a veto needs influence scores, but run `demo` has no influence detector (`roles.influence`)"
        );
        let choosing = Some(BestOf { candidates: 4, veto: None });
        let best = super::fresh(&store, &record, 0, &experiment.class, 1, choosing).await.unwrap();
        assert_eq!(best.name, "demo-0-on-clinic-best-4");
        assert!(plan(&best, &run_id(), Phase::Evaluate, 0, None).unwrap().iter().all(|spec| spec.best_of == choosing));
        let none = super::fresh(&store, &record, 2, &experiment.class, 1, None).await.unwrap_err().to_string();
        assert_eq!(none, "run `demo` has no agent of iteration 2: 0 is the untrained one, and 1 are trained");
    }

    #[tokio::test]
    async fn a_class_that_was_not_trained_on_is_used_whole() {
        let experiment = Configs::new().experiment(CLINIC);
        let mut record = record(&experiment);
        record.experiment["environments"]["class"] = json!("elsewhere");
        let fresh = super::fresh(&MemoryStore::new(), &record, 0, &experiment.class, 1_000, None).await.unwrap();
        let planned = plan(&fresh, &run_id(), Phase::Evaluate, 0, None).unwrap();
        let all: usize = experiment.class.environments().map(|name| experiment.class.initial_states(name).len()).sum();
        assert_eq!(planned.len(), all);
        record.experiment["roles"] = json!({"agent": 3});
        let wrong =
            super::fresh(&MemoryStore::new(), &record, 0, &experiment.class, 1, None).await.unwrap_err().to_string();
        assert!(wrong.starts_with("the experiment of run `demo` cannot be read: `roles`:"), "{wrong}");
    }
}
