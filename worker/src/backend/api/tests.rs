//! Recorded shapes of the servers that cannot be had here, faults included.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, Response, Uri};
use influence_proto::prompts::{ChatMessage, ChatRole};
use influence_proto::{ApiLimits, ApiPrice, ApiProtocol, ApiScores, Role, ScoreMethod, Scoring};
use serde_json::json;

use super::*;

/// What was asked, what answers, and how often.
type Shared = (Arc<Mutex<Vec<Asked>>>, Arc<Answer>, Arc<AtomicUsize>);
type Answer = dyn Fn(&Asked) -> Response<Body> + Send + Sync;

/// One request as the server saw it.
#[derive(Debug, Clone)]
struct Asked {
    path: String,
    headers: HeaderMap,
    body: Value,
    number: usize,
}

struct Server {
    url: String,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl Server {
    /// A server that answers by a function; it has no list of models.
    async fn start(answer: impl Fn(&Asked) -> Response<Body> + Send + Sync + 'static) -> Self {
        let asked: Arc<Mutex<Vec<Asked>>> = Arc::default();
        let state: Shared = (asked.clone(), Arc::new(answer), Arc::default());
        let app = Router::new().fallback(serve).with_state(state);
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/v1", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, app).await });
        Self { url, asked }
    }

    fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }

    fn api(&self, protocol: ApiProtocol, scores: ApiScores) -> ApiModel {
        let limits = ApiLimits { timeout_seconds: 1, ..ApiLimits::default() };
        ApiModel {
            protocol,
            url: self.url.clone(),
            model: "judge".into(),
            key_variable: None,
            scores,
            adapters: false,
            price: None,
            limits,
        }
    }

    async fn open(&self, scores: ApiScores) -> ApiBackend {
        ApiServers::default().open(&self.api(ApiProtocol::OpenAi, scores)).await.unwrap()
    }
}

async fn serve(
    State((asked, answer, count)): State<Shared>,
    headers: HeaderMap,
    uri: Uri,
    bytes: Bytes,
) -> Response<Body> {
    if bytes.is_empty() {
        return plain(404, "no such page");
    }
    let number = count.fetch_add(1, Ordering::Relaxed);
    let body = serde_json::from_slice(&bytes).unwrap();
    let request = Asked { path: uri.path().to_owned(), headers, body, number };
    asked.lock().unwrap().push(request.clone());
    let response = answer(&request);
    if response.headers().contains_key("x-slow") {
        tokio::time::sleep(Duration::from_secs(3)).await;
    }
    response
}

fn plain(status: u16, text: &str) -> Response<Body> {
    Response::builder().status(status).body(Body::from(text.to_owned())).unwrap()
}

fn answer(value: Value) -> Response<Body> {
    plain(200, &value.to_string())
}

fn refusal(status: u16, message: &str) -> Response<Body> {
    plain(status, &json!({"error": {"message": message}}).to_string())
}

fn chat_reply(text: &str, finish: &str) -> Value {
    json!({
        "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish}],
        "usage": {"prompt_tokens": 11, "completion_tokens": 3, "total_tokens": 14},
    })
}

fn tokens_reply(tokens: &[(&str, f64)]) -> Value {
    let entry = |(token, p): &(&str, f64)| json!({"token": token, "logprob": p.ln(), "bytes": token.as_bytes()});
    let listed: Vec<Value> = tokens.iter().map(entry).collect();
    let mut first = listed[0].clone();
    first["top_logprobs"] = listed.into();
    let mut reply = chat_reply(tokens[0].0, "length");
    reply["choices"][0]["logprobs"] = json!({"content": [first]});
    reply
}

fn plainly() -> Sampling {
    Sampling { temperature: 1.0, top_p: 1.0, top_k: 0, min_p: 0.0, stop: Vec::new(), max_tokens: 64 }
}

fn message(role: ChatRole, content: &str) -> ChatMessage {
    ChatMessage { role, content: content.into() }
}

fn generation(sampling: Sampling) -> GenerateRequest {
    let messages = vec![
        message(ChatRole::System, "Be Kim."),
        message(ChatRole::Assistant, "Hello."),
        message(ChatRole::User, "Hi."),
        message(ChatRole::Ipython, "error 7"),
    ];
    let prompt = Prompt::Messages(messages);
    GenerateRequest { role: Role::Environment, prompt, sampling, seed: u64::MAX, variant: None, session: None }
}

fn score(answers: &[&str]) -> ScoreRequest {
    ScoreRequest {
        role: Role::Preference,
        messages: vec![message(ChatRole::System, "Rate."), message(ChatRole::User, "Well?")],
        answers: answers.iter().map(|answer| (*answer).to_owned()).collect(),
        scoring: Scoring { prefix: "The answer is: ".into(), min_mass: 0.01, temperature: 1.0, top_p: 1.0 },
        seed: 5,
        variant: None,
        session: None,
    }
}

fn close(masses: &AnswerMasses, expected: &[f64]) {
    for ((answer, mass), expected) in masses.masses.iter().zip(expected) {
        assert!((mass - expected).abs() < 1e-9, "{answer}: {mass}, not {expected}");
    }
}

#[tokio::test]
async fn a_reply_is_asked_for_in_openais_shape() {
    let server = Server::start(|_| answer(chat_reply(" Well. ", "length"))).await;
    let backend = server.open(ApiScores::FirstToken).await;
    let sampling = Sampling { temperature: 0.5, max_tokens: 7, stop: vec!["\n".into()], ..plainly() };
    let reply = backend.generate(generation(sampling)).await.unwrap();
    assert_eq!((reply.text.as_str(), reply.cut_off, reply.generated_tokens), (" Well. ", true, 3));
    assert_eq!((reply.prompt.tokens, reply.token_ids.len(), reply.nanodollars), (11, 0, 0));
    let asked = &server.asked()[0];
    assert_eq!(asked.path, "/v1/chat/completions");
    let expected = json!({
        "model": "judge", "temperature": 0.5, "max_tokens": 7, "seed": i32::MAX, "stop": ["\n"],
        "messages": [
            {"role": "system", "content": "Be Kim."},
            {"role": "assistant", "content": "Hello."},
            {"role": "user", "content": "Hi.\n\nerror 7"},
        ],
    });
    assert_eq!(asked.body, expected);
}

#[tokio::test]
async fn every_passing_fault_is_outlived() {
    let cut = || {
        let part = futures::stream::iter([Ok("{\"choices\": ["), Err(std::io::Error::other("cut"))]);
        Response::builder().header("content-length", "500").body(Body::from_stream(part)).unwrap()
    };
    let faults: Vec<fn() -> Response<Body>> = vec![
        || Response::builder().status(429).header("retry-after", "0.2").body(Body::empty()).unwrap(),
        || refusal(500, "oops"),
        || plain(200, "{\"choices\": ["),
        || plain(200, "{}"),
        || Response::builder().header("x-slow", "1").body(Body::empty()).unwrap(),
        || plain(529, "overloaded"),
    ];
    let faults = Mutex::new(VecDeque::from(faults));
    let server = Server::start(move |asked| match asked.number {
        0 => cut(),
        _ => faults.lock().unwrap().pop_front().map_or_else(|| answer(chat_reply("fine", "stop")), |fault| fault()),
    })
    .await;
    let backend = server.open(ApiScores::FirstToken).await;
    let reply = backend.generate(generation(plainly())).await.unwrap();
    assert_eq!((reply.text.as_str(), reply.cut_off), ("fine", false));
    let asked = server.asked();
    // A machine that is busy may time out once more.
    assert!(asked.len() >= 8, "{}", asked.len());
    assert!(asked.iter().all(|one| one.body == asked[0].body), "a repeated request is the same request");
}

/// Protects: a request that is made again and again is counted for as long as it is, and no longer.
#[tokio::test]
async fn requests_that_are_made_again_are_counted() {
    let mended = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let fine = mended.clone();
    let server = Server::start(move |_| match fine.load(Ordering::Relaxed) {
        true => answer(chat_reply("fine", "stop")),
        false => plain(529, "overloaded"),
    })
    .await;
    let servers = ApiServers::default();
    let backend = servers.open(&server.api(ApiProtocol::OpenAi, ApiScores::FirstToken)).await.unwrap();
    assert_eq!(servers.backing_off(), 0);
    let watching = async {
        while servers.backing_off() == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        mended.store(true, Ordering::Relaxed);
        servers.backing_off()
    };
    let both = async { tokio::join!(backend.generate(generation(plainly())), watching) };
    let (reply, counted) = tokio::time::timeout(Duration::from_secs(30), both).await.unwrap();
    assert_eq!((reply.unwrap().text.as_str(), counted, servers.backing_off()), ("fine", 1, 0));
}

#[tokio::test]
async fn a_lasting_fault_is_told_from_a_refusal() {
    let server = Server::start(|asked| match asked.body["max_tokens"].as_u64() {
        Some(1) => refusal(400, "maximum context length is 8 tokens"),
        Some(2) => refusal(401, "who are you"),
        _ => refusal(500, "always"),
    })
    .await;
    let backend = server.open(ApiScores::FirstToken).await;
    let ask = async |max_tokens| backend.generate(generation(Sampling { max_tokens, ..plainly() })).await.unwrap_err();
    let (long, key, broken) = (ask(1).await, ask(2).await, ask(3).await);
    assert!(!long.retryable() && long.to_string().contains("maximum context length is 8 tokens"), "{long}");
    assert!(!key.retryable() && key.to_string().contains("`key_variable`"), "{key}");
    assert!(broken.retryable() && broken.to_string().contains("always"), "{broken}");
    assert_eq!(server.asked().len(), 2 + 8);
}

#[tokio::test]
async fn first_tokens_are_read_as_probabilities() {
    let server = Server::start(|_| answer(tokens_reply(&[("7", 0.5), (" 10", 0.25), ("1", 0.125), ("x", 0.1)]))).await;
    let backend = server.open(ApiScores::FirstToken).await;
    let read = backend.score(score(&["1", "7", "10"])).await.unwrap();
    close(&read, &[0.125, 0.5, 0.25]);
    assert_eq!(read.method, ScoreMethod::FirstToken);
    let body = &server.asked()[0].body;
    assert_eq!((&body["logprobs"], &body["top_logprobs"], &body["max_tokens"]), (&json!(true), &json!(20), &json!(1)));
    assert_eq!(body["messages"].as_array().unwrap().len(), 2, "no prefix");
}

#[tokio::test]
async fn answers_of_several_tokens_are_followed_where_the_server_continues() {
    let server = Server::start(|asked| {
        let last = asked.body["messages"].as_array().unwrap().last().unwrap().clone();
        assert_eq!(asked.body["continue_final_message"], json!(true));
        answer(match last["content"].as_str().unwrap() {
            "The answer is: " => tokens_reply(&[("1", 0.6), ("2", 0.2), ("12", 0.1)]),
            "The answer is: 1" => tokens_reply(&[("0", 0.75), (".", 0.125), ("5", 0.1)]),
            other => panic!("asked about {other}"),
        })
    })
    .await;
    let backend = server.open(ApiScores::Continued).await;
    let read = backend.score(score(&["1", "2", "10"])).await.unwrap();
    // `1` keeps what ends it and what is not shown, but not `15`.
    close(&read, &[0.6 * (0.125 + 0.025), 0.2, 0.6 * 0.75]);
    assert_eq!((read.method, read.prompt.tokens), (ScoreMethod::Continued, 22));
}

/// Protects: a token without text, as some servers write the end of a reply, is not followed in circles.
#[tokio::test]
async fn an_empty_token_ends_an_answer() {
    let server = Server::start(|asked| {
        let last = asked.body["messages"].as_array().unwrap().last().unwrap().clone();
        answer(match last["content"].as_str().unwrap() {
            "The answer is: " => tokens_reply(&[("1", 1.0)]),
            _ => tokens_reply(&[("", 0.75), ("0", 0.25)]),
        })
    })
    .await;
    let read = server.open(ApiScores::Continued).await.score(score(&["1", "10"])).await.unwrap();
    close(&read, &[0.75, 0.25]);
    assert_eq!(server.asked().len(), 2);
}

/// Protects: what a refusal lists is told without the input that it repeats, and teaches nothing that it does not say.
#[tokio::test]
async fn a_refusal_of_probabilities_is_no_lesson() {
    let server = Server::start(|_| {
        let item = json!({"msg": "this model does not support logprobs", "input": {"top_logprobs": 20}});
        plain(422, &json!({"detail": [item]}).to_string())
    })
    .await;
    let error = server.open(ApiScores::FirstToken).await.score(score(&["1", "7"])).await.unwrap_err().to_string();
    assert!(error.contains("does not support logprobs") && error.contains("`scores: samples`"), "{error}");
    assert!(!error.contains("input"), "{error}");
    assert_eq!(server.asked().len(), 1);
}

#[tokio::test]
async fn a_server_without_probabilities_is_named_with_the_way_out() {
    let server = Server::start(|_| answer(chat_reply("7", "length"))).await;
    let error = server.open(ApiScores::FirstToken).await.score(score(&["1", "7"])).await.unwrap_err();
    assert!(!error.retryable() && error.to_string().contains("`scores: samples`"), "{error}");
}

#[tokio::test]
async fn samples_are_counted_however_many_a_request_gives() {
    let texts = ["7", " 7.", "10", "seven", "7/10", "2"];
    // It refuses several at once, then gives one each.
    let server = Server::start(move |asked| match asked.body.get("n") {
        Some(_) => refusal(400, "Only one completion choice is allowed"),
        None => answer(chat_reply(texts[(asked.number - 1) % texts.len()], "stop")),
    })
    .await;
    let backend = server.open(ApiScores::Samples(6)).await;
    let read = backend.score(score(&["2", "7", "10"])).await.unwrap();
    close(&read, &[1.0 / 6.0, 0.5, 1.0 / 6.0]);
    assert_eq!((read.method, read.generated_tokens), (ScoreMethod::Samples(6), 18));
    let asked = server.asked();
    assert_eq!(asked.len(), 7);
    let mut seeds: Vec<u64> = asked[1..].iter().map(|one| one.body["seed"].as_u64().unwrap()).collect();
    seeds.sort_unstable();
    seeds.dedup();
    assert_eq!(seeds.len(), 6, "every sample has its own stream");
}

#[tokio::test]
async fn a_server_is_asked_as_it_wants_to_be() {
    let server = Server::start(|asked| {
        if asked.body.get("max_tokens").is_some() {
            return refusal(400, "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead.");
        }
        match asked.body["top_logprobs"].as_u64() {
            Some(6..) => refusal(400, "top_logprobs must be at most 5"),
            _ => answer(tokens_reply(&[("yes", 0.75), ("No", 0.25)])),
        }
    })
    .await;
    let backend = server.open(ApiScores::FirstToken).await;
    for _ in 0..2 {
        close(&backend.score(score(&["yes", "no"])).await.unwrap(), &[0.75, 0.25]);
    }
    // Learned once: max_tokens, 20, 10, then 5; the second time at once.
    assert_eq!(server.asked().len(), 4 + 1);
}

#[tokio::test]
async fn anthropic_is_asked_in_its_own_shape() {
    let server = Server::start(|_| {
        answer(json!({
            "content": [{"type": "text", "text": "8"}], "stop_reason": "end_turn",
            "usage": {"input_tokens": 9, "output_tokens": 2, "cache_read_input_tokens": 1},
        }))
    })
    .await;
    let mut api = server.api(ApiProtocol::Anthropic, ApiScores::Samples(3));
    api.price = Some(ApiPrice { input: 150_000, output: 600_000, training: None, tuned: None });
    let backend = ApiServers::default().open(&api).await.unwrap();
    let reply = backend.generate(generation(Sampling { max_tokens: 7, ..plainly() })).await.unwrap();
    assert_eq!((reply.text.as_str(), reply.cut_off, reply.prompt.tokens), ("8", false, 10));
    // Ten tokens at $0.15 a million and two at $0.60.
    assert_eq!(reply.nanodollars, 10 * 150 + 2 * 600);
    let asked = &server.asked()[0];
    assert_eq!(
        (asked.path.as_str(), &asked.headers["anthropic-version"]),
        ("/v1/messages", &"2023-06-01".parse().unwrap())
    );
    let messages = json!([
        {"role": "user", "content": "Begin."},
        {"role": "assistant", "content": "Hello."},
        {"role": "user", "content": "Hi.\n\nerror 7"},
    ]);
    assert_eq!(
        asked.body,
        json!({"model": "judge", "system": "Be Kim.", "temperature": 1.0, "max_tokens": 7, "messages": messages})
    );
    close(&backend.score(score(&["8", "9"])).await.unwrap(), &[1.0, 0.0]);
    let hot = backend.generate(generation(Sampling { temperature: 1.5, ..plainly() })).await.unwrap_err();
    assert!(!hot.retryable() && hot.to_string().contains("1.5"), "{hot}");
}

#[tokio::test]
async fn exact_scores_come_from_a_server_of_ours() {
    let server = Server::start(|asked| {
        assert_eq!(asked.path, "/v1/score");
        assert_eq!((&asked.body["prefix"], &asked.body["answers"]), (&json!("The answer is: "), &json!(["1", "2"])));
        let answers = json!([{"answer": "1", "probability": 0.25}, {"answer": "2", "probability": 0.75}]);
        answer(json!({"answers": answers, "mass": 0.5, "usage": {"prompt_tokens": 4}}))
    })
    .await;
    let read = server.open(ApiScores::Exact).await.score(score(&["1", "2"])).await.unwrap();
    close(&read, &[0.125, 0.375]);
    assert_eq!((read.method, read.prompt.tokens), (ScoreMethod::Exact, 4));
}

/// Protects: a trained agent's score is not that of the base model.
#[tokio::test]
async fn a_score_is_of_the_adapter_that_is_named() {
    let server = Server::start(|_| answer(tokens_reply(&[("A", 0.75), ("B", 0.25)]))).await;
    let request = || ScoreRequest { variant: Some(Variant::Adapter("run-0".into())), ..score(&["A", "B"]) };
    let plain = server.open(ApiScores::FirstToken).await;
    assert!(plain.score(request()).await.unwrap_err().to_string().contains("takes no adapters"));
    for scores in [ApiScores::FirstToken, ApiScores::Continued, ApiScores::Samples(2)] {
        let api = ApiModel { adapters: true, ..server.api(ApiProtocol::OpenAi, scores) };
        let backend = ApiServers::default().open(&api).await.unwrap();
        backend.score(request()).await.ok();
        let asked = server.asked();
        let model = asked.last().unwrap().body["model"].as_str().unwrap();
        assert!(model.starts_with("run-0-"), "{scores:?} asked {model}");
    }
}

#[tokio::test]
async fn what_was_answered_once_is_not_asked_again() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(|asked| answer(chat_reply(&format!("reply {}", asked.number), "stop"))).await;
    for _ in 0..2 {
        let servers = ApiServers::new(Some(folder.path().to_owned()));
        let backend = servers.open(&server.api(ApiProtocol::OpenAi, ApiScores::FirstToken)).await.unwrap();
        let mut other = generation(plainly());
        other.seed = 1 << 40;
        assert_eq!(backend.generate(generation(plainly())).await.unwrap().text, "reply 0");
        assert_eq!(backend.generate(other).await.unwrap().text, "reply 1", "another seed is another request");
    }
    assert_eq!(server.asked().len(), 2);
}

/// Protects: not every protocol has the seed in what is sent.
#[tokio::test]
async fn samples_in_the_cache_are_as_many_as_were_drawn() {
    let folder = tempfile::tempdir().unwrap();
    let texts = ["8", "9", "8", "10"];
    let server = Server::start(move |asked| {
        let content = json!([{"type": "text", "text": texts[asked.number % 4]}]);
        answer(json!({"content": content, "stop_reason": "end_turn", "usage": {"input_tokens": 9, "output_tokens": 1}}))
    })
    .await;
    let mut api = server.api(ApiProtocol::Anthropic, ApiScores::Samples(4));
    api.price = Some(ApiPrice { input: 1_000_000, output: 1_000_000, training: None, tuned: None });
    for nanodollars in [4 * 10_000, 0] {
        let backend = ApiServers::new(Some(folder.path().to_owned())).open(&api).await.unwrap();
        let read = backend.score(score(&["8", "9", "10"])).await.unwrap();
        close(&read, &[0.5, 0.25, 0.25]);
        assert_eq!(read.nanodollars, nanodollars, "what is in the cache costs nothing");
    }
    assert_eq!(server.asked().len(), 4);
}

#[tokio::test]
async fn a_reply_that_ends_at_once_is_drawn_again() {
    let server = Server::start(|asked| match asked.number {
        0 => answer(chat_reply("", "stop")),
        _ => answer(tokens_reply(&[("1", 0.5), ("1", 0.25), ("", 0.25)])),
    })
    .await;
    let read = server.open(ApiScores::FirstToken).await.score(score(&["1", "10"])).await.unwrap();
    // Tokens that look alike all count.
    close(&read, &[0.75, 0.0]);
}

#[tokio::test]
async fn a_server_that_wants_roles_to_alternate_gets_a_user_first() {
    let server = Server::start(|asked| match asked.body["messages"][1]["role"].as_str() {
        Some("user") => answer(chat_reply("fine", "stop")),
        _ => refusal(400, "Conversation roles must alternate user/assistant/user/assistant/..."),
    })
    .await;
    let backend = server.open(ApiScores::FirstToken).await;
    assert_eq!(backend.generate(generation(plainly())).await.unwrap().text, "fine");
}

#[tokio::test]
async fn a_key_comes_from_the_environment_and_is_never_shown() {
    let server = Server::start(|_| answer(chat_reply("fine", "stop"))).await;
    let mut api = server.api(ApiProtocol::OpenAi, ApiScores::FirstToken);
    api.key_variable = Some("INFLUENCE_TEST_UNSET_API_KEY".into());
    let missing = ApiServers::default().open(&api).await.unwrap_err();
    assert!(missing.contains("INFLUENCE_TEST_UNSET_API_KEY is not set"), "{missing}");
    // A variable that every test run has, in place of a key: the environment of a running process is not to be changed.
    api.key_variable = Some("CARGO_PKG_NAME".into());
    let backend = ApiServers::default().open(&api).await.unwrap();
    backend.generate(generation(plainly())).await.unwrap();
    let name = std::env::var("CARGO_PKG_NAME").unwrap();
    assert_eq!(server.asked()[0].headers["authorization"].to_str().unwrap(), format!("Bearer {name}"));
    let echoing = Server::start(|asked| refusal(401, asked.headers["authorization"].to_str().unwrap())).await;
    api.url.clone_from(&echoing.url);
    let error = ApiServers::default().open(&api).await.unwrap().generate(generation(plainly())).await.unwrap_err();
    assert!(error.to_string().contains("Bearer [key]"), "{error}");
}

/// Protects: what a server found in its cache is counted once, in either protocol.
#[test]
fn tokens_from_a_servers_cache_are_part_of_the_prompts() {
    let openai = json!({"usage": {
        "prompt_tokens": 11, "prompt_tokens_details": {"cached_tokens": 8}, "completion_tokens": 3,
    }});
    let anthropic = json!({"usage": {
        "input_tokens": 1, "cache_creation_input_tokens": 2, "cache_read_input_tokens": 8, "output_tokens": 3,
    }});
    for answer in [openai, anthropic] {
        let usage = super::chat::usage(&answer);
        assert_eq!((usage.prompt, usage.reused, usage.generated), (11, 8, 3), "{answer}");
    }
    assert_eq!(super::chat::usage(&json!({})), super::chat::Usage::default());
}
