//! Live attempts of an episode, and their journals. The rules are in the scripts.

use influence_proto::{Turn, Work, WorkId};

use super::call::{CallError, Led, from_json, to_json, unexpected};
use super::{episodes, scripts};

/// Starts an attempt of an episode or of a training job, and returns what its holder needs.
pub(super) async fn start(led: &Led<'_>, work: &WorkId, attempt: u32, beside: Option<u32>) -> Result<Work, CallError> {
    let beside = beside.map(|other| other.to_string()).unwrap_or_default();
    let call = led.call(&scripts::START).arg(work.as_str()).arg(attempt).arg(beside);
    let mut fields = led.write(call, work, || format!("attempt {attempt} of `{work}`")).await?;
    let (kind, spec) = (fields.text()?, fields.text()?);
    match kind.as_str() {
        "training" => Ok(Work::Training(Box::new(from_json(&spec, &format!("the spec of `{work}`"))?))),
        "episode" => Ok(Work::Episode {
            spec: Box::new(from_json(&spec, &format!("the spec of episode `{work}`"))?),
            journal: episodes::turns(fields.list()?, work.as_str())?,
        }),
        other => Err(unexpected(other)),
    }
}

pub(super) async fn record_turn(led: &Led<'_>, work: &WorkId, attempt: u32, turn: &Turn) -> Result<(), CallError> {
    let call = led.call(&scripts::RECORD_TURN).arg(work.as_str()).arg(attempt).arg(turn.index).arg(to_json(turn)?);
    led.write(call, work, || format!("turn {} of episode `{work}`", turn.index)).await?;
    Ok(())
}

pub(super) async fn finish(led: &Led<'_>, work: &WorkId, attempt: u32, turns: u32) -> Result<(), CallError> {
    let call = led.call(&scripts::FINISH).arg(work.as_str()).arg(attempt).arg(turns);
    led.write(call, work, || format!("the end of episode `{work}`")).await?;
    Ok(())
}

/// Gives an episode or a training job up.
pub(super) async fn fail(led: &Led<'_>, work: &WorkId, attempt: u32, error: &str) -> Result<(), CallError> {
    let call = led.call(&scripts::FAIL).arg(work.as_str()).arg(attempt).arg(error);
    led.write(call, work, || format!("the failure of `{work}`")).await?;
    Ok(())
}
