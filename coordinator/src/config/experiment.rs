use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use influence_proto::{Algorithm, ApiProtocol, ApiScores, BestOf, ModelSpec, Scoring};

use super::document::{Document, Dotted, EXPERIMENT, Problem, Problems, Section, Step, nearest};
use super::models::{ModelTable, load_models};
use super::read::{self, Places};
use super::settings::{
    EnvironmentSettings, EvaluationSettings, LeaseSettings, RewardSettings, RoleSettings, SelectionSettings,
    StartAgent, Trainer, TrainingSettings,
};
use crate::environments::EnvironmentClass;
use crate::planning::check_pools;
use crate::selection::Fraction;

/// An experiment, resolved: its settings, its environment class and the models that it uses, all
/// validated.
#[derive(Debug, Clone)]
pub struct Experiment {
    /// 1 to 64 of `a-z`, `0-9` and `-`.
    pub name: String,
    /// All random choices of the run derive from this.
    pub seed: u64,
    /// How often the agent is trained. Iteration k rolls out adapter k - 1.
    pub iterations: u32,
    /// Which conversations are rolled out.
    pub environments: EnvironmentSettings,
    /// What serves each role.
    pub roles: RoleSettings,
    /// How answers are read from probabilities.
    pub scoring: Scoring,
    /// What an episode is worth.
    pub reward: RewardSettings,
    /// Which episodes are trained on.
    pub selection: SelectionSettings,
    /// How the agent is trained.
    pub training: TrainingSettings,
    /// When and on what it is evaluated.
    pub evaluation: EvaluationSettings,
    /// How long a worker may be silent.
    pub leases: LeaseSettings,
    /// Attempts per episode before it counts as failed, 1 or more.
    pub attempts: u32,
    /// Share of an iteration's episodes that may fail before the run stops.
    pub max_failed: Fraction,
    /// What the agent begins with, instead of the untrained weights. No file says so: evaluations of trained agents do.
    pub start: Option<StartAgent>,
    /// Whether replies are the best of several. No file says so either.
    pub best_of: Option<BestOf>,
    /// The loaded class.
    pub class: EnvironmentClass,
    /// The models that roles use, by name.
    pub models: BTreeMap<String, ModelSpec>,
    /// What is worth knowing, but not wrong.
    pub notes: Vec<Problem>,
}

impl Experiment {
    /// Reads an experiment file and what it refers to.
    ///
    /// `configs` is the folder of `models.yaml` and `environments/`; by default the nearest one above the file that has a
    /// `models.yaml`, or else the parent of the file's folder. `overrides` are dotted keys with YAML values (`--set`), applied in order before
    /// anything is checked; `seed` and `name` likewise, and last.
    ///
    /// # Errors
    /// Everything that is wrong with the files and overrides.
    pub fn load(
        path: &Path,
        configs: Option<&Path>,
        overrides: &[(String, String)],
        seed: Option<u64>,
        name: Option<&str>,
    ) -> Result<Self, Problems> {
        let mut document = Document::read_extending(path, EXPERIMENT)?;
        let mut wrong = Problems::none();
        for (key, value) in overrides {
            document.set(key, value, format!("--set {key}")).unwrap_or_else(|problem| wrong.push(problem));
        }
        if let Some(seed) = seed {
            document.set("seed", &seed.to_string(), "--seed".into())?;
        }
        if let Some(name) = name {
            document.set("name", &serde_json::Value::from(name).to_string(), "--name".into())?;
        }
        let configs = configs.map_or_else(|| default_configs(path), Path::to_owned);
        let problems = RefCell::new(wrong);
        let experiment = read_all(&document, &configs, &problems);
        let mut problems = problems.into_inner();
        problems.sort();
        match experiment {
            Some(experiment) if problems.is_empty() => Ok(experiment),
            _ => Err(problems),
        }
    }
}

/// Training settings from the command line alone: keys of an experiment's `training`, with the flag that gave each, and
/// YAML values.
///
/// # Errors
/// Everything that is wrong with them.
pub fn training_settings(given: &[(&str, &str, String)]) -> Result<TrainingSettings, Problems> {
    let mut document = Document::empty();
    for (key, value, flag) in given {
        document.set(key, value, flag.clone())?;
    }
    let problems = RefCell::new(Problems::none());
    let settings = read::training(Section::root(&document, &problems), None);
    problems.into_inner().or(settings)
}

/// How an assessor is read where nothing says otherwise.
pub fn default_scoring() -> Scoring {
    let document = Document::empty();
    read::scoring(Section::root(&document, &RefCell::new(Problems::none())))
}

/// `configs/experiments/x.yaml` belongs to `configs`.
fn default_configs(path: &Path) -> PathBuf {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let has_models = |folder: &&Path| folder.join("models.yaml").exists();
    let parent = absolute.parent().and_then(Path::parent).unwrap_or(Path::new(""));
    let configs = absolute.ancestors().skip(1).find(has_models).unwrap_or(parent).to_owned();
    // Messages name what the user can recognise: a path below the working folder is shown as such.
    match std::env::current_dir() {
        Ok(here) => configs.strip_prefix(&here).map(Path::to_owned).unwrap_or(configs),
        Err(_) => configs,
    }
}

/// Reads an experiment; what is wrong goes to `problems`.
pub(super) fn read_all(document: &Document, configs: &Path, problems: &RefCell<Problems>) -> Option<Experiment> {
    let mut root = Section::root(document, problems);
    let name = read::name(&mut root);
    let seed = root.integer("seed", 0..=u64::MAX, 1);
    let iterations = root.integer("iterations", 0..=10_000, 2);
    let model = root.text("model");
    let (environments, folder) = read::environments(root.section("environments"), configs);
    let class = folder.and_then(|folder| keep(problems, EnvironmentClass::load(&folder)));
    let table = keep(problems, load_models(&configs.join("models.yaml")));
    let mut places = Places::default();
    let roles = read::roles(root.section("roles"), model, class.as_ref(), &mut places);
    let scoring = read::scoring(root.section("scoring"));
    let reward = read::reward(root.section("reward"));
    let selection = read::selection(root.section("selection"), roles.influence.is_some());
    let training = read::training(root.section("training"), Some(&selection));
    let evaluation = read::evaluation(&mut root, iterations, environments.held_out);
    let leases = read::leases(root.section("leases"));
    let attempts = root.integer("attempts", 1..=100, 3);
    let max_failed = root.fraction("max_failed", Fraction::new(1, 10).unwrap_or(Fraction::ZERO));
    let models = table.map(|table| used_models(&table, &places, document, problems));
    if let Some(models) = &models {
        let wrong = check_apis(&roles, &scoring, models).into_iter();
        for (path, message) in wrong.chain(check_trainer(iterations, &training, &roles.agent.model, models)) {
            let path: Vec<Step> = path.iter().map(|key| Step::Key((*key).into())).collect();
            problems.borrow_mut().push(document.problem(&path, message));
        }
    }
    root.finish();
    let mut experiment = Experiment {
        name,
        seed,
        iterations,
        environments,
        roles,
        scoring,
        reward,
        selection,
        training,
        evaluation,
        leases,
        attempts,
        max_failed,
        start: None,
        best_of: None,
        class: class?,
        models: models?,
        notes: Vec::new(),
    };
    experiment.notes = experiment.class.notes().to_vec();
    check_class(&mut experiment, document, problems);
    note_first_replies(&mut experiment, document);
    Some(experiment)
}

/// What follows from comparing text that must begin alike.
fn note_first_replies(experiment: &mut Experiment, document: &Document) {
    let Experiment { training, environments, .. } = &*experiment;
    let by_api = matches!(training.trainer, Trainer::Api(_)) && matches!(training.algorithm, Algorithm::Dpo { .. });
    if by_api && environments.max_turns > 1 {
        let message = format!(
            "`training.algorithm` is dpo and `backend` api: servers compare two replies to one prompt, so of conversations of up to {} turns the first replies alone are compared",
            environments.max_turns
        );
        let path = ["training", "algorithm"].map(|key| Step::Key(key.into()));
        experiment.notes.push(document.problem(&path, message));
    }
}

/// What models behind APIs cannot do, by the key that asks for it.
fn check_apis(
    roles: &RoleSettings,
    scoring: &Scoring,
    models: &BTreeMap<String, ModelSpec>,
) -> Vec<(&'static [&'static str], String)> {
    let mut wrong: Vec<(&'static [&'static str], String)> = Vec::new();
    let api = |model: &String| models.get(model)?.api();
    let influence = roles.influence.as_ref().map(|role| &role.model);
    let judges = [Some(&roles.preference.model), Some(&roles.transition.model), influence];
    let few = |model: &&String| {
        api(model).is_some_and(|api| matches!(api.scores, ApiScores::FirstToken | ApiScores::Continued))
    };
    let warped = scoring.temperature != 1.0 || scoring.top_p < 1.0;
    if let Some(model) = judges.into_iter().flatten().find(few).filter(|_| warped) {
        let message = format!(
            "`scoring.temperature` and `top_p` cannot be applied to the few tokens that the server of `{model}` shows: leave them at 1, or score it by `samples`"
        );
        wrong.push((&["scoring"], message));
    }
    wrong
}

/// Whether the agent is where its trainer trains.
fn check_trainer(
    iterations: u32,
    training: &TrainingSettings,
    agent: &String,
    models: &BTreeMap<String, ModelSpec>,
) -> Option<(&'static [&'static str], String)> {
    let model = models.get(agent).filter(|_| iterations > 0)?;
    match (&training.trainer, model.api()) {
        (Trainer::Local(_), Some(api)) if !api.adapters => Some((
            &["iterations"],
            format!(
                "the agent's model `{agent}` is behind an API, where workers cannot train it: set `training.backend: api` if its server has a fine-tuning API, give the agent a model with `sources`, of which the server may take the adapters (`adapters: true`), or set `iterations: 0` to evaluate it as it is"
            ),
        )),
        (Trainer::Api(_), Some(api)) if api.protocol == ApiProtocol::OpenAi && !api.adapters => None,
        (Trainer::Api(_), found) => {
            let what = match found {
                None => "loaded by workers",
                Some(api) if api.adapters => "trained by workers, whose adapters its server takes (`adapters: true`)",
                Some(_) => "behind a protocol that has no fine-tuning",
            };
            Some((
                &["training", "backend"],
                format!(
                    "`training.backend` is api, but the agent's model `{agent}` is {what}: give the agent a model with `api` alone, by `protocol: openai`, or take `backend: local`"
                ),
            ))
        }
        (Trainer::Local(_), _) => None,
    }
}

/// Whether the class has what the settings ask of it.
fn check_class(experiment: &mut Experiment, document: &Document, problems: &RefCell<Problems>) {
    let Experiment { class, environments, evaluation, seed, .. } = &*experiment;
    for found in check_pools(class, environments, evaluation, *seed) {
        let path: Vec<Step> = found.key.into_iter().map(Step::Key).collect();
        let message = format!("`{}` {}", Dotted(&path), found.message);
        match found.note {
            true => experiment.notes.push(document.problem(&path, message)),
            false => problems.borrow_mut().push(document.problem(&path, message)),
        }
    }
}

fn keep<T>(problems: &RefCell<Problems>, result: Result<T, Problems>) -> Option<T> {
    result.map_err(|more| problems.borrow_mut().extend(more)).ok()
}

fn used_models(
    table: &ModelTable,
    places: &Places,
    document: &Document,
    problems: &RefCell<Problems>,
) -> BTreeMap<String, ModelSpec> {
    let mut used = BTreeMap::new();
    for (model, path) in places.iter() {
        if let Some(spec) = table.get(model) {
            used.insert(model.clone(), spec.clone());
            continue;
        }
        let known: Vec<String> = table.keys().map(|k| format!("`{k}`")).collect();
        let hint = match nearest(model, table.keys().map(String::as_str)) {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("it has {}", known.join(", ")),
        };
        let message = format!("the model `{model}` is not in the model table; {hint}");
        problems.borrow_mut().push(document.problem(path, message));
    }
    used
}
