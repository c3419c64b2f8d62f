//! `influence serve`, over HTTP as clients use it.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::io::Read;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::http::Server;
use support::processes::send;
use support::{Lab, MESSAGES};

fn body(more: &Value) -> Value {
    let mut body = json!({"model": "model", "messages": support::json(MESSAGES), "max_tokens": 24, "seed": 3});
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

/// Text, finish reason and log-probabilities of one reply out of a stream of chunks.
fn joined(chunks: &[Value], index: u64) -> (String, Value, Vec<Value>) {
    let (mut text, mut reason, mut tokens) = (String::new(), Value::Null, Vec::new());
    let choices = chunks.iter().flat_map(|chunk| chunk["choices"].as_array().unwrap());
    for (at, choice) in choices.filter(|choice| choice["index"] == index).enumerate() {
        assert_eq!(choice["delta"].get("role").is_some(), at == 0, "the role comes once, first: {choice}");
        assert!(reason.is_null(), "something came after the end: {choice}");
        text.push_str(choice["delta"]["content"].as_str().unwrap_or_default());
        tokens.extend(choice["logprobs"]["content"].as_array().into_iter().flatten().cloned());
        reason = choice["finish_reason"].clone();
    }
    (text, reason, tokens)
}

/// Protects: a streamed reply is the whole one in pieces; the same seed gives the same text, the one that `model generate`
/// gives; several replies differ, and the first is the one that stands alone.
#[test]
fn a_reply_is_the_same_whole_and_streamed() {
    let lab = Lab::new();
    lab.write("chat.json", MESSAGES);
    let server = Server::start(&lab, &["--model", "model"]);
    assert!(server.told.contains("`model`"), "{}", server.told);
    let whole = server.chat(&body(&json!({}))).ok();
    assert_eq!((&whole["object"], &whole["model"]), (&json!("chat.completion"), &json!("model")));
    let choice = &whole["choices"][0];
    let text = choice["message"]["content"].as_str().unwrap();
    let generate = "model generate --model model --messages chat.json --max-tokens 24 --temperature 1 --seed 3 --json";
    let alone = support::json(&lab.succeed(&generate.split(' ').collect::<Vec<_>>()));
    assert_eq!((&alone["text"], &alone["finish_reason"]), (&json!(text), &choice["finish_reason"]));
    let (prompt, sampled) = (&alone["prompt_tokens"], alone["token_ids"].as_array().unwrap().len());
    let total = prompt.as_u64().unwrap() + sampled as u64;
    let usage = json!({"prompt_tokens": prompt, "completion_tokens": sampled, "total_tokens": total});
    assert_eq!(whole["usage"], usage);
    assert_eq!(server.chat(&body(&json!({}))).ok()["choices"], whole["choices"]);
    assert_ne!(server.chat(&body(&json!({"seed": 4}))).ok()["choices"], whole["choices"]);

    let stream = json!({"stream": true, "stream_options": {"include_usage": true}, "n": 3});
    let chunks = server.chat(&body(&stream)).events();
    let (last, chunks) = chunks.split_last().unwrap();
    assert!(chunks.len() > 3, "a stream of {} pieces is none", chunks.len());
    assert!(chunks.iter().all(|chunk| chunk["object"] == "chat.completion.chunk" && chunk["usage"].is_null()));
    let three = server.chat(&body(&json!({"n": 3}))).ok();
    assert_eq!((&last["choices"], &last["usage"]), (&json!([]), &three["usage"]));
    for index in 0..3 {
        let choice = &three["choices"][index];
        let (text, reason, _) = joined(chunks, index as u64);
        assert_eq!((&json!(text), &reason), (&choice["message"]["content"], &choice["finish_reason"]), "{index}");
    }
    assert_eq!(three["choices"][0], whole["choices"][0]);
    assert_ne!(three["choices"][1]["message"], three["choices"][2]["message"]);
    let bare = server.chat(&body(&json!({"stream": true}))).events();
    assert!(bare.iter().all(|chunk| chunk.get("usage").is_none()), "nobody asked for it");
    assert_eq!(joined(&bare, 0).0, text);
}

/// Protects: log-probabilities are the engine's, name tokens so that the text can be put together from their bytes, and
/// are the same in a stream.
#[test]
fn log_probabilities_are_shown_beside_their_tokens() {
    let lab = Lab::new();
    lab.write("chat.json", MESSAGES);
    let server = Server::start(&lab, &["--model", "model"]);
    let asked = json!({"logprobs": true, "top_logprobs": 20, "temperature": 0});
    let whole = server.chat(&body(&asked)).ok();
    let choice = &whole["choices"][0];
    let tokens = choice["logprobs"]["content"].as_array().unwrap();
    let generate = "model generate --model model --messages chat.json --max-tokens 24 --json";
    let alone = support::json(&lab.succeed(&generate.split(' ').collect::<Vec<_>>()));
    let mut logprobs: Vec<f64> = alone["logprobs"].as_array().unwrap().iter().map(|p| p.as_f64().unwrap()).collect();
    if choice["finish_reason"] == "stop" {
        logprobs.pop();
    }
    assert_eq!(tokens.iter().map(|token| token["logprob"].as_f64().unwrap()).collect::<Vec<_>>(), logprobs);
    for token in tokens {
        let top: Vec<f64> =
            token["top_logprobs"].as_array().unwrap().iter().map(|t| t["logprob"].as_f64().unwrap()).collect();
        assert!(top.len() == 20 && top.is_sorted_by(|a, b| a >= b), "{token}");
        assert_eq!(top[0], token["logprob"], "greedy takes the most probable");
        assert_eq!(token["top_logprobs"][0]["token"], token["token"]);
    }
    let bytes: Vec<u8> =
        tokens.iter().flat_map(|t| t["bytes"].as_array().unwrap()).map(|b| b.as_u64().unwrap() as u8).collect();
    assert_eq!(String::from_utf8_lossy(&bytes), choice["message"]["content"].as_str().unwrap());
    let mut streamed = body(&asked);
    streamed["stream"] = true.into();
    assert_eq!(&joined(&server.chat(&streamed).events(), 0).2, tokens);
    assert!(server.chat(&body(&json!({}))).ok()["choices"][0]["logprobs"].is_null());
}

/// Protects: a stop text ends a reply and is never shown, not even its beginning in a stream.
#[test]
fn stop_texts_end_replies() {
    let lab = Lab::new();
    let server = Server::start(&lab, &["--model", "model"]);
    let free = server.chat(&body(&json!({"max_tokens": 60}))).ok();
    let text = free["choices"][0]["message"]["content"].as_str().unwrap().to_owned();
    // Two plain characters in a row, so that the stop text spans tokens.
    let letters: Vec<char> = text.chars().collect();
    let plain = |two: &&[char]| two.iter().all(|c| c.is_ascii_graphic());
    let stop: String = letters.windows(2).skip(3).find(plain).expect("plain characters").iter().collect();
    let expected = &text[..text.find(&stop).unwrap()];
    for stop in [json!(stop), json!(["never said", stop])] {
        let stopped = body(&json!({"max_tokens": 60, "stop": stop}));
        let whole = server.chat(&stopped).ok();
        assert_eq!(whole["choices"][0]["message"]["content"], expected);
        assert_eq!(whole["choices"][0]["finish_reason"], "stop");
        let mut streamed = stopped;
        streamed["stream"] = true.into();
        let (text, reason, _) = joined(&server.chat(&streamed).events(), 0);
        assert_eq!((text.as_str(), reason), (expected, json!("stop")));
    }
}

/// Protects: a role that is served is scored exactly as one at home.
#[test]
fn a_score_is_that_of_the_command() {
    let lab = Lab::new();
    lab.write("chat.json", MESSAGES);
    let server = Server::start(&lab, &["--model", "model"]);
    for prefix in [None, Some("")] {
        let mut asked = json!({"model": "model", "messages": support::json(MESSAGES), "answers": ["1", "2", "10"]});
        let mut command =
            "model score --model model --messages chat.json --answers 1,2,10 --json".split(' ').collect::<Vec<_>>();
        if let Some(prefix) = prefix {
            asked["prefix"] = prefix.into();
            command.extend(["--prefix", prefix]);
        }
        let score = server.post("/v1/score", &asked).ok();
        let alone = support::json(&lab.succeed(&command));
        let answers: Vec<Value> = alone["answers"]
            .as_object()
            .unwrap()
            .iter()
            .map(|(answer, p)| json!({"answer": answer, "probability": p}))
            .collect();
        let tokens = &alone["prompt_tokens"];
        let usage = json!({"prompt_tokens": tokens, "completion_tokens": 0, "total_tokens": tokens});
        let expected =
            json!({"object": "score", "model": "model", "answers": answers, "mass": alone["mass"], "usage": usage});
        assert_eq!(score, expected);
    }
    let refused = |more: Value| {
        let mut asked = json!({"model": "model", "messages": support::json(MESSAGES), "answers": ["yes"]});
        asked.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let (status, error) = server.post("/v1/score", &asked).error();
        assert_eq!(status, 400, "{error}");
        error["param"].as_str().unwrap().to_owned()
    };
    assert_eq!(refused(json!({"answers": []})), "answers");
    assert_eq!(refused(json!({"answers": ["a", "A"]})), "answers");
    assert_eq!(refused(json!({"temperature": 0})), "temperature");
}

/// Protects: what is wrong is named, in the shape that clients read, before anything is computed.
#[test]
fn mistakes_are_named() {
    let lab = Lab::new();
    let server = Server::start(&lab, &["--model", "model"]);
    let (status, error) = server.chat(&body(&json!({"model": "gpt-4"}))).error();
    assert_eq!((status, &error["code"], &error["param"]), (404, &json!("model_not_found"), &json!("model")));
    assert!(error["message"].as_str().unwrap().contains("`gpt-4`") && error.to_string().contains("`model`"), "{error}");
    for (more, param) in [
        (json!({"temperature": -1}), "temperature"),
        (json!({"temperature": "hot"}), "temperature"),
        (json!({"top_p": 2}), "top_p"),
        (json!({"top_k": -7}), "top_k"),
        (json!({"min_p": 7}), "min_p"),
        (json!({"max_tokens": 0}), "max_tokens"),
        (json!({"max_tokens": -1}), "max_tokens"),
        (json!({"n": 0}), "n"),
        (json!({"n": 1000}), "n"),
        (json!({"seed": 0.5}), "seed"),
        (json!({"stop": [1]}), "stop"),
        (json!({"stop": ""}), "stop"),
        (json!({"stop": vec!["x"; 65]}), "stop"),
        (json!({"logprobs": true, "top_logprobs": 21}), "top_logprobs"),
        (json!({"top_logprobs": 2}), "top_logprobs"),
        (json!({"tools": [{"type": "function"}]}), "tools"),
        (json!({"functions": [{}]}), "functions"),
        (json!({"response_format": {"type": "json_object"}}), "response_format"),
        (json!({"logit_bias": {"5": 1}}), "logit_bias"),
        (json!({"presence_penalty": 0.5}), "presence_penalty"),
        (json!({"messages": []}), "messages"),
        (json!({"messages": [{"role": "tool", "content": "x"}]}), "messages[0].role"),
        (json!({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}), "messages[0].content"),
        (json!({"messages": [{"role": "user"}]}), "messages[0].content"),
        (json!({"messages": [{"content": "x"}]}), "messages[0]"),
    ] {
        for stream in [false, true] {
            let mut asked = body(&more);
            asked["stream"] = stream.into();
            let (status, error) = server.chat(&asked).error();
            assert_eq!((status, &error["param"]), (400, &json!(param)), "{more}: {error}");
            assert_eq!(error["type"], "invalid_request_error");
        }
    }
    for stream in [false, true] {
        let long = json!({"messages": [{"role": "user", "content": "long ".repeat(2000)}], "stream": stream});
        let mut without = body(&long);
        without.as_object_mut().unwrap().remove("max_tokens");
        for asked in [body(&long), without] {
            let (status, error) = server.chat(&asked).error();
            assert_eq!((status, &error["code"]), (400, &json!("context_length_exceeded")), "{error}");
            assert!(error["message"].as_str().unwrap().contains("4096"), "{error}");
        }
    }
    let path = "/v1/chat/completions";
    let json_body = "content-type: application/json\r\n";
    assert_eq!(server.ask("POST", path, json_body, "{").error().0, 400);
    assert_eq!(server.ask("POST", path, "content-type: text/plain\r\n", &body(&json!({})).to_string()).error().0, 415);
    assert_eq!(server.get("/v1/other").error().0, 404);
    assert_eq!(server.get(path).error().0, 405);
    let huge = format!("{{\"model\": \"{}\"}}", "x".repeat(17 << 20));
    let (status, error) = server.ask("POST", path, json_body, &huge).error();
    assert!(status == 413 && error["message"].as_str().unwrap().contains("16777216 bytes"), "{error}");
}

/// Protects: what would change nothing is no mistake, and messages may come in parts.
#[test]
fn what_changes_nothing_is_accepted() {
    let lab = Lab::new();
    let server = Server::start(&lab, &["--model", "model"]);
    let plain = server.chat(&body(&json!({}))).ok()["choices"].clone();
    let more = json!({
        "max_completion_tokens": 24, "max_tokens": 1, "user": "somebody", "store": false, "metadata": {"a": "b"},
        "tools": [], "tool_choice": "none", "response_format": {"type": "text"}, "presence_penalty": 0,
        "frequency_penalty": 0.0, "logit_bias": {}, "stop": null, "n": 1, "top_k": -1, "modalities": ["text"],
        "messages": [
            {"role": "developer", "content": [{"type": "text", "text": "Be brief."}]},
            {"role": "user", "content": "Hello", "name": "kim"},
        ],
    });
    assert_eq!(server.chat(&body(&more)).ok()["choices"], plain);
    let mut unbounded = body(&json!({}));
    unbounded.as_object_mut().unwrap().remove("max_tokens");
    let text = plain[0]["message"]["content"].as_str().unwrap();
    let longer = server.chat(&unbounded).ok();
    assert!(
        longer["choices"][0]["message"]["content"].as_str().unwrap().starts_with(text.trim_end_matches('\u{fffd}'))
    );
}

/// Protects: without the token nobody is answered, but for whether the server is up; no other name leads here; nothing is
/// served to other machines without a token.
#[test]
fn the_door_is_kept() {
    let lab = Lab::new();
    let secret = "correct-horse-battery";
    lab.write("serve.token", &format!("{secret}\n"));
    let server = Server::start(&lab, &["--model", "model", "--token-file", "serve.token"]);
    let asked = body(&json!({})).to_string();
    let with = |header: &str| {
        let headers = format!("content-type: application/json\r\n{header}");
        server.ask("POST", "/v1/chat/completions", &headers, &asked)
    };
    for header in ["", "authorization: Bearer wrong-horse-battery\r\n", "authorization: Basic abc\r\n"] {
        let (answer, listed) = (with(header), server.ask("GET", "/v1/models", header, ""));
        for answer in [&answer, &listed] {
            let (status, error) = answer.error();
            assert_eq!((status, &error["code"]), (401, &json!("invalid_api_key")));
            assert!(answer.headers.contains("www-authenticate: bearer") && !answer.body.contains("horse"));
        }
    }
    with(&format!("authorization: Bearer {secret}\r\n")).ok();
    assert_eq!(server.get("/health").ok(), json!({"status": "ok"}));
    let foreign = format!("host: evil.example\r\nauthorization: Bearer {secret}\r\n");
    assert_eq!(server.ask("GET", "/v1/models", &foreign, "").error().0, 421);
    drop(server);
    let error = lab.fail(&["serve", "--model", "model", "--listen", "0.0.0.0:0"]);
    assert!(error.contains("--token-file") && error.contains("127.0.0.1"), "{error}");
    let mut open = lab.command(&["serve", "--model", "model", "--listen", "0.0.0.0:0"]);
    open.env("INFLUENCE_SERVE_TOKEN", secret);
    let open = Server::with(open);
    assert_eq!(open.get("/v1/models").error().0, 401);
    let foreign = format!("host: machine.example\r\nauthorization: Bearer {secret}\r\n");
    assert_eq!(open.ask("GET", "/v1/models", &foreign, "").ok()["data"][0]["id"], "model");
    lab.write("short.token", "hunter2");
    let error = lab.fail(&["serve", "--model", "model", "--token-file", "short.token"]);
    assert!(error.contains("short.token") && !error.contains("hunter2"), "{error}");
}

/// Protects: every iteration of a run is a model of its own, as is any adapter, and each answers with its own weights.
#[test]
fn adapters_are_models() {
    let lab = Lab::new();
    lab.succeed(&["run", "configs/experiments/tiny.yaml", "--dashboard", "off"]);
    let copy = "runs/tiny/adapters/iteration-1";
    let named = format!("last={copy}");
    let server = Server::start(&lab, &["--run", "tiny", "--adapter", &named, "--adapter", copy]);
    let listed = server.get("/v1/models").ok();
    let names: Vec<&str> = listed["data"].as_array().unwrap().iter().map(|m| m["id"].as_str().unwrap()).collect();
    assert_eq!(names, ["tiny", "last", "iteration-1", "tiny/0", "tiny/1"]);
    assert_eq!(listed["data"][3]["parent"], "tiny");
    assert_eq!(server.get("/v1/models/tiny/0").ok(), listed["data"][3]);
    assert_eq!(server.get("/v1/models/tiny/7").error().0, 404);
    let score = |model: &str| {
        let asked = json!({"model": model, "messages": support::json(MESSAGES), "answers": ["yes", "no"]});
        server.post("/v1/score", &asked).ok()["answers"].clone()
    };
    assert_eq!(score("tiny/1"), score("last"));
    assert_ne!(score("tiny/1"), score("tiny"));
    assert_ne!(score("tiny/1"), score("tiny/0"));
    let reply = |model: &str| server.chat(&body(&json!({"model": model, "temperature": 0}))).ok();
    assert_eq!(reply("tiny/0")["model"], "tiny/0");
    drop(server);
    let one = Server::start(&lab, &["--run", "tiny", "--iteration", "1", "--model", "base=model"]);
    let listed = one.get("/v1/models").ok();
    let names: Vec<&str> = listed["data"].as_array().unwrap().iter().map(|m| m["id"].as_str().unwrap()).collect();
    assert_eq!(names, ["base", "tiny/1"]);
    drop(one);
    for (options, part) in [
        (&["--run", "tiny", "--iteration", "5"][..], "iterations 0, 1"),
        (&["--run", "none"], "influence runs"),
        (&["--model", "model", "--adapter", "missing"], "missing cannot be found"),
        (&["--model", "model", "--adapter", "model=runs/tiny/adapters/iteration-0"], "two models"),
        (&["--model", "model", "--adapter", "model"], "two models"),
        (&["--model", "model", "--adapter", "x=configs"], "adapter"),
        (&["--model", "model", "--device", "tpu"], "`tpu`"),
    ] {
        let error = lab.fail(&[&["serve", "--listen", "127.0.0.1:0"][..], options].concat());
        assert!(error.contains(part), "{options:?}: {error}");
    }
}

/// Protects: a client that goes away frees its place at once, whether it was streaming or waiting.
#[test]
fn who_goes_away_is_forgotten() {
    let lab = Lab::new();
    let server = Server::start(&lab, &["--model", "model", "--slots", "1"]);
    for stream in [true, false] {
        // All of it together takes half a minute.
        let endless = body(&json!({"max_tokens": 4000, "n": 128, "stream": stream})).to_string();
        let headers = "content-type: application/json\r\n";
        let mut gone: Vec<_> =
            (0..8).map(|_| server.begin("POST", "/v1/chat/completions", headers, &endless)).collect();
        if stream {
            gone[0].read_exact(&mut [0; 64]).unwrap();
        } else {
            std::thread::sleep(Duration::from_millis(200));
        }
        drop(gone);
        let asked = Instant::now();
        server.chat(&body(&json!({"max_tokens": 2}))).ok();
        assert!(asked.elapsed() < Duration::from_secs(5), "it waited for {:?}", asked.elapsed());
    }
}

/// Protects: a server that is asked to end lets running replies end, for a while, and then ends.
#[test]
fn it_ends_when_asked() {
    let lab = Lab::new();
    let mut server = Server::start(&lab, &["--model", "model"]);
    let headers = "content-type: application/json\r\n";
    let short = body(&json!({"stream": true, "max_tokens": 200, "temperature": 0.01})).to_string();
    let mut running = server.begin("POST", "/v1/chat/completions", headers, &short);
    let mut begun = [0; 64];
    running.read_exact(&mut begun).unwrap();
    send("TERM", server.process.id());
    let mut rest = String::new();
    running.read_to_string(&mut rest).unwrap();
    assert!(rest.contains("data: [DONE]"), "the reply was cut off: {rest}");
    assert!(server.process.wait().unwrap().success());

    let mut server = Server::start(&lab, &["--model", "model", "--slots", "1"]);
    let endless = body(&json!({"max_tokens": 4000, "n": 128, "stream": true})).to_string();
    let mut running = server.begin("POST", "/v1/chat/completions", headers, &endless);
    running.read_exact(&mut begun).unwrap();
    let asked = Instant::now();
    send("TERM", server.process.id());
    assert!(server.process.wait().unwrap().success());
    assert!(asked.elapsed() < Duration::from_secs(9), "it took {:?}", asked.elapsed());
}
