//! The selection of an iteration's phase: its verdicts are written in pieces under its digest, and
//! count once the last call has marked the whole.

use std::collections::{BTreeMap, HashSet};

use influence_proto::EpisodeId;
use redis::Value;

use super::call::{CallError, Fields, Led, conflict, iteration_name, to_json, unexpected};
use super::plan::{PIECE, Standing, TRIES, digest_of, look_led, lost};
use super::{episodes, scripts};
use crate::planning::Phase;
use crate::store::{StoreError, Verdict};

pub(super) async fn judge(
    led: &Led<'_>,
    phase: Phase,
    iteration: u32,
    verdicts: Vec<Verdict>,
    notes: &[String],
) -> Result<(), CallError> {
    let name = iteration_name(phase, iteration);
    let other = || {
        let what = format!("the selection of iteration {iteration} ({phase}) of run `{}`", led.run);
        conflict(what, "another one is stored")
    };
    let unplanned = || episodes::unplanned(led.run, phase, iteration);
    let standing = look_led(led, &name).await?.ok_or_else(unplanned)?;
    let given: Vec<EpisodeId> = verdicts.iter().map(|verdict| verdict.episode.clone()).collect();
    let verdicts: BTreeMap<EpisodeId, Verdict> = verdicts.into_iter().map(|v| (v.episode.clone(), v)).collect();
    if standing.selection.is_some() {
        return if stored(led, &name, &standing).await? == verdicts { Ok(()) } else { Err(other()) };
    }
    all_planned(led, &name, &standing, &given).await?;
    let digest = digest_of(verdicts.values().map(to_json))?;
    let notes = to_json(&notes)?;
    for _ in 0..TRIES {
        write(led, &name, &digest, &verdicts).await?;
        let end = led.call(&scripts::JUDGE).arg(&name).arg(&digest).arg(verdicts.len()).arg(&notes);
        let (word, mut fields) = led.send(&end).await?;
        match word.as_str() {
            "ok" => return Ok(()),
            "judged" if fields.text()? == digest => return Ok(()),
            "judged" => return Err(other()),
            "gap" => {}
            word => return Err(unexpected(word)),
        }
    }
    Err(lost(led))
}

async fn stored(led: &Led<'_>, name: &str, standing: &Standing) -> Result<BTreeMap<EpisodeId, Verdict>, CallError> {
    let episodes = episodes::of_plan(led.link, led.run, name, standing).await?;
    Ok(episodes.into_iter().filter_map(|e| e.verdict.map(|verdict| (e.id, verdict))).collect())
}

/// Refuses a verdict on an episode that is not in the plan.
async fn all_planned(led: &Led<'_>, name: &str, standing: &Standing, given: &[EpisodeId]) -> Result<(), CallError> {
    let list = format!("{}p:{name}@{}", led.prefix, standing.plan);
    let mut planned = HashSet::with_capacity(standing.episodes);
    for (first, last) in episodes::pages(standing.episodes) {
        let page: Value = led.link.ask(redis::cmd("LRANGE").arg(&list).arg(first).arg(last)).await?;
        planned.extend(Fields::of(page)?.texts()?);
    }
    match given.iter().find(|id| !planned.contains(id.as_str())) {
        Some(id) => Err(StoreError::NoSuchWork { run: led.run.to_string(), work: id.to_string() }.into()),
        None => Ok(()),
    }
}

async fn write(
    led: &Led<'_>,
    name: &str,
    digest: &str,
    verdicts: &BTreeMap<EpisodeId, Verdict>,
) -> Result<(), CallError> {
    let mut left = verdicts.iter().peekable();
    while left.peek().is_some() {
        let mut call = led.call(&scripts::VERDICTS).arg(name).arg(digest);
        for (id, verdict) in left.by_ref().take(PIECE) {
            call = call.arg(id.as_str()).arg(to_json(verdict)?);
        }
        match led.send(&call).await? {
            (word, _) if word == "ok" => {}
            (word, _) => return Err(unexpected(&word)),
        }
    }
    Ok(())
}
