//! The file's tables and their version.

use std::path::Path;
use std::time::Duration;

use rusqlite::Connection;

use super::writer::CallError;
use crate::store::StoreError;

/// Version of the tables below, in `PRAGMA user_version`.
pub(super) const VERSION: u32 = 3;

/// How long a call waits for another process's transaction.
const BUSY: Duration = Duration::from_secs(5);

/// Memory for pages of the file. The index of a large iteration's episodes must fit: its entries are looked up in
/// no order, by every call. More costs time: SQLite walks the cache's whole table of pages when pages are split.
const CACHE_KIB: i64 = 16 << 10;

/// Statements that stay prepared: all that there are, so that none is parsed twice.
const STATEMENTS: usize = 64;

const TABLES: &str = "
CREATE TABLE runs (
    id TEXT PRIMARY KEY,
    name TEXT NOT NULL,
    digest TEXT NOT NULL,
    experiment TEXT NOT NULL,      -- JSON
    status TEXT NOT NULL CHECK (status IN ('running', 'finished', 'failed')),
    error TEXT,
    created_ms INTEGER NOT NULL    -- since 1970
) STRICT;
CREATE TABLE iterations (
    run TEXT NOT NULL REFERENCES runs (id),
    iteration INTEGER NOT NULL,
    phase TEXT NOT NULL CHECK (phase IN ('evaluate', 'train')),
    judged INTEGER NOT NULL DEFAULT 0,
    notes TEXT NOT NULL DEFAULT '[]',   -- JSON
    active_ms INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (run, iteration, phase)
) STRICT, WITHOUT ROWID;
CREATE TABLE episodes (
    key INTEGER PRIMARY KEY,
    run TEXT NOT NULL,
    id TEXT NOT NULL,
    iteration INTEGER NOT NULL,
    phase TEXT NOT NULL,
    position INTEGER NOT NULL,     -- in the plan
    environment_class TEXT NOT NULL,
    environment TEXT NOT NULL,
    initial_state TEXT NOT NULL,
    status TEXT NOT NULL DEFAULT 'pending' CHECK (status IN ('pending', 'finished', 'failed')),
    attempt INTEGER NOT NULL DEFAULT 0,
    rival INTEGER,                 -- a second live attempt, always a later one
    error TEXT,
    judged INTEGER NOT NULL DEFAULT 0,
    reward REAL,
    influence REAL,
    vetoed INTEGER NOT NULL DEFAULT 0,
    unscored INTEGER NOT NULL DEFAULT 0,
    selected TEXT CHECK (selected IN ('best', 'worst')),
    UNIQUE (run, id),
    UNIQUE (run, iteration, phase, position),
    FOREIGN KEY (run, iteration, phase) REFERENCES iterations
) STRICT;
-- Apart from the rows that every turn changes.
CREATE TABLE specs (
    episode INTEGER PRIMARY KEY REFERENCES episodes,
    body TEXT NOT NULL             -- JSON
) STRICT;
-- How many turns a journal holds, only this table says: a turn changes no other.
CREATE TABLE turns (
    episode INTEGER NOT NULL REFERENCES episodes,
    branch INTEGER NOT NULL,       -- 0: the episode's journal; 1: its rival's
    turn INTEGER NOT NULL,
    attempt INTEGER NOT NULL,      -- whose holder wrote it
    body TEXT NOT NULL,            -- JSON
    PRIMARY KEY (episode, branch, turn)
) STRICT;
CREATE VIEW journals AS
    SELECT run, id AS episode, iteration, phase, turn, turns.attempt, body
    FROM turns JOIN episodes ON key = turns.episode WHERE branch = 0;
CREATE TABLE trainings (
    run TEXT NOT NULL REFERENCES runs (id),
    iteration INTEGER NOT NULL,
    work TEXT NOT NULL,
    attempt INTEGER NOT NULL DEFAULT 0,
    error TEXT,
    spec TEXT NOT NULL,            -- JSON
    report TEXT,                   -- JSON; names the adapter's artifacts
    PRIMARY KEY (run, iteration),
    UNIQUE (run, work)
) STRICT;
";

/// What came after the first files of this version were written: it is added to them when they are opened.
const ADDED: &str = "
CREATE TABLE IF NOT EXISTS metrics (
    episode INTEGER NOT NULL REFERENCES episodes,
    metric TEXT NOT NULL,
    judge TEXT NOT NULL,
    judge_sha256 TEXT NOT NULL,
    question_sha256 TEXT NOT NULL,
    value REAL,                    -- NULL: unscored
    body TEXT NOT NULL,            -- JSON
    PRIMARY KEY (episode, metric, judge, judge_sha256, question_sha256)
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS marks (
    run TEXT NOT NULL,
    episode TEXT NOT NULL,
    turn INTEGER NOT NULL,         -- -1: the whole
    label TEXT NOT NULL,
    note TEXT NOT NULL,
    at_ms INTEGER NOT NULL,        -- since 1970
    PRIMARY KEY (run, episode, turn, label),
    FOREIGN KEY (run, episode) REFERENCES episodes (run, id)
) STRICT, WITHOUT ROWID;
";

/// Opens `file`, makes the tables if it is new, and checks their version otherwise.
pub(super) fn open(file: &Path) -> Result<Connection, StoreError> {
    if let Some(folder) = file.parent() {
        std::fs::create_dir_all(folder).map_err(|e| StoreError::Io {
            store: file.display().to_string(),
            detail: format!("its folder cannot be made: {e}"),
        })?;
    }
    prepare(file).map_err(|e| e.at(file))
}

fn prepare(file: &Path) -> Result<Connection, CallError> {
    let connection = Connection::open(file)?;
    connection.busy_timeout(BUSY)?;
    connection.pragma_update(None, "cache_size", -CACHE_KIB)?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS);
    connection.pragma_update_and_check(None, "journal_mode", "WAL", |_| Ok(()))?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "foreign_keys", "ON")?;
    connection.execute_batch("BEGIN IMMEDIATE")?;
    let found: u32 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    if found > VERSION {
        return Err(StoreError::Newer { store: file.display().to_string(), found, known: VERSION }.into());
    }
    if (1..VERSION).contains(&found) {
        let old = "it was written before the first release; give another folder with --data";
        return Err(CallError::Damaged(old.into()));
    }
    if found == 0 {
        let tables: u32 = connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
        if tables > 0 {
            return Err(CallError::Damaged("it is a database of another program".into()));
        }
        connection.execute_batch(TABLES)?;
        connection.pragma_update(None, "user_version", VERSION)?;
    }
    connection.execute_batch(ADDED)?;
    connection.execute_batch("COMMIT")?;
    Ok(connection)
}
