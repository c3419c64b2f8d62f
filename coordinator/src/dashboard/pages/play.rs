//! The playground: a form to begin with, and conversations as people play them.

use std::hash::{BuildHasher as _, RandomState};

use askama::Template;
use axum::extract::{Form, Path, Query, State};
use axum::response::Redirect;
use influence_proto::{EpisodeId, EpisodeSpec, ModelSpec, RunId, TrainedAgent};
use serde::Deserialize;

use super::conversation::{Line, Said, line, said};
use super::head::Head;
use super::{Page, render, run_id};
use crate::catalogue::Opening;
use crate::dashboard::Pages;
use crate::dashboard::error::PageError;
use crate::playground::{Need, Part, Playing};
use crate::store::{RunRecord, Store, StoreError};

/// Openings that the form lists.
const LISTED: usize = 500;
/// The longest that a person may say at once, in characters.
const LONGEST: usize = 8000;
const MOST_TURNS: u32 = 1000;

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(in crate::dashboard) struct Asked {
    /// An episode with the opening to begin with.
    episode: String,
}

#[derive(Template)]
#[template(path = "play.html")]
struct PlayPage {
    head: Head,
    /// Whether this process has workers for the run.
    carried: bool,
    /// An episode that begins so, and the opening's name.
    openings: Vec<(String, String)>,
    more: usize,
    chosen: String,
    agents: Vec<(String, String)>,
    models: Vec<String>,
    /// Field, label, and the run's own choice.
    roles: Vec<(&'static str, &'static str, String)>,
    turns: u32,
}

/// Where a conversation is begun.
pub(in crate::dashboard) async fn play(
    State(pages): State<Pages>,
    Path(run): Path<String>,
    Query(asked): Query<Asked>,
) -> Page {
    let run = pages.store.run(&run_id(run)?).await?;
    let mut openings: Vec<(Opening, EpisodeId)> = Vec::new();
    for row in pages.rows.of(&*pages.store, &run.id).await?.iter().flat_map(|rows| rows.iter()) {
        openings.push((row.opening(), row.record.id.clone()));
    }
    let chosen = openings.iter().find(|(_, id)| id.as_str() == asked.episode).cloned();
    openings.sort();
    openings.dedup_by(|a, b| a.0 == b.0);
    // The episode itself stands for the opening that was asked for, wherever in the list that is.
    let mut listed: Vec<_> = chosen.iter().cloned().collect();
    listed.extend(openings.iter().filter(|(opening, _)| chosen.as_ref().is_none_or(|c| c.0 != *opening)).cloned());
    let more = listed.len().saturating_sub(LISTED);
    listed.truncate(LISTED);
    let first = match listed.first() {
        Some((_, id)) => Some(pages.store.spec(&run.id, id).await?),
        None => None,
    };
    let roles = first.iter().flat_map(|spec| {
        [
            ("environment", "user by", spec.environment_role.model.clone()),
            ("preference", "rated by", spec.preference.model.clone()),
        ]
    });
    render(&PlayPage {
        head: Head::new(&run, "playground"),
        carried: pages.live.status(&run.id).await.is_some(),
        openings: listed
            .into_iter()
            .map(|((_, environment, state), id)| (id.to_string(), format!("{environment}, {state}")))
            .collect(),
        more,
        chosen: asked.episode,
        agents: agents(&*pages.store, &run.id).await?.into_iter().map(|(value, name, _)| (value, name)).collect(),
        models: models(&run).into_iter().map(|model| model.name).collect(),
        roles: roles.collect(),
        turns: first.map_or(5, |spec| spec.max_turns),
    })
}

/// The run's agents: the value of the form, the name, and what it is. The last one first.
async fn agents(store: &dyn Store, run: &RunId) -> Result<Vec<(String, String, Option<TrainedAgent>)>, StoreError> {
    let mut agents = vec![("base".to_owned(), "untrained".to_owned(), None)];
    for training in store.trainings(run).await? {
        if let Some(report) = training.report {
            let iteration = training.iteration;
            agents.push((iteration.to_string(), format!("trained by iteration {iteration}"), Some(report.agent)));
        }
    }
    agents.reverse();
    Ok(agents)
}

/// What the run's workers have loaded.
fn models(run: &RunRecord) -> Vec<ModelSpec> {
    let models = run.experiment.get("models").and_then(|models| models.as_object()).into_iter().flatten();
    models.filter_map(|(_, model)| ModelSpec::deserialize(model).ok()).collect()
}

/// How a conversation is to begin.
#[derive(Debug, Deserialize)]
pub(in crate::dashboard) struct Begin {
    episode: String,
    agent: String,
    #[serde(default)]
    environment: String,
    #[serde(default)]
    preference: String,
    turns: String,
    #[serde(default)]
    you: String,
}

/// Begins a conversation, and leads to it.
pub(in crate::dashboard) async fn begin(
    State(pages): State<Pages>,
    Path(run): Path<String>,
    Form(asked): Form<Begin>,
) -> Result<Redirect, PageError> {
    let run = pages.store.run(&run_id(run)?).await?;
    let cluster = pages.live.cluster(&run.id);
    let cluster = cluster.ok_or_else(|| PageError::refused("This process has no models of the run any more."))?;
    let no_such = |_| PageError::not_found("There is no such conversation to begin like.");
    let spec = pages.store.spec(&run.id, &EpisodeId::new(asked.episode.clone()).map_err(no_such)?).await?;
    let agents = agents(&*pages.store, &run.id).await?;
    let agent = agents.into_iter().find(|(value, ..)| *value == asked.agent);
    let (_, _, trained) = agent.ok_or_else(|| PageError::refused("The run has no agent of that name."))?;
    let you = match &*asked.you {
        "" => None,
        "user" => Some(Part::User),
        "agent" => Some(Part::Agent),
        _ => return Err(PageError::refused("You can watch, or be the user or the agent.")),
    };
    let spec = changed(spec, &asked, trained, &models(&run))?;
    let name = pages.playground.begin(spec, you, cluster);
    Ok(Redirect::to(&format!("/runs/{}/play/{name}", run.id)))
}

/// The episode with what was asked for instead.
fn changed(
    mut spec: EpisodeSpec,
    asked: &Begin,
    trained: Option<TrainedAgent>,
    models: &[ModelSpec],
) -> Result<EpisodeSpec, PageError> {
    let turns = asked.turns.trim().parse().ok().filter(|turns| (1..=MOST_TURNS).contains(turns));
    spec.max_turns = turns.ok_or_else(|| PageError::refused(format!("A conversation has 1 to {MOST_TURNS} turns.")))?;
    for (model, role) in [
        (&asked.environment, &mut std::sync::Arc::make_mut(&mut spec.environment_role).model),
        (&asked.preference, &mut std::sync::Arc::make_mut(&mut spec.preference).model),
    ] {
        if model.is_empty() {
            continue;
        }
        if !models.iter().any(|known| known.name == *model) {
            return Err(PageError::refused("The run has no model of that name."));
        }
        role.clone_from(model);
    }
    spec.seed = RandomState::new().hash_one(std::time::SystemTime::now());
    (spec.trained, spec.best_of) = (trained, None);
    Ok(spec)
}

#[derive(Template)]
#[template(path = "played.html")]
struct PlayedPage {
    run: String,
    title: String,
    facts: String,
    agent: String,
    episode: String,
    opening: Vec<Said>,
    turns: Vec<Line>,
    unjudged: Option<Said>,
    problem: Option<String>,
    /// What the conversation waits for, other than words.
    waits: Option<String>,
    /// What the person is asked to say.
    asked: Option<String>,
    say_link: String,
    over: bool,
    pulse: Option<(String, String)>,
}

/// A conversation as it stands.
pub(in crate::dashboard) async fn played(
    State(pages): State<Pages>,
    Path((run, name)): Path<(String, String)>,
) -> Page {
    let run = run_id(run)?;
    let playing = find(&pages, &run, &name)?;
    let (pulse, problem) = (pulse(&playing), playing.problem());
    let play = playing.play().clone();
    let spec = &play.spec;
    let need = play.need();
    let waits = match (&need, &problem) {
        (Need::Models(calls), None) => {
            let who: Vec<&str> = calls.iter().map(|call| call.role.name()).collect();
            Some(format!("Waiting for {}{}.", who.join(", "), workers(&pages, &run).await))
        }
        _ => None,
    };
    let asked = match need {
        Need::Words(Part::User) => Some("You are the user. What do you answer?".to_owned()),
        Need::Words(Part::Agent) => Some(format!("You are {}. What do you reply?", spec.agent_name)),
        _ => None,
    };
    let agent = spec.agent_name.clone();
    let at = format!("/runs/{run}/play/{name}");
    let goes_on = need != Need::Nothing && problem.is_none();
    render(&PlayedPage {
        run: run.to_string(),
        title: format!("{}, {}", spec.environment, spec.initial_state),
        facts: facts(spec, play.you),
        episode: spec.id.to_string(),
        opening: spec.opening.iter().map(|message| said(spec, message)).collect(),
        turns: play.turns().iter().map(|turn| line(spec, turn)).collect(),
        unjudged: play.unjudged().map(|text| Said { role: "agent", who: agent.clone(), text: text.trim().to_owned() }),
        agent,
        problem,
        waits,
        asked: asked.filter(|_| goes_on),
        say_link: format!("{at}/say"),
        over: !goes_on,
        pulse: goes_on.then(|| (format!("{at}/events"), pulse)),
    })
}

fn facts(spec: &EpisodeSpec, you: Option<Part>) -> String {
    let agent = match (you, &spec.trained) {
        (Some(Part::Agent), _) => "you".to_owned(),
        (_, Some(_)) => format!("{}, trained", spec.agent.model),
        (_, None) => format!("{}, untrained", spec.agent.model),
    };
    let user = if you == Some(Part::User) { "you" } else { &spec.environment_role.model };
    format!(
        "{} · agent: {agent} · user: {user} · rated by {} · {} turns at most",
        spec.environment_class, spec.preference.model, spec.max_turns
    )
}

/// Why it may take a while.
async fn workers(pages: &Pages, run: &RunId) -> String {
    let standing = pages.live.status(run).await.map(|status| status.standing);
    let connected = standing.iter().flat_map(|standing| &standing.workers).filter(|worker| worker.connected).count();
    match (standing, connected) {
        (Some(standing), _) if standing.paused => ": the run is paused".to_owned(),
        (_, 0) => ": no worker is there yet".to_owned(),
        _ => String::new(),
    }
}

/// What somebody says.
#[derive(Debug, Deserialize)]
pub(in crate::dashboard) struct Words {
    text: String,
}

/// Takes what somebody says in a conversation, and leads back to it.
pub(in crate::dashboard) async fn say(
    State(pages): State<Pages>,
    Path((run, name)): Path<(String, String)>,
    Form(words): Form<Words>,
) -> Result<Redirect, PageError> {
    let run = run_id(run)?;
    let playing = find(&pages, &run, &name)?;
    let text = words.text.trim();
    if text.is_empty() || text.chars().count() > LONGEST {
        return Err(PageError::refused(format!("Say 1 to {LONGEST} characters.")));
    }
    if !playing.say(text.to_owned()) {
        return Err(PageError::refused("It is not your turn: go back, and see how the conversation stands."));
    }
    Ok(Redirect::to(&format!("/runs/{run}/play/{name}")))
}

/// Changes with every step of a conversation. None of one that is not there.
pub(in crate::dashboard) fn pulse_of_play(pages: &Pages, run: &RunId, name: &str) -> Option<String> {
    pages.playground.find(run, name).map(|playing| pulse(&playing))
}

fn pulse(playing: &Playing) -> String {
    playing.steps().to_string()
}

fn find(pages: &Pages, run: &RunId, name: &str) -> Result<Playing, PageError> {
    let gone = || {
        PageError::not_found(
            "There is no such conversation: they end with the process that serves this page, and with many newer ones.",
        )
    };
    pages.playground.find(run, name).ok_or_else(gone)
}
