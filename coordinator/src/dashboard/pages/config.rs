use askama::Template;
use axum::extract::{Path, State};

use super::head::Head;
use super::{Page, render, run_id};
use crate::dashboard::Pages;

#[derive(Template)]
#[template(path = "config.html")]
struct ConfigPage {
    head: Head,
    digest: String,
    yaml: String,
}

/// A run's resolved experiment. It holds no secret: those come from the environment.
pub(in crate::dashboard) async fn config(State(pages): State<Pages>, Path(run): Path<String>) -> Page {
    let run = pages.store.run(&run_id(run)?).await?;
    let yaml = serde_yaml::to_string(&run.experiment).unwrap_or_default();
    render(&ConfigPage { head: Head::new(&run, "configuration"), digest: run.digest.clone(), yaml })
}
