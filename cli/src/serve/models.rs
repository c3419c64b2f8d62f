//! What is served, and under which names.

use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Context;
use influence_engine::batch::{Engine, EngineOptions, kv_budget};
use influence_engine::model::Placement;
use influence_proto::RunId;
use serde_json::{Value, json};

use super::error::{ApiError, shown};
use crate::args::ServeArguments;
use crate::place;

/// Where neither a model nor a run is given.
const MODEL: &str = "smollm2-135m";

/// One model and its adapters.
#[derive(Debug, Clone)]
pub(super) struct Served {
    pub(super) engine: Engine,
    /// The base's first.
    names: Arc<RwLock<Vec<String>>>,
    since: u64,
}

impl Served {
    /// Finds, loads and names what the arguments ask for.
    pub(super) async fn load(arguments: &ServeArguments) -> anyhow::Result<Self> {
        let (base, model) = chosen(arguments)?;
        let adapters = adapters(arguments)?;
        let mut names = vec![base];
        names.extend(adapters.iter().map(|(name, _)| name.clone()));
        if let Some(name) = names.iter().enumerate().find_map(|(i, name)| names[..i].contains(name).then_some(name)) {
            anyhow::bail!("two models would be served as `{name}`; give one another name, as in --adapter other=DIR");
        }
        let engine = engine(&model, arguments).await?;
        for (name, folder) in adapters {
            engine.load_adapter(name, folder).await?;
        }
        Ok(Self { engine, names: Arc::new(RwLock::new(names)), since: now() })
    }

    /// The names, for people.
    pub(super) fn names(&self) -> String {
        self.read().iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
    }

    /// The adapter of the model that a client names; none for the base.
    pub(super) fn adapter(&self, model: &str) -> Result<Option<String>, ApiError> {
        let place = self.read().iter().position(|name| name == model);
        match place {
            Some(0) => Ok(None),
            Some(_) => Ok(Some(model.to_owned())),
            None => Err(ApiError::no_model(model, &self.names())),
        }
    }

    /// All models, as `/v1/models` lists them.
    pub(super) fn list(&self) -> Value {
        let names = self.read().clone();
        let data: Vec<Value> = names.iter().map(|name| self.describe(name)).collect();
        json!({"object": "list", "data": data})
    }

    /// A model, as `/v1/models` has it.
    pub(super) fn describe(&self, name: &str) -> Value {
        let (base, length) = (self.read().first().cloned(), self.engine.model().config.context_length);
        let parent = base.filter(|base| name != base);
        // The last two are no part of OpenAI's shape; other servers have them under these names.
        json!({
            "id": name, "object": "model", "created": self.since, "owned_by": "influence",
            "parent": parent, "max_model_len": length,
        })
    }
}

/// Adapters that come and go.
impl Served {
    fn read(&self) -> RwLockReadGuard<'_, Vec<String>> {
        self.names.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Loads an adapter under a name of its own.
    pub(super) async fn load_adapter(&self, name: String, folder: String) -> Result<(), ApiError> {
        let taken = || ApiError::bad("lora_name", format!("the name `{}` is already taken here", shown(&name)));
        if self.read().contains(&name) {
            return Err(taken());
        }
        self.engine.load_adapter(name.clone(), folder).await?;
        let mut names = self.names.write().unwrap_or_else(PoisonError::into_inner);
        if names.contains(&name) {
            return Err(taken());
        }
        names.push(name);
        Ok(())
    }

    /// Forgets an adapter. Requests that use it go on.
    pub(super) async fn drop_adapter(&self, name: &str) -> Result<(), ApiError> {
        {
            let mut names = self.names.write().unwrap_or_else(PoisonError::into_inner);
            // The base stays.
            let place = names.iter().skip(1).position(|known| known == name);
            match place {
                Some(place) => drop(names.remove(place + 1)),
                None => {
                    drop(names);
                    return Err(ApiError::no_model(name, &self.names()));
                }
            }
        }
        self.engine.drop_adapter(name).await?;
        Ok(())
    }
}

/// Seconds since 1970.
pub(super) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// The base's name and where it is.
fn chosen(arguments: &ServeArguments) -> anyhow::Result<(String, String)> {
    let (name, model) = match (&arguments.model, &arguments.run) {
        (Some((name, model)), _) => (name.clone(), model.clone()),
        (None, Some(run)) => (None, model_of_run(&arguments.data, run)?),
        (None, None) => (None, MODEL.to_owned()),
    };
    let path = Path::new(&model);
    let of_file = |path: &Path| {
        let gguf = path.extension().is_some_and(|end| end.eq_ignore_ascii_case("gguf"));
        let name = if gguf { path.file_stem() } else { path.file_name() };
        name.map(|name| name.to_string_lossy().into_owned())
    };
    let own = if path.exists() { of_file(&path.canonicalize()?) } else { None };
    let name = name.or(own).unwrap_or_else(|| model.clone());
    Ok((name, model))
}

/// The experiment of a run that has left its folder here, and the file that says so.
fn experiment_of_run(data: &Path, run: &RunId) -> anyhow::Result<(PathBuf, Value)> {
    let file = data.join(run.as_str()).join("experiment.json");
    let text = std::fs::read_to_string(&file).with_context(|| {
        format!("{} cannot be read: is `{run}` a run of this data folder? `influence runs` lists them", file.display())
    })?;
    let experiment = serde_json::from_str(&text).with_context(|| format!("{} is damaged", file.display()))?;
    Ok((file, experiment))
}

/// The model that a run's adapters are of.
fn model_of_run(data: &Path, run: &str) -> anyhow::Result<String> {
    let (file, experiment) = experiment_of_run(data, &RunId::new(run)?)?;
    let model = experiment["roles"]["agent"]["model"].as_str();
    let model = model.with_context(|| format!("{} names no model of the agent; give --model", file.display()))?;
    Ok(model.to_owned())
}

/// Names and folders of adapters.
fn adapters(arguments: &ServeArguments) -> anyhow::Result<Vec<(String, String)>> {
    let mut all = Vec::new();
    for (name, folder) in &arguments.adapters {
        let own = || Some(Path::new(folder).canonicalize().ok()?.file_name()?.to_string_lossy().into_owned());
        let name = name.clone().or_else(own);
        let name = name.with_context(|| format!("{folder} cannot be found; --adapter takes a PEFT directory"))?;
        all.push((name, folder.clone()));
    }
    if let Some(run) = &arguments.run {
        all.extend(adapters_of_run(&arguments.data, run, arguments.iteration)?);
    }
    Ok(all)
}

/// The adapters that a run has left in its folder.
fn adapters_of_run(data: &Path, run: &str, only: Option<u32>) -> anyhow::Result<Vec<(String, String)>> {
    let run = RunId::new(run)?;
    let at_a_server = |(_, experiment): (PathBuf, Value)| experiment["training"]["backend"] == "api";
    anyhow::ensure!(
        !experiment_of_run(data, &run).is_ok_and(at_a_server),
        "the agents of the run `{run}` are models of the server that trained them, and are served there: `influence runs {run}` has their names"
    );
    let folder = data.join(run.as_str()).join("adapters");
    let entries = std::fs::read_dir(&folder).with_context(|| {
        format!("{} cannot be read: has `{run}` ended an iteration? `influence runs {run}` tells", folder.display())
    })?;
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry.with_context(|| format!("{} cannot be read", folder.display()))?;
        let name = entry.file_name();
        let iteration = name.to_str().and_then(|name| name.strip_prefix("iteration-")).and_then(|n| n.parse().ok());
        found.extend(iteration.map(|iteration: u32| (iteration, entry.path())));
    }
    found.sort();
    let known: Vec<String> = found.iter().map(|(iteration, _)| iteration.to_string()).collect();
    found.retain(|(iteration, _)| only.is_none_or(|only| only == *iteration));
    if found.is_empty() {
        let which = only.map(|n| format!(" of iteration {n}")).unwrap_or_default();
        let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
        anyhow::bail!(
            "the run `{run}` has no adapter{which} in {}; it has those of iterations {known}",
            folder.display()
        );
    }
    Ok(found.into_iter().map(|(i, path)| (format!("{run}/{i}"), path.to_string_lossy().into_owned())).collect())
}

async fn engine(model: &str, arguments: &ServeArguments) -> anyhow::Result<Engine> {
    let (model, placement) = place::load_for(model, &arguments.device, &arguments.place).await?;
    let usual = EngineOptions::default();
    // A device wants more tokens at once to be busy; on a CPU they would only make others wait.
    let prefill_chunk = if matches!(placement, Placement::Cpu { .. }) { usual.prefill_chunk } else { 2048 };
    let given = arguments.kv_memory.map(|mib| usize::try_from(mib << 20).unwrap_or(usize::MAX));
    let kv_bytes = given.unwrap_or_else(|| kv_budget(&placement));
    let options = EngineOptions { max_rows: arguments.slots as usize, prefill_chunk, kv_bytes, ..usual };
    Ok(Engine::start(model, options)?)
}
