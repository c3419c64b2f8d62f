//! A server with a fine-tuning API, for tests: the shapes of OpenAI's, as its reference and its clients have them, and the
//! faults that such servers have. What a job makes is a model of a new name, whose replies name it.
#![allow(dead_code, clippy::unwrap_used, reason = "shared by several test programs")]

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, Method, Response, Uri};
use serde_json::{Value, json};
use tokio::runtime::Runtime;

/// The key that it takes.
pub(crate) const KEY: &str = "sk-tuning-1234567890";
/// The model that it can train.
pub(crate) const BASE: &str = "gpt-small";
/// Entries of a list that it shows at once, however many are asked for.
const PAGE: usize = 2;
/// Looks at a job until it runs, and until it ends.
const LOOKS: (usize, usize) = (2, 4);
/// What a job bills for each byte of its rows and epoch.
const TOKENS_PER_BYTE: u64 = 1;

/// What goes wrong with a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Refused with this status, and nothing is done.
    Status(u16),
    /// Done, and the connection is cut in the answer.
    Cut,
    /// Done, and answered with 500.
    Lost,
    /// Done, and answered by what is no JSON.
    Garbage,
}

/// A file that was uploaded.
#[derive(Debug, Clone)]
pub(crate) struct File {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) text: String,
}

/// A job that was begun.
#[derive(Debug, Clone)]
pub(crate) struct Job {
    pub(crate) id: String,
    pub(crate) body: Value,
    pub(crate) looks: usize,
    /// Why it fails, if it does.
    pub(crate) fails: Option<String>,
}

/// What the server has and does.
#[derive(Debug, Default)]
pub(crate) struct Books {
    pub(crate) files: Vec<File>,
    pub(crate) jobs: Vec<Job>,
    /// The next faults, each of the next request whose method and path begin so.
    pub(crate) faults: Vec<(&'static str, Fault)>,
    /// Requests by method and path.
    pub(crate) asked: BTreeMap<String, usize>,
    /// Jobs stay running.
    pub(crate) held: bool,
    /// The next job fails with these words.
    pub(crate) fails: Option<String>,
    /// It knows nothing of metadata.
    pub(crate) plain: bool,
    /// It takes whoever comes.
    pub(crate) keyless: bool,
    /// It does not count tokens.
    pub(crate) uncounted: bool,
    /// It lists no jobs.
    pub(crate) listless: bool,
}

/// The server, until it is dropped.
pub(crate) struct TuningServer {
    pub(crate) address: SocketAddr,
    books: Arc<Mutex<Books>>,
    runtime: Option<Runtime>,
}

impl TuningServer {
    pub(crate) fn start() -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let books: Arc<Mutex<Books>> = Arc::default();
        let app = Router::new().fallback(serve).with_state(books.clone());
        runtime.spawn(async move {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            axum::serve(listener, app).await
        });
        Self { address, books, runtime: Some(runtime) }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}/v1", self.address)
    }

    /// One at a time: the server needs them too.
    pub(crate) fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap()
    }

    /// How many files and jobs there are.
    pub(crate) fn counts(&self) -> (usize, usize) {
        let books = self.books();
        (books.files.len(), books.jobs.len())
    }
}

impl Drop for TuningServer {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Job {
    /// The name of its model.
    pub(crate) fn model(&self) -> String {
        let base = self.body["model"].as_str().unwrap().split(':').nth(1).unwrap_or(BASE);
        format!("ft:{base}:lab:{}:{}", self.body["suffix"].as_str().unwrap(), self.id)
    }

    fn status(&self, held: bool) -> &'static str {
        match self.looks {
            0 => "validating_files",
            1 => "queued",
            _ if held => "running",
            looks if looks < LOOKS.1 => "running",
            _ if self.fails.is_some() => "failed",
            _ => "succeeded",
        }
    }
}

impl Books {
    fn known(&self, model: &str) -> bool {
        model == BASE || self.jobs.iter().any(|job| job.status(self.held) == "succeeded" && job.model() == model)
    }

    fn file(&self, file: &File) -> Value {
        json!({
            "id": file.id, "object": "file", "bytes": file.text.len(), "created_at": 1, "filename": file.name,
            "purpose": "fine-tune", "status": "processed",
        })
    }

    fn job(&self, job: &Job) -> Value {
        let status = job.status(self.held);
        let done = status == "succeeded";
        let rows = self.files.iter().find(|file| job.body["training_file"] == *file.id);
        let kind = job.body["method"]["type"].as_str().unwrap();
        let epochs = job.body["method"][kind]["hyperparameters"]["n_epochs"].as_u64().unwrap();
        let tokens = rows.map_or(0, |file| file.text.len() as u64) * TOKENS_PER_BYTE * epochs;
        let error = job.fails.as_ref().filter(|_| status == "failed");
        json!({
            "object": "fine_tuning.job", "id": job.id, "model": job.body["model"], "created_at": 1,
            "finished_at": done.then_some(2), "fine_tuned_model": done.then(|| job.model()),
            "organization_id": "org-lab", "result_files": [], "status": status, "validation_file": null,
            "training_file": job.body["training_file"], "trained_tokens": done.then_some(tokens),
            "error": error.map_or(json!({}), |said| json!({"code": "bad", "message": said, "param": null})),
            "seed": job.body["seed"], "method": job.body["method"], "metadata": job.body["metadata"],
        })
    }

    fn events(&self, job: &Job) -> Vec<Value> {
        let step = |step: usize| {
            let loss = 3.0 / step as f64;
            json!({
                "object": "fine_tuning.job.event", "id": format!("ftevent-{step}"), "created_at": step, "level": "info",
                "message": format!("Step {step}/4: training loss={loss:.2}"), "type": "metrics",
                "data": {"step": step, "total_steps": 4, "train_loss": loss},
            })
        };
        let made = json!({
            "object": "fine_tuning.job.event", "id": "ftevent-0", "created_at": 0, "level": "info",
            "message": "Created fine-tuning job", "type": "message", "data": {},
        });
        let steps = if job.looks < LOOKS.0 { 0 } else { 4 };
        (1..=steps).rev().map(step).chain([made]).collect()
    }

    /// Carries a request out.
    fn answer(&mut self, method: &Method, path: &str, query: &str, headers: &HeaderMap, body: &[u8]) -> (u16, Value) {
        match (method.as_str(), path) {
            ("GET", "/v1/models") => {
                let tuned = self.jobs.iter().map(Job::model).filter(|model| self.known(model));
                let all = [BASE.to_owned()].into_iter().chain(tuned);
                (200, json!({"data": all.map(|id| json!({"id": id, "object": "model"})).collect::<Vec<_>>()}))
            }
            ("GET", "/v1/files") => {
                let all = self.files.iter().rev().map(|file| self.file(file)).collect();
                page(all, query)
            }
            ("POST", "/v1/files") => self.upload(headers, body),
            ("GET", "/v1/fine_tuning/jobs") if self.listless => refusal(404, "unknown path"),
            ("GET", "/v1/fine_tuning/jobs") => {
                let all = self.jobs.iter().rev().map(|job| self.job(job)).collect();
                page(all, query)
            }
            ("POST", "/v1/fine_tuning/jobs") => self.begin(body),
            ("GET", path) => self.look(path.strip_prefix("/v1/fine_tuning/jobs/").unwrap_or_default(), query),
            ("POST", "/v1/chat/completions") => self.chat(body),
            _ => refusal(404, "unknown path"),
        }
    }

    fn look(&mut self, path: &str, query: &str) -> (u16, Value) {
        let (id, what) = path.split_once('/').unwrap_or((path, ""));
        let Some(place) = self.jobs.iter().position(|job| job.id == id) else {
            return refusal(404, "there is no such job");
        };
        match what {
            "" => {
                let shown = self.job(&self.jobs[place]);
                self.jobs[place].looks += 1;
                (200, shown)
            }
            "events" => page(self.events(&self.jobs[place]), query),
            _ => refusal(404, "unknown path"),
        }
    }

    fn upload(&mut self, headers: &HeaderMap, body: &[u8]) -> (u16, Value) {
        let kind = headers["content-type"].to_str().unwrap();
        let Some(boundary) = kind.strip_prefix("multipart/form-data; boundary=") else {
            return refusal(400, "a form is wanted");
        };
        let text = String::from_utf8(body.to_vec()).unwrap();
        let (mut purpose, mut file) = (None, None);
        for part in text.split(&format!("--{boundary}")) {
            let Some((head, content)) = part.split_once("\r\n\r\n") else { continue };
            let content = content.strip_suffix("\r\n").unwrap();
            if head.contains("name=\"purpose\"") {
                purpose = Some(content.to_owned());
            } else if let Some((_, name)) = head.split_once("filename=\"") {
                file = Some((name.split('"').next().unwrap().to_owned(), content.to_owned()));
            }
        }
        let (Some("fine-tune"), Some((name, text))) = (purpose.as_deref(), file) else {
            return refusal(400, "purpose and file are wanted");
        };
        let file = File { id: format!("file-{}", self.files.len()), name, text };
        let shown = self.file(&file);
        self.files.push(file);
        (200, shown)
    }

    fn begin(&mut self, body: &[u8]) -> (u16, Value) {
        let body: Value = serde_json::from_slice(body).unwrap();
        let known = ["model", "training_file", "suffix", "seed", "method", "metadata"];
        if let Some(other) = body.as_object().unwrap().keys().find(|key| !known.contains(&key.as_str())) {
            return refusal(400, &format!("Unknown parameter: '{other}'"));
        }
        if self.plain && !body["metadata"].is_null() {
            return refusal(400, "Unknown parameter: 'metadata'");
        }
        if !self.known(body["model"].as_str().unwrap_or_default()) {
            return refusal(404, "there is no such model");
        }
        let Some(file) = self.files.iter().find(|file| body["training_file"] == *file.id) else {
            return refusal(400, "there is no such file");
        };
        let kind = body["method"]["type"].as_str().unwrap_or_default();
        for line in file.text.lines() {
            if let Err(problem) = check_row(&serde_json::from_str(line).unwrap(), kind) {
                return refusal(400, &problem);
            }
        }
        let id = format!("ftjob-{}", self.jobs.len());
        self.jobs.push(Job { id, body, looks: 0, fails: self.fails.take() });
        (200, self.job(self.jobs.last().unwrap()))
    }

    fn chat(&self, body: &[u8]) -> (u16, Value) {
        let body: Value = serde_json::from_slice(body).unwrap();
        let model = body["model"].as_str().unwrap();
        if !self.known(model) {
            return refusal(404, &format!("The model `{model}` does not exist"));
        }
        let system = body["messages"][0]["content"].as_str().unwrap_or_default();
        let tokens: &[(&str, f64)] = match system.split(' ').next() {
            Some("Rate") => &[("7", 0.5), ("10", 0.25), ("1", 0.125)],
            Some("Does") => &[("yes", 0.9), ("no", 0.1)],
            Some("Is") => &[("0", 0.75), ("1", 0.25)],
            _ => &[],
        };
        let entry = |(token, p): &(&str, f64)| json!({"token": token, "logprob": p.ln()});
        let listed: Vec<Value> = tokens.iter().map(entry).collect();
        // Siblings reply differently.
        let said = format!("I am {model}, {}.", body["seed"]);
        let mut choice = json!({"message": {"content": said}, "finish_reason": "stop"});
        if let Some(first) = listed.first() {
            let mut first = first.clone();
            first["top_logprobs"] = listed.clone().into();
            choice["logprobs"] = json!({"content": [first]});
        }
        let usage = if self.uncounted { json!(null) } else { json!({"prompt_tokens": 9, "completion_tokens": 2}) };
        (200, json!({"choices": [choice], "usage": usage}))
    }
}

/// What OpenAI's validation of files asks for.
fn check_row(row: &Value, kind: &str) -> Result<(), String> {
    let messages = |value: &Value| -> Result<Vec<String>, String> {
        let mut roles = Vec::new();
        for message in value.as_array().ok_or("messages are missing")? {
            let role = message["role"].as_str().unwrap_or_default();
            let weight = &message["weight"];
            if !["system", "user", "assistant"].contains(&role) || !message["content"].is_string() {
                return Err(format!("no message: {message}"));
            }
            if !weight.is_null() && (role != "assistant" || !(*weight == 0 || *weight == 1)) {
                return Err(format!("no weight: {message}"));
            }
            roles.push(role.to_owned());
        }
        Ok(roles)
    };
    let alone = |value: &Value| Ok::<bool, String>(messages(value)? == ["assistant"]);
    let fine = match kind {
        "supervised" => messages(&row["messages"])?.last().is_some_and(|role| role == "assistant"),
        "dpo" => {
            messages(&row["input"]["messages"])?.last().is_some_and(|role| role == "user")
                && alone(&row["preferred_output"])?
                && alone(&row["non_preferred_output"])?
        }
        _ => return Err(format!("Invalid method: {kind}")),
    };
    if fine { Ok(()) } else { Err(format!("no row of {kind}: {row}")) }
}

/// A part of a list, by `limit` and `after`.
fn page(all: Vec<Value>, query: &str) -> (u16, Value) {
    let of = |key: &str| query.split('&').find_map(|pair| pair.strip_prefix(key)?.strip_prefix('='));
    let limit = of("limit").map_or(PAGE, |limit| limit.parse().unwrap()).min(PAGE);
    let start = of("after").map_or(0, |after| 1 + all.iter().position(|value| value["id"] == after).unwrap());
    let shown: Vec<Value> = all.iter().skip(start).take(limit).cloned().collect();
    let more = start + shown.len() < all.len();
    (200, json!({"object": "list", "data": shown, "has_more": more}))
}

fn refusal(status: u16, message: &str) -> (u16, Value) {
    (status, json!({"error": {"message": message, "type": "invalid_request_error"}}))
}

async fn serve(
    State(books): State<Arc<Mutex<Books>>>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response<Body> {
    let mut books = books.lock().unwrap();
    let reply = |status: u16| Response::builder().status(status);
    let (path, query) = (uri.path(), uri.query().unwrap_or_default());
    let asked = format!("{method} {path}");
    *books.asked.entry(asked.clone()).or_default() += 1;
    if !books.keyless && headers.get("authorization").is_none_or(|key| *key != format!("Bearer {KEY}")) {
        let (status, said) = refusal(401, "Incorrect API key provided");
        return reply(status).body(Body::from(said.to_string())).unwrap();
    }
    let place = books.faults.iter().position(|(of, _)| asked.starts_with(of));
    let fault = place.map(|place| books.faults.remove(place).1);
    if let Some(Fault::Status(status)) = fault {
        let (_, said) = refusal(status, &format!("trouble with {KEY}"));
        return reply(status).header("retry-after", "1").body(Body::from(said.to_string())).unwrap();
    }
    let (status, answer) = books.answer(&method, path, query, &headers, &body);
    match fault {
        Some(Fault::Cut) => {
            let cut = futures::stream::iter([Ok(Bytes::from("{")), Err(std::io::Error::other("cut"))]);
            reply(status).body(Body::from_stream(cut)).unwrap()
        }
        Some(Fault::Lost) => reply(500).body(Body::from("{}")).unwrap(),
        Some(Fault::Garbage) => reply(200).body(Body::from("<html>")).unwrap(),
        _ => reply(status).body(Body::from(answer.to_string())).unwrap(),
    }
}
