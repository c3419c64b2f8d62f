//! The dashboard as a process: beside a run, and alone.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::Child;
use std::time::{Duration, Instant};

use support::{Lab, stderr};

/// The port that a dashboard tells of; what else is said goes on being read.
fn port(process: &mut Child) -> u16 {
    let mut lines = BufReader::new(process.stderr.take().unwrap()).lines().map(Result::unwrap);
    let told = lines
        .find(|line| line.starts_with("dashboard: ") || line.starts_with("playground: "))
        .expect("no dashboard was told of");
    std::thread::spawn(move || lines.count());
    told.split("localhost:").nth(1).unwrap().split([';', '/']).next().unwrap().parse().unwrap()
}

fn get(port: u16, path: &str) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nhost: localhost:{port}\r\nconnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

/// Protects: pages of a finished run with real conversations in it, the same filter as on the command line, and an end by a
/// signal.
#[test]
fn a_finished_run_is_shown() {
    let lab = Lab::new();
    lab.succeed(&["run", "configs/experiments/tiny.yaml", "--dashboard", "off"]);
    let filter = "phase = train and iteration = 1 and selected = best";
    let chosen = lab.succeed(&["episodes", "tiny", "--json", "--filter", filter]);
    assert_eq!(chosen.lines().count(), 4, "the best third of six, of two environments");
    let error = lab.fail(&["episodes", "tiny", "--filter", "rewrd > 1"]);
    assert!(error.contains("did you mean `reward`?"), "{error}");

    let mut dashboard = lab.spawn(&["dashboard", "--listen", "127.0.0.1:0"]);
    let port = port(&mut dashboard);
    let runs = get(port, "/");
    assert!(runs.starts_with("HTTP/1.1 200") && runs.contains("/runs/tiny") && runs.contains("2 of 2"), "{runs}");
    assert!(get(port, "/runs/tiny").contains("<polyline"), "no chart");
    let found = get(port, &format!("/runs/tiny/conversations?filter={}", filter.replace(' ', "%20")));
    assert!(found.contains("4 of 28 conversations"), "{found}");
    let episode: serde_json::Value = serde_json::from_str(chosen.lines().next().unwrap()).unwrap();
    let path = format!("/runs/tiny/episodes/{}?prompts=1", episode["spec"]["id"].as_str().unwrap());
    let shown = get(port, &path);
    assert!(shown.contains("Hello ") && shown.contains("The conversation history is:"), "{shown}");
    for path in
        ["/runs/tiny/training", "/runs/tiny/config", "/style.css", "/page.js", "/keys.js", "/live.js", "/icon.svg"]
    {
        assert!(get(port, path).starts_with("HTTP/1.1 200"), "{path}");
    }
    // A client that never finishes its question does not hold up the end.
    let mut silent = TcpStream::connect(("127.0.0.1", port)).unwrap();
    silent.write_all(b"GET / HTTP/1.1\r\nhost: loc").unwrap();
    terminate(&dashboard);
    assert!(dashboard.wait().unwrap().success());
}

fn terminate(process: &Child) {
    let status = std::process::Command::new("kill").arg("-TERM").arg(process.id().to_string()).status().unwrap();
    assert!(status.success());
}

/// Protects: a run has its pages while it goes on, and goes on without them where the port is taken; others cannot reach them.
#[test]
fn a_run_has_its_pages_where_it_can() {
    let lab = Lab::new();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let output =
        lab.influence(&["run", "configs/experiments/tiny.yaml", "--dashboard", &address, "--set", "iterations=0"]);
    assert!(output.status.success() && stderr(&output).contains("no dashboard"), "{}", stderr(&output));
    let error = lab.fail(&["run", "configs/experiments/tiny.yaml", "--name", "open", "--dashboard", "0.0.0.0:0"]);
    assert!(error.contains("--dashboard-token FILE"), "{error}");
    assert!(lab.fail(&["run", "configs/experiments/tiny.yaml", "--dashboard", "on"]).contains("must be `off`"));
    let large = ["run", "configs/experiments/tiny.yaml", "--name", "large", "--dashboard", "127.0.0.1:0"];
    let mut run = lab.spawn(&[&large[..], &support::LARGE].concat());
    let port = port(&mut run);
    let page = get(port, "/runs/large");
    assert!(page.contains("data-events=\"/runs/large/events\""), "{page}");
    let deadline = Instant::now() + Duration::from_secs(30);
    while !get(port, "/runs/large/workers").contains("here-") {
        assert!(Instant::now() < deadline, "the run's own worker is not shown");
        std::thread::sleep(Duration::from_millis(100));
    }
    run.kill().unwrap();
    run.wait().unwrap();
}

/// Protects: a finished run's agent is played with, by the model and the adapter that its files are, and its pages are written
/// as files that are not written over.
#[test]
fn a_finished_run_is_played_with_and_published() {
    let lab = Lab::new();
    lab.succeed(&["run", "configs/experiments/tiny.yaml", "--dashboard", "off"]);
    let told = lab.succeed(&["report", "tiny", "--html", "site"]);
    assert!(told.starts_with("site/index.html ("), "{told}");
    assert!(std::fs::read_to_string(lab.path("site/index.html")).unwrap().contains("<polyline"));
    assert!(lab.fail(&["report", "tiny", "--html", "site"]).contains("--overwrite"));

    let mut dashboard = lab.spawn(&["dashboard", "--listen", "127.0.0.1:0", "--play", "tiny"]);
    let port = port(&mut dashboard);
    let form = get(port, "/runs/tiny/play");
    assert!(form.contains("trained by iteration 1"), "{form}");
    let episode = form.split("option value=\"").nth(1).unwrap().split('"').next().unwrap();
    let body = format!("episode={episode}&agent=1&turns=1&you=");
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    write!(
        stream,
        "POST /runs/tiny/play HTTP/1.1\r\nhost: localhost:{port}\r\norigin: http://localhost:{port}\r\n\
         content-type: application/x-www-form-urlencoded\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let path =
        answer.split("location: ").nth(1).unwrap_or_else(|| panic!("{answer}")).lines().next().unwrap().to_owned();
    let deadline = Instant::now() + Duration::from_secs(30);
    let end = loop {
        let page = get(port, &path);
        if page.contains("It is over") {
            break page;
        }
        assert!(Instant::now() < deadline, "{page}");
        std::thread::sleep(Duration::from_millis(50));
    };
    assert!(end.contains("agent: tiny, trained") && !end.contains("cannot go on"), "{end}");
    terminate(&dashboard);
    assert!(dashboard.wait().unwrap().success());
}
