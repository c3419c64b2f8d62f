//! Models behind an API.

use crate::wire;
use crate::{ApiLimits, ApiModel, ApiPrice, ApiProtocol, ApiScores, InvalidMessage};

use super::positive;

/// Whether a worker may read the environment variable of this name, because a coordinator asks for it: only what is
/// named as a key of an API is, so that nothing else of the worker's environment can be sent anywhere.
pub fn is_key_variable(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_';
    name.len() > "_API_KEY".len() && name.ends_with("_API_KEY") && name.chars().all(plain)
}

/// Whether requests can be sent to this address: `http` or `https`, a host, and no slash at the end.
pub fn is_api_url(url: &str) -> bool {
    let rest = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://"));
    let harmless = |c: char| c.is_ascii_graphic() && !"?#@\\\"<>".contains(c);
    rest.is_some_and(|rest| !rest.is_empty() && !rest.starts_with(['/', ':']) && rest.chars().all(harmless))
        && !url.ends_with('/')
}

impl From<ApiModel> for wire::ApiSource {
    fn from(api: ApiModel) -> Self {
        let protocol = match api.protocol {
            ApiProtocol::OpenAi => wire::ApiProtocol::OpenAi,
            ApiProtocol::Anthropic => wire::ApiProtocol::Anthropic,
        };
        let (scores, samples) = match api.scores {
            ApiScores::Exact => (wire::ApiScores::Exact, 0),
            ApiScores::Continued => (wire::ApiScores::Continued, 0),
            ApiScores::FirstToken => (wire::ApiScores::FirstToken, 0),
            ApiScores::Samples(count) => (wire::ApiScores::Samples, count),
        };
        Self {
            protocol: protocol.into(),
            url: api.url,
            model: api.model,
            key_variable: api.key_variable.unwrap_or_default(),
            scores: scores.into(),
            samples,
            concurrency: api.limits.concurrency,
            requests_per_minute: api.limits.requests_per_minute,
            tokens_per_minute: api.limits.tokens_per_minute,
            timeout_seconds: api.limits.timeout_seconds,
            input_price: api.price.map(|price| price.input),
            output_price: api.price.map(|price| price.output),
            adapters: api.adapters,
            training_price: api.price.and_then(|price| price.training),
            tuned_input_price: api.price.and_then(|price| Some(price.tuned?.0)),
            tuned_output_price: api.price.and_then(|price| Some(price.tuned?.1)),
        }
    }
}

impl TryFrom<wire::ApiSource> for ApiModel {
    type Error = InvalidMessage;
    fn try_from(api: wire::ApiSource) -> Result<Self, InvalidMessage> {
        let protocol = match api.protocol() {
            wire::ApiProtocol::Unspecified => return Err(InvalidMessage::new("protocol", "is missing or unknown")),
            wire::ApiProtocol::OpenAi => ApiProtocol::OpenAi,
            wire::ApiProtocol::Anthropic => ApiProtocol::Anthropic,
        };
        let scores = match api.scores() {
            wire::ApiScores::Unspecified => return Err(InvalidMessage::new("scores", "is missing or unknown")),
            wire::ApiScores::Exact => ApiScores::Exact,
            wire::ApiScores::Continued => ApiScores::Continued,
            wire::ApiScores::FirstToken => ApiScores::FirstToken,
            wire::ApiScores::Samples => ApiScores::Samples(positive(api.samples, "samples")?),
        };
        if !is_api_url(&api.url) {
            return Err(InvalidMessage::new("url", "must begin with http:// or https:// and not end with a slash"));
        }
        if !api.key_variable.is_empty() && !is_key_variable(&api.key_variable) {
            return Err(InvalidMessage::new("key_variable", "must be in capitals and end in _API_KEY"));
        }
        let limits = ApiLimits {
            concurrency: positive(api.concurrency, "concurrency")?,
            requests_per_minute: api.requests_per_minute.map(|n| positive(n, "requests_per_minute")).transpose()?,
            tokens_per_minute: api.tokens_per_minute.map(|n| positive(n, "tokens_per_minute")).transpose()?,
            timeout_seconds: positive(api.timeout_seconds, "timeout_seconds")?,
        };
        let both = |input, output, field: &str| match (input, output) {
            (Some(input), Some(output)) => Ok(Some((input, output))),
            (None, None) => Ok(None),
            _ => Err(InvalidMessage::new(field, "must be given with the price of replies, or neither")),
        };
        let tuned = both(api.tuned_input_price, api.tuned_output_price, "tuned_input_price")?;
        let price = both(api.input_price, api.output_price, "input_price")?;
        let price = price.map(|(input, output)| ApiPrice { input, output, training: api.training_price, tuned });
        let key_variable = (!api.key_variable.is_empty()).then_some(api.key_variable);
        Ok(Self {
            protocol,
            url: api.url,
            model: api.model,
            key_variable,
            scores,
            adapters: api.adapters,
            price,
            limits,
        })
    }
}
