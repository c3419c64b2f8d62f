//! A repository of the Hugging Face hub, in the hub's own cache, so that other tools of the user share the files.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::time::Duration;

use hf_hub::api::Progress;
use hf_hub::api::sync::{ApiBuilder, ApiError, ApiRepo};
use hf_hub::{Cache, CacheRepo, Repo, RepoType};
use influence_proto::Digest;

use super::files::{INDEX, SINGLE, shards_of};
use super::{SourceError, record};

/// A hub that says and sends nothing for this long is given up: the next source may answer.
const SILENCE: Duration = Duration::from_secs(15);

/// Files without which a repository is no model.
const NEEDED: [&str; 3] = ["config.json", "tokenizer.json", "tokenizer_config.json"];
/// Files that some repositories have.
const OPTIONAL: [&str; 2] = ["generation_config.json", "chat_template.jinja"];

/// Where the hub is, and its cache.
#[derive(Debug, Clone)]
pub(super) struct Hub {
    cache: Cache,
    /// Instead of the one that the environment, or the library, names.
    endpoint: Option<String>,
    silence: Duration,
}

/// What the downloading thread says.
enum News {
    Moved { file: String, bytes: u64, total: Option<u64> },
    Done(Result<(), String>),
}

impl Hub {
    /// As the user's environment says: `HF_HOME`, `HF_ENDPOINT`, `HF_TOKEN`.
    pub(super) fn of_user() -> Self {
        Self { cache: Cache::from_env(), endpoint: None, silence: SILENCE }
    }

    #[cfg(test)]
    pub(super) fn at(endpoint: &str, cache: &Path, silence: Duration) -> Self {
        Self { cache: Cache::new(cache.to_owned()), endpoint: Some(endpoint.to_owned()), silence }
    }

    /// The repository's folder, if every file of it is in the cache and intact.
    pub(super) fn cached(&self, repository: &str, revision: &str, records: &Path) -> Option<PathBuf> {
        let folder = complete(&self.cache.repo(repo(repository, revision)))?;
        match verify_blobs(&folder, records) {
            Ok(()) => Some(folder),
            Err(reason) => {
                tracing::warn!(%reason, "a cached model is not used");
                None
            }
        }
    }

    /// Downloads what the cache lacks.
    pub(super) fn fetch(
        &self,
        repository: &str,
        revision: &str,
        records: &Path,
        report: &(dyn Fn(&str, u64, Option<u64>) + Sync),
    ) -> Result<PathBuf, SourceError> {
        let cached = self.cache.repo(repo(repository, revision));
        if let Some(folder) = complete(&cached) {
            // It is complete, yet the caller asks for it: it must be damaged, and the library would take it as it is.
            if verify_blobs(&folder, records).is_err() {
                remove_damaged(&folder, records)?;
            }
        }
        self.download(repository, revision, report)?;
        let folder = complete(&cached).ok_or_else(|| {
            SourceError::Hub(format!("{} is incomplete after the download", self.cache.path().display()))
        })?;
        verify_blobs(&folder, records)?;
        Ok(folder)
    }

    /// Runs the library on a thread of its own, because it waits for a silent server without end. A thread that is given
    /// up ends with its connection; what it still writes goes to temporary names.
    fn download(
        &self,
        repository: &str,
        revision: &str,
        report: &(dyn Fn(&str, u64, Option<u64>) + Sync),
    ) -> Result<(), SourceError> {
        let mut builder = ApiBuilder::from_env().with_cache_dir(self.cache.path().clone()).with_progress(false);
        if let Some(endpoint) = &self.endpoint {
            builder = builder.with_endpoint(endpoint.clone());
        }
        let token = std::env::var("HF_TOKEN").ok().filter(|token| !token.is_empty());
        if token.is_some() {
            builder = builder.with_token(token);
        }
        let refuse = |e: ApiError| SourceError::Hub(explain(&e));
        let api = builder.build().map_err(refuse)?.repo(repo(repository, revision));
        let cached = self.cache.repo(repo(repository, revision));
        let (news, heard) = mpsc::channel();
        let spawned = std::thread::Builder::new().name("hub-download".into()).spawn(move || {
            let result = download_missing(&api, &cached, &news).map_err(|e| explain(&e));
            // Nobody listens any more if this thread was given up.
            let _ = news.send(News::Done(result));
        });
        spawned.map_err(|e| SourceError::Hub(format!("cannot start a thread: {e}")))?;
        loop {
            match heard.recv_timeout(self.silence) {
                Ok(News::Moved { file, bytes, total }) => report(&file, bytes, total),
                Ok(News::Done(result)) => return result.map_err(SourceError::Hub),
                Err(RecvTimeoutError::Timeout) => {
                    return Err(SourceError::Hub(format!("no answer within {} s", self.silence.as_secs())));
                }
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(SourceError::Hub("the download ended without a result".to_owned()));
                }
            }
        }
    }
}

fn repo(repository: &str, revision: &str) -> Repo {
    Repo::with_revision(repository.to_owned(), RepoType::Model, revision.to_owned())
}

fn download_missing(api: &ApiRepo, cached: &CacheRepo, news: &Sender<News>) -> Result<(), ApiError> {
    let listed: Vec<String> = api.info()?.siblings.into_iter().map(|file| file.rfilename).collect();
    let has = |name: &str| listed.iter().any(|file| file == name);
    let get = |name: &str| {
        if cached.get(name).is_none() {
            api.download_with_progress(name, Watched::new(name, news))?;
        }
        Ok::<_, ApiError>(())
    };
    for name in NEEDED {
        get(name)?;
    }
    for name in OPTIONAL.into_iter().filter(|name| has(name)) {
        get(name)?;
    }
    if has(INDEX) && !has(SINGLE) {
        get(INDEX)?;
        let shards = cached.get(INDEX).and_then(|index| shards_of(&index)).unwrap_or_default();
        shards.iter().try_for_each(|shard| get(shard))
    } else {
        get(SINGLE)
    }
}

/// The repository's folder in the cache, if no file is missing.
fn complete(cached: &CacheRepo) -> Option<PathBuf> {
    for name in NEEDED {
        cached.get(name)?;
    }
    if cached.get(SINGLE).is_none() {
        for shard in shards_of(&cached.get(INDEX)?)? {
            cached.get(&shard)?;
        }
    }
    cached.get(NEEDED[0])?.parent().map(Path::to_owned)
}

/// The hub names a large file's blob after its sha256: that is what it must hold.
fn verify_blobs(folder: &Path, records: &Path) -> Result<(), SourceError> {
    weights(folder)?.into_iter().try_for_each(|(path, digest)| record::verify(&path, digest, records))
}

/// Removes the weights that are not what they should be, so that they are downloaded again.
fn remove_damaged(folder: &Path, records: &Path) -> Result<(), SourceError> {
    for (path, digest) in weights(folder)? {
        if let Err(SourceError::Digest { path: blob, .. }) = record::verify(&path, digest, records) {
            fs::remove_file(&blob).map_err(SourceError::io(&blob))?;
            fs::remove_file(&path).map_err(SourceError::io(&path))?;
        }
    }
    Ok(())
}

/// The safetensors of a folder whose digest is known, with it.
fn weights(folder: &Path) -> Result<Vec<(PathBuf, Digest)>, SourceError> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).map_err(SourceError::io(folder))? {
        let path = entry.map_err(SourceError::io(folder))?.path();
        if path.extension().is_none_or(|e| e != "safetensors") {
            continue;
        }
        let blob = path.canonicalize().map_err(SourceError::io(&path))?;
        if let Some(digest) = blob.file_name().and_then(|name| Digest::parse(name.to_str()?).ok()) {
            found.push((path, digest));
        }
    }
    Ok(found)
}

/// The library's own text, and for a common refusal what to do.
fn explain(error: &ApiError) -> String {
    let said = error.to_string();
    let advice = if said.contains("401") || said.contains("403") {
        " (a gated or private repository wants a token in HF_TOKEN)"
    } else {
        ""
    };
    format!("{said}{advice}")
}

/// Passes a download's progress on. The library calls `init` once more when a download is resumed.
struct Watched<'a> {
    file: String,
    bytes: u64,
    total: Option<u64>,
    news: &'a Sender<News>,
}

impl<'a> Watched<'a> {
    fn new(file: &str, news: &'a Sender<News>) -> Self {
        Self { file: file.to_owned(), bytes: 0, total: None, news }
    }

    fn tell(&self) {
        let news = News::Moved { file: self.file.clone(), bytes: self.bytes, total: self.total };
        let _ = self.news.send(news);
    }
}

impl Progress for Watched<'_> {
    fn init(&mut self, size: usize, _: &str) {
        self.bytes = 0;
        self.total = Some(size as u64);
        self.tell();
    }

    fn update(&mut self, size: usize) {
        self.bytes += size as u64;
        self.tell();
    }

    fn finish(&mut self) {
        self.tell();
    }
}
