//! A training job that the model's server does: rows up, a job begun once, and waited for by whoever has the lease.

use std::path::{Path, PathBuf};
use std::time::Duration;

use influence_proto::{Digest, StepLoss, TrainedAgent, TrainingBackend, TrainingReport, TrainingSpec};
use serde::{Deserialize, Serialize};

use super::job::remove_old_states;
use super::{FineTuningError, Handover, TrainingError};
use crate::artifacts::ArtifactCache;
use crate::backend::{FineTuning, JobRequest, JobState};
use crate::session::Leases;

/// Between two looks at a job: the first, and the longest. Servers take minutes to hours.
const FIRST_LOOK: Duration = Duration::from_millis(500);
const LONGEST_LOOK: Duration = Duration::from_secs(60);
/// For a state's way to the coordinator. It is also kept here, and the server can be asked.
const SHARING: Duration = Duration::from_secs(30);
/// Losses that a report has at most.
const LOSSES: usize = 500;

/// What a job needs besides its spec.
pub(crate) struct ServedJob<'a> {
    pub(crate) server: &'a FineTuning,
    pub(crate) artifacts: &'a ArtifactCache,
    /// For the state.
    pub(crate) scratch: &'a Path,
    /// While they have run out, another worker may be at the same job.
    pub(crate) leases: &'a Leases,
    /// Is told of every sign of life, with step, steps and loss where they are known.
    pub(crate) moved: &'a (dyn Fn(Option<(u32, u32, f64)>) + Send + Sync),
}

/// How far a job has come. Whoever takes it up goes on from there.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct State {
    /// Of which job.
    key: String,
    /// The uploaded rows, by the server's name.
    file: Option<String>,
    /// The job, by the server's name.
    job: Option<String>,
}

/// Has the server train. A job that an earlier attempt has begun is gone on with, even where nothing is left of that attempt.
pub(crate) async fn run_at_server(
    served: ServedJob<'_>,
    spec: &TrainingSpec,
    handover: &Handover,
) -> Result<TrainingReport, TrainingError> {
    let disk = |e: std::io::Error| TrainingError::Local(format!("{}: {e}", served.scratch.display()));
    std::fs::create_dir_all(served.scratch).map_err(disk)?;
    remove_old_states(served.scratch);
    let job = serde_json::to_string(spec).map_err(|e| TrainingError::Local(e.to_string()))?;
    let key = Digest::of(format!("{} {} {job}", served.server.url(), handover.work)).to_string();
    let file = served.scratch.join(format!("{key}.checkpoint"));
    let states = [std::fs::read(&file).ok(), handover.left(served.artifacts).await];
    let state = states.into_iter().flatten().filter_map(|text| serde_json::from_slice::<State>(&text).ok());
    let state = state.filter(|state| state.key == key).max_by_key(|state| (state.job.is_some(), state.file.is_some()));
    let attempt = Attempt { served, spec, handover, file };
    let report = attempt.run(state.unwrap_or_else(|| State { key, ..State::default() })).await;
    // What cannot succeed must not be what the next attempt goes on with.
    let is_over = |error: &TrainingError| match error {
        TrainingError::FineTuning(FineTuningError::Server(error)) => !error.retryable(),
        TrainingError::FineTuning(FineTuningError::Ended { .. }) => true,
        _ => false,
    };
    if report.as_ref().err().is_none_or(is_over) {
        let _ = std::fs::remove_file(&attempt.file);
    }
    report
}

struct Attempt<'a> {
    served: ServedJob<'a>,
    spec: &'a TrainingSpec,
    handover: &'a Handover,
    /// For the state.
    file: PathBuf,
}

impl Attempt<'_> {
    async fn run(&self, mut state: State) -> Result<TrainingReport, TrainingError> {
        let TrainingBackend::Api(tuning) = &self.spec.backend else {
            return Err(TrainingError::Setting("the job is a worker's, not a server's".to_owned()));
        };
        let (server, work) = (self.served.server, &self.handover.work);
        let dataset = self.served.artifacts.get(self.spec.dataset).await?;
        let rows = tokio::fs::read(&*dataset).await;
        let rows = rows.map_err(|e| TrainingError::Local(format!("{}: {e}", dataset.display())))?;
        let uploaded = match state.file.clone() {
            Some(file) => file,
            None => {
                let plain = work.as_str().replace(':', "-");
                self.served.leases.alive().await;
                let name = format!("{plain}-{}.jsonl", state.key.chars().take(16).collect::<String>());
                let file = server.upload(&name, &rows).await.map_err(FineTuningError::from)?;
                tracing::info!(%work, url = server.url(), %file, bytes = rows.len(), "the rows are uploaded");
                state.file = Some(file.clone());
                self.record(&state).await?;
                file
            }
        };
        (self.served.moved)(None);
        let job = match state.job.clone() {
            Some(job) => job,
            None => {
                let TrainingSpec { algorithm, seed, .. } = *self.spec;
                let (key, file) = (&*state.key, &*uploaded);
                self.served.leases.alive().await;
                let request = JobRequest { key, work: work.as_str(), file, algorithm, tuning, seed };
                let job = server.begin(&request).await.map_err(FineTuningError::from)?.id;
                tracing::info!(%work, url = server.url(), %job, "a fine-tuning job is under way");
                state.job = Some(job.clone());
                self.record(&state).await?;
                job
            }
        };
        let (model, tokens) = self.end_of(&job).await?;
        server.arrival(&model).await;
        let steps = server.steps(&job, true).await;
        let every = steps.len().div_ceil(LOSSES).max(1);
        let losses = steps.iter().rev().step_by(every).map(|step| StepLoss { step: step.step, loss: step.loss });
        let mut losses: Vec<StepLoss> = losses.collect();
        losses.reverse();
        let lines = rows.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).count();
        Ok(TrainingReport {
            agent: TrainedAgent::Served { model: model.into() },
            steps: steps.last().map_or(0, |step| step.step),
            rows: u32::try_from(lines).unwrap_or(u32::MAX),
            dropped_rows: 0,
            tokens,
            first_loss: steps.first().map(|step| step.loss),
            last_loss: steps.last().map(|step| step.loss),
            losses,
            nanodollars: server.cost(tokens),
        })
    }

    /// Waits for a job's end: the new model, and the tokens that are billed.
    async fn end_of(&self, job: &str) -> Result<(String, u64), TrainingError> {
        let (server, mut wait, mut last) = (self.served.server, FIRST_LOOK, String::new());
        loop {
            match server.job(job).await.map_err(FineTuningError::from)?.state {
                JobState::Succeeded { model, tokens } => {
                    tracing::info!(work = %self.handover.work, job, %model, tokens, "a fine-tuning job has succeeded");
                    return Ok((model, tokens));
                }
                JobState::Ended { status, reason } => {
                    let (job, url) = (job.to_owned(), server.url().to_owned());
                    return Err(FineTuningError::Ended { job, url, status, reason }.into());
                }
                JobState::Going(status) if status != last => {
                    tracing::info!(work = %self.handover.work, job, %status, "a fine-tuning job");
                    last = status;
                }
                JobState::Going(_) => {}
            }
            let step = server.steps(job, false).await.last().map(|step| (step.step, step.steps, step.loss));
            (self.served.moved)(step);
            tokio::time::sleep(wait).await;
            wait = wait.mul_f64(1.5).min(LONGEST_LOOK);
        }
    }

    /// Keeps the state here, and at the coordinator for whoever else may have to go on.
    async fn record(&self, state: &State) -> Result<(), TrainingError> {
        let text = serde_json::to_vec(state).map_err(|e| TrainingError::Local(e.to_string()))?;
        let partial = self.file.with_extension(format!("{}.partial", std::process::id()));
        let kept = std::fs::write(&partial, text).and_then(|()| std::fs::rename(&partial, &self.file));
        kept.map_err(|e| TrainingError::Local(format!("{}: {e}", self.file.display())))?;
        match tokio::time::timeout(SHARING, self.handover.upload(self.served.artifacts, &self.file)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::warn!(work = %self.handover.work, %error, "a training's state was not uploaded");
            }
            Err(_) => tracing::warn!(work = %self.handover.work, "a training's state was not uploaded in time"),
        }
        Ok(())
    }
}
