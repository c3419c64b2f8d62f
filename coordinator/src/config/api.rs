//! Models that a server answers for.

use influence_proto::{ApiLimits, ApiModel, ApiPrice, ApiProtocol, ApiScores, is_api_url, is_key_variable};

use super::document::Section;

/// Reads `api: {protocol, url, model, key_variable, scores, samples, ...}` of the model `name`.
pub(super) fn read_api(name: &str, mut api: Section<'_>) -> ApiModel {
    let protocols = [("openai", ApiProtocol::OpenAi), ("anthropic", ApiProtocol::Anthropic)];
    let protocol = api.choice("protocol", &protocols, ApiProtocol::OpenAi);
    let url = api.required_text("url", "https://HOST/v1");
    let url = url.trim_end_matches('/').to_owned();
    if !url.is_empty() && !is_api_url(&url) {
        api.report("url", format_args!("must be as in `http://localhost:8000/v1`, without a query, but is `{url}`"));
    }
    let model = api.text("model").unwrap_or_else(|| name.to_owned());
    let key_variable = api.text("key_variable");
    if let Some(variable) = key_variable.as_deref().filter(|variable| !is_key_variable(variable)) {
        let message = "must name an environment variable in capitals that ends in `_API_KEY`, and never hold a key";
        // What does not look like a name may be a key.
        match variable.chars().all(|c| c.is_ascii_uppercase() || c == '_') {
            true => api.report("key_variable", format_args!("{message}, but is `{variable}`")),
            false => api.report("key_variable", message),
        }
    }
    let scores = read_scores(&mut api, protocol);
    let usual = ApiLimits::default();
    let limits = ApiLimits {
        concurrency: api.integer("concurrency", 1..=4096, usual.concurrency),
        requests_per_minute: optional(&mut api, "requests_per_minute"),
        tokens_per_minute: optional(&mut api, "tokens_per_minute"),
        timeout_seconds: api.integer("timeout_seconds", 1..=86_400, usual.timeout_seconds),
    };
    let adapters = api.flag("adapters", false);
    if adapters && protocol != ApiProtocol::OpenAi {
        api.report("adapters", "belongs to `protocol: openai`: vLLM and `influence serve` take adapters");
    }
    let price = api.optional_section("price").map(|mut price| {
        let read = read_price(&mut price);
        price.finish();
        read
    });
    api.finish();
    ApiModel { protocol, url, model, key_variable, scores, adapters, price, limits }
}

fn read_price(price: &mut Section<'_>) -> ApiPrice {
    let (input, output) = (microdollars(price, "input"), microdollars(price, "output"));
    let training = if price.has("training") { microdollars(price, "training") } else { None };
    let tuned = match ["tuned_input", "tuned_output"].map(|key| price.has(key)) {
        [false, false] => None,
        _ => microdollars(price, "tuned_input").zip(microdollars(price, "tuned_output")),
    };
    for key in ["training", "tuned_input", "tuned_output"] {
        price.value(key);
    }
    ApiPrice { input: input.unwrap_or(0), output: output.unwrap_or(0), training, tuned }
}

/// From dollars; none, which is reported, if there are none.
fn microdollars(price: &mut Section<'_>, key: &'static str) -> Option<u64> {
    if !price.has(key) {
        price.report(key, "is missing; give dollars per million tokens, as in `{input: 0.15, output: 0.60}`");
        return None;
    }
    Some((price.number(key, 0.0..=1e6, 0.0) * 1e6).round() as u64)
}

fn read_scores(api: &mut Section<'_>, protocol: ApiProtocol) -> ApiScores {
    let sampled = api.has("samples");
    let count = api.integer("samples", 2..=1000, 20);
    let samples = ApiScores::Samples(count);
    let all = [
        ("exact", ApiScores::Exact),
        ("continued", ApiScores::Continued),
        ("first_token", ApiScores::FirstToken),
        ("samples", samples),
    ];
    let scores = match protocol {
        ApiProtocol::OpenAi => api.choice("scores", &all, ApiScores::FirstToken),
        ApiProtocol::Anthropic => {
            if !api.has("scores") {
                let message = "is missing: this protocol shows no probabilities; `samples` uses the frequencies of sampled replies, at the price of so many requests a score";
                api.report("scores", message);
            }
            api.choice("scores", &all[3..], samples)
        }
    };
    if sampled && scores != samples {
        api.report("samples", "belongs to `scores: samples`");
    }
    scores
}

fn optional(api: &mut Section<'_>, key: &'static str) -> Option<u32> {
    let given = api.has(key);
    let read = api.integer(key, 1..=u32::MAX, u32::MAX);
    given.then_some(read)
}
