//! Which files are a model, and models whose files were pushed.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use influence_proto::{Digest, ModelSource, ModelSpec, PushedFile};
use tempfile::TempDir;

use super::*;

struct Setup {
    folder: TempDir,
    cache: ModelCache,
}

impl Setup {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let cache = ModelCache::new(&folder.path().join("cache"), BTreeMap::new());
        Self { folder, cache }
    }

    /// Writes files below a folder and returns it.
    fn write(&self, below: &str, files: &[(&str, &str)]) -> PathBuf {
        let folder = self.folder.path().join(below);
        fs::create_dir_all(&folder).unwrap();
        files.iter().for_each(|(name, text)| fs::write(folder.join(name), text).unwrap());
        folder
    }
}

const WHOLE: [(&str, &str); 3] = [("config.json", "{}"), ("tokenizer.json", "[]"), ("model.safetensors", "weights")];

#[test]
fn a_models_digest_is_that_of_its_files_wherever_they_lie_and_whatever_lies_beside_them() {
    let setup = Setup::new();
    let here = setup.write("here", &WHOLE);
    let there = setup.write("there", &WHOLE);
    setup.write("there", &[("README.md", "read me"), ("consolidated.safetensors", "the same weights again")]);
    let digest = setup.cache.digest(&here).unwrap();
    assert_eq!(setup.cache.digest(&there).unwrap(), digest);
    let lines: String = ["config.json", "model.safetensors", "tokenizer.json"]
        .map(|name| format!("{}  {name}\n", Digest::of(fs::read(here.join(name)).unwrap())))
        .concat();
    assert_eq!(digest, Digest::of(lines), "as sha256sum gives it");
    for (name, text) in [("config.json", "{ }"), ("model.safetensors", "Weights"), ("chat_template.jinja", "")] {
        let other = setup.write(&format!("other-{name}"), &WHOLE);
        fs::write(other.join(name), text).unwrap();
        assert_ne!(setup.cache.digest(&other).unwrap(), digest, "{name} matters");
    }
}

#[test]
fn a_lone_files_own_name_does_not_matter() {
    let setup = Setup::new();
    let folder = setup.write("f", &[("one.gguf", "GGUF"), ("other.gguf", "GGUF"), ("third.gguf", "GGUf")]);
    let digest = |name: &str| setup.cache.digest(&folder.join(name)).unwrap();
    assert_eq!(digest("one.gguf"), digest("other.gguf"));
    assert_ne!(digest("one.gguf"), digest("third.gguf"));
}

#[test]
fn a_sharded_model_is_its_index_and_shards_and_half_of_one_is_none() {
    let setup = Setup::new();
    let index =
        r#"{"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors", "c": "model-1.safetensors"}}"#;
    let folder = setup.write("sharded", &[("config.json", "{}"), ("model.safetensors.index.json", index)]);
    let error = setup.cache.digest(&folder).unwrap_err().to_string();
    assert!(error.contains("model-1.safetensors"), "{error}");
    setup.write("sharded", &[("model-1.safetensors", "1"), ("model-2.safetensors", "2")]);
    let names: Vec<_> = setup.cache.files(&folder).unwrap().into_iter().map(|(file, _)| file.name).collect();
    assert_eq!(names, ["config.json", "model-1.safetensors", "model-2.safetensors", "model.safetensors.index.json"]);
    let empty = setup.write("empty", &[("config.json", "{}")]);
    let error = setup.cache.digest(&empty).unwrap_err().to_string();
    assert!(error.contains("is no model") && error.contains("model.safetensors"), "{error}");
}

#[test]
fn a_large_file_is_hashed_once_and_again_when_it_changed() {
    let setup = Setup::new();
    let file = setup.write("f", &[("m.gguf", "GGUF")]).join("m.gguf");
    let digest = setup.cache.digest(&file).unwrap();
    // The same size and time, so that only a record tells of the old content.
    let modified = file.metadata().unwrap().modified().unwrap();
    fs::write(&file, "ggUF").unwrap();
    fs::File::options().write(true).open(&file).unwrap().set_modified(modified).unwrap();
    assert_eq!(setup.cache.digest(&file).unwrap(), digest, "it was not read again");
    fs::write(&file, "GGUF and more").unwrap();
    assert_ne!(setup.cache.digest(&file).unwrap(), digest);
}

/// Gives files by digest; breaks in the middle of the first so often.
struct Pushed {
    contents: Vec<&'static str>,
    breaks: std::sync::Mutex<u32>,
    asked: std::sync::Mutex<Vec<String>>,
}

impl Pushed {
    fn new(contents: &[&'static str], breaks: u32) -> Self {
        Self { contents: contents.to_vec(), breaks: breaks.into(), asked: Default::default() }
    }
}

impl PushedFiles for Pushed {
    fn fetch(
        &self,
        file: &PushedFile,
        partial: &Path,
        target: &Path,
        moved: &(dyn Fn(u64) + Send + Sync),
    ) -> Result<(), String> {
        // As a transfer does: what has its name is complete.
        if target.exists() {
            return Ok(());
        }
        self.asked.lock().unwrap().push(file.name.clone());
        let content = self.contents.iter().find(|c| Digest::of(c) == file.sha256).ok_or("no such artifact")?;
        let mut breaks = self.breaks.lock().unwrap();
        if *breaks > 0 {
            *breaks -= 1;
            fs::write(partial, &content[..1]).unwrap();
            return Err("the coordinator went away".into());
        }
        fs::write(partial, content).unwrap();
        moved(file.bytes);
        fs::rename(partial, target).map_err(|e| e.to_string())
    }
}

fn file(name: &str, content: &str) -> PushedFile {
    PushedFile { name: name.into(), sha256: Digest::of(content), bytes: content.len() as u64 }
}

fn spec(files: Vec<PushedFile>) -> ModelSpec {
    let path = ModelSource::Path { path: "/nowhere/tiny.gguf".into(), sha256: None };
    ModelSpec {
        name: "tiny".into(),
        dtype: "f32".into(),
        kv_dtype: None,
        sources: vec![path, ModelSource::Pushed { files }],
    }
}

#[test]
fn pushed_files_become_a_folder_once_all_are_there_and_what_was_fetched_is_kept() {
    let setup = Setup::new();
    let spec = spec(WHOLE.iter().map(|(name, text)| file(name, text)).collect());
    let pushed = Pushed::new(&["{}", "[]", "weights"], 1);
    let error = setup.cache.fetch_with(&spec, Some(&pushed), &|_| ()).unwrap_err().to_string();
    for part in ["path /nowhere", "the coordinator (3 files)", "went away", "influence model push tiny"] {
        assert!(error.contains(part), "{part} is missing in: {error}");
    }
    assert_eq!(setup.cache.cached(&spec), None);
    *pushed.breaks.lock().unwrap() = 0;
    let told = std::sync::Mutex::new(Vec::new());
    let path = setup.cache.fetch_with(&spec, Some(&pushed), &|p| told.lock().unwrap().push(p)).unwrap();
    for (name, text) in WHOLE {
        assert_eq!(fs::read_to_string(path.join(name)).unwrap(), text);
    }
    assert_eq!(fs::read_dir(&path).unwrap().count(), 3, "nothing else is in it");
    assert_eq!(told.lock().unwrap().last().unwrap().total, Some(7));
    assert_eq!(setup.cache.cached(&spec), Some(path.clone()));
    assert_eq!(setup.cache.digest(&path).unwrap(), setup.cache.digest(&setup.write("own", &WHOLE)).unwrap());

    let before = pushed.asked.lock().unwrap().len();
    assert_eq!(setup.cache.fetch_with(&spec, Some(&pushed), &|_| ()).unwrap(), path);
    assert_eq!(pushed.asked.lock().unwrap().len(), before, "it is cached");
    fs::write(path.join("model.safetensors"), "weigh").unwrap();
    assert_eq!(setup.cache.cached(&spec), None, "a truncated file is noticed");
    let path = setup.cache.fetch_with(&spec, Some(&pushed), &|_| ()).unwrap();
    assert_eq!(fs::read_to_string(path.join("model.safetensors")).unwrap(), "weights");
}

#[test]
fn a_pushed_gguf_file_is_the_model_and_a_local_source_goes_first() {
    let setup = Setup::new();
    let pushed = Pushed::new(&["GGUF"], 0);
    let mut spec = spec(vec![file("model.gguf", "GGUF")]);
    let path = setup.cache.fetch_with(&spec, Some(&pushed), &|_| ()).unwrap();
    assert_eq!(path.file_name().unwrap(), "model.gguf");
    assert_eq!(fs::read_to_string(path).unwrap(), "GGUF");

    let other = Setup::new();
    let own = other.write("own", &[("tiny.gguf", "mine")]).join("tiny.gguf");
    spec.sources[0] = ModelSource::Path { path: own.display().to_string(), sha256: None };
    let before = pushed.asked.lock().unwrap().len();
    assert_eq!(other.cache.fetch_with(&spec, Some(&pushed), &|_| ()).unwrap(), own);
    assert_eq!(pushed.asked.lock().unwrap().len(), before, "nothing was asked of the coordinator");
}
