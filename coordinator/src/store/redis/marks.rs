//! What people say of conversations.

use influence_proto::{EpisodeId, RunId};

use super::call::{Call, CallError, from_json, prefix, read, to_json, unexpected};
use super::link::Link;
use super::scripts;
use crate::store::{Mark, StoreError};

/// What tells a mark from others of its run.
fn name(episode: &EpisodeId, turn: Option<u32>, label: &str) -> Result<String, CallError> {
    to_json(&(episode, turn, label))
}

pub(super) async fn write(link: &Link, run: &RunId, mark: &Mark) -> Result<(), CallError> {
    let call = Call::new(&scripts::MARK, &[&prefix(run)])
        .arg(mark.episode.as_str())
        .arg(name(&mark.episode, mark.turn, &mark.label)?)
        .arg(to_json(mark)?);
    match call.send(link).await? {
        (word, _) if word == "ok" => Ok(()),
        (word, _) if word == "no_work" => {
            Err(StoreError::NoSuchWork { run: run.to_string(), work: mark.episode.to_string() }.into())
        }
        (word, _) => Err(unexpected(&word)),
    }
}

pub(super) async fn remove(
    link: &Link,
    run: &RunId,
    episode: &EpisodeId,
    turn: Option<u32>,
    label: &str,
) -> Result<(), CallError> {
    let call = Call::new(&scripts::UNMARK, &[&prefix(run)]).arg(name(episode, turn, label)?);
    read(link, call).await.map(drop)
}

pub(super) async fn all(link: &Link, run: &RunId) -> Result<Vec<Mark>, CallError> {
    let mut found = read(link, Call::new(&scripts::MARKS, &[&prefix(run)])).await?;
    let texts = found.list()?.texts()?;
    let mut marks: Vec<Mark> = texts.iter().map(|text| from_json(text, "a mark")).collect::<Result<_, _>>()?;
    marks.sort_by(|a, b| (&a.episode, a.turn, &a.label).cmp(&(&b.episode, b.turn, &b.label)));
    Ok(marks)
}
