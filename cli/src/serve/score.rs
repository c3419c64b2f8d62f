//! `/v1/score`: exact probabilities of answers, which OpenAI's protocol has no call for.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use influence_engine::batch::ScoreRequest;
use influence_engine::chat::SCORE_PREFIX;
use influence_engine::sample::AnswerTree;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::task::spawn_blocking;

use super::error::{ApiError, answer};
use super::models::Served;
use super::request::{Body, Message, messages};

/// Each answer may take steps of its own.
const MOST_ANSWERS: usize = 256;

#[derive(Debug, Deserialize)]
pub(super) struct Scored {
    model: String,
    messages: Vec<Message>,
    answers: Vec<String>,
    prefix: Option<String>,
    temperature: Option<f32>,
    top_p: Option<f32>,
}

pub(super) async fn score(State(served): State<Served>, Body(scored): Body<Scored>) -> Result<Response, ApiError> {
    let Scored { model, messages: sent, answers, prefix, temperature, top_p } = scored;
    let adapter = served.adapter(&model)?;
    if answers.len() > MOST_ANSWERS {
        return Err(ApiError::bad("answers", format!("there are {} answers; give 1 to {MOST_ANSWERS}", answers.len())));
    }
    let messages = messages(sent)?;
    let chat = served.engine.model().chat.clone();
    let prepared = spawn_blocking(move || {
        let prompt = chat.scored_prompt(&messages, prefix.as_deref().unwrap_or(SCORE_PREFIX))?;
        Ok::<_, ApiError>((prompt, AnswerTree::new(chat.onward_tokenizer(), &answers)?))
    });
    let (prompt, tree) = prepared.await.map_err(|e| ApiError::broken(format!("the prompt was not encoded: {e}")))??;
    let request = ScoreRequest {
        prompt,
        answers: Arc::new(tree),
        adapter,
        temperature: temperature.unwrap_or(1.0),
        top_p: top_p.unwrap_or(1.0),
        label: "score",
        session: None,
    };
    let score = served.engine.score(request).await?;
    let answers: Vec<Value> =
        score.probabilities.iter().map(|(answer, p)| json!({"answer": answer, "probability": p})).collect();
    let tokens = score.prompt_tokens;
    let body = json!({
        "object": "score",
        "model": model,
        "answers": answers,
        "mass": score.mass,
        "usage": {"prompt_tokens": tokens, "completion_tokens": 0, "total_tokens": tokens},
    });
    Ok(answer(StatusCode::OK, &body))
}
