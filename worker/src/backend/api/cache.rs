//! Answers on disk, by everything that was asked.

use std::path::PathBuf;

use influence_proto::Digest;
use serde_json::Value;

/// A folder of answers. What cannot be read or written is asked again: nothing depends on it.
#[derive(Debug)]
pub(super) struct ResponseCache {
    folder: PathBuf,
}

impl ResponseCache {
    pub(super) fn new(folder: PathBuf) -> Self {
        Self { folder }
    }

    /// The answer to a request that was answered before. The request's body holds its seed.
    pub(super) async fn get(&self, url: &str, path: &str, body: &str) -> Option<Value> {
        let bytes = tokio::fs::read(self.place(url, path, body)).await.ok()?;
        serde_json::from_slice(&bytes).ok()
    }

    /// Keeps an answer.
    pub(super) async fn put(&self, url: &str, path: &str, body: &str, answer: &Value) {
        let place = self.place(url, path, body);
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

    fn place(&self, url: &str, path: &str, body: &str) -> PathBuf {
        let digest = Digest::of([url, "\n", path, "\n", body].concat()).to_string();
        let (shelf, name) = digest.split_at(2);
        self.folder.join(shelf).join(format!("{name}.json"))
    }
}
