//! Episodes and their journals.

use influence_proto::{EpisodeId, EpisodeSpec, RunId, Turn, WorkId};
use rusqlite::{Connection, OptionalExtension as _, Row, params};

use super::runs::{from_json, phase_text, to_json};
use super::writer::CallError;
use crate::planning::Phase;
use crate::store::{EpisodeRecord, EpisodeStatus, Selected, StoreError, Verdict};

pub(super) fn plan(
    c: &Connection,
    run: &RunId,
    phase: Phase,
    iteration: u32,
    specs: &[EpisodeSpec],
) -> Result<(), CallError> {
    let added = c.execute(
        "INSERT INTO iterations (run, iteration, phase) SELECT id, ?, ? FROM runs WHERE id = ?
         ON CONFLICT DO NOTHING",
        params![iteration, phase_text(phase), run.as_str()],
    )?;
    if added == 0 {
        return same_plan(c, run, phase, iteration, specs);
    }
    let mut insert = c.prepare_cached(
        "INSERT INTO episodes (run, id, iteration, phase, position, environment_class, environment, initial_state, spec)
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
    )?;
    for (position, spec) in specs.iter().enumerate() {
        insert.execute(params![
            run.as_str(),
            spec.id.as_str(),
            iteration,
            phase_text(phase),
            position as i64,
            spec.environment_class,
            spec.environment,
            spec.initial_state,
            to_json(spec)?,
        ])?;
    }
    Ok(())
}

/// Nothing was added: either the same is planned, or there is no such run, or a plan would change.
fn same_plan(
    c: &Connection,
    run: &RunId,
    phase: Phase,
    iteration: u32,
    specs: &[EpisodeSpec],
) -> Result<(), CallError> {
    super::runs::one(c, run)?;
    let mut statement =
        c.prepare("SELECT spec FROM episodes WHERE run = ? AND iteration = ? AND phase = ? ORDER BY position")?;
    let stored: Vec<String> = statement
        .query_map(params![run.as_str(), iteration, phase_text(phase)], |row| row.get(0))?
        .collect::<Result<_, _>>()?;
    let wanted: Vec<String> = specs.iter().map(to_json).collect::<Result<_, _>>()?;
    if stored == wanted {
        return Ok(());
    }
    Err(StoreError::Conflict {
        what: format!("the plan of iteration {iteration} ({}) of run `{run}`", phase_text(phase)),
        problem: format!("{} other episodes are planned", stored.len()),
    }
    .into())
}

struct EpisodeRow {
    spec: String,
    status: String,
    error: Option<String>,
    attempt: u32,
    turns: u32,
    judged: bool,
    reward: Option<f64>,
    influence: Option<f64>,
    vetoed: bool,
    unscored: bool,
    selected: Option<String>,
}

const COLUMNS: &str = "spec, status, error, attempt, turns, judged, reward, influence, vetoed, unscored, selected";

fn episode_row(row: &Row<'_>) -> rusqlite::Result<EpisodeRow> {
    Ok(EpisodeRow {
        spec: row.get(0)?,
        status: row.get(1)?,
        error: row.get(2)?,
        attempt: row.get(3)?,
        turns: row.get(4)?,
        judged: row.get(5)?,
        reward: row.get(6)?,
        influence: row.get(7)?,
        vetoed: row.get(8)?,
        unscored: row.get(9)?,
        selected: row.get(10)?,
    })
}

fn episode_record(row: EpisodeRow) -> Result<EpisodeRecord, CallError> {
    let spec: EpisodeSpec = from_json(&row.spec, "an episode's spec")?;
    let verdict = row.judged.then(|| Verdict {
        episode: spec.id.clone(),
        reward: row.reward,
        influence: row.influence,
        vetoed: row.vetoed,
        unscored: row.unscored,
        selected: row.selected.map(|text| if text == "best" { Selected::Best } else { Selected::Worst }),
    });
    Ok(EpisodeRecord {
        spec,
        status: match row.status.as_str() {
            "finished" => EpisodeStatus::Finished,
            "failed" => EpisodeStatus::Failed(row.error.unwrap_or_default()),
            _ => EpisodeStatus::Pending,
        },
        attempt: row.attempt,
        turns: row.turns,
        verdict,
    })
}

pub(super) fn all(c: &Connection, run: &RunId, phase: Phase, iteration: u32) -> Result<Vec<EpisodeRecord>, CallError> {
    let mut statement = c.prepare_cached(&format!(
        "SELECT {COLUMNS} FROM episodes WHERE run = ? AND iteration = ? AND phase = ? ORDER BY position"
    ))?;
    let rows = statement.query_map(params![run.as_str(), iteration, phase_text(phase)], episode_row)?;
    rows.map(|row| episode_record(row?)).collect()
}

pub(super) fn journal(c: &Connection, run: &RunId, work: &WorkId) -> Result<Vec<Turn>, CallError> {
    let mut statement = c.prepare_cached("SELECT body FROM turns WHERE run = ? AND episode = ? ORDER BY turn")?;
    let rows = statement.query_map([run.as_str(), work.as_str()], |row| row.get::<_, String>(0))?;
    rows.map(|row| from_json(&row?, &format!("a turn of episode `{work}`"))).collect()
}

/// Status, current attempt and number of turns.
fn standing(c: &Connection, run: &RunId, work: &WorkId) -> Result<(String, u32, u32), CallError> {
    let mut statement = c.prepare_cached("SELECT status, attempt, turns FROM episodes WHERE run = ? AND id = ?")?;
    statement
        .query_row([run.as_str(), work.as_str()], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
        .optional()?
        .ok_or_else(|| StoreError::NoSuchWork { run: run.to_string(), work: work.to_string() }.into())
}

fn must_be_current(work: &WorkId, attempt: u32, current: u32) -> Result<(), CallError> {
    if attempt == current {
        return Ok(());
    }
    Err(StoreError::Fenced { work: work.to_string(), attempt, current }.into())
}

fn finished(work: &WorkId) -> CallError {
    StoreError::AlreadyFinished { work: work.to_string() }.into()
}

fn given_up(work: &WorkId) -> CallError {
    StoreError::GivenUp { work: work.to_string() }.into()
}

fn conflict(what: String, problem: impl Into<String>) -> CallError {
    StoreError::Conflict { what, problem: problem.into() }.into()
}

pub(super) fn start_attempt(c: &Connection, run: &RunId, work: &WorkId, attempt: u32) -> Result<Vec<Turn>, CallError> {
    let (status, current, _) = standing(c, run, work)?;
    if status == "finished" {
        return Err(finished(work));
    }
    if attempt < current {
        must_be_current(work, attempt, current)?;
    }
    c.prepare_cached("UPDATE episodes SET attempt = ? WHERE run = ? AND id = ?")?.execute(params![
        attempt,
        run.as_str(),
        work.as_str()
    ])?;
    journal(c, run, work)
}

pub(super) fn record_turn(
    c: &Connection,
    run: &RunId,
    work: &WorkId,
    attempt: u32,
    turn: &Turn,
) -> Result<(), CallError> {
    let (status, current, turns) = standing(c, run, work)?;
    must_be_current(work, attempt, current)?;
    let body = to_json(turn)?;
    let what = || format!("turn {} of episode `{work}`", turn.index);
    if turn.index < turns {
        let stored: String = c
            .prepare_cached("SELECT body FROM turns WHERE run = ? AND episode = ? AND turn = ?")?
            .query_row(params![run.as_str(), work.as_str(), turn.index], |row| row.get(0))?;
        return if stored == body { Ok(()) } else { Err(conflict(what(), "another turn is stored there")) };
    }
    if turn.index > turns {
        return Err(conflict(what(), format!("the journal holds {turns} turns, so the next is turn {turns}")));
    }
    match status.as_str() {
        "finished" => return Err(conflict(what(), format!("the episode is finished with {turns} turns"))),
        "failed" => return Err(given_up(work)),
        _ => {}
    }
    c.prepare_cached("INSERT INTO turns (run, episode, turn, attempt, body) VALUES (?, ?, ?, ?, ?)")?
        .execute(params![run.as_str(), work.as_str(), turn.index, attempt, body])?;
    c.prepare_cached("UPDATE episodes SET turns = turns + 1 WHERE run = ? AND id = ?")?
        .execute([run.as_str(), work.as_str()])?;
    Ok(())
}

pub(super) fn finish(c: &Connection, run: &RunId, work: &WorkId, attempt: u32, turns: u32) -> Result<(), CallError> {
    let (status, current, stored) = standing(c, run, work)?;
    must_be_current(work, attempt, current)?;
    if status == "failed" {
        return Err(given_up(work));
    }
    if turns != stored {
        let problem = format!("it says {turns} turns, the journal holds {stored}");
        return Err(conflict(format!("the end of episode `{work}`"), problem));
    }
    set_status(c, run, work, "finished", None)
}

fn set_status(c: &Connection, run: &RunId, work: &WorkId, status: &str, error: Option<&str>) -> Result<(), CallError> {
    c.prepare_cached("UPDATE episodes SET status = ?, error = ? WHERE run = ? AND id = ?")?.execute(params![
        status,
        error,
        run.as_str(),
        work.as_str()
    ])?;
    Ok(())
}

pub(super) fn fail(c: &Connection, run: &RunId, work: &WorkId, attempt: u32, error: &str) -> Result<(), CallError> {
    let (status, current, _) = standing(c, run, work)?;
    if status == "finished" {
        return Err(finished(work));
    }
    must_be_current(work, attempt, current)?;
    set_status(c, run, work, "failed", Some(error))
}

pub(super) fn reopen(c: &Connection, run: &RunId, phase: Phase, iteration: u32) -> Result<(), CallError> {
    if is_judged(c, run, phase, iteration)? {
        let what = format!("reopening iteration {iteration} ({}) of run `{run}`", phase_text(phase));
        return Err(conflict(what, "its selection is made"));
    }
    c.execute(
        "UPDATE episodes SET status = 'pending', error = NULL
         WHERE run = ? AND iteration = ? AND phase = ? AND status = 'failed'",
        params![run.as_str(), iteration, phase_text(phase)],
    )?;
    Ok(())
}

fn is_judged(c: &Connection, run: &RunId, phase: Phase, iteration: u32) -> Result<bool, CallError> {
    c.query_row(
        "SELECT judged FROM iterations WHERE run = ? AND iteration = ? AND phase = ?",
        params![run.as_str(), iteration, phase_text(phase)],
        |row| row.get(0),
    )
    .optional()?
    .ok_or_else(|| {
        conflict(format!("iteration {iteration} ({}) of run `{run}`", phase_text(phase)), "it is not planned")
    })
}

pub(super) fn judge(
    c: &Connection,
    run: &RunId,
    phase: Phase,
    iteration: u32,
    verdicts: &[Verdict],
    notes: &[String],
) -> Result<(), CallError> {
    if is_judged(c, run, phase, iteration)? {
        return same_verdicts(c, run, phase, iteration, verdicts);
    }
    let mut update = c.prepare_cached(
        "UPDATE episodes SET judged = 1, reward = ?, influence = ?, vetoed = ?, unscored = ?, selected = ?
         WHERE run = ? AND id = ? AND iteration = ? AND phase = ?",
    )?;
    for v in verdicts {
        let selected = v.selected.map(|s| if s == Selected::Best { "best" } else { "worst" });
        let id = v.episode.as_str();
        let changed = update.execute(params![
            v.reward,
            v.influence,
            v.vetoed,
            v.unscored,
            selected,
            run.as_str(),
            id,
            iteration,
            phase_text(phase)
        ])?;
        if changed == 0 {
            return Err(StoreError::NoSuchWork { run: run.to_string(), work: id.to_owned() }.into());
        }
    }
    c.execute(
        "UPDATE iterations SET judged = 1, notes = ? WHERE run = ? AND iteration = ? AND phase = ?",
        params![to_json(&notes)?, run.as_str(), iteration, phase_text(phase)],
    )?;
    Ok(())
}

fn same_verdicts(
    c: &Connection,
    run: &RunId,
    phase: Phase,
    iteration: u32,
    verdicts: &[Verdict],
) -> Result<(), CallError> {
    let by_id = |list: Vec<Verdict>| -> std::collections::BTreeMap<EpisodeId, Verdict> {
        list.into_iter().map(|v| (v.episode.clone(), v)).collect()
    };
    let stored = by_id(all(c, run, phase, iteration)?.into_iter().filter_map(|e| e.verdict).collect());
    if stored == by_id(verdicts.to_vec()) {
        return Ok(());
    }
    let what = format!("the selection of iteration {iteration} ({}) of run `{run}`", phase_text(phase));
    Err(conflict(what, "another one is stored"))
}
