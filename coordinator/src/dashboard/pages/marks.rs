//! What people say of conversations: given on a conversation's page, gathered on a run's.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{SystemTime, UNIX_EPOCH};

use askama::Template;
use axum::extract::{Form, Path, Query, State};
use axum::http::header;
use axum::response::{IntoResponse, Redirect};
use influence_proto::EpisodeId;
use serde::Deserialize;
use serde_json::Value;

use super::head::{Head, age};
use super::{Page, number, render, run_id};
use crate::catalogue::EpisodeRow;
use crate::dashboard::Pages;
use crate::dashboard::error::PageError;
use crate::statistics::Confusion;
use crate::store::{Mark, RunRecord};

const LONGEST_LABEL: usize = 40;
const LONGEST_NOTE: usize = 4000;
/// Marks that the page shows, the newest.
const SHOWN: usize = 200;

/// What somebody says, by a form.
#[derive(Debug, Deserialize)]
pub(in crate::dashboard) struct Said {
    /// From 1; empty for the whole conversation.
    #[serde(default)]
    turn: String,
    label: String,
    #[serde(default)]
    note: String,
    /// Not empty: the mark is taken back.
    #[serde(default)]
    remove: String,
}

/// Writes a mark down, or takes it back, and leads back to where it was given.
pub(in crate::dashboard) async fn mark(
    State(pages): State<Pages>,
    Path((run, episode)): Path<(String, String)>,
    Form(said): Form<Said>,
) -> Result<Redirect, PageError> {
    let run = pages.store.run(&run_id(run)?).await?.id;
    let no_such = |_| PageError::not_found("There is no such conversation.");
    let episode = EpisodeId::new(episode).map_err(no_such)?;
    let turns = pages.store.journal(&run, &episode).await?.len();
    let (turn, place) = match said.turn.parse::<u32>() {
        Ok(number @ 1..) if number as usize <= turns => (Some(number - 1), format!("#turn-{number}")),
        Err(_) if said.turn.is_empty() => (None, String::new()),
        _ => return Err(PageError::refused(format!("The conversation has {turns} turns, and none of that number."))),
    };
    let (label, note) = (said.label.trim(), said.note.trim());
    if label.is_empty() || label.chars().count() > LONGEST_LABEL || label.chars().any(char::is_control) {
        return Err(PageError::refused(format!("A label has 1 to {LONGEST_LABEL} characters, as in `harmful`.")));
    }
    if note.chars().count() > LONGEST_NOTE {
        return Err(PageError::refused(format!("A note has {LONGEST_NOTE} characters at most.")));
    }
    if said.remove.is_empty() {
        let at_ms = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64;
        let (label, note) = (label.to_owned(), note.to_owned());
        pages.store.mark(&run, Mark { episode: episode.clone(), turn, label, note, at_ms }).await?;
    } else {
        pages.store.unmark(&run, &episode, turn, label).await?;
    }
    Ok(Redirect::to(&format!("/runs/{run}/episodes/{episode}{place}")))
}

/// A mark as it is shown.
pub(super) struct Shown {
    pub(super) label: String,
    pub(super) note: String,
    pub(super) age: String,
}

/// The marks of one conversation, by turn.
pub(super) fn of_conversation(marks: Vec<Mark>, episode: &EpisodeId) -> BTreeMap<Option<u32>, Vec<Shown>> {
    let mut of: BTreeMap<Option<u32>, Vec<Shown>> = BTreeMap::new();
    for mark in marks.into_iter().filter(|mark| mark.episode == *episode) {
        of.entry(mark.turn).or_default().push(Shown { label: mark.label, note: mark.note, age: age(mark.at_ms) });
    }
    of
}

/// Every label in use, and two to begin with.
pub(super) fn labels(marks: &[Mark]) -> Vec<String> {
    let mut labels: BTreeSet<&str> = marks.iter().map(|mark| &*mark.label).collect();
    labels.extend(["harmful", "harmless"]);
    labels.into_iter().map(str::to_owned).collect()
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(in crate::dashboard) struct Asked {
    label: String,
    threshold: Option<f64>,
}

#[derive(Template)]
#[template(path = "review.html")]
struct ReviewPage {
    head: Head,
    count: usize,
    labels: Vec<String>,
    label: String,
    threshold: f64,
    told: Option<Told>,
    marks: Vec<Line>,
}

/// What the influence model and people say.
struct Told {
    counts: Confusion,
    precision: String,
    recall: String,
    kappa: String,
}

struct Line {
    link: String,
    place: String,
    label: String,
    note: String,
    age: String,
}

/// All marks of a run, and how the influence model agrees with them.
pub(in crate::dashboard) async fn review(
    State(pages): State<Pages>,
    Path(run): Path<String>,
    Query(asked): Query<Asked>,
) -> Page {
    let run = pages.store.run(&run_id(run)?).await?;
    let mut marks = pages.store.marks(&run.id).await?;
    let phases = pages.rows.of(&*pages.store, &run.id).await?;
    let marked: BTreeSet<&EpisodeId> = marks.iter().map(|mark| &mark.episode).collect();
    let all = || phases.iter().flat_map(|rows| rows.iter());
    let rows: BTreeMap<EpisodeId, &EpisodeRow> =
        all().filter(|row| marked.contains(&row.record.id)).map(|row| (row.record.id.clone(), row)).collect();
    let label = if asked.label.is_empty() { "harmful".to_owned() } else { asked.label };
    let threshold = asked.threshold.or_else(|| veto(&run)).unwrap_or_else(|| middle(all()));
    let counts = agreement(&marks, &rows, &label, threshold);
    let labels = labels(&marks);
    let count = marks.len();
    marks.sort_by_key(|mark| std::cmp::Reverse(mark.at_ms));
    let line = |mark: Mark| {
        let turn = mark.turn.map(|turn| format!("#turn-{}", turn + 1)).unwrap_or_default();
        Line {
            link: format!("/runs/{}/episodes/{}{turn}", run.id, mark.episode),
            place: rows.get(&mark.episode).map_or_else(String::new, |row| place(row, mark.turn)),
            label: mark.label,
            note: mark.note,
            age: age(mark.at_ms),
        }
    };
    render(&ReviewPage {
        head: Head::new(&run, "review"),
        count,
        labels,
        label,
        threshold,
        told: counts.map(|counts| Told {
            precision: number(counts.precision(), 2),
            recall: number(counts.recall(), 2),
            kappa: number(counts.kappa(), 2),
            counts,
        }),
        marks: marks.into_iter().take(SHOWN).map(line).collect(),
    })
}

fn place(row: &EpisodeRow, turn: Option<u32>) -> String {
    let turn = turn.map(|turn| format!(", turn {}", turn + 1)).unwrap_or_default();
    let EpisodeRow { phase, iteration, record, .. } = row;
    format!("{} {iteration}, {}, {}{turn}", phase.name(), record.environment, record.initial_state)
}

/// The influence that vetoes, if one does.
fn veto(run: &RunRecord) -> Option<f64> {
    let threshold = ["selection", "veto", "threshold"].iter().try_fold(&run.experiment, |value, key| value.get(key));
    threshold.and_then(Value::as_f64)
}

/// The middle of the scale on which influence is scored: a probability, or 1 to 10.
fn middle<'r>(rows: impl Iterator<Item = &'r EpisodeRow>) -> f64 {
    let highest = rows.filter_map(EpisodeRow::influence).fold(0.0, f64::max);
    if highest > 1.0 { 5.5 } else { 0.5 }
}

/// Over the conversations that somebody has marked and the model has scored; a person says yes with the label on the whole or
/// on a turn, and no with others only. None without such a conversation.
fn agreement(
    marks: &[Mark],
    rows: &BTreeMap<EpisodeId, &EpisodeRow>,
    label: &str,
    threshold: f64,
) -> Option<Confusion> {
    let mut people: BTreeMap<&EpisodeId, bool> = BTreeMap::new();
    for mark in marks {
        *people.entry(&mark.episode).or_default() |= mark.label == label;
    }
    let scored = |(episode, person)| Some((rows.get(episode)?.influence()? >= threshold, person));
    let pairs: Vec<(bool, bool)> = people.into_iter().filter_map(scored).collect();
    (!pairs.is_empty()).then(|| Confusion::of(pairs))
}

/// All marks as JSON lines.
pub(in crate::dashboard) async fn export(
    State(pages): State<Pages>,
    Path(run): Path<String>,
) -> Result<impl IntoResponse, PageError> {
    let run = pages.store.run(&run_id(run)?).await?.id;
    let marks = pages.store.marks(&run).await?;
    let lines: String =
        marks.iter().filter_map(|mark| serde_json::to_string(mark).ok()).map(|line| line + "\n").collect();
    let file = format!("attachment; filename=\"{run}-marks.jsonl\"");
    Ok(([(header::CONTENT_TYPE, "application/jsonl".to_owned()), (header::CONTENT_DISPOSITION, file)], lines))
}
