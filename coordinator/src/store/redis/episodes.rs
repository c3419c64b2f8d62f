//! Planned episodes as they stand.

use influence_proto::{EpisodeId, EpisodeSpec, RunId, Turn};

use super::call::{
    Call, CallError, Fields, Led, conflict, from_json, iteration_name, prefix, read, to_json, unexpected,
};
use super::link::Link;
use super::plan::{Standing, look};
use super::scripts;
use crate::planning::Phase;
use crate::store::{EpisodeRecord, EpisodeStatus, MetricResult, StoreError};

/// Episodes in one answer at most.
const PAGE: usize = 1000;

/// First and last position of each page of `count` episodes.
pub(super) fn pages(count: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..count).step_by(PAGE).map(move |first| (first, first + PAGE - 1))
}

/// The episodes in plan order. Each is read as one; the list may span several moments.
pub(super) async fn all(
    link: &Link,
    run: &RunId,
    phase: Phase,
    iteration: u32,
) -> Result<Vec<EpisodeRecord>, CallError> {
    let name = iteration_name(phase, iteration);
    match look(link, run, &name).await? {
        Some(standing) => of_plan(link, run, &name, &standing).await,
        None => Ok(Vec::new()),
    }
}

pub(super) async fn of_plan(
    link: &Link,
    run: &RunId,
    name: &str,
    standing: &Standing,
) -> Result<Vec<EpisodeRecord>, CallError> {
    let prefix = prefix(run);
    let mut episodes = Vec::with_capacity(standing.episodes);
    for (first, last) in pages(standing.episodes) {
        let call = Call::new(&scripts::EPISODES, &[&prefix])
            .arg(name)
            .arg(&standing.plan)
            .arg(standing.selection.as_deref().unwrap_or_default())
            .arg(first)
            .arg(last);
        for episode in read(link, call).await?.lists() {
            episodes.push(record(episode?)?);
        }
    }
    Ok(episodes)
}

fn record(mut fields: Fields) -> Result<EpisodeRecord, CallError> {
    let (id, place) = (fields.text()?, fields.text()?);
    let (status, error) = (fields.optional()?, fields.optional()?);
    let attempt = fields.optional()?.unwrap_or_else(|| "0".into());
    let (environment_class, environment, initial_state) = from_json(&place, &format!("the place of episode `{id}`"))?;
    Ok(EpisodeRecord {
        environment_class,
        environment,
        initial_state,
        status: match status.as_deref() {
            Some("finished") => EpisodeStatus::Finished,
            Some("failed") => EpisodeStatus::Failed(error.unwrap_or_default()),
            _ => EpisodeStatus::Pending,
        },
        attempt: attempt.parse().map_err(|_| CallError::Damaged(format!("`{attempt}` is no attempt of `{id}`")))?,
        turns: fields.number()?,
        verdict: match fields.optional()? {
            Some(verdict) => Some(from_json(&verdict, &format!("the verdict on episode `{id}`"))?),
            None => None,
        },
        id: EpisodeId::new(id).map_err(|e| CallError::Damaged(e.to_string()))?,
    })
}

/// The spec or the journal of an episode, or what judges said about it.
async fn stored(link: &Link, run: &RunId, id: &EpisodeId, which: &str) -> Result<Fields, CallError> {
    of_episode(link, run, id, Call::new(&scripts::STORED, &[&prefix(run)]).arg(id.as_str()).arg(which)).await
}

async fn of_episode(link: &Link, run: &RunId, id: &EpisodeId, call: Call) -> Result<Fields, CallError> {
    match call.send(link).await? {
        (word, fields) if word == "ok" => Ok(fields),
        (word, _) if word == "no_work" => {
            Err(StoreError::NoSuchWork { run: run.to_string(), work: id.to_string() }.into())
        }
        (word, _) => Err(unexpected(&word)),
    }
}

pub(super) async fn spec(link: &Link, run: &RunId, id: &EpisodeId) -> Result<EpisodeSpec, CallError> {
    from_json(&stored(link, run, id, "spec").await?.text()?, &format!("the spec of episode `{id}`"))
}

pub(super) async fn journal(link: &Link, run: &RunId, id: &EpisodeId) -> Result<Vec<Turn>, CallError> {
    turns(stored(link, run, id, "journal").await?.list()?, id.as_str())
}

pub(super) fn turns(list: Fields, id: &str) -> Result<Vec<Turn>, CallError> {
    let what = format!("a turn of episode `{id}`");
    list.texts()?.iter().map(|text| from_json(text, &what)).collect()
}

pub(super) async fn add_metric(
    link: &Link,
    run: &RunId,
    id: &EpisodeId,
    result: &MetricResult,
) -> Result<(), CallError> {
    let call = Call::new(&scripts::ADD_METRIC, &[&prefix(run)]).arg(id.as_str());
    let call = call.arg(to_json(&result.source)?).arg(to_json(result)?);
    of_episode(link, run, id, call).await.map(|_| ())
}

pub(super) async fn metrics(link: &Link, run: &RunId, id: &EpisodeId) -> Result<Vec<MetricResult>, CallError> {
    let what = format!("a metric of episode `{id}`");
    let texts = stored(link, run, id, "metrics").await?.list()?.texts()?;
    let mut metrics: Vec<MetricResult> = texts.iter().map(|text| from_json(text, &what)).collect::<Result<_, _>>()?;
    metrics.sort_by(|a, b| a.source.cmp(&b.source));
    Ok(metrics)
}

/// The first answer says whether the phase may be reopened; each call checks it anew.
pub(super) async fn reopen(led: &Led<'_>, phase: Phase, iteration: u32) -> Result<(), CallError> {
    let name = iteration_name(phase, iteration);
    let mut first = 0;
    loop {
        let call = led.call(&scripts::REOPEN).arg(&name).arg(first).arg(first + PAGE - 1);
        let (word, mut fields) = led.send(&call).await?;
        match word.as_str() {
            "ok" if fields.number::<usize>()? < PAGE => return Ok(()),
            "ok" => first += PAGE,
            "unplanned" => return Err(unplanned(led.run, phase, iteration)),
            "judged" => {
                let what = format!("reopening iteration {iteration} ({phase}) of run `{}`", led.run);
                return Err(conflict(what, "its selection is made"));
            }
            other => return Err(unexpected(other)),
        }
    }
}

pub(super) fn unplanned(run: &RunId, phase: Phase, iteration: u32) -> CallError {
    conflict(format!("iteration {iteration} ({phase}) of run `{run}`"), "it is not planned")
}
