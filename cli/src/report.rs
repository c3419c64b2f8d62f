//! `influence report`: a run as one document, or as pages.

use std::io::Write as _;

use anyhow::Context as _;
use influence_coordinator::artifacts::Artifacts;
use influence_coordinator::dashboard::{ReportForm, report as written, site};
use influence_coordinator::export::NewFile;
use influence_proto::RunId;

use crate::args::ReportArguments;
use crate::stored::existing;
use crate::terminal::print;

pub(crate) async fn report(arguments: ReportArguments) -> anyhow::Result<()> {
    let ReportArguments { run, out, html, overwrite, seed, data, artifacts } = arguments;
    let store = existing(&data).await?;
    let run = RunId::new(run)?;
    if let Some(folder) = html {
        let pages = site(store, &run, &folder, overwrite).await?;
        return print(&format!("{} ({pages} pages)\n", folder.join("index.html").display()));
    }
    let usual = data.data.join("artifacts");
    let artifacts = match artifacts.or_else(|| usual.is_dir().then(|| usual.into())) {
        Some(place) => Some(Artifacts::open(place, &data.data.join(run.as_str())).await?),
        None => None,
    };
    let html = out.as_ref().is_some_and(|file| file.extension().is_some_and(|ending| ending == "html"));
    let form = if html { ReportForm::Html } else { ReportForm::Markdown };
    // Before the work: a file that may not be replaced.
    let file = out.map(|path| NewFile::create(path, overwrite)).transpose()?;
    let text = written(&*store, artifacts.as_ref(), &run, seed, form).await?;
    let Some(mut file) = file else { return print(&text) };
    file.write_all(text.as_bytes()).context("the report cannot be written")?;
    print(&format!("{}\n", file.finish()?.display()))
}
