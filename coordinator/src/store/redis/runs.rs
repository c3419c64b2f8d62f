//! Runs and their iterations.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use influence_proto::RunId;

use super::call::{Call, CallError, Fields, Led, from_json, iteration_name, prefix, read, to_json, unexpected};
use super::lead::draw_token;
use super::link::Link;
use super::{RUNS_KEY, SCHEMA_KEY, SCHEMA_VERSION, newer, scripts};
use crate::planning::Phase;
use crate::store::{IterationRecord, NewRun, RunRecord, RunStatus, StoreError};

/// How often creating a run is tried. Unlike other verbs, it may not be repeated by the caller: only
/// this call can tell a run that it wrote, and whose answer was lost, from another process's.
const TRIES: u32 = 3;
/// How long to wait between two tries.
const PAUSE: Duration = Duration::from_millis(300);

pub(super) async fn create(link: &Link, run: &NewRun) -> Result<(), CallError> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64;
    let call = Call::new(&scripts::CREATE_RUN, &[&prefix(&run.id), SCHEMA_KEY, RUNS_KEY])
        .arg(SCHEMA_VERSION)
        .arg(draw_token())
        .arg(run.id.as_str())
        .arg(&["name", &run.name, "digest", &run.digest, "experiment", &to_json(&run.experiment)?][..])
        .arg(&["status", "running", "error", ""][..])
        .arg("created_ms")
        .arg(now);
    let mut tried = 1;
    let (word, mut fields) = loop {
        match call.send(link).await.map_err(|e| e.at(link.name())) {
            Err(error) if error.retryable() && tried < TRIES => {
                tried += 1;
                tokio::time::sleep(PAUSE).await;
            }
            answer => break answer?,
        }
    };
    match word.as_str() {
        "ok" => Ok(()),
        "exists" => Err(StoreError::RunExists(run.id.to_string()).into()),
        "newer" => Err(newer(link, fields.number()?)),
        other => Err(unexpected(other)),
    }
}

fn record(mut fields: Fields) -> Result<RunRecord, CallError> {
    let id = fields.text()?;
    let (name, digest, experiment) = (fields.text()?, fields.text()?, fields.text()?);
    let (status, error) = (fields.text()?, fields.text()?);
    Ok(RunRecord {
        experiment: from_json(&experiment, &format!("the experiment of run `{id}`"))?,
        id: RunId::new(id).map_err(|e| CallError::Damaged(e.to_string()))?,
        name,
        digest,
        status: match status.as_str() {
            "finished" => RunStatus::Finished,
            "failed" => RunStatus::Failed(error),
            _ => RunStatus::Running,
        },
        created_ms: fields.number()?,
    })
}

pub(super) async fn all(link: &Link) -> Result<Vec<RunRecord>, CallError> {
    let found = read(link, Call::new(&scripts::RUNS, &[RUNS_KEY])).await?;
    let mut runs: Vec<_> = found.lists().map(|run| record(run?)).collect::<Result<_, _>>()?;
    // The list is in the order of creation; the clocks of several machines may not be.
    runs.sort_by_key(|run| run.created_ms);
    Ok(runs)
}

pub(super) async fn one(link: &Link, run: &RunId) -> Result<RunRecord, CallError> {
    let found = read(link, Call::new(&scripts::RUNS, &[RUNS_KEY]).arg(run.as_str())).await?;
    let first = found.lists().next().ok_or_else(|| StoreError::NoSuchRun(run.to_string()))?;
    record(first?)
}

pub(super) async fn set_status(led: &Led<'_>, status: &RunStatus) -> Result<(), CallError> {
    let (text, error) = match status {
        RunStatus::Running => ("running", ""),
        RunStatus::Finished => ("finished", ""),
        RunStatus::Failed(error) => ("failed", error.as_str()),
    };
    only_ok(led, led.call(&scripts::SET_STATUS).arg(text).arg(error)).await
}

async fn only_ok(led: &Led<'_>, call: Call) -> Result<(), CallError> {
    match led.send(&call).await? {
        (word, _) if word == "ok" => Ok(()),
        (word, _) => Err(unexpected(&word)),
    }
}

pub(super) async fn iterations(link: &Link, run: &RunId) -> Result<Vec<IterationRecord>, CallError> {
    let found = read(link, Call::new(&scripts::ITERATIONS, &[&prefix(run)])).await?;
    let mut iterations: Vec<_> = found.lists().map(|each| iteration(each?)).collect::<Result<_, _>>()?;
    iterations.sort_by_key(|each| (each.iteration, each.phase == Phase::Train));
    Ok(iterations)
}

fn iteration(mut fields: Fields) -> Result<IterationRecord, CallError> {
    let (name, _plan) = (fields.text()?, fields.text()?);
    let unknown = || CallError::Damaged(format!("`{name}` names no iteration's phase"));
    let (phase, number) = name.split_once(':').ok_or_else(unknown)?;
    Ok(IterationRecord {
        phase: [Phase::Train, Phase::Evaluate].into_iter().find(|p| p.name() == phase).ok_or_else(unknown)?,
        iteration: number.parse().map_err(|_| unknown())?,
        judged: fields.optional()?.is_some(),
        notes: match fields.optional()? {
            Some(notes) => from_json(&notes, "an iteration's notes")?,
            None => Vec::new(),
        },
        active: match fields.optional()? {
            Some(ms) => Duration::from_millis(ms.parse().map_err(|_| unknown())?),
            None => Duration::ZERO,
        },
    })
}

pub(super) async fn set_active(led: &Led<'_>, phase: Phase, iteration: u32, active: Duration) -> Result<(), CallError> {
    let ms = u64::try_from(active.as_millis()).unwrap_or(u64::MAX);
    only_ok(led, led.call(&scripts::SET_ACTIVE).arg(iteration_name(phase, iteration)).arg(ms)).await
}
