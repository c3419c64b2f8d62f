//! Spans of model calls, for whoever traces: what a call was, how long it took, what it read.
//!
//! Attributes of calls follow OpenTelemetry's semantic conventions for generative AI (release 1.38, where they are in
//! development). What was said is in no span: it is an event of the target [`CONTENT`], which is off unless asked for.

use influence_proto::prompts::{ChatMessage, ChatRole};
use influence_proto::{Call, Role, Sampling, Score};
use serde_json::json;
use tracing::{Span, field::Empty};

use crate::TRACE;
use crate::backend::{Backend, BackendError};

/// What models were told, and what they said.
const CONTENT: &str = "influence_content";

/// A call of a model; `sampled`: how, and by which seed, where it is for a reply.
pub(super) fn call(role: Role, model: &str, backend: &dyn Backend, sampled: Option<(&Sampling, u64)>) -> Span {
    let sampling = sampled.map(|(sampling, _)| sampling);
    tracing::info_span!(
        target: TRACE,
        "chat",
        otel.name = format!("chat {model}"),
        otel.kind = "client",
        otel.status_code = Empty,
        error.type = Empty,
        gen_ai.operation.name = "chat",
        gen_ai.provider.name = backend.provider(),
        gen_ai.request.model = model,
        gen_ai.request.max_tokens = sampling.map(|sampling| sampling.max_tokens),
        gen_ai.request.temperature = sampling.map(|sampling| sampling.temperature),
        gen_ai.request.top_p = sampling.map(|sampling| sampling.top_p),
        gen_ai.request.seed = sampled.map(|(_, seed)| seed),
        gen_ai.usage.input_tokens = Empty,
        gen_ai.usage.cache_read.input_tokens = Empty,
        gen_ai.usage.output_tokens = Empty,
        influence.role = role.name(),
    )
}

/// What a call took.
pub(super) fn answered(span: &Span, call: &Call) {
    span.record("gen_ai.usage.input_tokens", call.prompt_tokens);
    span.record("gen_ai.usage.cache_read.input_tokens", call.reused_tokens);
    span.record("gen_ai.usage.output_tokens", call.generated_tokens);
}

pub(super) fn failed(span: &Span, error: &BackendError) {
    span.record("otel.status_code", "ERROR");
    span.record("error.type", error.kind());
}

/// What a judge made of a reply. `label` is the answer with the most mass.
pub(super) fn judged(span: &Span, role: Role, score: &Score) {
    let _inside = span.enter();
    let label = score.most_probable().unwrap_or_default();
    tracing::info!(
        target: TRACE,
        {
            gen_ai.evaluation.name = role.name(),
            gen_ai.evaluation.score.value = score.expected(),
            gen_ai.evaluation.score.label = label,
            gen_ai.evaluation.explanation = score.unscored.as_deref(),
            influence.mass = score.mass,
        },
        "gen_ai.evaluation.result"
    );
}

/// Whether somebody wants to know what was said.
pub(super) fn wants_content() -> bool {
    tracing::enabled!(target: CONTENT, tracing::Level::INFO)
}

/// What was said in a call, where somebody wants to know.
pub(super) fn said(span: &Span, prompt: Option<Vec<ChatMessage>>, reply: Option<&str>) {
    let Some(prompt) = prompt else { return };
    let _inside = span.enter();
    let part = |role: &str, text: &str| json!({"role": role, "parts": [{"type": "text", "content": text}]});
    let input: Vec<_> = prompt.iter().map(|message| part(name(message.role), &message.content)).collect();
    let output: Vec<_> = reply.iter().map(|text| part("assistant", text)).collect();
    tracing::info!(
        target: CONTENT,
        {
            gen_ai.input.messages = %serde_json::Value::from(input),
            gen_ai.output.messages = %serde_json::Value::from(output),
        },
        "gen_ai.client.inference.operation.details"
    );
}

const fn name(role: ChatRole) -> &'static str {
    match role {
        ChatRole::System => "system",
        ChatRole::User => "user",
        ChatRole::Assistant => "assistant",
        ChatRole::FunctionCall | ChatRole::Ipython => "tool",
    }
}
