//! The handle of a running engine.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use tokio::sync::{mpsc, oneshot, watch};

use super::admission::{Admissible, Reply};
use super::counters::{Counters, EngineCounters, Tally};
use super::request::{
    EngineOptions, Follow, GenerateRequest, Generation, RequestError, Score, ScoreRequest, StartError,
};
use super::step_loop::StepLoop;
use crate::attention::BLOCK;
use crate::model::Model;

/// What the step loop is told. Requests have been checked before they are sent.
#[derive(Debug)]
pub(super) enum Command {
    Admit(Box<Admissible>),
    LoadAdapter {
        name: String,
        directory: PathBuf,
        reply: Reply<()>,
    },
    DropAdapter {
        name: String,
        reply: Reply<bool>,
    },
    /// Gives remembered keys and values back.
    ClearPrefixCache {
        reply: Reply<()>,
    },
    /// Only wakes a loop that is asleep, so that it sees the flag.
    Stop,
}

/// A handle to a running engine; cloning it is cheap. The step loop runs on a thread of its own and ends when it is
/// stopped or when the last handle is gone.
#[derive(Debug, Clone)]
pub struct Engine {
    model: Arc<Model>,
    options: EngineOptions,
    commands: mpsc::Sender<Command>,
    counters: Arc<Counters>,
    stopping: Arc<AtomicBool>,
    /// Closed by the step loop's end.
    ended: watch::Receiver<()>,
    thread: Arc<Mutex<Option<JoinHandle<()>>>>,
}

impl Engine {
    /// Starts the step loop on its own thread.
    ///
    /// # Errors
    /// A limit of 0, no thread, or no room on the device.
    pub fn start(model: Arc<Model>, options: EngineOptions) -> Result<Self, StartError> {
        let limits = [
            ("max_rows", options.max_rows),
            ("prefill_chunk", options.prefill_chunk),
            ("kv_bytes", options.kv_bytes),
            ("queue", options.queue),
        ];
        if let Some((name, _)) = limits.iter().find(|(_, value)| *value == 0) {
            return Err(StartError::ZeroLimit(name));
        }
        let (commands, inbox) = mpsc::channel(options.queue);
        let (alive, ended) = watch::channel(());
        let counters = Arc::new(Counters::default());
        let stopping = Arc::new(AtomicBool::new(false));
        let step_loop = StepLoop::new(model.clone(), options, inbox, counters.clone(), stopping.clone())?;
        let thread = std::thread::Builder::new().name("engine".to_owned()).spawn(move || {
            step_loop.run();
            drop(alive);
        })?;
        Ok(Self { model, options, commands, counters, stopping, ended, thread: Arc::new(Mutex::new(Some(thread))) })
    }

    /// The model that it serves.
    pub fn model(&self) -> &Arc<Model> {
        &self.model
    }

    /// Its limits.
    pub fn options(&self) -> &EngineOptions {
        &self.options
    }

    /// The most tokens that one request may have, prompt and reply together: what the model's context and the memory for
    /// keys and values hold.
    pub fn longest_request(&self) -> usize {
        let fits = self.options.kv_bytes / self.model.kv_block_bytes() * BLOCK;
        self.model.config.context_length.min(fits)
    }

    /// What it has done so far.
    pub fn counters(&self) -> EngineCounters {
        self.counters.read()
    }

    /// What it has done so far, by the requests' labels.
    pub fn tallies(&self) -> BTreeMap<&'static str, Tally> {
        self.counters.tallies()
    }

    /// Generates a reply. Dropping the future cancels the request.
    ///
    /// # Errors
    /// [`RequestError`], of this request alone.
    pub async fn generate(&self, request: GenerateRequest) -> Result<Generation, RequestError> {
        self.reply(request, None).await
    }

    /// As [`Self::generate`], and tells of every token as soon as it is sampled.
    ///
    /// # Errors
    /// As [`Self::generate`].
    pub async fn generate_followed(
        &self,
        request: GenerateRequest,
        follow: Follow,
    ) -> Result<Generation, RequestError> {
        self.reply(request, Some(follow)).await
    }

    async fn reply(&self, request: GenerateRequest, follow: Option<Follow>) -> Result<Generation, RequestError> {
        let (reply, answer) = oneshot::channel();
        let admissible = Admissible::generation(request, follow, reply, &self.model, &self.options)?;
        self.ask(Command::Admit(Box::new(admissible)), answer).await
    }

    /// Scores the allowed answers. Dropping the future cancels the request.
    ///
    /// # Errors
    /// [`RequestError`], of this request alone.
    pub async fn score(&self, request: ScoreRequest) -> Result<Score, RequestError> {
        let (reply, answer) = oneshot::channel();
        let admissible = Admissible::score(request, reply, &self.model, &self.options)?;
        self.ask(Command::Admit(Box::new(admissible)), answer).await
    }

    /// Loads the PEFT adapter in `directory` under `name`. Requests that were sent before go on with what the name meant
    /// then; those sent after get this one.
    ///
    /// # Errors
    /// [`RequestError::Adapter`] says what is wrong with its files; the name then keeps its meaning.
    pub async fn load_adapter(
        &self,
        name: impl Into<String>,
        directory: impl Into<PathBuf>,
    ) -> Result<(), RequestError> {
        let (reply, answer) = oneshot::channel();
        let (name, directory) = (name.into(), directory.into());
        self.ask(Command::LoadAdapter { name, directory, reply }, answer).await
    }

    /// Forgets an adapter and says whether it was there. Requests that use it already go on.
    ///
    /// # Errors
    /// [`RequestError::Stopped`].
    pub async fn drop_adapter(&self, name: impl Into<String>) -> Result<bool, RequestError> {
        let (reply, answer) = oneshot::channel();
        self.ask(Command::DropAdapter { name: name.into(), reply }, answer).await
    }

    /// Gives the memory of all remembered keys and values back, for whatever needs it more.
    ///
    /// # Errors
    /// [`RequestError::Stopped`].
    pub async fn clear_prefix_cache(&self) -> Result<(), RequestError> {
        let (reply, answer) = oneshot::channel();
        self.ask(Command::ClearPrefixCache { reply }, answer).await
    }

    /// Stops the step loop and waits until its thread has ended. Requests that are not complete get
    /// [`RequestError::Stopped`]. Stopping twice is fine.
    pub async fn stop(&self) {
        self.stopping.store(true, Ordering::Release);
        // A full queue means that the loop is awake and looks at the flag by itself.
        let _ = self.commands.try_send(Command::Stop);
        let mut ended = self.ended.clone();
        // The sender sends nothing: an error is its end.
        while ended.changed().await.is_ok() {}
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread
            && thread.join().is_err()
        {
            tracing::error!("the engine's thread had panicked");
        }
    }

    async fn ask<T>(
        &self,
        command: Command,
        answer: oneshot::Receiver<Result<T, RequestError>>,
    ) -> Result<T, RequestError> {
        let sent = self.commands.send(command).await;
        sent.map_err(|_| RequestError::Stopped)?;
        answer.await.unwrap_or(Err(RequestError::Stopped))
    }
}
