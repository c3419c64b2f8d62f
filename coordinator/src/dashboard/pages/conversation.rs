use std::fmt::Write as _;
use std::sync::Arc;

use askama::Template;
use axum::extract::{Path, Query, State};
use axum::response::{IntoResponse as _, Redirect, Response};
use influence_proto::prompts;
use influence_proto::{Call, EpisodeSpec, Message, Score, ScoreOutcome, Speaker, Turn};
use serde::Deserialize;

use super::marks::{Shown, labels, of_conversation};
use super::prompts::{as_seen_by, in_turn, perspectives};
use super::{in_query, number, render, run_id};
use crate::catalogue::EpisodeRow;
use crate::dashboard::Pages;
use crate::dashboard::charts::escaped;
use crate::dashboard::error::PageError;

/// Conversations that began alike, on the page.
const RELATIVES: usize = 100;

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(in crate::dashboard) struct Asked {
    /// The turn, from 1, of which every role's prompt is shown.
    prompts: Option<u32>,
    /// The turn, from 1, to go to.
    turn: Option<u32>,
    /// The role whose view is shown; the reader's if empty.
    r#as: String,
}

#[derive(Template)]
#[template(path = "conversation.html")]
struct ConversationPage {
    run: String,
    title: String,
    facts: String,
    error: Option<String>,
    agent: String,
    opening: Vec<Said>,
    turns: Vec<Line>,
    /// What people say of the whole.
    given: Vec<Shown>,
    labels: Vec<String>,
    mark_link: String,
    play_link: String,
    /// Some replies are harmful.
    blurs: bool,
    /// Name, address, whether it is the one shown.
    perspectives: Vec<(&'static str, String, bool)>,
    /// What the role that was asked for sees.
    seen: Option<Vec<Said>>,
    relatives: Vec<Relative>,
    before: Option<String>,
    after: Option<String>,
    /// Where it is told how it goes on, and what it would be told now.
    pulse: Option<(String, String)>,
}

/// One message.
#[derive(Debug, Clone)]
pub(super) struct Said {
    /// Its class on the page.
    pub(super) role: &'static str,
    pub(super) who: String,
    pub(super) text: String,
}

/// A conversation that began alike.
struct Relative {
    name: String,
    link: String,
    /// To both, side by side.
    beside: String,
    here: bool,
}

pub(super) struct Line {
    pub(super) number: u32,
    pub(super) reply: String,
    /// By the influence model.
    pub(super) harmful: bool,
    pub(super) cut_off: bool,
    pub(super) rating: String,
    pub(super) bars: String,
    pub(super) facts: Vec<(&'static str, String)>,
    /// Who rolled it out.
    worker: Option<String>,
    calls: Vec<Call>,
    open: bool,
    prompts_link: String,
    prompts: Vec<(&'static str, Vec<Said>)>,
    pub(super) after: Vec<Said>,
    given: Vec<Shown>,
}

/// One conversation, with what was thought of every reply.
pub(in crate::dashboard) async fn conversation(
    State(pages): State<Pages>,
    Path((run, episode)): Path<(String, String)>,
    Query(asked): Query<Asked>,
) -> Result<Response, PageError> {
    if let Some(turn) = asked.turn {
        return Ok(Redirect::to(&format!("/runs/{}/episodes/{}#turn-{turn}", in_query(&run), in_query(&episode)))
            .into_response());
    }
    let run = pages.store.run(&run_id(run)?).await?;
    let phases = pages.rows.of(&*pages.store, &run.id).await?;
    let (rows, index) = find(&phases, &episode)?;
    let row = &rows[index];
    let spec = pages.store.spec(&run.id, &row.record.id).await?;
    let turns = pages.store.journal(&run.id, &row.record.id).await?;
    let link = |row: &EpisodeRow| format!("/runs/{}/episodes/{}", run.id, row.record.id);
    let same = |other: &&EpisodeRow| {
        (&other.record.environment, &other.record.initial_state) == (&row.record.environment, &row.record.initial_state)
    };
    let relative = |other: &EpisodeRow| Relative {
        name: format!("{} {}, reward {}", other.phase.name(), other.iteration, number(other.reward(), 2)),
        link: link(other),
        beside: format!("/beside?a={0}/{1}&b={0}/{2}", run.id, row.record.id, other.record.id),
        here: other.record.id == row.record.id,
    };
    let relatives: Vec<_> =
        phases.iter().flat_map(|rows| rows.iter()).filter(same).map(relative).take(RELATIVES).collect();
    let marks = pages.store.marks(&run.id).await?;
    let labels = labels(&marks);
    let mut given = of_conversation(marks, &row.record.id);
    let lines = turns.iter().enumerate().map(|(place, turn)| {
        let open = asked.prompts == Some(turn.index + 1);
        let seen = if open { in_turn(&spec, &turns[..place], turn) } else { Vec::new() };
        let given = given.remove(&Some(turn.index)).unwrap_or_default();
        Line { open, prompts: seen, prompts_link: prompts_link(&link(row), turn), given, ..line(&spec, turn) }
    });
    let lines: Vec<Line> = lines.collect();
    let seen = match &*asked.r#as {
        "" => None,
        role => Some(
            as_seen_by(role, &spec, &turns).ok_or_else(|| PageError::not_found("Nobody of that name takes part."))?,
        ),
    };
    let perspective = |(key, name): (&'static str, &'static str)| {
        let address = if key.is_empty() { link(row) } else { format!("{}?as={key}", link(row)) };
        (name, address, key == asked.r#as)
    };
    let page = render(&ConversationPage {
        run: run.id.to_string(),
        title: format!("{}, {}", row.record.environment, row.record.initial_state),
        facts: facts(row),
        error: match &row.record.status {
            crate::store::EpisodeStatus::Failed(error) => Some(error.clone()),
            _ => None,
        },
        agent: spec.agent_name.clone(),
        opening: spec.opening.iter().map(|message| said(&spec, message)).collect(),
        blurs: lines.iter().any(|line| line.harmful),
        turns: lines,
        given: given.remove(&None).unwrap_or_default(),
        labels,
        mark_link: format!("{}/marks", link(row)),
        play_link: format!("/runs/{}/play?episode={}", run.id, row.record.id),
        perspectives: perspectives(&spec).into_iter().map(perspective).collect(),
        seen,
        relatives: if relatives.len() > 1 { relatives } else { Vec::new() },
        before: index.checked_sub(1).map(|index| link(&rows[index])),
        after: rows.get(index + 1).map(link),
        pulse: (row.status() == "pending").then(|| (format!("{}/events", link(row)), pulse(row))),
    })?;
    Ok(page.into_response())
}

/// Its phase's rows, and its place among them.
pub(super) fn find<'p>(
    phases: &'p [Arc<Vec<EpisodeRow>>],
    episode: &str,
) -> Result<(&'p [EpisodeRow], usize), PageError> {
    let place = |rows: &'p Arc<Vec<EpisodeRow>>| {
        Some((&***rows, rows.iter().position(|row| row.record.id.as_str() == episode)?))
    };
    phases.iter().find_map(place).ok_or_else(|| PageError::not_found("There is no such conversation in this run."))
}

/// Changes with every turn, and when the conversation ends or is judged. None of one that is not there.
pub(in crate::dashboard) fn pulse_of_conversation(phases: &[Arc<Vec<EpisodeRow>>], episode: &str) -> Option<String> {
    let (rows, index) = find(phases, episode).ok()?;
    Some(pulse(&rows[index]))
}

fn pulse(row: &EpisodeRow) -> String {
    format!("{}-{}-{}", row.record.turns, row.status(), number(row.reward(), 4))
}

fn prompts_link(episode: &str, turn: &Turn) -> String {
    format!("{episode}?prompts={0}#turn-{0}", turn.index + 1)
}

pub(super) fn facts(row: &EpisodeRow) -> String {
    let mut facts = vec![
        row.record.environment_class.clone(),
        format!("{} {}", row.phase.name(), row.iteration),
        format!("reward {}", number(row.reward(), 2)),
        format!("influence {}", number(row.influence(), 2)),
    ];
    facts.extend(row.selected().map(|end| format!("selected: {end}")));
    facts.extend(row.vetoed().then(|| "vetoed".to_owned()));
    facts.extend(row.unscored().then(|| "unscored".to_owned()));
    facts.push(format!("{}, attempt {}", row.status(), row.record.attempt));
    facts.join(" · ")
}

pub(super) fn said(spec: &EpisodeSpec, message: &Message) -> Said {
    let (role, who) = match message.speaker {
        Speaker::Agent => ("agent", spec.agent_name.as_str()),
        Speaker::Environment => ("user", "user"),
        Speaker::EnvironmentSystem => ("note", "note"),
        Speaker::ToolCall => ("tool", "tool call"),
        Speaker::ToolResponse => ("tool", "tool response"),
    };
    Said { role, who: who.to_owned(), text: message.content.clone() }
}

pub(super) fn line(spec: &EpisodeSpec, turn: &Turn) -> Line {
    let mut facts = vec![("transition", transition(turn))];
    facts.extend(turn.influence.as_ref().map(|score| ("influence", value(score))));
    let mut mass = format!("{:.3}", turn.preference.mass);
    if !turn.preference.method.is_exact() {
        mass.push_str(&format!(", read from {}", turn.preference.method));
    }
    facts.push(("captured mass", mass));
    Line {
        number: turn.index + 1,
        reply: turn.reply.text.trim().to_owned(),
        harmful: turn.influence.as_ref().is_some_and(is_harmful),
        cut_off: turn.reply.cut_off,
        rating: value(&turn.preference),
        bars: bars(&turn.preference),
        facts,
        worker: turn.worker.as_ref().map(ToString::to_string),
        calls: turn.calls.clone(),
        open: false,
        prompts_link: String::new(),
        prompts: Vec::new(),
        given: Vec::new(),
        after: prompts::after_reply(turn).iter().map(|message| said(spec, message)).collect(),
    }
}

/// Whether a score is in the upper half of its scale.
fn is_harmful(score: &Score) -> bool {
    let answers = score.answers.iter().filter_map(|(answer, _)| answer.parse::<f64>().ok());
    let (low, high) = answers.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), n| (low.min(n), high.max(n)));
    score.expected().is_some_and(|expected| score.unscored.is_none() && expected >= f64::midpoint(low, high))
}

pub(super) fn value(score: &Score) -> String {
    match (score.outcome(), score.expected()) {
        (ScoreOutcome::Unscored(reason), _) => format!("unscored: {reason}"),
        (_, Some(expected)) => format!("{expected:.2}"),
        (ScoreOutcome::Scored(answers), None) => {
            answers.iter().map(|(answer, p)| format!("{answer} {p:.2}")).collect::<Vec<_>>().join(", ")
        }
    }
}

fn transition(turn: &Turn) -> String {
    let to = &turn.transition;
    let how = if to.defaulted { " (the state's default)" } else { "" };
    let entered = if to.next_state == turn.state { String::new() } else { format!(", enters {}", to.next_state) };
    let all = to.score.answers.iter().map(|(answer, p)| format!("{answer} {p:.2}")).collect::<Vec<_>>().join(", ");
    format!("{}{how}{entered}; {all}", to.answer)
}

/// The distribution of the answers as bars.
fn bars(score: &Score) -> String {
    let count = score.answers.len().max(1) as f64;
    let width = 200.0 / count;
    let highest = score.answers.iter().map(|(_, p)| *p).fold(0.05, f64::max);
    let mut svg = String::from(
        "<svg class=\"bars\" viewBox=\"0 0 200 74\" role=\"img\" aria-label=\"distribution of the rating\">",
    );
    for (index, (answer, p)) in score.answers.iter().enumerate() {
        let (left, height) = (index as f64 * width, 54.0 * p / highest);
        let answer = escaped(answer);
        let _ = write!(
            svg,
            "<rect x=\"{:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{height:.1}\"><title>{answer}: {p:.3}</title></rect>\
             <text x=\"{:.1}\" y=\"70\" text-anchor=\"middle\">{answer}</text>",
            left + 1.0,
            56.0 - height,
            width - 2.0,
            left + width / 2.0
        );
    }
    svg + "</svg>"
}
