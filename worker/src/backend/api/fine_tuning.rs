//! A server's interface for training a model, as OpenAI's is: files, jobs, and the new model's name.
//!
//! Jobs cost money, and what is sent may be carried out though its answer gets lost. So nothing is begun before it was
//! looked for: a file by its name, a job by its key or its file.

use std::sync::Arc;
use std::time::Duration;

use influence_proto::{Algorithm, ApiModel, Digest, FineTuningSpec};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::endpoint::{Content, Endpoint};
use super::failure::Failure;
use crate::backend::BackendError;

const JOBS: &str = "/fine_tuning/jobs";
const FILES: &str = "/files";
/// What a job's key stands under in its metadata.
const KEY: &str = "influence_job";
/// Entries of a list that are asked for at once.
const PAGE: usize = 100;
/// Pages of a list that are looked through; the newest come first.
const PAGES: usize = 50;
/// What was carried out, though its answer was lost, is in the list after so long.
const SETTLE: Duration = Duration::from_secs(2);
/// So long a new model may take until it is among the server's.
const ARRIVAL: Duration = Duration::from_secs(120);

/// The fine-tuning of one model at one server.
#[derive(Debug, Clone)]
pub struct FineTuning {
    endpoint: Arc<Endpoint>,
    api: ApiModel,
}

/// A job as it is asked for.
#[derive(Debug, Clone, Copy)]
pub struct JobRequest<'a> {
    /// The same for every attempt of one job, and for no other job.
    pub key: &'a str,
    /// The job's name here, for people.
    pub work: &'a str,
    /// The uploaded rows, by the server's name.
    pub file: &'a str,
    /// The loss.
    pub algorithm: Algorithm,
    /// How it is optimised.
    pub tuning: &'a FineTuningSpec,
    /// Of the server's random choices.
    pub seed: u64,
}

/// A job as its server shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FineTuningJob {
    /// The server's name for it.
    pub id: String,
    /// How it stands.
    pub state: JobState,
    file: Option<String>,
    key: Option<String>,
}

/// How a job stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JobState {
    /// It waits or runs, as in `queued`.
    Going(String),
    /// There is a new model.
    Succeeded {
        /// Its name.
        model: String,
        /// Tokens that are billed, where the server tells.
        tokens: u64,
    },
    /// It came to another end.
    Ended {
        /// As in `failed`.
        status: String,
        /// In the server's words.
        reason: String,
    },
}

/// What a server tells of a step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct TuningStep {
    pub(crate) step: u32,
    /// In all; 0 where it is not told.
    pub(crate) steps: u32,
    pub(crate) loss: f64,
}

impl FineTuning {
    pub(super) fn new(endpoint: Arc<Endpoint>, api: ApiModel) -> Self {
        Self { endpoint, api }
    }

    /// Where its paths begin.
    pub fn url(&self) -> &str {
        &self.api.url
    }

    /// What the training of so many billed tokens costs, in nanodollars.
    pub(crate) fn cost(&self, tokens: u64) -> u64 {
        self.api.price.map_or(0, |price| price.of_training(tokens))
    }

    /// Whether the key may list jobs. Nothing is begun.
    ///
    /// # Errors
    /// The server's refusal, or that it does not answer.
    pub async fn look(&self) -> Result<(), BackendError> {
        self.first(JOBS, "limit=1", |_| Some(())).await.map(|_| ())
    }

    /// The file of this name and size, uploaded unless it is there.
    ///
    /// # Errors
    /// The server refuses it, does not answer, or answers wrongly for too long.
    pub(crate) async fn upload(&self, name: &str, rows: &[u8]) -> Result<String, BackendError> {
        let boundary = format!("influence-{}", Digest::of(rows));
        let body = multipart(&boundary, name, rows);
        let kind = format!("multipart/form-data; boundary={boundary}");
        let mut tries = self.endpoint.tries();
        loop {
            if let Some(file) = self.file(name, rows.len()).await? {
                return Ok(file);
            }
            let sent = self.endpoint.once(FILES, Content { kind: &kind, bytes: &body }).await;
            let failure = match sent.map(|answer| plain_id(&answer)) {
                Ok(Some(id)) => return Ok(id),
                Ok(None) => Failure::Broken("the answer names no file (`id`)".to_owned()),
                Err(failure) => failure,
            };
            self.endpoint.again(failure, &mut tries, FILES).await.map_err(|failure| self.explain(failure))?;
            sleep(SETTLE).await;
        }
    }

    /// A file of the server by its name and size. Without a list there is none: that costs an upload, and no more.
    async fn file(&self, name: &str, size: usize) -> Result<Option<String>, BackendError> {
        let query = format!("purpose=fine-tune&limit={PAGE}");
        let found = self.first(FILES, &query, |file| {
            let same = file["filename"] == name && file["bytes"].as_u64() == Some(size as u64);
            plain_id(file).filter(|_| same && file["status"] != "error")
        });
        match found.await {
            Err(BackendError::Refused(_)) => Ok(None),
            found => found,
        }
    }

    /// The job of a key, begun unless there is one that has not failed.
    ///
    /// # Errors
    /// As [`Self::upload`]; also where the server lists no jobs, for then one that was begun could not be found again.
    pub(crate) async fn begin(&self, request: &JobRequest<'_>) -> Result<FineTuningJob, BackendError> {
        let mut tries = self.endpoint.tries();
        let mut with_metadata = true;
        loop {
            if let Some(job) = self.find(request).await? {
                return Ok(job);
            }
            let body = request.body(&self.api.model, with_metadata).to_string();
            let failure = match self.endpoint.once(JOBS, Content::json(&body)).await {
                Ok(answer) => match read_job(&answer) {
                    Ok(job) => return Ok(job),
                    Err(problem) => Failure::Broken(problem),
                },
                // Not every server knows it; the file tells a job as well.
                Err(Failure::Refused { status: 400 | 422, reason })
                    if with_metadata && reason.to_lowercase().contains("metadata") =>
                {
                    with_metadata = false;
                    continue;
                }
                Err(failure) => failure,
            };
            self.endpoint.again(failure, &mut tries, JOBS).await.map_err(|failure| self.explain(failure))?;
            sleep(SETTLE).await;
        }
    }

    async fn find(&self, request: &JobRequest<'_>) -> Result<Option<FineTuningJob>, BackendError> {
        let query = format!("limit={PAGE}");
        let found = self.first(JOBS, &query, |value| {
            read_job(value).ok().filter(|job| {
                let ours = job.key.as_deref() == Some(request.key) || job.file.as_deref() == Some(request.file);
                ours && !matches!(job.state, JobState::Ended { .. })
            })
        });
        found.await.map_err(|error| match error {
            BackendError::Refused(reason) => BackendError::Refused(format!(
                "{reason}; without its list of jobs, one that was begun could not be found again, and would be paid twice"
            )),
            error => error,
        })
    }

    /// How a job stands.
    ///
    /// # Errors
    /// As [`Self::upload`].
    pub(crate) async fn job(&self, id: &str) -> Result<FineTuningJob, BackendError> {
        let path = format!("{JOBS}/{id}");
        let mut tries = self.endpoint.tries();
        loop {
            let failure = match self.endpoint.get(&path).await {
                Ok(answer) => match read_job(&answer) {
                    Ok(mut job) => {
                        if let JobState::Ended { reason, .. } = &mut job.state {
                            *reason = self.endpoint.without_key(reason);
                        }
                        return Ok(job);
                    }
                    Err(problem) => Failure::Broken(problem),
                },
                Err(failure) => failure,
            };
            self.endpoint.again(failure, &mut tries, &path).await.map_err(|failure| self.explain(failure))?;
        }
    }

    /// What the server tells of a job's steps, in their order: of the last ones, or of `all`. Nothing where it tells
    /// nothing: they are for people.
    pub(crate) async fn steps(&self, job: &str, all: bool) -> Vec<TuningStep> {
        let (mut steps, mut after) = (Vec::new(), String::new());
        for _ in 0..if all { PAGES } else { 1 } {
            let page = match self.endpoint.get(&format!("{JOBS}/{job}/events?limit={PAGE}{after}")).await {
                Ok(page) => page,
                Err(failure) => {
                    tracing::debug!(job, ?failure, "the steps of a fine-tuning are not told");
                    break;
                }
            };
            steps.extend(entries(&page).iter().filter_map(step));
            match next_page(&page) {
                Some(next) => after = format!("&after={next}"),
                None => break,
            }
        }
        steps.sort_by_key(|step| step.step);
        steps.dedup_by_key(|step| step.step);
        steps
    }

    /// Waits until a new model is among the server's. One that does not come, or a server without a list, is left to who
    /// asks it.
    pub(crate) async fn arrival(&self, model: &str) {
        let until = Instant::now() + ARRIVAL;
        while Instant::now() < until {
            match self.endpoint.models().await {
                Ok(Some(models)) if models.iter().any(|known| known == model) => return,
                Ok(Some(_)) => sleep(SETTLE).await,
                Ok(None) | Err(_) => return,
            }
        }
        tracing::warn!(url = %self.api.url, model, "the server does not list its new model");
    }

    /// The first entry of a list that is `wanted`; the newest come first.
    async fn first<T>(
        &self,
        path: &str,
        query: &str,
        wanted: impl Fn(&Value) -> Option<T>,
    ) -> Result<Option<T>, BackendError> {
        let mut after = String::new();
        for _ in 0..PAGES {
            let page = self.endpoint.read(&format!("{path}?{query}{after}")).await.map_err(|f| self.explain(f))?;
            if let Some(found) = entries(&page).iter().find_map(&wanted) {
                return Ok(Some(found));
            }
            match next_page(&page) {
                Some(next) => after = format!("&after={next}"),
                None => break,
            }
        }
        Ok(None)
    }

    fn explain(&self, failure: Failure) -> BackendError {
        self.endpoint.explain(failure)
    }
}

impl JobRequest<'_> {
    fn body(&self, model: &str, with_metadata: bool) -> Value {
        let FineTuningSpec { start, epochs, batch_size, learning_rate_multiplier, suffix } = self.tuning;
        let mut settings = json!({"n_epochs": epochs, "batch_size": batch_size});
        if let Some(multiplier) = learning_rate_multiplier {
            settings["learning_rate_multiplier"] = (*multiplier).into();
        }
        let kind = match self.algorithm {
            Algorithm::Dpo { beta } => {
                settings["beta"] = beta.into();
                "dpo"
            }
            Algorithm::Sft | Algorithm::Kto { .. } => "supervised",
        };
        let mut body = json!({
            "model": start.as_deref().unwrap_or(model),
            "training_file": self.file,
            "suffix": suffix,
            // Servers differ in how wide a seed may be; all take 31 bits.
            "seed": self.seed >> 33,
            "method": {"type": kind, kind: {"hyperparameters": settings}},
        });
        if with_metadata {
            body["metadata"] = json!({KEY: self.key, "influence_work": self.work});
        }
        body
    }
}

/// A form of a purpose and a file.
fn multipart(boundary: &str, name: &str, rows: &[u8]) -> Vec<u8> {
    let head = format!(
        "--{boundary}\r\nContent-Disposition: form-data; name=\"purpose\"\r\n\r\nfine-tune\r\n\
         --{boundary}\r\nContent-Disposition: form-data; name=\"file\"; filename=\"{name}\"\r\n\
         Content-Type: application/jsonl\r\n\r\n"
    );
    [head.as_bytes(), rows, format!("\r\n--{boundary}--\r\n").as_bytes()].concat()
}

fn entries(page: &Value) -> &[Value] {
    page.get("data").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

/// The entry after which a list goes on, if it does.
fn next_page(page: &Value) -> Option<String> {
    let more = page.get("has_more").and_then(Value::as_bool) == Some(true);
    plain_id(entries(page).last()?).filter(|_| more)
}

/// The id of something, if it can stand in an address.
fn plain_id(value: &Value) -> Option<String> {
    let id = value.get("id")?.as_str()?;
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.:".contains(c);
    (!id.is_empty() && id.len() <= 256 && id.chars().all(plain)).then(|| id.to_owned())
}

fn read_job(value: &Value) -> Result<FineTuningJob, String> {
    let text = |key: &str| value.get(key).and_then(Value::as_str).map(str::to_owned);
    let id = plain_id(value).ok_or("the answer names no job (`id`)")?;
    let status = text("status").ok_or_else(|| format!("the job `{id}` has no `status`"))?;
    let state = match &*status {
        "succeeded" => {
            let model = text("fine_tuned_model").filter(|model| !model.is_empty());
            let model = model.ok_or_else(|| format!("the job `{id}` has succeeded without a `fine_tuned_model`"))?;
            if model.len() > 256 || !model.chars().all(|c| c.is_ascii_graphic()) {
                return Err(format!("the job `{id}` has a `fine_tuned_model` that is no name"));
            }
            JobState::Succeeded { model, tokens: value["trained_tokens"].as_u64().unwrap_or(0) }
        }
        "failed" | "cancelled" => {
            let said = value["error"]["message"].as_str().filter(|said| !said.is_empty());
            let reason = said.unwrap_or("the server does not say why").chars();
            let reason = reason.take(500).map(|c| if c.is_control() { ' ' } else { c }).collect();
            JobState::Ended { status, reason }
        }
        _ => JobState::Going(status.chars().filter(|c| !c.is_control()).take(64).collect()),
    };
    let key = value["metadata"][KEY].as_str().map(str::to_owned);
    Ok(FineTuningJob { id, state, file: text("training_file"), key })
}

fn step(event: &Value) -> Option<TuningStep> {
    let data = event.get("data")?;
    let number = |key: &str| data.get(key).and_then(Value::as_u64).and_then(|n| u32::try_from(n).ok());
    let loss = data.get("train_loss").and_then(Value::as_f64).filter(|loss| loss.is_finite())?;
    Some(TuningStep { step: number("step")?, steps: number("total_steps").unwrap_or(0), loss })
}

#[cfg(test)]
#[path = "fine_tuning_tests.rs"]
mod tests;
