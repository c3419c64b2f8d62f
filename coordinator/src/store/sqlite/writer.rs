//! The thread that owns the connection, and its group commit.

use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use rusqlite::{Connection, ErrorCode};
use tokio::sync::{mpsc, oneshot};

use crate::store::{StoreError, measured};

/// Calls that may wait for the thread; more make their callers wait.
const QUEUE: usize = 1024;
/// Calls in one transaction at most, so that the first of them does not wait for long.
const BATCH: usize = 256;
/// How long the thread waits for more calls when the last transaction had several: each transaction costs a wait
/// for the disk and, for every page that it touches, a copy of that page in the log. A caller alone never waits.
const GATHER: Duration = Duration::from_millis(4);

/// Why a call inside the thread failed, before the file's name is added.
#[derive(Debug)]
pub(super) enum CallError {
    Refused(StoreError),
    Sqlite(rusqlite::Error),
    /// A column that does not hold what this release writes there.
    Damaged(String),
}

impl From<rusqlite::Error> for CallError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

impl From<StoreError> for CallError {
    fn from(error: StoreError) -> Self {
        Self::Refused(error)
    }
}

impl CallError {
    pub(super) fn at(self, file: &Path) -> StoreError {
        match self {
            Self::Refused(error) => error,
            Self::Damaged(detail) => StoreError::Unreadable { store: file.display().to_string(), detail },
            Self::Sqlite(error) => {
                let (store, detail) = (file.display().to_string(), error.to_string());
                match error.sqlite_error_code() {
                    Some(ErrorCode::DiskFull) => StoreError::Full { store, detail },
                    Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => StoreError::Busy { store, detail },
                    Some(
                        ErrorCode::SystemIoFailure
                        | ErrorCode::CannotOpen
                        | ErrorCode::ReadOnly
                        | ErrorCode::PermissionDenied
                        | ErrorCode::OutOfMemory,
                    ) => StoreError::Io { store, detail },
                    _ => StoreError::Unreadable { store, detail },
                }
            }
        }
    }
}

/// One queued call: it runs inside a transaction and is answered once that has been committed.
trait Job: Send {
    fn run(&mut self, connection: &Connection);
    fn settle(self: Box<Self>, committed: Result<(), StoreError>);
}

struct Call<T, F> {
    body: Option<F>,
    result: Option<Result<T, StoreError>>,
    reply: oneshot::Sender<Result<T, StoreError>>,
    file: Arc<Path>,
}

impl<T: Send, F: FnOnce(&Connection) -> Result<T, CallError> + Send> Job for Call<T, F> {
    fn run(&mut self, connection: &Connection) {
        let Some(body) = self.body.take() else { return };
        let result = in_savepoint(connection, body).map_err(|e| e.at(&self.file));
        self.result = Some(result);
    }

    fn settle(self: Box<Self>, committed: Result<(), StoreError>) {
        let answer = match (self.result, committed) {
            (Some(Err(refused)), _) => Err(refused),
            (_, Err(lost)) => Err(lost),
            (Some(done), Ok(())) => done,
            (None, Ok(())) => Err(StoreError::Closed { store: self.file.display().to_string() }),
        };
        // A caller that has gone away needs no answer.
        let _ = self.reply.send(answer);
    }
}

fn in_savepoint<T>(
    connection: &Connection,
    body: impl FnOnce(&Connection) -> Result<T, CallError>,
) -> Result<T, CallError> {
    connection.prepare_cached("SAVEPOINT call")?.execute([])?;
    let result = body(connection);
    if result.is_ok() {
        connection.prepare_cached("RELEASE call")?.execute([])?;
    } else if !connection.is_autocommit() {
        connection.execute_batch("ROLLBACK TO call; RELEASE call")?;
    }
    result
}

/// Handle to the thread; the thread ends, with all queued calls done, when this is dropped.
pub(super) struct Writer {
    jobs: Option<mpsc::Sender<Box<dyn Job>>>,
    thread: Option<JoinHandle<()>>,
    file: Arc<Path>,
}

impl std::fmt::Debug for Writer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Writer").field("file", &self.file).finish_non_exhaustive()
    }
}

impl Writer {
    pub(super) fn start(connection: Connection, file: &Path) -> Result<Self, StoreError> {
        let (jobs, inbox) = mpsc::channel(QUEUE);
        let file: Arc<Path> = file.into();
        let thread = std::thread::Builder::new()
            .name("store".into())
            .spawn({
                let file = file.clone();
                move || serve(&connection, &file, inbox)
            })
            .map_err(|e| StoreError::Io { store: file.display().to_string(), detail: e.to_string() })?;
        Ok(Self { jobs: Some(jobs), thread: Some(thread), file })
    }

    pub(super) fn file(&self) -> &Path {
        &self.file
    }

    /// Runs `body` in a transaction and returns its result once that is committed. The call is
    /// carried out even if the caller stops waiting.
    pub(super) async fn call<T: Send + 'static>(
        &self,
        body: impl FnOnce(&Connection) -> Result<T, CallError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let closed = || StoreError::Closed { store: self.file.display().to_string() };
        let (reply, answer) = oneshot::channel();
        let call = Call { body: Some(body), result: None, reply, file: self.file.clone() };
        let jobs = self.jobs.as_ref().ok_or_else(closed)?;
        measured("sqlite", async move {
            jobs.send(Box::new(call)).await.map_err(|_| closed())?;
            answer.await.map_err(|_| closed())?
        })
        .await
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!(file = %self.file.display(), "the store's thread panicked");
        }
    }
}

fn serve(connection: &Connection, file: &Path, mut inbox: mpsc::Receiver<Box<dyn Job>>) {
    let mut crowded = false;
    while let Some(first) = inbox.blocking_recv() {
        if crowded && inbox.len() < BATCH {
            std::thread::sleep(GATHER);
        }
        let mut batch = vec![first];
        while batch.len() < BATCH
            && let Ok(next) = inbox.try_recv()
        {
            batch.push(next);
        }
        crowded = batch.len() > 1;
        let committed = commit(connection, &mut batch).map_err(|e| CallError::Sqlite(e).at(file));
        if let Err(error) = &committed {
            tracing::warn!(%error, calls = batch.len(), "a transaction was not stored");
            if !connection.is_autocommit() {
                // Already failing: a further error adds nothing.
                let _ = connection.execute_batch("ROLLBACK");
            }
        }
        for job in batch {
            job.settle(committed.clone());
        }
    }
}

fn commit(connection: &Connection, batch: &mut [Box<dyn Job>]) -> rusqlite::Result<()> {
    connection.execute_batch("BEGIN IMMEDIATE")?;
    for job in batch {
        job.run(connection);
        // A full disk makes SQLite roll the whole transaction back, not just the call.
        if connection.is_autocommit() {
            let full = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_FULL);
            return Err(rusqlite::Error::SqliteFailure(full, Some("the transaction was rolled back".into())));
        }
    }
    connection.execute_batch("COMMIT")
}
