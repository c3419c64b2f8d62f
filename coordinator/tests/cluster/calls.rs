//! Calls of models that are no part of an episode, over real gRPC.

use std::sync::Arc;
use std::time::Duration;

use influence_coordinator::access::Access;
use influence_coordinator::artifacts::Artifacts;
use influence_coordinator::dispatch::DispatchError;
use influence_coordinator::store::SqliteStore;
use influence_coordinator::{Answering, AnsweringOptions};
use influence_proto::prompts::{ChatMessage, ChatRole};
use influence_proto::wire::coordinator_event::Event;
use influence_proto::{Ask, Failure, ModelAnswer, ModelCall, Outcome, Role, RunId, Said, Score, Scoring, Work};

use crate::setting::Setting;
use crate::worker::{Session, client, finish, join};

async fn answering(setting: &Setting) -> Answering {
    let data = setting.data();
    let options = AnsweringOptions {
        run: RunId::new("demo").unwrap(),
        models: Vec::new(),
        store: Arc::new(SqliteStore::open(&data.join("influence.sqlite")).unwrap()),
        artifacts: Artifacts::open(data.join("artifacts"), &data.join("demo")).await.unwrap(),
        listen: "127.0.0.1:0".parse().unwrap(),
        access: Access::default(),
    };
    Answering::start(options).await.unwrap()
}

fn question(text: &str) -> ModelCall {
    let scoring = Scoring { prefix: String::new(), temperature: 1.0, top_p: 1.0, min_mass: 0.0 };
    ModelCall {
        role: Role::Preference,
        model: "judge".into(),
        messages: vec![ChatMessage::new(ChatRole::User, text)],
        seed: 1,
        ask: Ask::Score { answers: vec!["yes".into(), "no".into()], scoring },
    }
}

/// As sure of yes as the text is long.
fn answer(call: &ModelCall) -> ModelAnswer {
    let yes = call.messages[0].content.len() as f64 / 100.0;
    let masses = vec![("yes".to_owned(), yes), ("no".to_owned(), 1.0 - yes)];
    ModelAnswer { call: None, said: Said::Score(Score::from_masses(masses, 0.0)) }
}

fn calls_of(work: &Work) -> &[ModelCall] {
    let Work::Calls(calls) = work else { panic!("{work:?} are no calls") };
    calls
}

/// Protects: who asks gets the answers to its own calls in their order, whichever worker gives them, also when the first one
/// hands them back; and a worker that answers something else is not believed.
#[tokio::test]
async fn calls_come_back_answered_by_whoever_is_there() {
    let setting = Setting::new();
    let answering = answering(&setting).await;
    let mut calls = client(answering.address).await.unwrap();
    let mut first = Session::open(&mut calls, join("first", 1), 1).await.unwrap();
    let cluster = answering.cluster().clone();
    let asked = tokio::spawn(async move { cluster.call(vec![question("short"), question("a longer one")]).await });
    let lease = first.lease().await;
    assert_eq!(calls_of(&lease.payload).len(), 2);
    calls.finish(finish(&first.worker, &lease.work, 1, Outcome::Returned)).await.unwrap();
    drop(first);
    let mut second = Session::open(&mut calls, join("second", 2), 1).await.unwrap();
    let again = second.lease().await;
    assert_eq!((&again.work, again.attempt), (&lease.work, 2));
    let answers: Vec<_> = calls_of(&again.payload).iter().map(answer).collect();
    calls.finish(finish(&second.worker, &again.work, 2, Outcome::Calls(answers.clone()))).await.unwrap();
    assert_eq!(asked.await.unwrap().unwrap(), answers);
    // A repetition, as after an answer that was lost on its way, harms nobody.
    calls.finish(finish(&second.worker, &again.work, 2, Outcome::Calls(answers.clone()))).await.unwrap();

    second.credits(2).await;
    let ask = || {
        let cluster = answering.cluster().clone();
        tokio::spawn(async move { cluster.call(vec![question("x")]).await })
    };
    let (asked, lease) = (ask(), second.lease().await);
    calls.finish(finish(&second.worker, &lease.work, 1, Outcome::Calls(answers))).await.unwrap();
    let refused = asked.await.unwrap().unwrap_err().to_string();
    assert!(refused.contains("2 answers to 1 calls"), "{refused}");

    let (asked, lease) = (ask(), second.lease().await);
    let failure = Failure { retryable: false, message: "there is no judge".into() };
    calls.finish(finish(&second.worker, &lease.work, 1, Outcome::Failed(failure))).await.unwrap();
    assert_eq!(asked.await.unwrap(), Err(DispatchError::Unanswered("there is no judge".into())));
    drop(second);
    answering.end(Duration::ZERO).await;
}

/// Protects: who does not wait any more keeps no worker busy.
#[tokio::test]
async fn calls_that_nobody_waits_for_are_taken_back() {
    let setting = Setting::new();
    let answering = answering(&setting).await;
    let mut calls = client(answering.address).await.unwrap();
    let mut worker = Session::open(&mut calls, join("worker", 1), 1).await.unwrap();
    let waited = tokio::time::timeout(Duration::from_millis(100), answering.cluster().call(vec![question("x")]));
    let (lease, waited) = tokio::join!(worker.lease(), waited);
    assert!(waited.is_err());
    let Event::Cancel(cancel) = worker.next().await else { panic!("the lease is not taken back") };
    assert_eq!((cancel.work, cancel.attempt), (lease.work.to_string(), 1));
    assert_eq!(answering.cluster().status().await.unwrap().phase, "answering calls");
    let gone = worker.worker.clone();
    let late = vec![answer(&question("x"))];
    calls.finish(finish(&gone, &lease.work, 1, Outcome::Calls(late))).await.unwrap();
    let goodbye = tokio::spawn(answering.end(Duration::ZERO));
    assert!(matches!(worker.next().await, Event::Goodbye(_)));
    drop(worker);
    goodbye.await.unwrap();
}
