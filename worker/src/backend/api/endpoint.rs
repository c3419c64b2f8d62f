//! One server: requests go out as its window allows, and are repeated while there is hope.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use influence_proto::{ApiLimits, ApiProtocol};
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use reqwest::{Client, Method};
use serde_json::Value;
use tokio::time::{Instant, sleep};

use super::cache::{Request, ResponseCache};
use super::failure::Failure;
use super::gate::{Gate, Sign};
use super::tries::{Repeating, Tries};
use crate::backend::BackendError;
use crate::metrics;

/// So long a request is repeated while the server has too much to do or is away.
const PATIENCE: Duration = Duration::from_secs(600);
/// The same at start, when somebody may have mistyped an address.
const FIRST_PATIENCE: Duration = Duration::from_secs(20);
/// So often a request is sent that is answered wrongly.
const TRIES: u32 = 8;
/// The most bytes of an answer.
const MOST_BYTES: usize = 16 << 20;
/// Bytes a second that a request with a large body gets through at least.
const SLOW: u64 = 100_000;
/// The version of Anthropic's interface that is spoken here.
const ANTHROPIC_VERSION: &str = "2023-06-01";

/// A server with one key.
pub(super) struct Endpoint {
    http: Client,
    url: String,
    /// Until a request is given up.
    timeout: Duration,
    /// To leave it out of what the server says.
    key: Option<String>,
    gate: Gate,
    cache: Option<ResponseCache>,
    /// Makes every request's waits its own.
    requests: AtomicU64,
    repeated: AtomicU64,
    /// Requests that were answered by a failure, and are made again.
    backing_off: Arc<AtomicU32>,
    tokens: AtomicU64,
    said_away: AtomicBool,
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Endpoint").field("url", &self.url).field("gate", &self.gate).finish_non_exhaustive()
    }
}

/// Whom to speak to, and how.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Address {
    pub(super) anthropic: bool,
    pub(super) url: String,
    pub(super) key_variable: Option<String>,
    pub(super) limits: ApiLimits,
}

impl Address {
    pub(super) fn new(protocol: ApiProtocol, url: &str, key_variable: Option<&str>, limits: ApiLimits) -> Self {
        let anthropic = protocol == ApiProtocol::Anthropic;
        Self { anthropic, url: url.to_owned(), key_variable: key_variable.map(str::to_owned), limits }
    }
}

/// What is sent.
#[derive(Debug, Clone, Copy)]
pub(super) struct Content<'a> {
    /// Its content type.
    pub(super) kind: &'a str,
    pub(super) bytes: &'a [u8],
}

impl<'a> Content<'a> {
    pub(super) const fn json(text: &'a str) -> Self {
        Self { kind: "application/json", bytes: text.as_bytes() }
    }
}

impl Endpoint {
    /// A server at an address; its key is read from the environment.
    ///
    /// # Errors
    /// In words: the key is missing or no header, or there can be no HTTP client.
    pub(super) fn new(address: &Address, cache: Option<PathBuf>) -> Result<Self, String> {
        // The first provider that a process installs is its provider.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let key = address.key_variable.as_deref().map(|variable| key_in(variable, &address.url)).transpose()?;
        let timeout = Duration::from_secs(address.limits.timeout_seconds.into());
        let http = Client::builder()
            .default_headers(headers(address.anthropic, key.as_deref())?)
            .user_agent(concat!("influence/", env!("CARGO_PKG_VERSION")))
            .timeout(timeout)
            .connect_timeout(Duration::from_secs(10))
            // A key must not follow to another host.
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .map_err(|e| format!("no HTTP client: {e}"))?;
        Ok(Self {
            http,
            url: address.url.clone(),
            timeout,
            key,
            gate: Gate::new(&address.limits),
            cache: cache.map(ResponseCache::new),
            requests: AtomicU64::new(0),
            repeated: AtomicU64::new(0),
            backing_off: Arc::default(),
            tokens: AtomicU64::new(0),
            said_away: AtomicBool::new(false),
        })
    }

    /// Sends a request of about so many tokens, as often as it takes, and reads its answer and the tokens that it used with
    /// `read`; an answer that cannot be read counts as broken. Also tells whether the server was asked: what is in the
    /// cache costs nothing.
    ///
    /// # Errors
    /// [`Failure::Refused`] as the server refuses it; else the last failure when it was repeated long enough.
    pub(super) async fn post<T>(
        &self,
        request: Request<'_>,
        tokens: u32,
        read: impl Fn(&Value) -> Result<(T, u32), String>,
    ) -> Result<(T, bool), Failure> {
        if let Some(cache) = &self.cache
            && let Some(known) = cache.get(&self.url, &request).await
            && let Ok((answer, _)) = read(&known)
        {
            return Ok((answer, false));
        }
        let mut tries = self.tries();
        loop {
            let pass = self.gate.enter(tokens).await;
            let sent = self.send(Method::POST, request.path, Some(Content::json(request.body))).await;
            let failure = match sent.and_then(|answer| {
                let (read, used) = read(&answer).map_err(Failure::Broken)?;
                Ok((read, used, answer))
            }) {
                Ok((value, used, answer)) => {
                    // A server that does not count leaves the estimate.
                    self.gate.window().correct(tokens, if used == 0 { tokens } else { used });
                    metrics::api_request("answered");
                    pass.end(Sign::Fine);
                    if self.said_away.swap(false, Ordering::Relaxed) {
                        tracing::warn!(url = %self.url, "the server answers again");
                    }
                    self.tokens.fetch_add(used.into(), Ordering::Relaxed);
                    if let Some(cache) = &self.cache {
                        cache.put(&self.url, &request, &answer).await;
                    }
                    return Ok((value, true));
                }
                Err(failure) => failure,
            };
            self.gate.window().correct(tokens, 0);
            let (sign, outcome) = match &failure {
                Failure::Refused { .. } => (Sign::None, "refused"),
                Failure::Overload { .. } => (Sign::Overload, "overload"),
                Failure::Broken(_) => (Sign::Overload, "broken"),
            };
            metrics::api_request(outcome);
            pass.end(sign);
            self.again(failure, &mut tries, request.path).await?;
        }
    }

    /// Has the server do something whose answer says nothing but that it was done.
    ///
    /// # Errors
    /// As [`Self::post`].
    pub(super) async fn command(&self, path: &str, body: &str) -> Result<(), Failure> {
        let mut tries = self.tries();
        loop {
            match self.send_text(Method::POST, path, Some(Content::json(body))).await {
                Ok(_) => return Ok(()),
                // An earlier try may have been carried out though its answer was lost.
                Err(Failure::Refused { reason, .. }) if tries.any() && reason.contains("already") => return Ok(()),
                Err(failure) => self.again(failure, &mut tries, path).await?,
            }
        }
    }

    /// Reads what is at a path, as often as it takes.
    ///
    /// # Errors
    /// As [`Self::post`].
    pub(super) async fn read(&self, path: &str) -> Result<Value, Failure> {
        let mut tries = self.tries();
        loop {
            match self.get(path).await {
                Ok(answer) => return Ok(answer),
                Err(failure) => self.again(failure, &mut tries, path).await?,
            }
        }
    }

    /// Reads what is at a path, by one request.
    pub(super) async fn get(&self, path: &str) -> Result<Value, Failure> {
        self.send(Method::GET, path, None).await
    }

    /// Sends something that may be carried out though its answer gets lost: once.
    pub(super) async fn once(&self, path: &str, content: Content<'_>) -> Result<Value, Failure> {
        self.send(Method::POST, path, Some(content)).await
    }

    /// Asks which models there are: whether the server is there and takes the key. None where it does not say.
    ///
    /// # Errors
    /// In words: it is away, or refuses the key.
    pub(super) async fn models(&self) -> Result<Option<Vec<String>>, String> {
        let mut tries = self.tries_for(FIRST_PATIENCE);
        loop {
            let failure = match self.send(Method::GET, "/models", None).await {
                Ok(answer) => {
                    let list = answer.get("data").and_then(Value::as_array);
                    let id = |model: &Value| Some(model.get("id")?.as_str()?.to_owned());
                    return Ok(list.map(|list| list.iter().filter_map(id).collect()));
                }
                Err(Failure::Refused { status: 401 | 403, reason }) => return Err(self.explain_key(&reason)),
                // Not every server has the list.
                Err(Failure::Refused { .. } | Failure::Broken(_)) => return Ok(None),
                Err(failure) => failure,
            };
            if let Err(failure) = self.again(failure, &mut tries, "/models").await {
                return Err(self.explain(failure).to_string());
            }
        }
    }

    /// Waits for the next try, unless there is none.
    pub(super) async fn again(&self, failure: Failure, tries: &mut Tries, path: &str) -> Result<(), Failure> {
        let (after, reason) = match &failure {
            Failure::Refused { .. } => return Err(failure),
            Failure::Overload { after, reason } => (after.unwrap_or_default(), reason),
            Failure::Broken(reason) => {
                if tries.broken.tries() + 1 >= TRIES {
                    return Err(failure);
                }
                (Duration::ZERO, reason)
            }
        };
        let now = Instant::now();
        let backoff = if matches!(failure, Failure::Broken(_)) { &mut tries.broken } else { &mut tries.overload };
        let wait = backoff.next().max(after);
        // From the first failure on: the time that a request stood in line is none of the server's.
        if now + wait > *tries.until.get_or_insert(now + tries.patience) {
            return Err(failure);
        }
        if !after.is_zero() {
            self.gate.window().hold(now + after);
        }
        let (count, window, away) = {
            let window = self.gate.window();
            (tries.overload.tries() + tries.broken.tries(), window.size(), window.away())
        };
        tracing::debug!(url = %self.url, path, count, window, wait_ms = wait.as_millis() as u64, %reason, "a request is repeated");
        // Said once each time, so that a person sees why nothing moves.
        if away && !self.said_away.swap(true, Ordering::Relaxed) {
            tracing::warn!(url = %self.url, %reason, "the server does not answer; its requests wait");
        }
        self.repeated.fetch_add(1, Ordering::Relaxed);
        tries.repeating.get_or_insert_with(|| Repeating::begin(&self.backing_off));
        sleep(wait).await;
        Ok(())
    }

    /// Requests that are made again and again now.
    pub(super) fn backing_off(&self) -> u32 {
        self.backing_off.load(Ordering::Relaxed)
    }

    /// Of a request that is made again for as long as a server may take.
    pub(super) fn tries(&self) -> Tries {
        self.tries_for(PATIENCE)
    }

    fn tries_for(&self, patience: Duration) -> Tries {
        Tries::new(self.requests.fetch_add(1, Ordering::Relaxed), patience)
    }

    async fn send(&self, method: Method, path: &str, content: Option<Content<'_>>) -> Result<Value, Failure> {
        let bytes = self.send_text(method, path, content).await?;
        serde_json::from_slice(&bytes).map_err(|e| Failure::Broken(format!("the answer is no JSON: {e}")))
    }

    async fn send_text(&self, method: Method, path: &str, content: Option<Content<'_>>) -> Result<Vec<u8>, Failure> {
        let mut request = self.http.request(method, format!("{}{path}", self.url));
        if let Some(Content { kind, bytes }) = content {
            request = request.header(CONTENT_TYPE, kind).body(bytes.to_owned());
            let on_its_way = Duration::from_secs(bytes.len() as u64 / SLOW);
            if !on_its_way.is_zero() {
                request = request.timeout(self.timeout + on_its_way);
            }
        }
        let mut response = request.send().await.map_err(Failure::of_transport)?;
        let (status, headers) = (response.status(), response.headers().clone());
        let mut bytes = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(Failure::of_transport)? {
            bytes.extend_from_slice(&chunk);
            if bytes.len() > MOST_BYTES {
                return Err(Failure::Broken(format!("the answer has more than {MOST_BYTES} bytes")));
            }
        }
        if !status.is_success() {
            let said = self.without_key(&String::from_utf8_lossy(&bytes));
            return Err(Failure::of_status(status, &headers, &said));
        }
        Ok(bytes)
    }

    /// What a server says, which may be what it was sent.
    pub(super) fn without_key(&self, said: &str) -> String {
        self.key.as_ref().map_or_else(|| said.to_owned(), |key| said.replace(key, "[key]"))
    }

    /// A failure in the words of whoever asked.
    pub(super) fn explain(&self, failure: Failure) -> BackendError {
        let url = &self.url;
        match failure {
            Failure::Refused { status: 401 | 403, reason } => BackendError::Refused(self.explain_key(&reason)),
            Failure::Refused { reason, .. } => BackendError::Refused(format!("{url} refuses the request: {reason}")),
            Failure::Overload { reason, .. } => BackendError::Unavailable(format!("{url} does not answer: {reason}")),
            Failure::Broken(reason) => BackendError::Unavailable(format!("{url} answers wrongly: {reason}")),
        }
    }

    fn explain_key(&self, reason: &str) -> String {
        format!(
            "{} refuses this worker's key: {reason}; see `key_variable` of the model, and the worker's environment",
            self.url
        )
    }

    /// Says what was asked of it.
    pub(super) fn log(&self) {
        tracing::info!(
            url = %self.url,
            requests = self.requests.load(Ordering::Relaxed),
            repeated = self.repeated.load(Ordering::Relaxed),
            tokens = self.tokens.load(Ordering::Relaxed),
            window = %format_args!("{:.1}", self.gate.window().size()),
            "what a server was asked"
        );
    }
}

/// The key in an environment variable of this process.
fn key_in(variable: &str, url: &str) -> Result<String, String> {
    let key = std::env::var(variable).unwrap_or_default();
    match key.trim() {
        "" => Err(format!("the environment variable {variable} is not set on this worker: it holds the key for {url}")),
        key => Ok(key.to_owned()),
    }
}

fn headers(anthropic: bool, key: Option<&str>) -> Result<HeaderMap, String> {
    let mut headers = HeaderMap::new();
    if anthropic {
        headers.insert("anthropic-version", HeaderValue::from_static(ANTHROPIC_VERSION));
    }
    let Some(key) = key else { return Ok(headers) };
    let (name, value) = match anthropic {
        true => (HeaderName::from_static("x-api-key"), key.to_owned()),
        false => (AUTHORIZATION, format!("Bearer {key}")),
    };
    let value = HeaderValue::from_str(&value);
    let mut value = value.map_err(|_| "the key has characters that no header can hold".to_owned())?;
    value.set_sensitive(true);
    headers.insert(name, value);
    Ok(headers)
}
