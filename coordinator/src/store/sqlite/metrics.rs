//! What judges said about episodes.

use influence_proto::{Digest, EpisodeId, RunId};
use rusqlite::{Connection, OptionalExtension as _, params};

use super::runs::{from_json, phase_text, to_json};
use super::writer::CallError;
use crate::planning::Phase;
use crate::store::{MetricResult, MetricSource, MetricValue, StoreError};

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

/// In one query, without the answers themselves: a large phase has hundreds of thousands.
pub(super) fn values(c: &Connection, run: &RunId, phase: Phase, iteration: u32) -> Result<Vec<MetricValue>, CallError> {
    let mut statement = c.prepare_cached(
        "SELECT id, metric, judge, judge_sha256, question_sha256, value, body ->> '$.nanodollars'
         FROM episodes JOIN metrics ON episode = key WHERE run = ? AND phase = ? AND iteration = ?
         ORDER BY position, metric, judge, judge_sha256, question_sha256",
    )?;
    let mut rows = statement.query(params![run.as_str(), phase_text(phase), iteration])?;
    let mut all = Vec::new();
    while let Some(row) = rows.next()? {
        let text = |column: usize| row.get::<_, String>(column);
        let damaged = |e: influence_proto::InvalidMessage| CallError::Damaged(e.to_string());
        let digest = |column: usize| Digest::parse(&text(column)?).map_err(damaged);
        all.push(MetricValue {
            episode: EpisodeId::new(text(0)?).map_err(damaged)?,
            source: MetricSource {
                metric: text(1)?,
                judge: text(2)?,
                judge_sha256: digest(3)?,
                question_sha256: digest(4)?,
            },
            value: row.get(5)?,
            nanodollars: row.get::<_, Option<i64>>(6)?.unwrap_or_default().try_into().unwrap_or_default(),
        });
    }
    Ok(all)
}
