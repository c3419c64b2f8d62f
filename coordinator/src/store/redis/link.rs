//! The connection: one for all calls, made when it is needed and given up when it fails.
//!
//! The crate's own connection manager keeps a connection that no longer answers, and keeps a refused
//! reconnection for good. A store that goes on as soon as its server is back can use neither.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{Arg, AsyncConnectionConfig, Client, Cmd, ErrorKind, RedisError, RedisResult, ServerErrorKind, Value};
use tokio::time::Instant;

use super::call::CallError;
use super::scripts::Script;
use crate::store::{StoreError, measured};

/// How long making a connection may take.
const CONNECT: Duration = Duration::from_secs(3);
/// How long an answer may take. With `appendfsync always` it waits for the server's disk.
const ANSWER: Duration = Duration::from_secs(5);
/// Commands that may wait to be sent; more make their callers wait.
const QUEUE: usize = 1024;

/// The way to one server.
pub(super) struct Link {
    client: Client,
    /// The server's address without secrets.
    name: String,
    /// The connection in use, with its number.
    current: Mutex<Option<(u64, MultiplexedConnection)>>,
    /// Held while one is made: how many were made, and when and why the last try failed.
    making: tokio::sync::Mutex<Making>,
}

#[derive(Default)]
struct Making {
    made: u64,
    failed: Option<(Instant, RedisError)>,
}

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Link").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Link {
    pub(super) fn new(client: Client, name: String) -> Self {
        Self { client, name, current: Mutex::default(), making: tokio::sync::Mutex::default() }
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// The server's answer. A command whose connection ended is sent once more over a new one:
    /// commands must bear being carried out twice.
    pub(super) async fn ask(&self, command: &Cmd) -> RedisResult<Value> {
        let answer = async {
            match self.ask_once(command).await {
                Err(error) if error.is_connection_dropped() => self.ask_once(command).await,
                answer => answer,
            }
        };
        measured("redis", answer).await
    }

    /// The answer of a script that the server may not know yet.
    pub(super) async fn ask_script(&self, script: &Script, command: &Cmd) -> RedisResult<Value> {
        match self.ask(command).await {
            // With its text rather than after it: the server may start anew between two commands.
            Err(error) if error.kind() == ErrorKind::Server(ServerErrorKind::NoScript) => {
                let mut whole = redis::cmd("EVAL");
                whole.arg(script.code);
                for arg in command.args_iter().skip(2) {
                    if let Arg::Simple(bytes) = arg {
                        whole.arg(bytes);
                    }
                }
                self.ask(&whole).await
            }
            answer => answer,
        }
    }

    async fn ask_once(&self, command: &Cmd) -> RedisResult<Value> {
        let (number, mut connection) = self.connection().await?;
        let answer = command.query_async(&mut connection).await;
        if let Err(error) = &answer
            && useless(error)
        {
            let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
            if current.as_ref().is_some_and(|(at, _)| *at == number) {
                tracing::warn!(store = self.name, error = describe(error), "the connection is given up");
                *current = None;
            }
        }
        answer
    }

    async fn connection(&self) -> RedisResult<(u64, MultiplexedConnection)> {
        let current = || self.current.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let since = Instant::now();
        if let Some(connection) = current() {
            return Ok(connection);
        }
        let mut making = self.making.lock().await;
        if let Some(connection) = current() {
            return Ok(connection);
        }
        // Those who waited for a try that failed share its error: in turn, each would wait anew.
        if let Some((at, error)) = &making.failed
            && *at >= since
        {
            return Err(error.clone());
        }
        match self.make().await {
            Ok(connection) => {
                making.made += 1;
                let made = (making.made, connection);
                *self.current.lock().unwrap_or_else(PoisonError::into_inner) = Some(made.clone());
                Ok(made)
            }
            Err(error) => {
                making.failed = Some((Instant::now(), error.clone()));
                Err(error)
            }
        }
    }

    async fn make(&self) -> RedisResult<MultiplexedConnection> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECT))
            .set_response_timeout(Some(ANSWER))
            .set_pipeline_buffer_size(QUEUE);
        let made = self.client.get_multiplexed_async_connection_with_config(&config);
        // Its own limit does not cover all that belongs to making one.
        let late = |_| std::io::Error::new(std::io::ErrorKind::TimedOut, "no connection in time");
        tokio::time::timeout(CONNECT * 2, made).await.map_err(late)?
    }
}

/// Whether a new connection may do better: this one ended, does not answer, or leads to a server that
/// is no primary any more.
fn useless(error: &RedisError) -> bool {
    let demoted = [ServerErrorKind::ReadOnly, ServerErrorKind::MasterDown];
    error.is_io_error()
        || error.is_unrecoverable_error()
        || demoted.iter().any(|kind| error.kind() == ErrorKind::Server(*kind))
}

/// An error in the server's words, as in `OOM: command not allowed when used memory > 'maxmemory'`.
pub(super) fn describe(error: &RedisError) -> String {
    if error.is_timeout() {
        return format!("no answer within {} s", ANSWER.as_secs());
    }
    match (error.code(), error.detail()) {
        (Some(code), Some(detail)) => format!("{code}: {detail}"),
        _ => error.to_string(),
    }
}

/// What a failed command means to the caller.
pub(super) fn refusal(store: &str, error: &RedisError) -> StoreError {
    let (store, detail) = (store.to_owned(), describe(error));
    let code = error.code().unwrap_or_default();
    // A failed write of the append-only file or of a snapshot is usually a full disk.
    if code == "OOM" || (code == "MISCONF" && detail.contains("No space left")) {
        return StoreError::Full { store, detail };
    }
    const PASSING: [&str; 11] = [
        "LOADING",
        "BUSY",
        "TRYAGAIN",
        "CLUSTERDOWN",
        "MASTERDOWN",
        "READONLY",
        "MISCONF",
        "NOREPLICAS",
        "NOAUTH",
        "WRONGPASS",
        "NOPERM",
    ];
    let away = match error.kind() {
        ErrorKind::Io | ErrorKind::AuthenticationFailed => true,
        _ => PASSING.contains(&code) || detail.contains("max number of clients"),
    };
    if away { StoreError::Away { store, detail } } else { StoreError::Unreadable { store, detail } }
}

impl From<RedisError> for CallError {
    fn from(error: RedisError) -> Self {
        Self::Redis(error)
    }
}
