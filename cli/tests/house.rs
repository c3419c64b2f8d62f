//! The rules of the house, held by a machine: which package may know which, and how large a file
//! may grow. ARCHITECTURE.md gives the reasons.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use cargo_metadata::{DependencyKind, Metadata, MetadataCommand, PackageId};

const MEMBERS: [(&str, &[&str]); 5] = [
    ("influence-proto", &[]),
    ("influence-engine", &[]),
    ("influence-coordinator", &["influence-proto"]),
    ("influence-worker", &["influence-proto", "influence-engine"]),
    ("influence", &["influence-proto", "influence-engine", "influence-coordinator", "influence-worker"]),
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn metadata() -> Metadata {
    MetadataCommand::new().manifest_path(root().join("Cargo.toml")).exec().unwrap()
}

/// Package name to the names of everything it links, tests and build scripts left out.
fn links(metadata: &Metadata) -> BTreeMap<String, BTreeSet<String>> {
    let graph = metadata.resolve.as_ref().unwrap();
    let node = |id: &PackageId| graph.nodes.iter().find(|n| &n.id == id).unwrap();
    let mut all = BTreeMap::new();
    for member in metadata.workspace_packages() {
        let mut seen = BTreeSet::new();
        let mut open = vec![&member.id];
        while let Some(id) = open.pop() {
            for dependency in &node(id).deps {
                let linked = dependency.dep_kinds.iter().any(|k| k.kind == DependencyKind::Normal);
                if linked && seen.insert(metadata[&dependency.pkg].name.to_string()) {
                    open.push(&dependency.pkg);
                }
            }
        }
        all.insert(member.name.to_string(), seen);
    }
    all
}

#[test]
fn dependencies_point_one_way() {
    let links = links(&metadata());
    assert_eq!(links.len(), MEMBERS.len(), "a new package needs its place in the house");
    for (member, allowed) in MEMBERS {
        let used: Vec<_> = links[member].iter().filter(|name| MEMBERS.iter().any(|(m, _)| m == name)).collect();
        let strangers: Vec<_> = used.iter().filter(|name| !allowed.contains(&name.as_str())).collect();
        assert!(strangers.is_empty(), "{member} must not depend on {strangers:?}");
    }
}

#[test]
fn the_coordinator_links_no_model_code_and_the_engine_no_rpc() {
    let links = links(&metadata());
    let model_code = ["candle-core", "candle-nn", "candle-transformers", "tokenizers", "safetensors"];
    let rpc = ["tonic", "prost", "hyper", "h2"];
    for (member, banned) in [("influence-coordinator", &model_code[..]), ("influence-engine", &rpc[..])] {
        let found: Vec<_> = banned.iter().filter(|name| links[member].contains(**name)).collect();
        assert!(found.is_empty(), "{member} links {found:?}");
        assert!(links["influence"].contains(banned[0]), "the names in this test are stale");
    }
}

fn rust_files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            rust_files(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
}

#[test]
fn no_file_is_two_files() {
    let mut files = Vec::new();
    for member in ["proto", "coordinator", "worker", "engine", "cli"] {
        rust_files(&root().join(member), &mut files);
    }
    assert!(files.len() > 50, "the walk found only {} files", files.len());
    let long: Vec<_> = files
        .iter()
        .map(|path| (std::fs::read_to_string(path).unwrap().lines().count(), path))
        .filter(|(lines, _)| *lines > 600)
        .collect();
    assert!(long.is_empty(), "over 600 lines, so more than one job: {long:?}");
}
