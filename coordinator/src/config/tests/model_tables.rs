use influence_proto::ModelSource;

use super::fixture::Configs;
use crate::config::load_models;

fn refused(text: &str) -> String {
    let configs = Configs::new();
    configs.write("models.yaml", text);
    configs.relative(&load_models(&configs.path("models.yaml")).unwrap_err())
}

#[test]
fn sources_keep_their_order_and_paths_are_relative_to_the_table() {
    let configs = Configs::new();
    let digest = "ab".repeat(32);
    configs.write(
        "models.yaml",
        &format!(
            "models:\n  m:\n    dtype: bf16\n    kv_dtype: f16\n    sources:\n      - hub: {{repository: o/n, revision: r}}\n      \
             - wheel: {{package: p, version: 0.1.2, file: f, sha256: {digest}}}\n      - path: {{path: a.gguf, sha256: {digest}}}\n      \
             - path: /b\n"
        ),
    );
    let models = load_models(&configs.path("models.yaml")).unwrap();
    let sha256 = influence_proto::Digest::parse(&digest).unwrap();
    assert_eq!((&*models["m"].dtype, models["m"].kv_dtype.as_deref()), ("bf16", Some("f16")));
    assert_eq!(
        models["m"].sources,
        [
            ModelSource::Hub { repository: "o/n".into(), revision: "r".into() },
            ModelSource::Wheel { package: "p".into(), version: "0.1.2".into(), file: "f".into(), sha256 },
            ModelSource::Path { path: configs.path("a.gguf").to_string_lossy().into_owned(), sha256: Some(sha256) },
            ModelSource::Path { path: "/b".into(), sha256: None },
        ]
    );
}

#[test]
fn bad_tables_name_the_key_and_the_way_out() {
    for (text, message) in [
        (
            "models: {}\n",
            "models.yaml: `models` is empty; name at least one model, as in `models: {NAME: {sources: [{path: FILE}]}}`",
        ),
        (
            "models: {m: {}}\n",
            "models.yaml:1: `models.m.sources` is missing; give at least one, as in `sources: [{path: FILE}]`",
        ),
        (
            "models:\n  m: {dtype: f23, sources: [{path: x}]}\n",
            "models.yaml:2: `models.m.dtype` must be one of `f32`, `bf16`, `f16`, `int8`, but is the text `f23`",
        ),
        (
            "models:\n  m:\n    sources:\n    - hub: {repository: o/n}\n    - hub: {repo: o/n}\n",
            "models.yaml:5: `models.m.sources[1].hub.repository` is missing; give one, as in `repository: OWNER/NAME`\n\
             models.yaml:5: unknown key `models.m.sources[1].hub.repo`; did you mean `repository`?",
        ),
        (
            "models:\n  m:\n    sources: [{wheel: {package: p, version: 1, file: f, sha256: abc}}]\n",
            "models.yaml:3: `models.m.sources[0].wheel.sha256` must be 64 hexadecimal digits, but is `abc`",
        ),
    ] {
        let found = refused(text);
        assert!(found.starts_with(message), "{found}\nrather than\n{message}");
    }
}

/// Protects: a key that was written where its variable belongs is repeated nowhere.
#[test]
fn bad_apis_name_the_key_and_repeat_no_secret() {
    let api = |rest: &str| refused(&format!("models:\n  m: {{api: {{url: 'http://h/v1', {rest}}}}}\n"));
    let secret = api("key_variable: sk-abc123");
    assert!(secret.contains("ends in `_API_KEY`") && !secret.contains("sk-abc123"), "{secret}");
    for (rest, message) in [
        ("scores: most", "`models.m.api.scores` must be one of `exact`, `continued`, `first_token`, `samples`"),
        ("samples: 4", "`models.m.api.samples` belongs to `scores: samples`"),
        ("protocol: anthropic", "`models.m.api.scores` is missing"),
        ("price: {input: 1}", "`models.m.api.price.output` is missing"),
        ("concurrency: 0", "`models.m.api.concurrency`"),
        (
            "protocol: anthropic, scores: samples, adapters: true",
            "`models.m.api.adapters` belongs to `protocol: openai`",
        ),
    ] {
        let told = api(rest);
        assert!(told.contains(message), "{rest}: {told}");
    }
    let beside = refused("models:\n  m: {api: {url: 'http://h/v1'}, sources: [{path: /x}]}\n");
    assert!(beside.contains("`models.m.sources` has no meaning beside `api`"), "{beside}");
    let alone = refused("models:\n  m: {api: {url: 'http://h/v1', adapters: true}}\n");
    assert!(alone.contains("`models.m.sources` is missing") && alone.contains("adapters are trained"), "{alone}");
    let place = refused("models:\n  m: {api: {url: 'h:80'}}\n");
    assert!(place.contains("`models.m.api.url` must be as in"), "{place}");
}

/// Protects: a run goes on when a price or a limit has changed, and not when the server has.
#[test]
fn prices_and_limits_are_no_part_of_what_a_run_is() {
    let configs = Configs::new();
    let digest = |api: &str| {
        configs.write("models.yaml", &format!("models:\n  tiny: {{api: {{{api}}}}}\n"));
        let text = "name: a\nmodel: tiny\niterations: 0\nenvironments: {class: clinic}\n";
        configs.load_text(text, &[]).unwrap_or_else(|problems| panic!("{problems}")).digest()
    };
    let plain = digest("url: 'http://h/v1'");
    assert_eq!(digest("url: 'http://h/v1', concurrency: 2, timeout_seconds: 5, price: {input: 1, output: 2}"), plain);
    assert_ne!(digest("url: 'http://other/v1'"), plain);
    assert_ne!(digest("url: 'http://h/v1', scores: exact"), plain);
}

#[test]
fn a_few_tokens_cannot_be_warped() {
    let configs = Configs::new();
    let warped = |scores: &str| {
        configs.write("models.yaml", &format!("models:\n  tiny: {{api: {{url: 'http://h/v1', scores: {scores}}}}}\n"));
        let text = "name: a\nmodel: tiny\niterations: 0\nenvironments: {class: clinic}\nscoring: {top_p: 0.9}\n";
        configs.load_text(text, &[]).map(|_| ()).map_err(|problems| problems.to_string())
    };
    let refused = warped("first_token").unwrap_err();
    assert!(refused.contains("score it by `samples`"), "{refused}");
    assert!(warped("continued").is_err());
    assert_eq!((warped("samples"), warped("exact")), (Ok(()), Ok(())));
}
