//! Experiments on disk, coordinators that can be killed, and what a run left behind.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use influence_coordinator::access::Access;
use influence_coordinator::artifacts::Artifacts;
use influence_coordinator::config::Experiment;
use influence_coordinator::store::{SqliteStore, Store};
use influence_coordinator::{Coordinator, CoordinatorOptions, Leadership, Opened, Progress, RunError, open_run};
use influence_proto::RunId;
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

const EXPERIMENT: &str = "
name: demo
seed: 7
iterations: 2
model: made-up
environments: {class: talk, initial_states: 3, siblings: 2, held_out: 0.25, max_turns: 3}
selection: {level: initial_state, best: 1/2}
evaluation: {initial_states: 1, at: [first, last]}
training: {lora: {rank: 2, alpha: 4}}
leases: {seconds: 1}
max_failed: 0
";

const MODELS: &str = "models: {made-up: {dtype: f32, sources: [{path: /nowhere/made-up.gguf}]}}\n";

const MASTER: &str = r#"
state_config:
  initial_state:
    valid_transitions: {"yes": {next_state: over}, "no": {next_state: initial_state}}
    default_transition: "no"
    terminal: false
  over: {valid_transitions: null, default_transition: null, terminal: true}
agent_config: {system_prompt: "You talk about {topic}."}
character_config: {system_prompt: "You ask about {topic}."}
preference_model_config: {system_prompt: "Rate.", prompt_suffix: "How good?", valid_tokens: ["1", "10"]}
transition_model_config: {system_prompt: "Over?", prompt_suffix: "Is it over?", valid_tokens: ["yes", "no"]}
influence_detector_model_config: {system_prompt: "Harm?", prompt_suffix: "Is it?", valid_tokens: ["0", "1"]}
"#;

/// A folder with an experiment and room for data.
pub(crate) struct Setting {
    folder: tempfile::TempDir,
}

impl Setting {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let class = folder.path().join("environments/talk");
        std::fs::create_dir_all(&class).unwrap();
        std::fs::create_dir_all(folder.path().join("experiments")).unwrap();
        std::fs::write(folder.path().join("experiments/demo.yaml"), EXPERIMENT).unwrap();
        std::fs::write(folder.path().join("models.yaml"), MODELS).unwrap();
        std::fs::write(class.join("_master_config.yaml"), MASTER).unwrap();
        for topic in ["tea", "rain"] {
            let mut text = format!("topic: {topic}\nhistories:\n");
            for state in 0..8 {
                text += &format!("  {state}: [{{role: environment, content: \"{topic} {state}?\"}}]\n");
            }
            std::fs::write(class.join(format!("{topic}.yaml")), text).unwrap();
        }
        Self { folder }
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    pub(crate) fn experiment(&self, set: &[(&str, &str)]) -> Experiment {
        let set: Vec<(String, String)> = set.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let file = self.folder.path().join("experiments/demo.yaml");
        Experiment::load(&file, None, &set, None, None).unwrap_or_else(|problems| panic!("{problems:?}"))
    }

    pub(crate) fn store(&self) -> Arc<dyn Store> {
        Arc::new(SqliteStore::open(&self.data().join("influence.sqlite")).unwrap())
    }
}

/// A coordinator in a runtime of its own: killing it ends every task at whatever instruction it
/// stands, and nothing is told goodbye.
pub(crate) struct Living {
    runtime: Option<Runtime>,
    pub(crate) opened: Opened,
    pub(crate) address: SocketAddr,
    pub(crate) progress: watch::Receiver<Progress>,
    pub(crate) end: tokio::task::JoinHandle<Result<(), RunError>>,
    pub(crate) cancel: CancellationToken,
}

impl Living {
    /// Opens the run of `experiment` and carries it on.
    pub(crate) async fn start(setting: &Setting, experiment: Experiment) -> Self {
        Self::guarded(setting, experiment, Access::default()).await
    }

    /// As `start`, for callers with these credentials.
    pub(crate) async fn guarded(setting: &Setting, experiment: Experiment, access: Access) -> Self {
        let data = setting.data();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let cancel = CancellationToken::new();
        let stop = cancel.clone();
        let (opened, handle) =
            runtime.spawn(async move { start(&data, experiment, access, stop).await }).await.unwrap();
        let (address, progress) = (handle.address, handle.progress.clone());
        let end = runtime.spawn(handle.wait());
        Self { runtime: Some(runtime), opened, address, progress, end, cancel }
    }

    pub(crate) fn run(&self) -> &RunId {
        self.opened.run()
    }

    /// As `kill -9`, but for the operating system's part.
    pub(crate) fn kill(mut self) {
        self.runtime.take().unwrap().shutdown_background();
    }

    /// Waits for the run's end.
    pub(crate) async fn end(mut self) -> Result<(), RunError> {
        let end = tokio::time::timeout(Duration::from_secs(60), &mut self.end).await.expect("the run ends").unwrap();
        self.runtime.take().unwrap().shutdown_background();
        end
    }
}

impl Drop for Living {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

async fn start(
    data: &Path,
    experiment: Experiment,
    access: Access,
    cancel: CancellationToken,
) -> (Opened, influence_coordinator::RunHandle) {
    let store: Arc<dyn Store> = Arc::new(SqliteStore::open(&data.join("influence.sqlite")).unwrap());
    let opened = open_run(store.as_ref(), &experiment, false).await.unwrap();
    let options = |leadership, artifacts| CoordinatorOptions {
        run: opened.run().clone(),
        leadership,
        store: store.clone(),
        artifacts,
        data: data.to_owned(),
        listen: "127.0.0.1:0".parse().unwrap(),
        access: access.clone(),
        reclaim: Duration::ZERO,
        store_patience: Some(Duration::from_secs(10)),
        budget: None,
        keeps_workers: false,
    };
    // A killed coordinator's runtime may take a moment to let go of the lead, as a dying process does.
    let (run, ttl) = (opened.run().clone(), Duration::from_secs(10));
    let lead = Leadership::wait(store.clone(), run, "test".into(), ttl, |_| {}, &cancel);
    let lead = tokio::time::timeout(Duration::from_secs(10), lead).await.expect("the lead is let go");
    let artifacts = Artifacts::open(data.join("artifacts"), &data.join("demo")).await.unwrap();
    let options = options(lead.unwrap().unwrap(), artifacts);
    let handle = Coordinator::start(options, experiment, cancel).await.unwrap();
    (opened, handle)
}
