//! The models that a coordinator asks for, loaded once each.

use std::collections::BTreeMap;
use std::fmt::{self, Debug};
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use influence_engine::batch::{Engine, EngineOptions, kv_budget};
use influence_engine::model::{Model, Placement};
use influence_proto::{ApiProtocol, Digest, LoadedModel, ModelSource, ModelSpec, PushedFile};
use tokio::runtime::Handle;
use tokio::sync::Mutex;

use super::{OnDownload, WorkerError, WorkerOptions};
use crate::artifacts::{ArtifactCache, Transfer};
use crate::backend::{AdapterTable, ApiServers, FineTuning, LocalBackend, Models};
use crate::models::{FetchProgress, ModelCache, PushedFiles};

/// Roles of one episode that may ask at once: a reply, or three assessments.
const ROWS_PER_EPISODE: usize = 3;
/// Between two lines of the log about one download.
const LOG_BYTES: u64 = 32 << 20;

/// So often a pushed file that does not move is asked for, before the worker gives up: for some minutes.
const PUSHED_TRIES: u32 = 60;

/// A model that can be trained, and the name of its base in adapters.
#[derive(Debug, Clone)]
pub(super) struct Trainable {
    pub(super) model: Arc<Model>,
    /// Where it is served from here.
    pub(super) engine: Option<Engine>,
    pub(super) base_name: String,
}

/// Everything that was loaded for a run.
#[derive(Debug, Clone, Default)]
pub(super) struct Serving {
    pub(super) models: Models,
    pub(super) adapters: BTreeMap<String, Arc<AdapterTable>>,
    pub(super) trainable: BTreeMap<String, Trainable>,
    /// Models that their server may train.
    pub(super) fine_tuning: BTreeMap<String, FineTuning>,
    /// Which files they are.
    pub(super) loaded: Vec<LoadedModel>,
    /// Where those run that run here.
    pub(super) placement: Option<Placement>,
}

/// Where a worker's models come from.
#[async_trait]
pub(super) trait ModelLoader: Debug + Send + Sync {
    /// Whether the models can be trained.
    fn can_train(&self) -> bool;

    /// Loads all of `specs`; what is loaded already is used again. Files that were pushed come as artifacts do.
    async fn load(&self, specs: &[ModelSpec], artifacts: &ArtifactCache) -> Result<Serving, WorkerError>;

    /// Requests of theirs that are made again and again now, as somebody else's server does not answer.
    fn backing_off(&self) -> u32;

    /// Stops what was started for them.
    async fn stop(&self);
}

/// Models on this machine.
pub(super) struct LocalModels {
    cache: ModelCache,
    /// By name.
    device: String,
    slots: usize,
    kv_bytes: Option<usize>,
    on_download: Option<OnDownload>,
    loaded: Mutex<Vec<Loaded>>,
    servers: ApiServers,
}

impl Debug for LocalModels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LocalModels").field("cache", &self.cache).field("slots", &self.slots).finish_non_exhaustive()
    }
}

#[derive(Debug, Clone)]
struct Loaded {
    spec: ModelSpec,
    sha256: Digest,
    engine: Engine,
    backend: Arc<LocalBackend>,
    adapters: Arc<AdapterTable>,
    placement: Placement,
}

impl LocalModels {
    /// Models out of `cache`, for a worker with these options.
    pub(super) fn new(cache: ModelCache, options: &WorkerOptions) -> Self {
        let WorkerOptions { device, slots, kv_bytes, on_download, response_cache, .. } = options.clone();
        let (loaded, servers) = (Mutex::default(), ApiServers::new(response_cache));
        Self { cache, device, slots: slots as usize, kv_bytes, on_download, loaded, servers }
    }

    /// Two names may stand for one model; but an override goes by name. What was pushed since a model was loaded is no
    /// reason to load it again.
    fn same_model(&self, one: &ModelSpec, other: &ModelSpec) -> bool {
        let kept = |spec: &ModelSpec| spec.kv_dtype.clone().unwrap_or_else(|| spec.dtype.clone());
        if one.dtype != other.dtype || kept(one) != kept(other) {
            return false;
        }
        if one.name == other.name {
            let own = |spec: &ModelSpec| -> Vec<ModelSource> {
                let pushed = |source: &&ModelSource| matches!(source, ModelSource::Pushed { .. });
                spec.sources.iter().filter(|source| !pushed(source)).cloned().collect()
            };
            return own(one) == own(other);
        }
        let overridden = |spec: &ModelSpec| self.cache.is_overridden(&spec.name);
        one.sources == other.sources && !(overridden(one) || overridden(other))
    }

    /// A model of its files, and which files these are.
    async fn load_files(&self, spec: &ModelSpec, artifacts: &ArtifactCache) -> Result<(Digest, Model), WorkerError> {
        let failed = |reason: String| WorkerError::Load { model: spec.name.clone(), reason };
        let place = self.placement(spec)?;
        let (cache, wanted, told) = (self.cache.clone(), spec.clone(), self.on_download.clone());
        let transfer = artifacts.transfer().with_tries(PUSHED_TRIES);
        let pushed = FromCoordinator { transfer, runtime: Handle::current() };
        let loaded = tokio::task::spawn_blocking(move || {
            let log = DownloadLog::default();
            let path = cache.fetch_with(&wanted, Some(&pushed), &|progress| match &told {
                Some(told) => told(progress),
                None => log.say(&progress),
            })?;
            let model = cache.digest(&path).map_err(|e| e.to_string());
            let model = model.and_then(|sha256| Ok((sha256, load_model(&path, &place)?)));
            Ok::<_, WorkerError>((path, model))
        });
        let (path, model) = loaded.await.map_err(|e| failed(e.to_string()))??;
        let (sha256, model) = model.map_err(failed)?;
        tracing::info!(model = %spec.name, path = %path.display(), %sha256, "model loaded");
        Ok((sha256, model))
    }

    fn placement(&self, spec: &ModelSpec) -> Result<Placement, WorkerError> {
        let placement = Placement::new(&self.device, &spec.dtype, spec.kv_dtype.as_deref());
        placement.map_err(|e| WorkerError::Load { model: spec.name.clone(), reason: e.to_string() })
    }

    async fn load_one(&self, spec: &ModelSpec, artifacts: &ArtifactCache) -> Result<Loaded, WorkerError> {
        let failed = |reason: String| WorkerError::Load { model: spec.name.clone(), reason };
        let placement = self.placement(spec)?;
        let (sha256, model) = self.load_files(spec, artifacts).await?;
        let model = Arc::new(model);
        let max_rows = self.slots * ROWS_PER_EPISODE;
        let usual = EngineOptions::default();
        // A device wants more rows at once to be busy; on a CPU they would only make others wait.
        let prefill_chunk = if matches!(placement, Placement::Cpu { .. }) { usual.prefill_chunk } else { 2048 };
        let kv_bytes = self.kv_bytes.unwrap_or_else(|| kv_budget(&placement));
        let options = EngineOptions { max_rows, prefill_chunk, kv_bytes, ..usual };
        let engine = Engine::start(model, options).map_err(|e| failed(e.to_string()))?;
        tracing::info!(model = %spec.name, kv_bytes = options.kv_bytes, "model served");
        let backend = Arc::new(LocalBackend::new(engine.clone()));
        let adapters = Arc::new(AdapterTable::new(backend.clone()));
        Ok(Loaded { spec: spec.clone(), sha256, engine, backend, adapters, placement })
    }
}

#[async_trait]
impl ModelLoader for LocalModels {
    fn can_train(&self) -> bool {
        true
    }

    fn backing_off(&self) -> u32 {
        self.servers.backing_off()
    }

    async fn load(&self, specs: &[ModelSpec], artifacts: &ArtifactCache) -> Result<Serving, WorkerError> {
        let mut all = self.loaded.lock().await;
        let mut serving = Serving::default();
        for spec in specs {
            if let Some(api) = spec.api().filter(|_| !self.cache.is_overridden(&spec.name)) {
                let failed = |reason| WorkerError::Load { model: spec.name.clone(), reason };
                let backend = Arc::new(self.servers.open(api).await.map_err(failed)?);
                serving.models = serving.models.with(&spec.name, backend.clone());
                let mut meant = [api.url.as_str(), "\n", api.model.as_str()].concat();
                if api.adapters {
                    let (sha256, model) = self.load_files(spec, artifacts).await?;
                    serving.adapters.insert(spec.name.clone(), Arc::new(AdapterTable::new(backend)));
                    let (model, engine, base_name) = (Arc::new(model), None, base_name(spec));
                    serving.trainable.insert(spec.name.clone(), Trainable { model, engine, base_name });
                    meant.push_str(&sha256.to_string());
                } else if api.protocol == ApiProtocol::OpenAi {
                    serving.fine_tuning.insert(spec.name.clone(), backend.fine_tuning());
                }
                // All workers must mean the same by its name.
                serving.loaded.push(LoadedModel { name: spec.name.clone(), sha256: Digest::of(meant) });
                continue;
            }
            let loaded = match all.iter().find(|loaded| self.same_model(&loaded.spec, spec)) {
                Some(loaded) => loaded.clone(),
                None => {
                    let loaded = self.load_one(spec, artifacts).await?;
                    all.push(loaded.clone());
                    loaded
                }
            };
            serving.models = serving.models.with(&spec.name, loaded.backend.clone());
            serving.placement = Some(loaded.placement.clone());
            serving.adapters.insert(spec.name.clone(), loaded.adapters.clone());
            let (model, engine) = (loaded.engine.model().clone(), Some(loaded.engine.clone()));
            let trainable = Trainable { model, engine, base_name: base_name(spec) };
            serving.trainable.insert(spec.name.clone(), trainable);
            serving.loaded.push(LoadedModel { name: spec.name.clone(), sha256: loaded.sha256 });
        }
        Ok(serving)
    }

    async fn stop(&self) {
        self.servers.log();
        for loaded in self.loaded.lock().await.drain(..) {
            loaded.engine.stop().await;
            let done = loaded.engine.counters();
            tracing::info!(
                model = %loaded.spec.name,
                prompt_tokens = done.generate_prompt_tokens + done.score_prompt_tokens,
                reused_tokens = done.generate_reused_tokens + done.score_reused_tokens,
                generated_tokens = done.generated_tokens,
                steps = done.steps,
                rows_per_step = %format_args!("{:.1}", done.step_rows as f64 / done.steps.max(1) as f64),
                "what the engine has run"
            );
            for (role, tally) in loaded.engine.tallies() {
                let queued_ms = tally.queued.as_millis() as f64 / tally.requests.max(1) as f64;
                tracing::info!(
                    model = %loaded.spec.name,
                    role,
                    requests = tally.requests,
                    prompt_tokens = tally.prompt_tokens,
                    reused_tokens = tally.reused_tokens,
                    generated_tokens = tally.generated_tokens,
                    queued_ms = %format_args!("{queued_ms:.1}"),
                    "what a role has asked of it"
                );
            }
        }
    }
}

/// Pushed files over the worker's own connection.
struct FromCoordinator {
    transfer: Transfer,
    runtime: Handle,
}

impl PushedFiles for FromCoordinator {
    fn fetch(
        &self,
        file: &PushedFile,
        partial: &Path,
        target: &Path,
        moved: &(dyn Fn(u64) + Send + Sync),
    ) -> Result<(), String> {
        let fetched = self.runtime.block_on(self.transfer.download(file.sha256, partial, target, moved));
        fetched.map_err(|e| format!("`{}`: {e}", file.name))
    }
}

fn load_model(path: &Path, placement: &Placement) -> Result<Model, String> {
    Model::load_for(path, placement).map_err(|e| e.to_string())
}

/// The base that an adapter names: the hub's repository if there is one, as PEFT expects.
fn base_name(spec: &ModelSpec) -> String {
    let hub = spec.sources.iter().find_map(|source| match source {
        ModelSource::Hub { repository, .. } => Some(repository.clone()),
        _ => None,
    });
    hub.unwrap_or_else(|| spec.name.clone())
}

/// Says now and then how far a download has come.
#[derive(Debug, Default)]
struct DownloadLog {
    last: std::sync::Mutex<(String, u64)>,
}

impl DownloadLog {
    fn say(&self, progress: &FetchProgress) {
        let mut last = self.last.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let FetchProgress { model, source, file, bytes, total } = progress;
        if last.0 == *file && *bytes < last.1 + LOG_BYTES && Some(*bytes) != *total {
            return;
        }
        *last = (file.clone(), *bytes);
        tracing::info!(%model, %source, %file, bytes, total, "downloading");
    }
}
