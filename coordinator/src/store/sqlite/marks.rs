//! What people say of conversations.

use influence_proto::{EpisodeId, RunId};
use rusqlite::{Connection, params};

use super::writer::CallError;
use crate::store::{Mark, StoreError};

/// A turn as a column that is part of a key.
fn turn_key(turn: Option<u32>) -> i64 {
    turn.map_or(-1, i64::from)
}

pub(super) fn write(c: &Connection, run: &RunId, mark: &Mark) -> Result<(), CallError> {
    let episode = mark.episode.as_str();
    if !c.prepare_cached("SELECT 1 FROM episodes WHERE run = ? AND id = ?")?.exists([run.as_str(), episode])? {
        return Err(StoreError::NoSuchWork { run: run.to_string(), work: episode.to_owned() }.into());
    }
    c.execute(
        "INSERT OR REPLACE INTO marks (run, episode, turn, label, note, at_ms) VALUES (?, ?, ?, ?, ?, ?)",
        params![run.as_str(), episode, turn_key(mark.turn), mark.label, mark.note, mark.at_ms as i64],
    )?;
    Ok(())
}

pub(super) fn remove(
    c: &Connection,
    run: &RunId,
    episode: &EpisodeId,
    turn: Option<u32>,
    label: &str,
) -> Result<(), CallError> {
    c.execute(
        "DELETE FROM marks WHERE run = ? AND episode = ? AND turn = ? AND label = ?",
        params![run.as_str(), episode.as_str(), turn_key(turn), label],
    )?;
    Ok(())
}

pub(super) fn all(c: &Connection, run: &RunId) -> Result<Vec<Mark>, CallError> {
    let mut statement = c.prepare_cached(
        "SELECT episode, turn, label, note, at_ms FROM marks WHERE run = ? ORDER BY episode, turn, label",
    )?;
    let rows = statement.query_map([run.as_str()], |row| {
        Ok((row.get::<_, String>(0)?, row.get::<_, i64>(1)?, row.get(2)?, row.get(3)?, row.get::<_, i64>(4)?))
    })?;
    rows.map(|row| {
        let (episode, turn, label, note, at_ms) = row?;
        Ok(Mark {
            episode: EpisodeId::new(episode).map_err(|e| CallError::Damaged(e.to_string()))?,
            turn: u32::try_from(turn).ok(),
            label,
            note,
            at_ms: at_ms as u64,
        })
    })
    .collect()
}
