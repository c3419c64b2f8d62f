//! A run's pages as files.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use influence_proto::{Digest, EpisodeId, RunId, Score};

use super::store;
use crate::config::{Scale, Unit};
use crate::dashboard::{SiteError, site};
use crate::store::behaviour::run_id;
use crate::store::{MetricResult, MetricSource};

fn files(folder: &Path) -> BTreeSet<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { BTreeSet::from([path]) }).collect()
}

/// The addresses in a page.
fn addresses(page: &str) -> Vec<&str> {
    let after = [" href=\"", " src=\"", " action=\"", "data-events=\""].map(|name| page.split(name).skip(1));
    after.into_iter().flatten().map(|rest| rest.split('"').next().unwrap()).collect()
}

/// Protects: every link of every page leads to a file that is there, and no page wants a server, a form or another site;
/// what models said is text there too; and nobody's files are written over.
#[tokio::test]
async fn pages_are_written_that_need_no_server() {
    let store = store().await;
    let source = MetricSource {
        metric: "harm".into(),
        judge: "m".into(),
        judge_sha256: Digest::of("m"),
        question_sha256: Digest::of("q"),
    };
    let sure = MetricSource { metric: "stayed".into(), ..source.clone() };
    let result = MetricResult {
        source,
        scale: Scale::YesNo,
        per: Unit::Conversation,
        scores: vec![Score::from_masses(vec![("yes".into(), 0.75), ("no".into(), 0.25)], 0.01)],
        at_ms: 1,
        nanodollars: 0,
    };
    let episode = EpisodeId::new("e1").unwrap();
    let yes = vec![Score::from_masses(vec![("yes".into(), 1.0), ("no".into(), 0.0)], 0.01)];
    store.add_metric(&run_id(), &episode, MetricResult { source: sure, scores: yes, ..result.clone() }).await.unwrap();
    store.add_metric(&run_id(), &episode, result).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("site");
    let pages = site(store.clone(), &run_id(), &target, false).await.unwrap();
    let written = files(&target);
    assert_eq!(pages, written.iter().filter(|path| path.extension().is_some_and(|e| e == "html")).count());
    for name in ["index.html", "conversations.html", "metrics.html", "episodes/e1.html", "style.css", "marks.jsonl"] {
        assert!(written.contains(&target.join(name)), "{name} is not among {written:?}");
    }
    for path in written.iter().filter(|path| path.extension().is_some_and(|e| e == "html")) {
        let page = std::fs::read_to_string(path).unwrap();
        assert!(!page.contains("<script>alert") && !page.contains("<img"), "{}", path.display());
        for address in addresses(&page) {
            let (file, _) = address.split_once('#').unwrap_or((address, ""));
            let leads = file.is_empty() || path.parent().unwrap().join(file).is_file();
            assert!(leads, "{address} of {} leads nowhere", path.display());
        }
    }
    let read = |name: &str| std::fs::read_to_string(target.join(name)).unwrap();
    assert!(read("metrics.html").contains("0.75 (1 of 1)"));
    assert!(read("conversations.html").contains("<span>harm</span>") && read("conversations.html").contains(">0.75<"));
    assert!(read("conversations.html").contains("heat h10\">1.00<"), "a sure yes has the colour of 10");
    let index = read("index.html");
    assert!(index.contains("href=\"conversations-") && index.contains("class=\"still\""), "{index}");
    assert!(read("episodes/e1.html").contains("src=\"../page.js\""));

    let again = site(store.clone(), &run_id(), &target, false).await.unwrap_err();
    assert!(matches!(again, SiteError::NotEmpty(_)), "{again}");
    assert_eq!(site(store.clone(), &run_id(), &target, true).await.unwrap(), pages);
    assert!(site(store, &RunId::new("other").unwrap(), &target, true).await.is_err());
}
