//! What processes tell of themselves: traces to a collector, metrics, health, logs for machines.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod collector;
#[path = "../support/mod.rs"]
mod support;

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use collector::{Collector, Span};
use serde_json::Value;
use support::Lab;
use support::processes::Place;

const EXPERIMENT: &str = "configs/experiments/tiny.yaml";
/// One iteration without training is enough to see episodes.
const SMALL: [&str; 4] = ["--set", "iterations=1", "--set", "evaluation.at=[]"];

fn children<'a>(spans: &'a [Span], parent: &'a Span) -> impl Iterator<Item = &'a Span> {
    spans.iter().filter(move |span| span.trace == parent.trace && span.parent == parent.id)
}

fn named<'a>(spans: &'a [Span], parent: &'a Span, name: &str) -> Vec<&'a Span> {
    children(spans, parent).filter(|span| span.name == name).collect()
}

/// The trace as people would see it, for a failed test's message.
fn tree(spans: &[Span], root: &Span, depth: usize) -> String {
    let mut below: Vec<&Span> = children(spans, root).collect();
    below.sort_by_key(|span| span.begin);
    let took = (root.end - root.begin) as f64 / 1e6;
    let line = format!("{:indent$}{} [{}] {took:.1} ms\n", "", root.name, root.service, indent = depth * 2);
    below.into_iter().fold(line, |text, span| text + &tree(spans, span, depth + 1))
}

/// Protects: one trace shows an episode from its lease to its result, across the two processes, with every call, its time in
/// the queue and in the engine, and the coordinator's store; attributes are those of the GenAI conventions.
#[test]
fn one_trace_follows_an_episode_across_processes() {
    let (lab, collector) = (Lab::new(), Collector::start());
    let url = collector.url();
    let listen = format!("127.0.0.1:{}", support::servers::free_port());
    let coordinator = ["coordinator", EXPERIMENT, "--dashboard", "off", "--listen", &listen, "--otlp", &url];
    let mut coordinator = Place::start(&lab, "coordinator", &[&coordinator[..], &SMALL].concat());
    let at = format!("http://{listen}");
    let mut worker = Place::start(&lab, "worker", &["worker", "--coordinator", &at, "--otlp", &url]);
    let done = |place: &mut Place| place.wait(Duration::from_secs(120)).is_some_and(|status| status.success());
    assert!(done(&mut coordinator) && done(&mut worker), "{}\n{}", coordinator.said(), worker.said());

    let finished = "influence.v1.Coordinator/Finish";
    let spans = collector.until(|spans| spans.iter().filter(|span| span.name == finished).count() >= 13);
    let leases: Vec<&Span> = spans.iter().filter(|span| span.name == "lease" && span.parent.is_empty()).collect();
    let with_episode = |lease: &&Span| !named(&spans, lease, "episode").is_empty();
    assert_eq!(leases.iter().copied().filter(with_episode).count(), 12, "of two environments");
    let lease = leases.iter().copied().find(with_episode).unwrap();
    if std::env::var_os("SHOW_TRACE").is_some() {
        eprintln!("{}", tree(&spans, lease, 0));
    }
    let shown = tree(&spans, lease, 0);
    assert_eq!(lease.service, "influence-coordinator");
    let episode = named(&spans, lease, "episode")[0];
    assert_eq!((episode.service.as_str(), &episode.attributes["outcome"]), ("influence-worker", &"episode".to_owned()));
    assert_eq!(episode.attributes["work"], lease.attributes["work"], "{shown}");
    let turns = named(&spans, episode, "turn");
    assert!(!turns.is_empty(), "{shown}");
    let recorded = named(&spans, episode, "influence.v1.Coordinator/RecordTurn");
    assert_eq!(recorded.len(), turns.len(), "{shown}");
    for call in recorded.into_iter().chain(named(&spans, episode, finished)) {
        assert_eq!(call.service, "influence-coordinator");
        assert_eq!(named(&spans, call, "store").len(), 1, "{shown}");
    }
    let mut roles: BTreeMap<String, usize> = BTreeMap::new();
    for call in turns.iter().flat_map(|turn| children(&spans, turn)) {
        assert_eq!(call.name, "chat tiny", "{shown}");
        *roles.entry(call.attributes["influence.role"].clone()).or_default() += 1;
        assert_eq!(call.attributes["gen_ai.operation.name"], "chat");
        assert_eq!(call.attributes["gen_ai.request.model"], "tiny");
        assert!(call.attributes["gen_ai.usage.input_tokens"].parse::<u32>().unwrap() > 0);
        let judge = ["preference", "transition", "influence"].contains(&&*call.attributes["influence.role"]);
        let results = call.events.iter().filter(|event| event.0 == "gen_ai.evaluation.result").count();
        assert_eq!(results, usize::from(judge), "{:?}", call.events);
        for part in ["queue", "compute"] {
            let [part] = named(&spans, call, part)[..] else { panic!("{part} is not there once: {shown}") };
            assert!(call.begin <= part.begin && part.end <= call.end, "{shown}");
        }
    }
    assert_eq!(roles["agent"], turns.len());
    assert_eq!(roles["preference"], turns.len());
    assert_eq!(roles["environment"], turns.len() - 1, "nobody answers the last reply");
}

/// Protects: what models were told and said leaves a process only when that was asked for.
#[test]
fn what_was_said_is_in_no_trace_unless_asked_for() {
    for (more, expected) in [(&[][..], false), (&["--trace-content"][..], true)] {
        let (lab, collector) = (Lab::new(), Collector::start());
        let url = collector.url();
        let run = ["run", EXPERIMENT, "--dashboard", "off", "--otlp", &url];
        lab.succeed(&[&run[..], &SMALL, more].concat());
        let spans = collector.until(|spans| spans.iter().any(|span| span.name == "chat tiny"));
        let opening = "Hello";
        let told = |attributes: &std::collections::HashMap<String, String>| {
            attributes.values().any(|value| value.contains(opening) || value.contains("Rate "))
        };
        let in_attributes = spans.iter().any(|span| told(&span.attributes));
        let in_events = spans.iter().flat_map(|span| &span.events).any(|event| told(&event.1));
        assert!(!in_attributes);
        assert_eq!(in_events, expected);
    }
}

/// Protects: of no trace, no span is sent; a collector that is away stops nothing.
#[test]
fn traces_may_be_sampled_and_collectors_be_away() {
    let (lab, collector) = (Lab::new(), Collector::start());
    let run = ["run", EXPERIMENT, "--dashboard", "off", "--trace-share", "0", "--otlp", &collector.url()];
    lab.succeed(&[&run[..], &SMALL].concat());
    assert_eq!(collector.spans().len(), 0);
    let away = format!("http://127.0.0.1:{}", support::servers::free_port());
    lab.succeed(&[&["run", EXPERIMENT, "--fresh", "--dashboard", "off", "--otlp", &away][..], &SMALL].concat());
}

fn get(address: &str, path: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    write!(stream, "GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

/// The value of a line of metrics, labels included in its name.
fn value(page: &str, name: &str) -> Option<f64> {
    page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok())
}

/// Protects: coordinator and worker count what they do; health says who is alive and who is ready; a name that is taken or an
/// address that nobody serves is an error.
#[test]
fn metrics_and_health_are_served() {
    let lab = Lab::new();
    let port = || support::servers::free_port();
    let (listen, here, there) =
        (format!("127.0.0.1:{}", port()), format!("127.0.0.1:{}", port()), format!("127.0.0.1:{}", port()));
    let coordinator =
        ["coordinator", EXPERIMENT, "--dashboard", "off", "--stay", "--listen", &listen, "--metrics", &here];
    let mut coordinator = Place::start(&lab, "coordinator", &[&coordinator[..], &SMALL].concat());
    coordinator.until_said("workers join with", 1);
    let at = format!("http://{listen}");
    let mut worker =
        Place::start(&lab, "worker", &["worker", "--coordinator", &at, "--metrics", &there, "--slots", "3"]);
    worker.until_said("finished", 1);
    assert_eq!(lab.succeed(&["health", "--metrics", &there, "--ready"]), "ready\n");
    let page = get(&there, "/metrics");
    assert_eq!(value(&page, "influence_worker_slots"), Some(3.0), "{page}");
    coordinator.until_said("the run is finished; its pages stay", 1);
    assert_eq!(lab.succeed(&["health", "--metrics", &here]), "alive\n");

    let page = get(&here, "/metrics");
    assert!(page.starts_with("HTTP/1.0 200"), "{page}");
    assert_eq!(value(&page, "influence_work_finished_total"), Some(13.0), "twelve episodes and a training: {page}");
    assert!(value(&page, "influence_turns_total").unwrap() >= 12.0);
    assert!(value(&page, "influence_tokens_total{role=\"agent\",kind=\"generated\"}").unwrap() > 6.0, "{page}");
    assert!(value(&page, "influence_store_seconds_count").unwrap() > 10.0);
    assert!(value(&page, "influence_reward{phase=\"train\"}").is_some(), "{page}");
    assert_eq!(value(&page, "influence_leads"), Some(0.0), "{page}");
    let described = page.lines().filter_map(|line| line.strip_prefix("# TYPE ")).count();
    let helped = page.lines().filter_map(|line| line.strip_prefix("# HELP ")).count();
    assert_eq!(described, helped, "every metric says what it is: {page}");

    assert!(worker.wait(Duration::from_secs(30)).unwrap().success());
    assert!(lab.fail(&["health", "--metrics", &there]).contains("does not answer"));
    coordinator.signal("TERM");
    assert!(coordinator.wait(Duration::from_secs(10)).unwrap().success(), "what stays after its run ends well");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    assert!(lab.fail(&["run", EXPERIMENT, "--fresh", "--dashboard", "off", "--metrics", &taken]).contains("--metrics"));
}

/// Protects: with `--log-format json`, every line on stderr is a JSON object, failures too, and none has a control character.
#[test]
fn logs_are_for_machines_where_that_is_asked_for() {
    let lab = Lab::new();
    let json = ["--log", "info", "--log-format", "json"];
    let output = lab.influence(&[&["run", EXPERIMENT, "--dashboard", "off"][..], &SMALL, &json].concat());
    let lines = |output: &std::process::Output| -> Vec<Value> {
        support::stderr(output)
            .lines()
            .map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("{line}")))
            .collect()
    };
    let said = lines(&output);
    assert!(output.status.success(), "{said:?}");
    let begins = said.iter().any(|line| line["message"].as_str().is_some_and(|text| text.ends_with("begins")));
    assert!(begins, "{said:?}");
    let judged = said.iter().find(|line| line["message"] == "judged").unwrap();
    assert_eq!((&judged["iteration"], &judged["episodes"]), (&0.into(), &12.into()));
    assert!(judged["run"].is_string() && judged["reward"].is_number(), "{judged}");

    let failed = lab.influence(&[&["runs", "no\u{1b}[31msuch"][..], &json].concat());
    assert!(!failed.status.success());
    let said = lines(&failed);
    assert_eq!((said.len(), &said[0]["level"]), (1, &"ERROR".into()));
    assert!(!support::stderr(&failed).contains('\u{1b}'));
}
