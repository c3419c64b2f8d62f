//! Jobs at a server that loses answers, cuts connections and talks nonsense.
#![allow(clippy::unwrap_used)]

use futures::future::join_all;
use influence_proto::{ApiLimits, ApiProtocol, ApiScores};

use super::*;
use crate::backend::ApiServers;

#[path = "../../../tests/tuning/mod.rs"]
mod tuning;
use tuning::{BASE, Fault, TuningServer};

const ROW: &str = r#"{"messages":[{"role":"user","content":"Hi"},{"role":"assistant","content":"Yes"}]}"#;

fn spec() -> FineTuningSpec {
    FineTuningSpec { start: None, epochs: 2, batch_size: 4, learning_rate_multiplier: None, suffix: "lab-0".into() }
}

fn request<'a>(key: &'a str, file: &'a str, tuning: &'a FineTuningSpec) -> JobRequest<'a> {
    JobRequest { key, work: "lab:training:0", file, algorithm: Algorithm::Sft, tuning, seed: u64::MAX }
}

fn start() -> TuningServer {
    let server = TuningServer::start();
    server.books().keyless = true;
    server
}

async fn open(server: &TuningServer) -> FineTuning {
    let api = ApiModel {
        protocol: ApiProtocol::OpenAi,
        url: server.url(),
        model: BASE.into(),
        key_variable: None,
        scores: ApiScores::FirstToken,
        adapters: false,
        price: None,
        limits: ApiLimits::default(),
    };
    ApiServers::default().open(&api).await.unwrap().fine_tuning()
}

/// Protects: nothing is uploaded or begun twice, whatever becomes of an answer, and what a server refuses to do now is done later.
#[tokio::test]
async fn a_lost_answer_begins_no_second_job() {
    let faults = [Fault::Status(429), Fault::Status(500), Fault::Cut, Fault::Lost, Fault::Garbage];
    join_all(faults.map(|fault| async move {
        let server = start();
        let api = open(&server).await;
        server.books().faults = vec![
            ("POST /v1/files", fault),
            ("POST /v1/fine_tuning/jobs", fault),
            ("POST /v1/fine_tuning/jobs", fault),
            ("GET /v1/fine_tuning/jobs/ftjob-0", fault),
        ];
        let file = api.upload("rows.jsonl", ROW.as_bytes()).await.unwrap();
        let tuning = spec();
        let job = api.begin(&request("k", &file, &tuning)).await.unwrap();
        api.job(&job.id).await.unwrap();
        let books = server.books();
        assert_eq!((books.files.len(), books.jobs.len()), (1, 1), "{fault:?}: {:?}", books.asked);
        assert_eq!(books.files[0].text, ROW);
    }))
    .await;
}

/// Protects: an attempt that knows nothing of an earlier one finds its file and its job, on any page, and no other's.
#[tokio::test]
async fn a_job_is_found_by_its_key_or_its_file() {
    for plain in [false, true] {
        let server = start();
        server.books().plain = plain;
        let api = open(&server).await;
        let tuning = spec();
        let mut begun = Vec::new();
        for number in 0..5 {
            let (name, key) = (format!("rows-{number}.jsonl"), format!("k{number}"));
            let file = api.upload(&name, ROW.as_bytes()).await.unwrap();
            begun.push((api.begin(&request(&key, &file, &tuning)).await.unwrap().id, file));
        }
        for (number, known) in begun.iter().enumerate() {
            let (name, key) = (format!("rows-{number}.jsonl"), format!("k{number}"));
            let file = api.upload(&name, ROW.as_bytes()).await.unwrap();
            let job = api.begin(&request(&key, &file, &tuning)).await.unwrap();
            assert_eq!((&job.id, &file), (&known.0, &known.1));
        }
        assert_eq!(server.counts(), (5, 5));
        assert_ne!(api.upload("rows-0.jsonl", format!("{ROW}\n").as_bytes()).await.unwrap(), begun[0].1, "half a file");
    }
}

/// Protects: a job that has failed is not gone on with; what the server says of it and of its steps is told.
#[tokio::test]
async fn a_failed_job_is_told_and_begun_anew() {
    let server = start();
    let api = open(&server).await;
    let file = api.upload("rows.jsonl", ROW.as_bytes()).await.unwrap();
    let tuning = spec();
    server.books().fails = Some("too few rows".into());
    let first = api.begin(&request("k", &file, &tuning)).await.unwrap().id;
    let end = loop {
        match api.job(&first).await.unwrap().state {
            JobState::Going(_) => {}
            end => break end,
        }
    };
    assert_eq!(end, JobState::Ended { status: "failed".into(), reason: "too few rows".into() });
    let second = api.begin(&request("k", &file, &tuning)).await.unwrap().id;
    assert_ne!(first, second);
    while !matches!(api.job(&second).await.unwrap().state, JobState::Succeeded { .. }) {}
    let steps = api.steps(&second, true).await;
    assert_eq!(steps.iter().map(|step| (step.step, step.steps)).collect::<Vec<_>>(), [(1, 4), (2, 4), (3, 4), (4, 4)]);
    assert_eq!((steps[0].loss, steps[3].loss), (3.0, 0.75));
    assert_eq!(api.steps("ftjob-9", true).await, []);
}

/// Protects: where a job could not be found again, none is begun.
#[tokio::test]
async fn without_a_list_of_jobs_none_is_begun() {
    let server = start();
    server.books().listless = true;
    let api = open(&server).await;
    let file = api.upload("rows.jsonl", ROW.as_bytes()).await.unwrap();
    let tuning = spec();
    let refused = api.begin(&request("k", &file, &tuning)).await.unwrap_err();
    assert!(!refused.retryable() && refused.to_string().contains("would be paid twice"), "{refused}");
    assert!(api.look().await.is_err() && server.books().jobs.is_empty());
}

#[test]
fn a_job_is_written_as_the_interface_has_it() {
    let tuning = FineTuningSpec { start: Some("ft:a".into()), learning_rate_multiplier: Some(0.5), ..spec() };
    let request = JobRequest { algorithm: Algorithm::Dpo { beta: 0.2 }, ..request("k", "file-1", &tuning) };
    let settings = json!({"n_epochs": 2, "batch_size": 4, "learning_rate_multiplier": 0.5, "beta": 0.2});
    let wanted = json!({
        "model": "ft:a", "training_file": "file-1", "suffix": "lab-0", "seed": i32::MAX,
        "method": {"type": "dpo", "dpo": {"hyperparameters": settings}},
        "metadata": {"influence_job": "k", "influence_work": "lab:training:0"},
    });
    assert_eq!(request.body(BASE, true), wanted);
    let plain = JobRequest { algorithm: Algorithm::Sft, tuning: &spec(), ..request }.body(BASE, false);
    let settings = json!({"n_epochs": 2, "batch_size": 4});
    assert_eq!(plain["method"], json!({"type": "supervised", "supervised": {"hyperparameters": settings}}));
    assert_eq!((&plain["model"], &plain["metadata"]), (&json!(BASE), &Value::Null));
}

#[test]
fn what_is_no_job_is_refused() {
    for (value, problem) in [
        (json!({}), "names no job"),
        (json!({"id": "../x", "status": "queued"}), "names no job"),
        (json!({"id": "j"}), "no `status`"),
        (json!({"id": "j", "status": "succeeded", "fine_tuned_model": null}), "without a `fine_tuned_model`"),
        (json!({"id": "j", "status": "succeeded", "fine_tuned_model": "a b"}), "no name"),
    ] {
        let refused = read_job(&value).unwrap_err();
        assert!(refused.contains(problem), "{refused}");
    }
    let cancelled = read_job(&json!({"id": "j", "status": "cancelled", "error": {}})).unwrap();
    assert!(matches!(cancelled.state, JobState::Ended { reason, .. } if reason.contains("does not say why")));
    let unknown = read_job(&json!({"id": "j", "status": "paused"})).unwrap();
    assert_eq!(unknown.state, JobState::Going("paused".into()));
}
