#![allow(clippy::unwrap_used)]
use std::sync::atomic::{AtomicUsize, Ordering};

use influence_proto::prompts::ChatRole;
use influence_proto::{AdapterRef, Digest, Sampling, Scoring};

use super::*;
use crate::backend::scripted::{Asked, Scripted};

fn call(model: &str, text: &str, ask: Ask) -> ModelCall {
    let messages = vec![ChatMessage::new(ChatRole::User, text)];
    ModelCall { role: Role::Preference, model: model.into(), messages, seed: 5, ask }
}

fn score() -> Ask {
    let scoring = Scoring { prefix: String::new(), temperature: 1.0, top_p: 1.0, min_mass: 0.01 };
    Ask::Score { answers: vec!["yes".into(), "no".into()], scoring }
}

fn reply(trained: Option<TrainedAgent>) -> Ask {
    let sampling = Sampling { temperature: 1.0, top_p: 1.0, top_k: 0, min_p: 0.0, stop: Vec::new(), max_tokens: 100 };
    Ask::Reply { sampling, trained }
}

async fn none(_: String, _: TrainedAgent) -> Result<Held, Failure> {
    Err(Failure { retryable: true, message: "there is none".into() })
}

#[tokio::test]
async fn calls_are_answered_in_their_order_and_each_counts_as_progress() {
    let backend = Arc::new(Scripted::new(|prompt, seed| format!("{}{seed}", prompt.len()), |_| vec![0.3, 0.1]));
    let models = Models::new().with("tiny", backend.clone());
    let moved = AtomicUsize::new(0);
    let count = || {
        moved.fetch_add(1, Ordering::Relaxed);
    };
    let calls = vec![call("tiny", "good?", score()), call("tiny", "hello", reply(None))];
    let answers = answer(calls, &models, none, &count).await.unwrap();
    let Said::Score(read) = &answers[0].said else { panic!("{answers:?}") };
    assert_eq!(read.most_probable(), Some("yes"));
    assert_eq!((read.mass * 10.0).round(), 4.0);
    let length = "[user]hello$[assistant]".len();
    assert_eq!(answers[1].said, Said::Reply { text: format!("{length}5"), cut_off: false });
    assert_eq!(answers[1].call.as_ref().unwrap().prompt_tokens, length as u32);
    assert_eq!(moved.into_inner(), 2);
    assert_eq!(backend.asked().len(), 2);
    assert!(matches!(&backend.asked()[0], Asked::Score { answers, .. } if answers == &["yes", "no"]));
}

/// Protects: one conversation that is too long for the judge does not keep it from judging the others.
#[tokio::test]
async fn a_prompt_that_is_too_long_is_unscored_and_ends_nothing() {
    let mut backend = Scripted::new(|_, _| "so".into(), |_| vec![1.0, 0.0]);
    backend.context = 30;
    let models = Models::new().with("tiny", Arc::new(backend));
    let calls = vec![call("tiny", &"long ".repeat(20), score()), call("tiny", "x", score())];
    let answers = answer(calls, &models, none, &|| {}).await.unwrap();
    let Said::Score(unscored) = &answers[0].said else { panic!("{answers:?}") };
    assert!(unscored.unscored.as_ref().unwrap().contains("context holds 30"), "{unscored:?}");
    assert_eq!(answers[0].call, None);
    assert!(answers[1].call.is_some());
}

#[tokio::test]
async fn what_cannot_be_asked_fails_with_role_and_model() {
    let models = Models::new().with("tiny", Arc::new(Scripted::new(|_, _| "so".into(), |_| vec![1.0, 0.0])));
    let refused = |ask, model| answer(vec![call(model, "x", ask)], &models, none, &|| {});
    let unknown = refused(score(), "huge").await.unwrap_err();
    assert!(!unknown.retryable && unknown.message.contains("role preference, model `huge`"), "{}", unknown.message);
    let adapter = TrainedAgent::Adapter(AdapterRef { config: Digest::of("c"), weights: Digest::of("w") });
    let missing = refused(reply(Some(adapter)), "tiny").await.unwrap_err();
    assert!(missing.retryable, "another worker may have it: {}", missing.message);
}
