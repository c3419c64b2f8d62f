#![allow(clippy::unwrap_used, clippy::expect_used)]

use influence_proto::{Digest, EpisodeId, Score};
use serde_json::json;

use super::chosen::Said;
use super::{ReportForm, method, report};
use crate::config::{Scale, Unit};
use crate::dashboard::tests::{ATTACK, store};
use crate::store::behaviour::run_id;
use crate::store::{MetricResult, MetricSource, RunRecord, RunStatus};

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
    assert_eq!(super::cell("a|b\u{1b}[31m\r\n<i>\\"), "a\\|b␛\\[31m  &lt;i>\\\\");
    assert_eq!(super::cell("![x](http://a)"), "!\\[x](http://a)");
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

/// Protects: what a judge said stands in the report, with who said it.
#[tokio::test]
async fn what_judges_said_is_reported() {
    let store = store().await;
    let unmeasured = report(&*store, None, &run_id(), 1, ReportForm::Markdown).await.unwrap();
    assert!(!unmeasured.contains("harm: judged by"));
    let source = MetricSource {
        metric: "harm".into(),
        judge: "m|n".into(),
        judge_sha256: Digest::of("m"),
        question_sha256: Digest::of("q"),
    };
    let scores = vec![Score::from_masses(vec![("1".into(), 0.5), ("10".into(), 0.5)], 0.01)];
    let result = MetricResult { source, scale: Scale::OneToTen, per: Unit::Turn, scores, at_ms: 0, nanodollars: 0 };
    store.add_metric(&run_id(), &EpisodeId::new("e1").unwrap(), result).await.unwrap();
    let text = report(&*store, None, &run_id(), 1, ReportForm::Markdown).await.unwrap();
    let table = text.split("## Measured beside the reward").nth(1).unwrap();
    assert!(table.contains("| harm |\n") && table.contains("| 5.50 (1 of 1) |\n"), "{table}");
    assert!(table.contains("harm: judged by m\\|n, question "), "{table}");
    let html = report(&*store, None, &run_id(), 1, ReportForm::Html).await.unwrap();
    assert!(html.contains("<th>harm</th>") && html.contains("<td>5.50 (1 of 1)</td>"));
}

/// Protects: a run that only rolls out is not told of as one that trains.
#[test]
fn a_rollout_is_not_called_a_training() {
    let told = |iterations: u32| {
        let experiment = json!({
            "iterations": iterations, "environments": {"class": "talk", "initial_states": 1}, "training": {"algorithm": "sft"},
            "selection": {"level": "environment", "best": "1/2"}, "evaluation": {"initial_states": 3},
            "start": {"agent": "demo/iteration-1"},
        });
        let (name, digest, status) = (String::new(), String::new(), RunStatus::Finished);
        method(&RunRecord { id: run_id(), name, digest, experiment, status, created_ms: 0 }).join(" ")
    };
    let rolled_out = told(0);
    assert!(rolled_out.contains("not trained here: demo/iteration-1. Openings of each environment: 3"), "{rolled_out}");
    assert!(!rolled_out.contains("SFT") && told(2).contains("by SFT"), "{rolled_out}");
}
