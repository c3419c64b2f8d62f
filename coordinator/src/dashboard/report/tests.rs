#![allow(clippy::unwrap_used, clippy::expect_used)]

use super::chosen::Said;
use super::{ReportForm, report};
use crate::dashboard::tests::{ATTACK, store};
use crate::store::behaviour::run_id;

/// Protects: what models and files say stays text, in a file that runs no script and loads nothing.
#[tokio::test]
async fn html_is_one_file_of_text() {
    let page = report(&*store().await, None, &run_id(), 1, ReportForm::Html).await.unwrap();
    for loading in ["<script", "<img", "<link", "<iframe", "url(", "@import", "http:", "https:"] {
        assert!(!page.contains(loading), "{loading} in {page}");
    }
    assert!(page.contains("default-src 'none'; style-src 'unsafe-inline'"));
    // The opening, the reply, and the agent's name beside it.
    assert!(page.matches("&#60;script&#62;").count() >= 3, "{page}");
    assert!(page.contains("<svg class=\"chart\"") && page.contains("reward 8.00") && page.contains("2 of 2"));
}

/// Protects: neither a fence nor a bar in a text ends what it stands in.
#[tokio::test]
async fn markdown_keeps_what_is_said_apart() {
    let text = report(&*store().await, None, &run_id(), 1, ReportForm::Markdown).await.unwrap();
    let fenced: Vec<&str> = text.split("```text\n").skip(1).collect();
    assert!(fenced.iter().any(|rest| rest.starts_with(&format!("{ATTACK}\n```\n"))), "{text}");
    let outside: String = text.split("```").step_by(2).collect();
    assert!(!outside.contains("<script"), "{outside}");
    assert!(outside.contains("\n| iteration 0 | base | 2 of 2 |"), "{outside}");
    assert_eq!(super::cell("a|b\u{1b}[31m\r\n<i>\\"), "a\\|b␛[31m  &lt;i>\\\\");
    let odd = Said { class: "agent", who: String::new(), text: "a ```` b\u{1b}[31m\u{202e}".into(), note: None };
    assert_eq!(odd.fenced(), "`````text\na ```` b␛[31m\u{fffd}\n`````");
}

/// Protects: each conversation is shown once, in the sort that it is first chosen for, and the same seed shows the same ones.
#[tokio::test]
async fn conversations_are_shown_once() {
    let store = store().await;
    let groups = super::chosen(&*store, &run_id(), 3, 1).await.unwrap();
    let shown: Vec<(&str, Vec<&str>)> =
        groups.iter().map(|(name, all)| (*name, all.iter().map(|c| c.id.as_str()).collect())).collect();
    assert_eq!(shown, [("best", vec!["e1"]), ("worst", vec!["e2"]), ("random", vec![])]);
}
