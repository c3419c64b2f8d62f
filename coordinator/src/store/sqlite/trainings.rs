//! Training jobs.

use influence_proto::{RunId, TrainingReport, TrainingSpec, WorkId};
use rusqlite::{Connection, OptionalExtension as _, params};

use super::runs::{from_json, to_json};
use super::writer::CallError;
use crate::store::{StoreError, TrainingRecord};

pub(super) fn exists(c: &Connection, run: &RunId, work: &WorkId) -> Result<bool, CallError> {
    let mut statement = c.prepare_cached("SELECT 1 FROM trainings WHERE run = ? AND work = ?")?;
    Ok(statement.exists([run.as_str(), work.as_str()])?)
}

pub(super) fn plan(
    c: &Connection,
    run: &RunId,
    iteration: u32,
    work: &WorkId,
    spec: &TrainingSpec,
) -> Result<(), CallError> {
    let spec = to_json(spec)?;
    let stored: Option<(String, String)> = c
        .query_row(
            "SELECT work, spec FROM trainings WHERE run = ? AND iteration = ?",
            params![run.as_str(), iteration],
            |row| Ok((row.get(0)?, row.get(1)?)),
        )
        .optional()?;
    match stored {
        Some((stored_work, stored_spec)) if stored_work == work.as_str() && stored_spec == spec => Ok(()),
        Some(_) => Err(StoreError::Conflict {
            what: format!("the training job of iteration {iteration} of run `{run}`"),
            problem: "another one is planned".into(),
        }
        .into()),
        None => {
            c.execute(
                "INSERT INTO trainings (run, iteration, work, spec) VALUES (?, ?, ?, ?)",
                params![run.as_str(), iteration, work.as_str(), spec],
            )?;
            Ok(())
        }
    }
}

pub(super) fn all(c: &Connection, run: &RunId) -> Result<Vec<TrainingRecord>, CallError> {
    let mut statement = c.prepare_cached(
        "SELECT iteration, work, attempt, error, spec, report FROM trainings WHERE run = ? ORDER BY iteration",
    )?;
    let rows = statement.query_map([run.as_str()], |row| {
        let (work, spec, report): (String, String, Option<String>) = (row.get(1)?, row.get(4)?, row.get(5)?);
        Ok((row.get(0)?, work, row.get(2)?, row.get(3)?, spec, report))
    })?;
    rows.map(|row| {
        let (iteration, work, attempt, error, spec, report) = row?;
        Ok(TrainingRecord {
            iteration,
            spec: from_json(&spec, &format!("the spec of `{work}`"))?,
            report: report.map(|text| from_json(&text, &format!("the report of `{work}`"))).transpose()?,
            work: WorkId::new(work).map_err(|e| CallError::Damaged(e.to_string()))?,
            attempt,
            error,
        })
    })
    .collect()
}

/// Current attempt and the report's JSON.
fn standing(c: &Connection, run: &RunId, work: &WorkId) -> Result<(u32, Option<String>), CallError> {
    c.query_row(
        "SELECT attempt, report FROM trainings WHERE run = ? AND work = ?",
        [run.as_str(), work.as_str()],
        |row| Ok((row.get(0)?, row.get(1)?)),
    )
    .optional()?
    .ok_or_else(|| StoreError::NoSuchWork { run: run.to_string(), work: work.to_string() }.into())
}

fn fenced(work: &WorkId, attempt: u32, current: u32) -> CallError {
    StoreError::Fenced { work: work.to_string(), attempt, current }.into()
}

/// Starts an attempt and returns the job. A job has one live attempt at a time.
pub(super) fn start_attempt(
    c: &Connection,
    run: &RunId,
    work: &WorkId,
    attempt: u32,
) -> Result<TrainingSpec, CallError> {
    let (current, report) = standing(c, run, work)?;
    if report.is_some() {
        return Err(StoreError::AlreadyFinished { work: work.to_string() }.into());
    }
    if attempt < current {
        return Err(fenced(work, attempt, current));
    }
    c.execute(
        "UPDATE trainings SET attempt = ?, error = NULL WHERE run = ? AND work = ?",
        params![attempt, run.as_str(), work.as_str()],
    )?;
    let spec: String =
        c.query_row("SELECT spec FROM trainings WHERE run = ? AND work = ?", [run.as_str(), work.as_str()], |row| {
            row.get(0)
        })?;
    from_json(&spec, &format!("the spec of `{work}`"))
}

pub(super) fn fail(c: &Connection, run: &RunId, work: &WorkId, attempt: u32, error: &str) -> Result<(), CallError> {
    let (current, report) = standing(c, run, work)?;
    if report.is_some() {
        return Err(StoreError::AlreadyFinished { work: work.to_string() }.into());
    }
    if attempt != current {
        return Err(fenced(work, attempt, current));
    }
    c.execute(
        "UPDATE trainings SET error = ? WHERE run = ? AND work = ?",
        params![error, run.as_str(), work.as_str()],
    )?;
    Ok(())
}

pub(super) fn finish(
    c: &Connection,
    run: &RunId,
    work: &WorkId,
    attempt: u32,
    report: &TrainingReport,
) -> Result<(), CallError> {
    let (current, stored) = standing(c, run, work)?;
    if attempt != current {
        return Err(fenced(work, attempt, current));
    }
    let report = to_json(report)?;
    match stored {
        Some(stored) if stored == report => Ok(()),
        Some(_) => Err(StoreError::Conflict {
            what: format!("the report of `{work}`"),
            problem: "another one of the same attempt is stored".into(),
        }
        .into()),
        None => {
            c.execute(
                "UPDATE trainings SET report = ?, error = NULL WHERE run = ? AND work = ?",
                params![report, run.as_str(), work.as_str()],
            )?;
            Ok(())
        }
    }
}
