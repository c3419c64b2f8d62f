//! Runs and their iterations.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use influence_proto::RunId;
use rusqlite::{Connection, OptionalExtension as _, Row, params};
use serde::{Serialize, de::DeserializeOwned};

use super::writer::CallError;
use crate::planning::Phase;
use crate::store::{IterationRecord, NewRun, RunRecord, RunStatus, StoreError};

/// A value as the JSON text of a column. Domain types always have one.
pub(super) fn to_json(value: &impl Serialize) -> Result<String, CallError> {
    serde_json::to_string(value).map_err(|e| CallError::Damaged(format!("a value has no JSON form: {e}")))
}

/// The value in a column of JSON text; `what` names it.
pub(super) fn from_json<T: DeserializeOwned>(text: &str, what: &str) -> Result<T, CallError> {
    serde_json::from_str(text).map_err(|e| CallError::Damaged(format!("{what} cannot be read: {e}")))
}

/// A phase in the tables.
pub(super) const fn phase_text(phase: Phase) -> &'static str {
    match phase {
        Phase::Train => "train",
        Phase::Evaluate => "evaluate",
    }
}

fn phase_of(text: &str) -> Result<Phase, CallError> {
    match text {
        "train" => Ok(Phase::Train),
        "evaluate" => Ok(Phase::Evaluate),
        other => Err(CallError::Damaged(format!("`{other}` is no phase"))),
    }
}

pub(super) fn create(c: &Connection, run: &NewRun) -> Result<(), CallError> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as i64;
    let added = c.execute(
        "INSERT INTO runs (id, name, digest, experiment, status, created_ms) VALUES (?, ?, ?, ?, 'running', ?)
         ON CONFLICT (id) DO NOTHING",
        params![run.id.as_str(), run.name, run.digest, to_json(&run.experiment)?, now],
    )?;
    if added == 0 {
        return Err(StoreError::RunExists(run.id.to_string()).into());
    }
    Ok(())
}

const RUN: &str = "SELECT id, name, digest, experiment, status, error, created_ms FROM runs";

type RunRow = (String, String, String, String, String, Option<String>, i64);

fn run_row(row: &Row<'_>) -> rusqlite::Result<RunRow> {
    Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?, row.get(5)?, row.get(6)?))
}

fn run_record((id, name, digest, experiment, status, error, created_ms): RunRow) -> Result<RunRecord, CallError> {
    Ok(RunRecord {
        experiment: from_json(&experiment, &format!("the experiment of run `{id}`"))?,
        id: RunId::new(id).map_err(|e| CallError::Damaged(e.to_string()))?,
        name,
        digest,
        status: match status.as_str() {
            "finished" => RunStatus::Finished,
            "failed" => RunStatus::Failed(error.unwrap_or_default()),
            _ => RunStatus::Running,
        },
        created_ms: created_ms as u64,
    })
}

pub(super) fn all(c: &Connection) -> Result<Vec<RunRecord>, CallError> {
    let mut statement = c.prepare_cached(&format!("{RUN} ORDER BY created_ms, rowid"))?;
    let rows: Vec<RunRow> = statement.query_map([], run_row)?.collect::<Result<_, _>>()?;
    rows.into_iter().map(run_record).collect()
}

pub(super) fn one(c: &Connection, run: &RunId) -> Result<RunRecord, CallError> {
    let row = c.query_row(&format!("{RUN} WHERE id = ?"), [run.as_str()], run_row).optional()?;
    run_record(row.ok_or_else(|| StoreError::NoSuchRun(run.to_string()))?)
}

pub(super) fn set_status(c: &Connection, run: &RunId, status: &RunStatus) -> Result<(), CallError> {
    let (text, error) = match status {
        RunStatus::Running => ("running", None),
        RunStatus::Finished => ("finished", None),
        RunStatus::Failed(error) => ("failed", Some(error)),
    };
    let changed =
        c.execute("UPDATE runs SET status = ?, error = ? WHERE id = ?", params![text, error, run.as_str()])?;
    if changed == 0 {
        return Err(StoreError::NoSuchRun(run.to_string()).into());
    }
    Ok(())
}

pub(super) fn iterations(c: &Connection, run: &RunId) -> Result<Vec<IterationRecord>, CallError> {
    let mut statement = c.prepare_cached(
        "SELECT phase, iteration, judged, notes, active_ms FROM iterations WHERE run = ? ORDER BY iteration, phase",
    )?;
    let rows = statement.query_map([run.as_str()], |row| {
        let phase: String = row.get(0)?;
        let notes: String = row.get(3)?;
        Ok((phase, row.get(1)?, row.get(2)?, notes, row.get::<_, i64>(4)?))
    })?;
    rows.map(|row| {
        let (phase, iteration, judged, notes, active_ms) = row?;
        Ok(IterationRecord {
            phase: phase_of(&phase)?,
            iteration,
            judged,
            notes: from_json(&notes, "an iteration's notes")?,
            active: Duration::from_millis(active_ms as u64),
        })
    })
    .collect()
}

pub(super) fn set_active(
    c: &Connection,
    run: &RunId,
    phase: Phase,
    iteration: u32,
    active: Duration,
) -> Result<(), CallError> {
    c.execute(
        "UPDATE iterations SET active_ms = max(active_ms, ?) WHERE run = ? AND iteration = ? AND phase = ?",
        params![active.as_millis() as i64, run.as_str(), iteration, phase_text(phase)],
    )?;
    Ok(())
}
