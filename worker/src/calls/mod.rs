//! Calls of models: each is measured, traced and recorded in one way, whoever asks.

mod traced;

use std::sync::Arc;
use std::time::Instant;

use futures::future::try_join_all;
use influence_proto::prompts::ChatMessage;
use influence_proto::{Ask, Call, Failure, ModelAnswer, ModelCall, Role, Said, Score, TrainedAgent};
use tracing::{Instrument as _, Span};

use crate::backend::{
    Backend, BackendError, GenerateRequest, Generation, LoadedAdapter, Models, Prompt, PromptSeen, ScoreRequest,
    Variant,
};
use crate::metrics;

/// Samples a reply. `messages` are what the prompt was made of.
pub(crate) async fn reply(
    backend: &dyn Backend,
    model: &str,
    request: GenerateRequest,
    messages: impl FnOnce() -> Vec<ChatMessage>,
) -> Result<(Generation, Call), BackendError> {
    let role = request.role;
    let span = traced::call(role, model, backend, Some((&request.sampling, request.seed)));
    let messages = traced::wants_content().then(messages);
    let started = Instant::now();
    let reply = backend.generate(request).instrument(span.clone()).await;
    let reply = reply.map_err(|e| failed(role, &span, e))?;
    let call = record(role, reply.prompt, (reply.generated_tokens, reply.nanodollars), started);
    traced::answered(&span, &call);
    traced::said(&span, messages, Some(&reply.text));
    Ok((reply, call))
}

/// Reads the probabilities of answers.
pub(crate) async fn score(
    backend: &dyn Backend,
    model: &str,
    request: ScoreRequest,
) -> Result<(Score, Call), BackendError> {
    let (role, min_mass) = (request.role, request.scoring.min_mass);
    let span = traced::call(role, model, backend, None);
    let messages = traced::wants_content().then(|| request.messages.clone());
    let started = Instant::now();
    let read = backend.score(request).instrument(span.clone()).await;
    let read = read.map_err(|e| failed(role, &span, e))?;
    let score = Score::from_masses(read.masses, min_mass).read_by(read.method);
    if score.unscored.is_some() {
        metrics::unscored(role);
    }
    let call = record(role, read.prompt, (read.generated_tokens, read.nanodollars), started);
    traced::answered(&span, &call);
    traced::judged(&span, role, &score);
    traced::said(&span, messages, score.most_probable());
    Ok((score, call))
}

/// What a backend calls what training has made of its model, with what must be held for as long as it is asked.
pub(crate) type Held = (Variant, Option<Arc<LoadedAdapter>>);

/// Makes all calls of a lease at once. `variant` loads what replies are asked of; `moved` is told after every answer.
pub(crate) async fn answer<F>(
    calls: Vec<ModelCall>,
    models: &Models,
    variant: impl Fn(String, TrainedAgent) -> F,
    moved: &(dyn Fn() + Sync),
) -> Result<Vec<ModelAnswer>, Failure>
where
    F: Future<Output = Result<Held, Failure>>,
{
    let variant = &variant;
    let answers = calls.into_iter().map(|call| async move {
        let loaded = match &call.ask {
            Ask::Reply { trained: Some(trained), .. } => Some(variant(call.model.clone(), trained.clone()).await?),
            _ => None,
        };
        let (role, model) = (call.role, call.model.clone());
        let answer = one(call, models, loaded).await;
        moved();
        answer.map_err(|e| Failure {
            retryable: e.retryable(),
            message: format!("role {}, model `{model}`: {e}", role.name()),
        })
    });
    try_join_all(answers).await
}

async fn one(call: ModelCall, models: &Models, held: Option<Held>) -> Result<ModelAnswer, BackendError> {
    let ModelCall { role, model, messages, seed, ask } = call;
    let backend = &**models.get(&model)?;
    match ask {
        Ask::Reply { sampling, .. } => {
            let prompt = Prompt::Messages(messages.clone());
            let (variant, _adapter) = held.unzip();
            let request = GenerateRequest { role, prompt, sampling, seed, variant, session: None };
            let (said, call) = reply(backend, &model, request, || messages).await?;
            Ok(ModelAnswer { call: Some(call), said: Said::Reply { text: said.text, cut_off: said.cut_off } })
        }
        Ask::Score { answers, scoring } => {
            match score(
                backend,
                &model,
                ScoreRequest { role, messages, answers, scoring, seed, variant: None, session: None },
            )
            .await
            {
                Ok((score, call)) => Ok(ModelAnswer { call: Some(call), said: Said::Score(score) }),
                // It is as long anywhere and at any time: the judge cannot say anything about it.
                Err(error @ BackendError::TooLong { .. }) => {
                    Ok(ModelAnswer { call: None, said: Said::Score(Score::unscored(error.to_string())) })
                }
                Err(error) => Err(error),
            }
        }
    }
}

fn failed(role: Role, span: &Span, error: BackendError) -> BackendError {
    traced::failed(span, &error);
    metrics::call_failed(role, error.kind());
    error
}

fn record(role: Role, prompt: PromptSeen, (generated_tokens, nanodollars): (u32, u64), started: Instant) -> Call {
    metrics::call(role, started.elapsed());
    Call {
        role,
        prompt_tokens: prompt.tokens,
        reused_tokens: prompt.reused,
        generated_tokens,
        nanodollars,
        prompt_sha256: prompt.sha256,
        milliseconds: u32::try_from(started.elapsed().as_millis()).unwrap_or(u32::MAX),
    }
}

#[cfg(test)]
mod tests;
