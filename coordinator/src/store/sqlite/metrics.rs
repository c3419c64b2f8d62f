//! What judges said about episodes.

use influence_proto::{EpisodeId, RunId};
use rusqlite::{Connection, OptionalExtension as _, params};

use super::runs::{from_json, to_json};
use super::writer::CallError;
use crate::store::{MetricResult, StoreError};

fn key(c: &Connection, run: &RunId, episode: &EpisodeId) -> Result<i64, CallError> {
    let mut statement = c.prepare_cached("SELECT key FROM episodes WHERE run = ? AND id = ?")?;
    let found = statement.query_row([run.as_str(), episode.as_str()], |row| row.get(0)).optional()?;
    found.ok_or_else(|| StoreError::NoSuchWork { run: run.to_string(), work: episode.to_string() }.into())
}

pub(super) fn add(c: &Connection, run: &RunId, episode: &EpisodeId, result: &MetricResult) -> Result<(), CallError> {
    let source = &result.source;
    c.prepare_cached(
        "INSERT INTO metrics (episode, metric, judge, judge_sha256, question_sha256, value, body)
         VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
    )?
    .execute(params![
        key(c, run, episode)?,
        source.metric,
        source.judge,
        source.judge_sha256.to_string(),
        source.question_sha256.to_string(),
        result.value(),
        to_json(result)?,
    ])?;
    Ok(())
}

pub(super) fn all(c: &Connection, run: &RunId, episode: &EpisodeId) -> Result<Vec<MetricResult>, CallError> {
    let mut statement = c.prepare_cached(
        "SELECT body FROM metrics WHERE episode = ? ORDER BY metric, judge, judge_sha256, question_sha256",
    )?;
    let rows = statement.query_map([key(c, run, episode)?], |row| row.get::<_, String>(0))?;
    rows.map(|body| from_json(&body?, &format!("a metric of episode `{episode}`"))).collect()
}
