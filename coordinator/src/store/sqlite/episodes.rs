//! Episodes: their plan, and what became of them.

use influence_proto::{EpisodeId, EpisodeSpec, RunId, WorkId};
use rusqlite::{Connection, OptionalExtension as _, Row, params};

use super::attempts;
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
        "INSERT INTO episodes (run, id, iteration, phase, position, environment_class, environment, initial_state)
         VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
    )?;
    let mut keep = c.prepare_cached("INSERT INTO specs (episode, body) VALUES (?, ?)")?;
    for (position, spec) in specs.iter().enumerate() {
        let key = insert.insert(params![
            run.as_str(),
            spec.id.as_str(),
            iteration,
            phase_text(phase),
            position as i64,
            spec.environment_class,
            spec.environment,
            spec.initial_state,
        ])?;
        keep.execute(params![key, to_json(spec)?])?;
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
    let mut statement = c.prepare(
        "SELECT body FROM specs JOIN episodes ON key = episode
         WHERE run = ? AND iteration = ? AND phase = ? ORDER BY position",
    )?;
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
    id: String,
    environment_class: String,
    environment: String,
    initial_state: String,
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

const COLUMNS: &str = "id, environment_class, environment, initial_state, status, error, \
                       max(attempt, coalesce(rival, 0)), \
                       (SELECT coalesce(max(turn) + 1, 0) FROM turns WHERE episode = key AND branch = 0), \
                       judged, reward, influence, vetoed, unscored, selected";

fn episode_row(row: &Row<'_>) -> rusqlite::Result<EpisodeRow> {
    Ok(EpisodeRow {
        id: row.get(0)?,
        environment_class: row.get(1)?,
        environment: row.get(2)?,
        initial_state: row.get(3)?,
        status: row.get(4)?,
        error: row.get(5)?,
        attempt: row.get(6)?,
        turns: row.get(7)?,
        judged: row.get(8)?,
        reward: row.get(9)?,
        influence: row.get(10)?,
        vetoed: row.get(11)?,
        unscored: row.get(12)?,
        selected: row.get(13)?,
    })
}

fn episode_record(row: EpisodeRow) -> Result<EpisodeRecord, CallError> {
    let id = EpisodeId::new(row.id).map_err(|e| CallError::Damaged(e.to_string()))?;
    let verdict = row.judged.then(|| Verdict {
        episode: id.clone(),
        reward: row.reward,
        influence: row.influence,
        vetoed: row.vetoed,
        unscored: row.unscored,
        selected: row.selected.map(|text| if text == "best" { Selected::Best } else { Selected::Worst }),
    });
    Ok(EpisodeRecord {
        id,
        environment_class: row.environment_class,
        environment: row.environment,
        initial_state: row.initial_state,
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

pub(super) fn spec(c: &Connection, run: &RunId, work: &WorkId) -> Result<EpisodeSpec, CallError> {
    let mut statement =
        c.prepare_cached("SELECT body FROM specs JOIN episodes ON key = episode WHERE run = ? AND id = ?")?;
    let body: Option<String> = statement.query_row([run.as_str(), work.as_str()], |row| row.get(0)).optional()?;
    let body = body.ok_or_else(|| StoreError::NoSuchWork { run: run.to_string(), work: work.to_string() })?;
    from_json(&body, &format!("the spec of episode `{work}`"))
}

pub(super) fn reopen(c: &Connection, run: &RunId, phase: Phase, iteration: u32) -> Result<(), CallError> {
    if is_judged(c, run, phase, iteration)? {
        let what = format!("reopening iteration {iteration} ({}) of run `{run}`", phase_text(phase));
        return Err(attempts::conflict(what, "its selection is made"));
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
        attempts::conflict(format!("iteration {iteration} ({}) of run `{run}`", phase_text(phase)), "it is not planned")
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
    Err(attempts::conflict(what, "another one is stored"))
}
