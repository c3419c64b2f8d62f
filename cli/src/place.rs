//! Where models are: names of `models.yaml`, files on disk, the cache; and how a fetch looks.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use indicatif::{ProgressBar, ProgressStyle};
use influence_engine::batch::{Engine, EngineOptions};
use influence_engine::model::{Model, Placement};
use influence_proto::{ModelSource, ModelSpec};
use influence_worker::backend::{ApiServers, Backend, LocalBackend};
use influence_worker::models::{FetchProgress, ModelCache, default_cache};
use tokio::task::spawn_blocking;

use crate::args::ModelsFileArguments;
use crate::terminal::harmless;

/// The folder that fetched models are kept in.
pub(crate) fn cache_folder(chosen: Option<&Path>) -> anyhow::Result<PathBuf> {
    Ok(match chosen {
        Some(folder) => folder.to_owned(),
        None => default_cache()?,
    })
}

/// The models that the configuration folder names.
pub(crate) fn models(place: &ModelsFileArguments) -> anyhow::Result<BTreeMap<String, ModelSpec>> {
    Ok(influence_coordinator::config::load_models(&place.configs.join("models.yaml"))?)
}

/// The path of a model that is given by name or by path; fetched if it has to be.
pub(crate) async fn model_path(model: &str, place: &ModelsFileArguments) -> anyhow::Result<PathBuf> {
    if Path::new(model).exists() {
        return Ok(PathBuf::from(model));
    }
    fetch(named(model, place)?, place).await
}

/// What stands behind a model that is given by name or by path.
pub(crate) fn named_or_path(model: &str, place: &ModelsFileArguments) -> anyhow::Result<ModelSpec> {
    if !Path::new(model).exists() {
        return named(model, place);
    }
    let sources = vec![ModelSource::Path { path: model.to_owned(), sha256: None }];
    Ok(ModelSpec { name: model.to_owned(), dtype: "f32".to_owned(), kv_dtype: None, sources })
}

/// The model of this name in `models.yaml`.
pub(crate) fn named(model: &str, place: &ModelsFileArguments) -> anyhow::Result<ModelSpec> {
    let mut models = models(place)?;
    models.remove(model).with_context(|| {
        let known: Vec<_> = models.keys().map(|name| format!("`{name}`")).collect();
        format!(
            "there is no model `{model}`: {} names {}; a .gguf file or a folder of safetensors does as well",
            place.configs.join("models.yaml").display(),
            known.join(", ")
        )
    })
}

/// Fetches a model, with a bar on a terminal.
pub(crate) async fn fetch(spec: ModelSpec, place: &ModelsFileArguments) -> anyhow::Result<PathBuf> {
    fetch_into(spec, place.cache.as_deref(), BTreeMap::new()).await
}

async fn fetch_into(
    spec: ModelSpec,
    cache: Option<&Path>,
    overrides: BTreeMap<String, PathBuf>,
) -> anyhow::Result<PathBuf> {
    let cache = ModelCache::new(&cache_folder(cache)?, overrides);
    spawn_blocking(move || {
        let bar = DownloadBar::new();
        let path = cache.fetch(&spec, &|progress| bar.show(&progress));
        bar.end();
        path
    })
    .await
    .context("the download was interrupted")?
    .map_err(Into::into)
}

/// Whatever serves a model: a server, or an engine of this process.
pub(crate) async fn backend(
    spec: ModelSpec,
    cache: Option<&Path>,
    overrides: &[(String, PathBuf)],
    servers: &ApiServers,
) -> anyhow::Result<Arc<dyn Backend>> {
    let overridden = overrides.iter().any(|(name, _)| *name == spec.name);
    if let Some(api) = spec.api().filter(|_| !overridden) {
        let backend = servers.open(api).await.map_err(|reason| anyhow::anyhow!("{}: {reason}", spec.name))?;
        return Ok(Arc::new(backend));
    }
    let path = fetch_into(spec, cache, overrides.iter().cloned().collect()).await?;
    let model = spawn_blocking(move || Model::load(&path)).await.context("the model could not be loaded")?;
    Ok(Arc::new(LocalBackend::new(Engine::start(Arc::new(model?), EngineOptions::default())?)))
}

/// Fetches and loads a model for the CPU, whatever type it is to run in elsewhere.
pub(crate) async fn load(model: &str, place: &ModelsFileArguments) -> anyhow::Result<Arc<Model>> {
    let path = model_path(model, place).await?;
    let loaded = spawn_blocking(move || Model::load(&path)).await.context("the model could not be loaded")?;
    Ok(Arc::new(loaded?))
}

/// Fetches and loads a model, to run on the device of this name.
pub(crate) async fn load_for(
    model: &str,
    device: &str,
    place: &ModelsFileArguments,
) -> anyhow::Result<(Arc<Model>, Placement)> {
    let spec = if Path::new(model).exists() { None } else { Some(named(model, place)?) };
    let (dtype, kv_dtype) = match &spec {
        Some(spec) => (spec.dtype.clone(), spec.kv_dtype.clone()),
        // A GPU computes large models in 16 bits as a rule; the CPU knows f32 alone.
        None if device == "cpu" => ("f32".to_owned(), None),
        None => ("bf16".to_owned(), None),
    };
    let placement = Placement::new(device, &dtype, kv_dtype.as_deref())?;
    let path = match spec {
        Some(spec) => fetch(spec, place).await?,
        None => model.into(),
    };
    let at = placement.clone();
    let loaded = spawn_blocking(move || Model::load_for(&path, &at)).await.context("the model could not be loaded")?;
    Ok((Arc::new(loaded?), placement))
}

/// One bar for the file that is being downloaded.
#[derive(Debug)]
pub(crate) struct DownloadBar(ProgressBar);

impl DownloadBar {
    /// A bar that shows nothing until something is downloaded, and nothing at all off a terminal.
    pub(crate) fn new() -> Self {
        Self(ProgressBar::new(0))
    }

    /// Shows how far the download has come.
    pub(crate) fn show(&self, progress: &FetchProgress) {
        let template = if progress.total.is_some() {
            "{msg} {bytes}/{total_bytes} {bar:24} {bytes_per_sec} {eta}"
        } else {
            "{msg} {bytes} {bytes_per_sec}"
        };
        if let Ok(style) = ProgressStyle::with_template(template) {
            self.0.set_style(style);
        }
        if let Some(total) = progress.total {
            self.0.set_length(total);
        }
        self.0.set_message(harmless(&format!("{}: {} from {}", progress.model, progress.file, progress.source)));
        self.0.set_position(progress.bytes);
    }

    /// Takes the bar away.
    pub(crate) fn end(&self) {
        self.0.finish_and_clear();
    }
}
