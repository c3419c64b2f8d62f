//! Live attempts of an episode, and their journals.
//!
//! An episode has one journal, branch 0 of its turns. While a second attempt is live beside the
//! first, the second has a journal of its own, branch 1, until one of them wins.

use influence_proto::{RunId, Turn, WorkId};
use rusqlite::{Connection, OptionalExtension as _, params};

use super::runs::from_json;
use super::writer::CallError;
use crate::store::StoreError;

/// How an episode stands.
struct Standing {
    key: i64,
    status: String,
    attempt: u32,
    turns: u32,
    rival: Option<u32>,
    rival_turns: u32,
}

impl Standing {
    fn of(c: &Connection, run: &RunId, work: &WorkId) -> Result<Self, CallError> {
        let mut statement = c.prepare_cached(
            "SELECT key, status, attempt,
                    (SELECT coalesce(max(turn) + 1, 0) FROM turns WHERE episode = key AND branch = 0),
                    rival,
                    CASE WHEN rival IS NULL THEN 0
                         ELSE (SELECT coalesce(max(turn) + 1, 0) FROM turns WHERE episode = key AND branch = 1) END
             FROM episodes WHERE run = ? AND id = ?",
        )?;
        let found = statement.query_row([run.as_str(), work.as_str()], |row| {
            Ok(Self {
                key: row.get(0)?,
                status: row.get(1)?,
                attempt: row.get(2)?,
                turns: row.get(3)?,
                rival: row.get(4)?,
                rival_turns: row.get(5)?,
            })
        });
        let missing = || StoreError::NoSuchWork { run: run.to_string(), work: work.to_string() }.into();
        found.optional()?.ok_or_else(missing)
    }

    fn highest(&self) -> u32 {
        self.rival.unwrap_or(self.attempt)
    }

    /// The branch and the number of turns of a live attempt's journal.
    fn journal(&self, work: &WorkId, attempt: u32) -> Result<(i64, u32), CallError> {
        if attempt == self.attempt {
            Ok((0, self.turns))
        } else if Some(attempt) == self.rival {
            Ok((1, self.rival_turns))
        } else {
            Err(StoreError::Fenced { work: work.to_string(), attempt, current: self.highest() }.into())
        }
    }

    /// The rival's journal becomes the episode's.
    fn promote_rival(&mut self, c: &Connection) -> Result<(), CallError> {
        c.prepare_cached("DELETE FROM turns WHERE episode = ? AND branch = 0")?.execute([self.key])?;
        c.prepare_cached("UPDATE turns SET branch = 0 WHERE episode = ? AND branch = 1")?.execute([self.key])?;
        self.attempt = self.rival.take().unwrap_or(self.attempt);
        self.turns = std::mem::take(&mut self.rival_turns);
        Ok(())
    }

    fn drop_rival(&mut self, c: &Connection) -> Result<(), CallError> {
        if self.rival.take().is_some() {
            c.prepare_cached("DELETE FROM turns WHERE episode = ? AND branch = 1")?.execute([self.key])?;
            self.rival_turns = 0;
        }
        Ok(())
    }

    fn save(&self, c: &Connection) -> Result<(), CallError> {
        c.prepare_cached("UPDATE episodes SET attempt = ?, rival = ?, status = ? WHERE key = ?")?.execute(params![
            self.attempt,
            self.rival,
            self.status,
            self.key
        ])?;
        Ok(())
    }
}

pub(super) fn conflict(what: String, problem: impl Into<String>) -> CallError {
    StoreError::Conflict { what, problem: problem.into() }.into()
}

fn finished(work: &WorkId) -> CallError {
    StoreError::AlreadyFinished { work: work.to_string() }.into()
}

fn given_up(work: &WorkId) -> CallError {
    StoreError::GivenUp { work: work.to_string() }.into()
}

/// The turns of one branch, in order.
fn branch(c: &Connection, key: i64, branch: i64, work: &WorkId) -> Result<Vec<Turn>, CallError> {
    let mut statement = c.prepare_cached("SELECT body FROM turns WHERE episode = ? AND branch = ? ORDER BY turn")?;
    let rows = statement.query_map([key, branch], |row| row.get::<_, String>(0))?;
    rows.map(|row| from_json(&row?, &format!("a turn of episode `{work}`"))).collect()
}

pub(super) fn journal(c: &Connection, run: &RunId, work: &WorkId) -> Result<Vec<Turn>, CallError> {
    let standing = Standing::of(c, run, work)?;
    branch(c, standing.key, 0, work)
}

/// Starts an attempt and returns its journal.
pub(super) fn start(
    c: &Connection,
    run: &RunId,
    work: &WorkId,
    attempt: u32,
    beside: Option<u32>,
) -> Result<Vec<Turn>, CallError> {
    let mut standing = Standing::of(c, run, work)?;
    if standing.status == "finished" {
        return Err(finished(work));
    }
    match beside {
        _ if attempt < standing.highest() => {
            let current = standing.highest();
            return Err(StoreError::Fenced { work: work.to_string(), attempt, current }.into());
        }
        None if Some(attempt) == standing.rival || standing.rival_turns > standing.turns => {
            standing.promote_rival(c)?;
        }
        None => standing.drop_rival(c)?,
        Some(other) => {
            let (of, _) = standing.journal(work, other)?;
            if standing.rival == Some(attempt) && of == 0 {
                return branch(c, standing.key, 1, work);
            }
            if attempt == standing.highest() {
                return Err(conflict(format!("attempt {attempt} of `{work}`"), "it was started before"));
            }
            match of {
                0 => standing.drop_rival(c)?,
                _ => standing.promote_rival(c)?,
            }
            c.prepare_cached(
                "INSERT INTO turns (episode, branch, turn, attempt, body)
                 SELECT episode, 1, turn, attempt, body FROM turns WHERE episode = ? AND branch = 0",
            )?
            .execute([standing.key])?;
            standing.rival = Some(attempt);
            standing.rival_turns = standing.turns;
            standing.save(c)?;
            return branch(c, standing.key, 1, work);
        }
    }
    standing.attempt = attempt;
    standing.save(c)?;
    branch(c, standing.key, 0, work)
}

/// Journals a turn, whose JSON is `body`.
pub(super) fn record_turn(
    c: &Connection,
    run: &RunId,
    work: &WorkId,
    attempt: u32,
    index: u32,
    body: &str,
) -> Result<(), CallError> {
    let standing = Standing::of(c, run, work)?;
    let (branch, turns) = standing.journal(work, attempt)?;
    let what = || format!("turn {index} of episode `{work}`");
    if index < turns {
        let stored: String = c
            .prepare_cached("SELECT body FROM turns WHERE episode = ? AND branch = ? AND turn = ?")?
            .query_row(params![standing.key, branch, index], |row| row.get(0))?;
        return if stored == body { Ok(()) } else { Err(conflict(what(), "another turn is stored there")) };
    }
    if index > turns {
        return Err(conflict(what(), format!("the journal holds {turns} turns, so the next is turn {turns}")));
    }
    match standing.status.as_str() {
        "finished" => return Err(conflict(what(), format!("the episode is finished with {turns} turns"))),
        "failed" => return Err(given_up(work)),
        _ => {}
    }
    c.prepare_cached("INSERT INTO turns (episode, branch, turn, attempt, body) VALUES (?, ?, ?, ?, ?)")?
        .execute(params![standing.key, branch, index, attempt, body])?;
    Ok(())
}

pub(super) fn finish(c: &Connection, run: &RunId, work: &WorkId, attempt: u32, turns: u32) -> Result<(), CallError> {
    let mut standing = Standing::of(c, run, work)?;
    let (branch, stored) = standing.journal(work, attempt)?;
    if standing.status == "failed" {
        return Err(given_up(work));
    }
    if turns != stored {
        let problem = format!("it says {turns} turns, the journal holds {stored}");
        return Err(conflict(format!("the end of episode `{work}`"), problem));
    }
    match branch {
        0 => standing.drop_rival(c)?,
        _ => standing.promote_rival(c)?,
    }
    standing.status = "finished".to_owned();
    standing.save(c)
}

pub(super) fn fail(c: &Connection, run: &RunId, work: &WorkId, attempt: u32, error: &str) -> Result<(), CallError> {
    let standing = Standing::of(c, run, work)?;
    if standing.status == "finished" {
        return Err(finished(work));
    }
    standing.journal(work, attempt)?;
    c.prepare_cached("UPDATE episodes SET status = 'failed', error = ? WHERE key = ?")?
        .execute(params![error, standing.key])?;
    Ok(())
}
