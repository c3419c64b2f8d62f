//! A run's pages as files that can be published: the pages that the dashboard serves, found by following their own links.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::{Request, StatusCode};
use influence_proto::{Digest, RunId};
use tower::ServiceExt as _;

use super::{Live, Pages, router};
use crate::store::{Store, StoreError};

/// Tabs that say something without a process that serves them.
const TABS: [&str; 7] = ["conversations", "data", "metrics", "training", "review", "timeline", "config"];
const ASSETS: [&str; 5] = ["style.css", "icon.svg", "page.js", "keys.js", "live.js"];
/// Attributes of our own templates that hold addresses. Text that others wrote has its quotes escaped.
const ATTRIBUTES: [&str; 4] = ["href=\"", "src=\"", "action=\"", "data-events=\""];
/// The largest page, in bytes.
const LARGEST: usize = 256 << 20;

/// Why the pages could not be written.
#[derive(Debug, thiserror::Error)]
pub enum SiteError {
    /// What is there might be somebody's.
    #[error("{0} is not empty; name a new folder, or replace its files with --overwrite")]
    NotEmpty(PathBuf),
    /// The system refuses.
    #[error("{path} cannot be written: {source}")]
    Io {
        /// Which file or folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The dashboard refuses.
    #[error("the page {address} cannot be shown ({status})")]
    Page {
        /// Which page.
        address: String,
        /// What it answers.
        status: StatusCode,
    },
    /// The store cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Writes a run's pages into a folder, which is made if it does not exist; returns how many. `index.html` is the first. They
/// need no server and no JavaScript, load nothing, and begin with what the influence model finds harmful blurred.
///
/// # Errors
/// [`SiteError`]: a folder in use, a disk that refuses, a store that cannot be read.
pub async fn site(store: Arc<dyn Store>, run: &RunId, folder: &Path, overwrite: bool) -> Result<usize, SiteError> {
    store.run(run).await?;
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| SiteError::Io { path, source }
    };
    fs::create_dir_all(folder.join("episodes")).map_err(failed(folder))?;
    let mut entries = fs::read_dir(folder).map_err(failed(folder))?;
    if !overwrite && entries.any(|entry| entry.is_ok_and(|entry| entry.file_name() != "episodes")) {
        return Err(SiteError::NotEmpty(folder.to_owned()));
    }
    let app = router(Pages::new(store, Live::default()));
    let root = format!("/runs/{run}");
    let mut found = Found { root: root.clone(), files: BTreeMap::new(), queue: Vec::new() };
    found.file(&root);
    let mut pages = 0;
    while let Some((address, file)) = found.queue.pop() {
        let bytes = fetch(&app, &address).await?;
        let page = match file.strip_suffix(".html") {
            Some(_) => found.still(&String::from_utf8_lossy(&bytes), file.contains('/')).into_bytes(),
            None => bytes,
        };
        pages += usize::from(file.ends_with(".html"));
        let path = folder.join(&file);
        fs::write(&path, page).map_err(failed(&path))?;
    }
    Ok(pages)
}

async fn fetch(app: &Router, address: &str) -> Result<Vec<u8>, SiteError> {
    let refused = |status| SiteError::Page { address: address.to_owned(), status };
    let request = Request::get(address).header("host", "localhost").body(Body::empty());
    let request = request.map_err(|_| refused(StatusCode::BAD_REQUEST))?;
    let answer = app.clone().oneshot(request).await.unwrap_or_else(|never| match never {});
    if answer.status() != StatusCode::OK {
        return Err(refused(answer.status()));
    }
    let bytes = to_bytes(answer.into_body(), LARGEST).await;
    Ok(bytes.map_err(|_| refused(StatusCode::PAYLOAD_TOO_LARGE))?.to_vec())
}

/// What links lead to.
struct Found {
    /// The run's first page.
    root: String,
    /// Address to file.
    files: BTreeMap<String, String>,
    /// Of these, what is not written yet.
    queue: Vec<(String, String)>,
}

impl Found {
    /// The file of an address, if it is one of those that are written.
    fn file(&mut self, address: &str) -> Option<String> {
        let (path, query) = address.split_once('?').unwrap_or((address, ""));
        let query = normal(query)?;
        let inside = path.strip_prefix(&self.root);
        let file = match inside.map(|inside| inside.strip_prefix('/').unwrap_or(inside)) {
            Some("") if query.is_empty() => "index.html".to_owned(),
            Some("marks.jsonl") => "marks.jsonl".to_owned(),
            Some(tab) if TABS.contains(&tab) && query.is_empty() => format!("{tab}.html"),
            Some(tab) if TABS.contains(&tab) => {
                let of_query: String = Digest::of(&query).to_string().chars().take(16).collect();
                format!("{tab}-{of_query}.html")
            }
            Some(inside) => {
                let episode = inside.strip_prefix("episodes/")?;
                (query.is_empty() && !episode.contains('/')).then(|| format!("episodes/{episode}.html"))?
            }
            None => ASSETS.into_iter().find(|asset| path.strip_prefix('/') == Some(asset))?.to_owned(),
        };
        let known = if query.is_empty() { path.to_owned() } else { format!("{path}?{query}") };
        if self.files.insert(known.clone(), file.clone()).is_none() {
            self.queue.push((known, file.clone()));
        }
        Some(file)
    }

    /// A page whose addresses are those of files; those that lead to none are taken out.
    fn still(&mut self, page: &str, below: bool) -> String {
        let mut still = String::with_capacity(page.len());
        let mut rest = page;
        let next =
            |rest: &str| ATTRIBUTES.iter().filter_map(|name| Some((rest.find(&format!(" {name}"))?, *name))).min();
        while let Some((at, name)) = next(rest) {
            let (before, from) = rest.split_at(at);
            let value = &from[name.len() + 1..];
            let (value, after) = value.split_once('"').unwrap_or((value, ""));
            still.push_str(before);
            let value = value.replace("&#38;", "&");
            let (address, fragment) = value.split_once('#').unwrap_or((&value, ""));
            let live = name.starts_with("data") || name.starts_with("action");
            let to = if address.is_empty() { Some(String::new()) } else { self.file(address) };
            if let Some(file) = to.filter(|_| !live) {
                let up = if below && !file.is_empty() { "../" } else { "" };
                let fragment = if fragment.is_empty() { String::new() } else { format!("#{fragment}") };
                still.push_str(&format!(" {name}{up}{file}{fragment}\""));
            }
            rest = after;
        }
        still.push_str(rest);
        still.replace("<body>", "<body class=\"still\">").replace("id=\"blur\"", "id=\"blur\" checked")
    }
}

/// A query without what says nothing; none of one that only somebody who serves it can answer.
fn normal(query: &str) -> Option<String> {
    let mut parts = Vec::new();
    for part in query.split('&').filter(|part| !part.is_empty()) {
        match part.split_once('=')? {
            (_, "") | ("page", "1") => {}
            ("filter" | "page" | "iteration", _) => parts.push(part),
            _ => return None,
        }
    }
    Some(parts.join("&"))
}
