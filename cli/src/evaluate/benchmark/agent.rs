use anyhow::Context;
use influence_coordinator::evaluation::start;
use influence_coordinator::store::{RunRecord, Store};
use influence_proto::TrainedAgent;
use influence_worker::backend::{Backend, Variant};
use tempfile::TempDir;

use crate::args::EvaluateArguments;
use crate::stored::artifacts;

/// An agent of a run, with what it takes to ask it.
pub(super) struct Loaded {
    pub(super) iteration: u32,
    /// `base`, or whose adapter it has.
    pub(super) name: String,
    /// What the backend calls it; none: the untrained model.
    pub(super) variant: Option<Variant>,
    /// The PEFT folder of an adapter.
    folder: Option<TempDir>,
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
            return Ok(Self { iteration, name: "base".to_owned(), variant: None, folder: None });
        };
        let adapter = match start.trained {
            TrainedAgent::Adapter(adapter) => adapter,
            TrainedAgent::Served { model } => {
                let variant = Some(Variant::Served(model.to_string()));
                return Ok(Self { iteration, name: start.agent, variant, folder: None });
            }
        };
        let artifacts = artifacts(&arguments.data, arguments.artifacts.as_ref(), &run.id).await?;
        let folder = tempfile::tempdir().context("no folder could be made for an adapter")?;
        for (file, digest) in [("adapter_config.json", adapter.config), ("adapter_model.safetensors", adapter.weights)]
        {
            let path = folder.path().join(file);
            let bytes = artifacts.get(digest).await?;
            tokio::fs::write(&path, bytes).await.with_context(|| format!("{} cannot be written", path.display()))?;
        }
        let variant = Some(Variant::Adapter(format!("{}-{iteration}", run.id)));
        Ok(Self { iteration, name: start.agent, variant, folder: Some(folder) })
    }

    pub(super) async fn load(&self, backend: &dyn Backend) -> anyhow::Result<()> {
        if let (Some(Variant::Adapter(name)), Some(folder)) = (&self.variant, &self.folder) {
            let loaded = backend.load_adapter(name, folder.path()).await;
            loaded.with_context(|| format!("the adapter of {} cannot be used", self.name))?;
        }
        Ok(())
    }

    pub(super) fn unload(&self, backend: &dyn Backend) {
        if let Some(Variant::Adapter(name)) = &self.variant {
            backend.drop_adapter(name);
        }
    }
}
