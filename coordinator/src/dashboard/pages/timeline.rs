use std::collections::BTreeMap;
use std::time::Duration;

use askama::Template;
use axum::extract::{Path, State};
use axum::http::{HeaderName, HeaderValue};
use axum::response::{IntoResponse as _, Response};
use tokio::time::Instant;

use super::head::Head;
use super::run::{Chart, conversations_link};
use super::workers::span;
use super::{dollars, number, render, run_id};
use crate::catalogue::Usage;
use crate::dashboard::Pages;
use crate::dashboard::charts::{Point, Series, bar, lines};
use crate::dashboard::error::PageError;
use crate::planning::Phase;

/// Each visit counts for so long.
const PATIENCE: Duration = Duration::from_millis(400);

#[derive(Template)]
#[template(path = "timeline.html")]
struct TimelinePage {
    head: Head,
    phases: Vec<Line>,
    roles: Vec<Role>,
    chart: Option<Chart>,
    /// Episodes that are not counted yet.
    uncounted: usize,
}

struct Line {
    phase: String,
    state: &'static str,
    time: String,
    bar: String,
    tokens: String,
    characters: String,
}

struct Role {
    name: &'static str,
    calls: u64,
    prompt_tokens: u64,
    generated_tokens: u64,
    dollars: String,
}

/// How long everything took, and what it used.
pub(in crate::dashboard) async fn timeline(
    State(pages): State<Pages>,
    Path(run): Path<String>,
) -> Result<Response, PageError> {
    let run = pages.store.run(&run_id(run)?).await?;
    let iterations = pages.store.iterations(&run.id).await?;
    let phases = pages.rows.of(&*pages.store, &run.id).await?;
    let until = Instant::now() + PATIENCE;
    let longest = iterations.iter().map(|at| at.active).max().unwrap_or_default().as_secs_f64().max(1e-3);
    let (mut lines, mut uncounted) = (Vec::new(), 0);
    let mut all = Usage::default();
    let mut lengths: BTreeMap<Phase, Vec<Point>> = BTreeMap::new();
    for (at, rows) in iterations.iter().zip(&phases) {
        let usage = match at.judged {
            true => Some(pages.usages.count(&*pages.store, &run.id, rows, until).await?),
            false => None,
        };
        uncounted += usage.as_ref().map_or(0, |usage| rows.len() - usage.episodes);
        let usage = usage.filter(|usage| usage.episodes == rows.len());
        let mean = usage.as_ref().filter(|usage| usage.replies > 0).map(|u| u.characters as f64 / u.replies as f64);
        lengths.entry(at.phase).or_default().extend(mean.map(|mean| Point {
            at: at.iteration,
            mean,
            error: None,
            link: Some(conversations_link(run.id.as_str(), at.phase, at.iteration, None)),
        }));
        lines.push(Line {
            phase: match at.phase {
                Phase::Train => format!("iteration {}", at.iteration),
                Phase::Evaluate => format!("evaluation before {}", at.iteration),
            },
            state: if at.judged { "done" } else { "under way" },
            time: span(at.active.as_millis() as u64),
            bar: bar(at.active.as_secs_f64() / longest),
            tokens: usage.as_ref().map_or_else(|| "–".to_owned(), |usage| usage.tokens().to_string()),
            characters: number(mean, 0),
        });
        usage.iter().for_each(|usage| all.add(usage));
    }
    let page = render(&TimelinePage {
        head: Head::new(&run, "timeline"),
        phases: lines,
        roles: all.roles.into_iter().map(role).collect(),
        chart: chart(lengths),
        uncounted,
    })?;
    let mut response = page.into_response();
    if uncounted > 0 {
        // It goes on counting where it stopped, without a script too.
        response.headers_mut().insert(HeaderName::from_static("refresh"), HeaderValue::from_static("1"));
    }
    Ok(response)
}

fn role((name, usage): (&'static str, crate::experiment::RoleUsage)) -> Role {
    Role {
        name,
        calls: usage.calls,
        prompt_tokens: usage.prompt_tokens,
        generated_tokens: usage.generated_tokens,
        dollars: dollars(usage.dollars),
    }
}

fn chart(lengths: BTreeMap<Phase, Vec<Point>>) -> Option<Chart> {
    let name = |phase| if phase == Phase::Train { "training" } else { "evaluation" };
    let lengths = lengths.into_iter().filter(|(_, points)| !points.is_empty());
    let series: Vec<Series> = lengths.map(|(phase, points)| Series { name: name(phase).to_owned(), points }).collect();
    let title = "length of replies, in characters";
    let svg = lines(title, "iteration", &series);
    let legend = series.iter().enumerate().map(|(index, line)| (index, line.name.clone())).collect();
    (!series.is_empty()).then(|| Chart { title: title.to_owned(), svg, legend })
}
