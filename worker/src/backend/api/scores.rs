//! Probabilities of answers, by what a server shows of them.

use futures::future::try_join_all;
use influence_proto::{ApiScores, Sampling, ScoreMethod, stream};
use serde_json::{Map, Value, json};

use super::ApiBackend;
use super::answers::Forms;
use super::chat::{self, Usage};
use crate::backend::{AnswerMasses, BackendError, ScoreRequest};

/// A beginning of an answer with less probability is not followed.
const WORTH: f64 = 1e-4;
/// So many beginnings of answers are followed, at most.
const MOST_STEPS: usize = 12;
/// Tokens of a sampled reply beyond the longest answer's characters.
const MORE_TOKENS: usize = 8;

type Messages = [(&'static str, String)];

/// Reads a score in the way that the model's settings name.
pub(super) async fn read(backend: &ApiBackend, request: &ScoreRequest) -> Result<AnswerMasses, BackendError> {
    let messages = chat::arranged(backend.api.protocol, &request.messages);
    let forms = Forms::new(&request.answers);
    let warped = request.scoring.temperature != 1.0 || request.scoring.top_p < 1.0;
    let (masses, usage, method) = match backend.api.scores {
        ApiScores::Exact => {
            let (masses, usage) = exact(backend, request, &messages).await?;
            (masses, usage, ScoreMethod::Exact)
        }
        ApiScores::Samples(count) => {
            let (masses, usage) = sampled(backend, request, &messages, &forms, count).await?;
            (masses, usage, ScoreMethod::Samples(count))
        }
        ApiScores::Continued | ApiScores::FirstToken if warped => {
            return Err(BackendError::Refused(
                "scoring.temperature and scoring.top_p cannot be applied to the few tokens that a server shows: leave them at 1, or score by `samples`".to_owned(),
            ));
        }
        ApiScores::FirstToken => {
            let (tokens, usage) = next_tokens(backend, request, &messages, None).await?;
            (of_first(&tokens, &forms, request.answers.len()), usage, ScoreMethod::FirstToken)
        }
        ApiScores::Continued => {
            let (masses, usage) = continued(backend, request, &messages, &forms).await?;
            (masses, usage, ScoreMethod::Continued)
        }
    };
    let masses = request.answers.iter().cloned().zip(bounded(masses)).collect();
    let (prompt, generated_tokens, nanodollars) = (backend.seen(&messages, usage), usage.generated, usage.nanodollars);
    Ok(AnswerMasses { masses, method, prompt, generated_tokens, nanodollars })
}

/// Probabilities that were rounded may sum to a little more than 1.
fn bounded(mut masses: Vec<f64>) -> Vec<f64> {
    let sum: f64 = masses.iter().sum();
    if sum > 1.0 {
        masses.iter_mut().for_each(|mass| *mass /= sum);
    }
    masses
}

async fn exact(
    backend: &ApiBackend,
    request: &ScoreRequest,
    messages: &Messages,
) -> Result<(Vec<f64>, Usage), BackendError> {
    let scoring = &request.scoring;
    let body = json!({
        "model": backend.model(request.variant.as_ref())?,
        "messages": as_json(messages),
        "answers": request.answers,
        "prefix": scoring.prefix,
        "temperature": scoring.temperature,
        "top_p": scoring.top_p,
    });
    let Value::Object(body) = body else { return Ok(Default::default()) };
    let read = |answer: &Value| {
        let mass = answer.get("mass").and_then(Value::as_f64).ok_or("it has no `mass`")?;
        let list = answer.get("answers").and_then(Value::as_array).ok_or("it has no `answers`")?;
        let masses = list.iter().map(|entry| Some(entry.get("probability")?.as_f64()? * mass)).collect();
        let masses: Vec<f64> = Option::ok_or(masses, "an answer has no `probability`")?;
        let same = list.iter().zip(&request.answers).all(|(entry, answer)| entry.get("answer") == Some(&json!(answer)));
        if !same || masses.len() != request.answers.len() {
            return Err("its answers are not those that were asked for".to_owned());
        }
        Ok((masses, chat::usage(answer)))
    };
    backend.ask("/score", body, messages, 0, read).await
}

/// The share of sampled replies that begin with each answer.
async fn sampled(
    backend: &ApiBackend,
    request: &ScoreRequest,
    messages: &Messages,
    forms: &Forms,
    count: u32,
) -> Result<(Vec<f64>, Usage), BackendError> {
    let sampling = Sampling {
        temperature: request.scoring.temperature,
        top_p: request.scoring.top_p,
        max_tokens: u32::try_from(forms.longest() + MORE_TOKENS).unwrap_or(u32::MAX),
        top_k: 0,
        min_p: 0.0,
        stop: Vec::new(),
    };
    let (count, variant) = (count as usize, request.variant.as_ref());
    let seed = |index: usize| stream::derive(request.seed, &["sample", &index.to_string()]);
    let (mut replies, mut usage) = backend.replies(variant, messages, &sampling, seed(0), count).await?;
    replies.truncate(count);
    // A server may give fewer replies than it was asked for.
    let rest = (replies.len()..count).map(|index| backend.replies(variant, messages, &sampling, seed(index), 1));
    for (more, used) in try_join_all(rest).await? {
        replies.extend(more.into_iter().take(1));
        usage = usage.plus(used);
    }
    let mut masses = vec![0.0; request.answers.len()];
    for reply in &replies {
        if let Some(owner) = forms.begun_by(reply.text.trim_start()) {
            masses[owner] += 1.0 / replies.len() as f64;
        }
    }
    Ok((masses, usage))
}

/// What the reply's first token says. A beginning that only one answer has counts for it; one that is an answer itself
/// counts as that, though a longer one may follow.
fn of_first(tokens: &[(String, f64)], forms: &Forms, answers: usize) -> Vec<f64> {
    let mut masses = vec![0.0; answers];
    for (text, probability) in tokens.iter().filter(|(text, _)| !text.trim().is_empty()) {
        let owner = forms.begun_by(text).or_else(|| match forms.may_become(text)[..] {
            [only] => Some(only),
            _ => None,
        });
        if let Some(owner) = owner {
            masses[owner] += probability;
        }
    }
    masses
}

/// Follows every beginning of an answer from the prefix on.
async fn continued(
    backend: &ApiBackend,
    request: &ScoreRequest,
    messages: &Messages,
    forms: &Forms,
) -> Result<(Vec<f64>, Usage), BackendError> {
    let mut masses = vec![0.0; request.answers.len()];
    let mut usage = Usage::default();
    let mut open = vec![(String::new(), 1.0)];
    let mut steps = 0;
    while let Some((begun, reached)) = open.pop() {
        steps += 1;
        let written = format!("{}{begun}", request.scoring.prefix);
        let (tokens, used) = next_tokens(backend, request, messages, Some(written)).await?;
        usage = usage.plus(used);
        for (token, probability) in &tokens {
            let (text, probability) = (format!("{begun}{token}"), reached * probability);
            let onward = !token.is_empty() && !forms.may_become(&text).is_empty();
            if onward && probability >= WORTH && steps + open.len() < MOST_STEPS {
                open.push((text, probability));
            } else if let Some(owner) = forms.begun_by(&text) {
                masses[owner] += probability;
            }
        }
        // What is not among the most likely tokens continues a whole answer in ways that keep it one.
        if let Some(owner) = forms.begun_by(&begun) {
            let shown: f64 = tokens.iter().map(|(_, probability)| probability).sum();
            masses[owner] += reached * (1.0 - shown).max(0.0);
        }
    }
    Ok((masses, usage))
}

/// The most likely tokens of the reply, or of what follows `written`.
async fn next_tokens(
    backend: &ApiBackend,
    request: &ScoreRequest,
    messages: &Messages,
    written: Option<String>,
) -> Result<(Vec<(String, f64)>, Usage), BackendError> {
    let mut all = as_json(messages);
    let continues = written.is_some();
    all.extend(written.map(|text| json!({"role": "assistant", "content": text})));
    let mut body = Map::from_iter([
        ("model".to_owned(), backend.model(request.variant.as_ref())?.into()),
        ("messages".to_owned(), all.into()),
        ("max_tokens".to_owned(), 1.into()),
        ("temperature".to_owned(), 1.into()),
        ("logprobs".to_owned(), true.into()),
    ]);
    if continues {
        body.insert("continue_final_message".to_owned(), true.into());
        body.insert("add_generation_prompt".to_owned(), false.into());
    }
    let read = |answer: &Value| {
        let (replies, usage) = chat::replies(backend.api.protocol, answer)?;
        let tokens = chat::first_tokens(answer);
        // Its first token was the one that ends a reply, of which some servers show nothing. Another draw shows the same
        // distribution.
        if tokens.is_none() && replies.iter().any(|reply| reply.text.is_empty() && !reply.cut_off) {
            return Err("the reply ended before it began".to_owned());
        }
        Ok((tokens, usage))
    };
    let way_out = "set `scores: samples` for this model, which uses the frequencies of sampled replies";
    let (tokens, usage) =
        backend.ask(chat::path(backend.api.protocol), body, messages, 0, read).await.map_err(|error| match error {
            BackendError::Refused(reason) if reason.contains("logprobs") => {
                BackendError::Refused(format!("{reason}; if it shows no log-probabilities, {way_out}"))
            }
            other => other,
        })?;
    let tokens = tokens.ok_or_else(|| {
        let (url, model) = (&backend.api.url, &backend.api.model);
        BackendError::Refused(format!("{url} shows no log-probabilities of `{model}`: {way_out}"))
    })?;
    Ok((tokens, usage))
}

pub(super) fn as_json(messages: &Messages) -> Vec<Value> {
    messages.iter().map(|(role, text)| json!({"role": role, "content": text})).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_first_token_counts_for_the_one_answer_that_it_begins() {
        let answers = ["1".to_owned(), "10".to_owned(), "seven".to_owned()];
        let forms = Forms::new(&answers);
        let tokens = [("1", 0.5), (" 10", 0.125), ("Se", 0.25), (" ", 0.0625), ("x", 0.0625)];
        let tokens = tokens.map(|(text, probability)| (text.to_owned(), probability));
        assert_eq!(of_first(&tokens, &forms, 3), [0.5, 0.125, 0.25]);
    }

    #[test]
    fn masses_never_sum_to_more_than_one() {
        assert_eq!(bounded(vec![0.25, 0.5]), [0.25, 0.5]);
        let sum: f64 = bounded(vec![0.9, 0.100001]).iter().sum();
        assert!((sum - 1.0).abs() < 1e-12);
    }
}
