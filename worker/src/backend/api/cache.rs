//! Answers on disk, by everything that was asked.

use std::path::PathBuf;

use influence_proto::Digest;
use serde_json::Value;

/// What tells one request to a server from another. Not every protocol has a place for the seed in the body.
#[derive(Debug, Clone, Copy)]
pub(super) struct Request<'a> {
    pub(super) path: &'a str,
    pub(super) body: &'a str,
    pub(super) seed: u64,
}

/// A folder of answers. What cannot be read or written is asked again: nothing depends on it.
#[derive(Debug)]
pub(super) struct ResponseCache {
    folder: PathBuf,
}

impl ResponseCache {
    pub(super) fn new(folder: PathBuf) -> Self {
        Self { folder }
    }

    /// The answer to a request that was answered before.
    pub(super) async fn get(&self, url: &str, request: &Request<'_>) -> Option<Value> {
        let bytes = tokio::fs::read(self.place(url, request)).await.ok()?;
        serde_json::from_slice(&bytes).ok()
    }

    /// Keeps an answer.
    pub(super) async fn put(&self, url: &str, request: &Request<'_>, answer: &Value) {
        let place = self.place(url, request);
        let text = answer.to_string();
        let written = tokio::task::spawn_blocking(move || {
            let folder = place.parent().unwrap_or(&place);
            std::fs::create_dir_all(folder)?;
            // Under its name only when it is whole.
            let mut file = tempfile::NamedTempFile::new_in(folder)?;
            std::io::Write::write_all(&mut file, text.as_bytes())?;
            file.persist(&place).map_err(|e| e.error)
        });
        if let Ok(Err(error)) = written.await {
            tracing::warn!(folder = %self.folder.display(), %error, "an answer could not be kept");
        }
    }

    fn place(&self, url: &str, request: &Request<'_>) -> PathBuf {
        let Request { path, body, seed } = request;
        let digest = Digest::of(format!("{url}\n{path}\n{seed}\n{body}")).to_string();
        let (shelf, name) = digest.split_at(2);
        self.folder.join(shelf).join(format!("{name}.json"))
    }
}
