use anyhow::Context;
use influence_coordinator::artifacts::Artifacts;
use influence_coordinator::evaluation::start;
use influence_coordinator::store::{RunRecord, Store};
use influence_worker::backend::Backend;
use tempfile::TempDir;

use crate::args::EvaluateArguments;

/// An agent of a run, with the files of its adapter.
pub(super) struct Loaded {
    pub(super) iteration: u32,
    /// `base`, or whose adapter it has.
    pub(super) name: String,
    /// The adapter's name at the backend, and its PEFT folder.
    adapter: Option<(String, TempDir)>,
}

impl Loaded {
    /// Fetches what the agent consists of.
    pub(super) async fn fetch(
        store: &dyn Store,
        run: &RunRecord,
        iteration: u32,
        arguments: &EvaluateArguments,
    ) -> anyhow::Result<Self> {
        let Some(start) = start(store, run, iteration).await? else {
            return Ok(Self { iteration, name: "base".to_owned(), adapter: None });
        };
        let data = &arguments.data.data;
        let place = arguments.artifacts.clone().unwrap_or_else(|| data.join("artifacts").into_os_string());
        let artifacts = Artifacts::open(place, &data.join(run.id.as_str())).await?;
        let folder = tempfile::tempdir().context("no folder could be made for an adapter")?;
        for (file, digest) in
            [("adapter_config.json", start.adapter.config), ("adapter_model.safetensors", start.adapter.weights)]
        {
            let path = folder.path().join(file);
            let bytes = artifacts.get(digest).await?;
            tokio::fs::write(&path, bytes).await.with_context(|| format!("{} cannot be written", path.display()))?;
        }
        let name = format!("{}-{iteration}", run.id);
        Ok(Self { iteration, name: start.agent, adapter: Some((name, folder)) })
    }

    pub(super) fn adapter_name(&self) -> Option<&str> {
        self.adapter.as_ref().map(|(name, _)| name.as_str())
    }

    pub(super) async fn load(&self, backend: &dyn Backend) -> anyhow::Result<()> {
        if let Some((name, folder)) = &self.adapter {
            let loaded = backend.load_adapter(name, folder.path()).await;
            loaded.with_context(|| format!("the adapter of {} cannot be used", self.name))?;
        }
        Ok(())
    }

    pub(super) fn unload(&self, backend: &dyn Backend) {
        if let Some((name, _)) = &self.adapter {
            backend.drop_adapter(name);
        }
    }
}
