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
            "models.yaml:2: `models.m.dtype` must be one of `f32`, `bf16`, `f16`, but is the text `f23`",
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
