//! One file per page: what it asks the store, and what its template shows.

mod beside;
mod compare;
mod config;
mod conversation;
mod conversations;
mod data;
mod head;
mod marks;
mod metrics;
mod play;
mod prompts;
mod run;
mod runs;
mod timeline;
mod training;
mod workers;

pub(super) use beside::beside;
pub(super) use compare::compare;
pub(super) use config::config;
pub(super) use conversation::{conversation, pulse_of_conversation};
pub(super) use conversations::conversations;
pub(super) use data::data;
pub(super) use marks::{export, mark, review};
pub(super) use metrics::metrics;
pub(super) use play::{begin, play, played, pulse_of_play, say};
pub(super) use run::{pulse_of_run, run};
pub(super) use runs::runs;
pub(super) use timeline::timeline;
pub(super) use training::training;
pub(super) use workers::workers;

use askama::Template;
use axum::response::Html;
use influence_proto::RunId;

use super::error::PageError;
use crate::statistics::Estimate;

type Page = Result<Html<String>, PageError>;

fn render(page: &impl Template) -> Page {
    Ok(Html(page.render()?))
}

/// An id out of an address.
pub(super) fn run_id(text: String) -> Result<RunId, PageError> {
    RunId::new(text).map_err(|_| PageError::not_found("There is no such run."))
}

pub(super) fn number(value: Option<f64>, digits: usize) -> String {
    value.map_or_else(|| "–".to_owned(), |value| format!("{value:.digits$}"))
}

pub(super) fn with_error(estimate: Option<Estimate>) -> String {
    match estimate {
        None => "–".to_owned(),
        Some(Estimate { mean, standard_error: None }) => format!("{mean:.2}"),
        Some(Estimate { mean, standard_error: Some(error) }) => format!("{mean:.2} ± {error:.2}"),
    }
}

fn dollars(cost: f64) -> String {
    if cost > 0.0 { format!("${cost:.4}") } else { "–".to_owned() }
}

/// The colour of a figure on the scale of ratings: 1 to 10, or 0 for none.
fn heat(value: Option<f64>) -> u8 {
    value.map_or(0, |value| value.round().clamp(1.0, 10.0) as u8)
}

/// A text in the query of an address.
pub(super) fn in_query(text: &str) -> String {
    askama::filters::urlencode_strict(text).map(|text| text.to_string()).unwrap_or_default()
}
