//! Training jobs.

use influence_proto::{RunId, TrainingReport, TrainingSpec, WorkId};

use super::call::{Call, CallError, Fields, Led, from_json, prefix, read, to_json};
use super::link::Link;
use super::scripts;
use crate::store::TrainingRecord;

pub(super) async fn plan(led: &Led<'_>, iteration: u32, work: &WorkId, spec: &TrainingSpec) -> Result<(), CallError> {
    let call = led.call(&scripts::PLAN_TRAINING).arg(iteration).arg(work.as_str()).arg(to_json(spec)?);
    led.write(call, work, || format!("the training job of iteration {iteration} of run `{}`", led.run)).await?;
    Ok(())
}

pub(super) async fn all(link: &Link, run: &RunId) -> Result<Vec<TrainingRecord>, CallError> {
    let found = read(link, Call::new(&scripts::TRAININGS, &[&prefix(run)])).await?;
    let mut trainings: Vec<_> = found.lists().map(|job| record(job?)).collect::<Result<_, _>>()?;
    trainings.sort_by_key(|job| job.iteration);
    Ok(trainings)
}

fn record(mut fields: Fields) -> Result<TrainingRecord, CallError> {
    let (iteration, work) = (fields.number()?, fields.text()?);
    let (attempt, error) = (fields.number()?, fields.optional()?);
    Ok(TrainingRecord {
        iteration,
        attempt,
        error,
        spec: from_json(&fields.text()?, &format!("the spec of `{work}`"))?,
        report: match fields.optional()? {
            Some(report) => Some(from_json(&report, &format!("the report of `{work}`"))?),
            None => None,
        },
        work: WorkId::new(work).map_err(|e| CallError::Damaged(e.to_string()))?,
    })
}

pub(super) async fn finish(
    led: &Led<'_>,
    work: &WorkId,
    attempt: u32,
    report: &TrainingReport,
) -> Result<(), CallError> {
    let call = led.call(&scripts::FINISH_TRAINING).arg(work.as_str()).arg(attempt).arg(to_json(report)?);
    led.write(call, work, || format!("the report of `{work}`")).await?;
    Ok(())
}
