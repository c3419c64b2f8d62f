//! Pushed models and pins.

use influence_proto::{ModelSource, ModelSpec, PushedFile};

use super::*;

fn spec(name: &str) -> ModelSpec {
    let source = ModelSource::Path { path: "/nowhere/model.gguf".into(), sha256: None };
    ModelSpec { name: name.into(), dtype: "f32".into(), kv_dtype: None, sources: vec![source] }
}

fn file(name: &str, content: &str) -> PushedFile {
    PushedFile { name: name.into(), sha256: Digest::of(content), bytes: content.len() as u64 }
}

#[tokio::test]
async fn pushed_files_are_the_models_last_source_in_every_process() {
    let setup = Setup::new().await;
    let models = [spec("tiny"), spec("odd/name")];
    for content in ["weights", "config"] {
        setup.artifacts.put(content.into()).await.unwrap();
    }
    assert_eq!(setup.artifacts.with_pushed(&models).await.unwrap(), models);
    let files = vec![file("model.safetensors", "weights"), file("config.json", "config")];
    setup.artifacts.push_model(&models, "odd/name", files.clone()).await.unwrap();
    let offered = setup.again().await.with_pushed(&models).await.unwrap();
    assert_eq!(offered[0], models[0]);
    assert_eq!(offered[1].sources, [models[1].sources[0].clone(), ModelSource::Pushed { files }]);
    let newer = vec![file("model.gguf", "weights")];
    setup.artifacts.push_model(&models, "odd/name", newer.clone()).await.unwrap();
    let offered = setup.artifacts.with_pushed(&models).await.unwrap();
    assert_eq!(offered[1].sources[1..], [ModelSource::Pushed { files: newer }], "the newer list replaces the older");
}

#[tokio::test]
async fn a_model_that_cannot_be_offered_is_refused_with_the_reason() {
    let setup = Setup::new().await;
    setup.artifacts.put(b"weights".to_vec()).await.unwrap();
    let weights = file("model.gguf", "weights");
    let absent = file("config.json", "config");
    let short = PushedFile { bytes: 6, ..weights.clone() };
    let cases = [
        ("other", vec![weights.clone()], "no model `other`; it uses `tiny`"),
        ("tiny", vec![], "there are none"),
        ("tiny", vec![weights.clone(), weights.clone()], "`model.gguf` is named twice"),
        ("tiny", vec![weights, absent], "`config.json`"),
        ("tiny", vec![short], "has 7 bytes, not 6"),
    ];
    for (name, files, reason) in cases {
        let error = setup.artifacts.push_model(&[spec("tiny")], name, files).await.unwrap_err().to_string();
        assert!(error.contains(reason), "{reason} is missing in: {error}");
    }
    assert_eq!(setup.artifacts.with_pushed(&[spec("tiny")]).await.unwrap(), [spec("tiny")], "nothing is offered");
}

#[tokio::test]
async fn the_first_pins_a_runs_model_for_good_and_for_every_process() {
    let setup = Setup::new().await;
    let (run, other) = (RunId::new("demo").unwrap(), RunId::new("demo-2").unwrap());
    let (first, second) = (Digest::of("first"), Digest::of("second"));
    assert_eq!(setup.artifacts.pin_model(&run, "tiny", first).await.unwrap(), first);
    for artifacts in [setup.artifacts.clone(), setup.again().await] {
        assert_eq!(artifacts.pin_model(&run, "tiny", second).await.unwrap(), first);
    }
    assert_eq!(setup.artifacts.pin_model(&run, "large", second).await.unwrap(), second, "by model");
    assert_eq!(setup.artifacts.pin_model(&other, "tiny", second).await.unwrap(), second, "and by run");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_many_at_once_one_pins_and_all_hear_which() {
    let setup = Setup::new().await;
    let run = RunId::new("demo").unwrap();
    let mut asked = Vec::new();
    for i in 0..16 {
        let (artifacts, run) = (setup.again().await, run.clone());
        let digest = Digest::of(format!("files {i}"));
        asked.push(tokio::spawn(async move { artifacts.pin_model(&run, "tiny", digest).await.unwrap() }));
    }
    let mut heard = HashSet::new();
    for asked in asked {
        heard.insert(asked.await.unwrap());
    }
    assert_eq!(heard.len(), 1, "{heard:?}");
}

#[test]
fn another_models_files_are_refused_with_both_digests_and_the_way_out() {
    let run = RunId::new("demo").unwrap();
    let (pinned, found) = (Digest::of("a"), Digest::of("b"));
    assert_eq!(check_pin(&run, "tiny", pinned, pinned), Ok(()));
    let error = check_pin(&run, "tiny", pinned, found).unwrap_err().to_string();
    for part in ["`demo`", "`tiny`", &pinned.to_string(), &found.to_string(), "influence model push tiny", "--fresh"] {
        assert!(error.contains(part), "{part} is missing in: {error}");
    }
}

#[tokio::test]
async fn a_note_that_is_damaged_is_named() {
    let setup = Setup::new().await;
    let note = setup.folder.path().join("artifacts/models/tiny.json");
    std::fs::create_dir_all(note.parent().unwrap()).unwrap();
    std::fs::write(note, "{").unwrap();
    let error = setup.artifacts.with_pushed(&[spec("tiny")]).await.unwrap_err().to_string();
    assert!(error.contains("models/tiny.json") && error.contains("delete it"), "{error}");
}
