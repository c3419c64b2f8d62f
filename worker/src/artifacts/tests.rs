//! Files that arrive whole or not at all.
#![allow(clippy::unwrap_used)]

use std::fs;

use influence_proto::{AdapterRef, Digest};
use tonic::Code;

use super::*;
use crate::client::Client;
use crate::session::rehearsal::{Fault, Rehearsal};

async fn setup() -> (Rehearsal, ArtifactCache, tempfile::TempDir) {
    let coordinator = Rehearsal::start().await;
    let folder = tempfile::tempdir().unwrap();
    let cache = ArtifactCache::new(Client::new(coordinator.options()).unwrap(), folder.path(), 1);
    (coordinator, cache, folder)
}

fn keep(coordinator: &Rehearsal, data: &[u8]) -> Digest {
    coordinator.script().artifacts.insert(Digest::of(data).to_string(), data.to_vec());
    Digest::of(data)
}

#[tokio::test]
async fn a_broken_download_is_repeated_and_leaves_no_half_file() {
    let (coordinator, cache, folder) = setup().await;
    let digest = keep(&coordinator, &[5; 9000]);
    coordinator.script().faults.push_back(Fault::After(Code::Unavailable));
    let path = cache.get(digest).await.unwrap();
    assert_eq!(fs::read(&path).unwrap(), [5; 9000]);
    let files: Vec<_> = fs::read_dir(folder.path().join("artifacts")).unwrap().collect();
    assert_eq!(files.len(), 1, "{files:?}");
    coordinator.script().artifacts.clear();
    cache.get(digest).await.unwrap();
}

#[tokio::test]
async fn another_content_under_the_digest_is_refused() {
    let (coordinator, cache, _folder) = setup().await;
    let digest = Digest::of("what was asked for");
    coordinator.script().artifacts.insert(digest.to_string(), b"something else".to_vec());
    let error = cache.get(digest).await.unwrap_err();
    assert!(matches!(error, ArtifactError::Damaged { .. }), "{error}");
    assert!(error.to_string().contains(&digest.to_string()));
}

#[tokio::test]
async fn a_cached_file_that_was_damaged_is_fetched_again() {
    let (coordinator, cache, _folder) = setup().await;
    let digest = keep(&coordinator, b"whole");
    let path = cache.get(digest).await.unwrap();
    fs::write(&path, b"who").unwrap();
    assert_eq!(fs::read(cache.get(digest).await.unwrap()).unwrap(), b"whole");
}

#[tokio::test]
async fn an_upload_of_several_chunks_arrives_whole_after_a_fault() {
    let (coordinator, cache, folder) = setup().await;
    let data: Vec<u8> = (0..(3 << 20) + 17_u32).map(|i| (i % 251) as u8).collect();
    let path = folder.path().join("weights");
    fs::write(&path, &data).unwrap();
    coordinator.script().faults.push_back(Fault::Before(Code::Unavailable));
    let digest = cache.put(&path).await.unwrap();
    assert_eq!(digest, Digest::of(&data));
    assert!(coordinator.script().artifacts[&digest.to_string()] == data);
    let empty = folder.path().join("empty");
    fs::write(&empty, b"").unwrap();
    assert_eq!(cache.put(&empty).await.unwrap(), Digest::of(b""));
}

#[tokio::test(flavor = "multi_thread")]
async fn many_episodes_may_ask_for_one_adapter_at_once() {
    let (coordinator, cache, _folder) = setup().await;
    let adapter = AdapterRef { config: keep(&coordinator, b"{}"), weights: keep(&coordinator, &[7; 9000]) };
    let asked: Vec<_> = (0..16)
        .map(|_| {
            let cache = cache.clone();
            tokio::spawn(async move { cache.adapter(adapter).await })
        })
        .collect();
    for folder in asked {
        assert!(folder.await.unwrap().unwrap().join("adapter_model.safetensors").exists());
    }
}

#[tokio::test]
async fn an_adapter_becomes_a_peft_folder() {
    let (coordinator, cache, _folder) = setup().await;
    let adapter = AdapterRef { config: keep(&coordinator, b"{}"), weights: keep(&coordinator, b"tensors") };
    let folder = cache.adapter(adapter).await.unwrap();
    assert_eq!(fs::read(folder.join("adapter_config.json")).unwrap(), b"{}");
    assert_eq!(fs::read(folder.join("adapter_model.safetensors")).unwrap(), b"tensors");
    fs::remove_file(folder.join("adapter_model.safetensors")).unwrap();
    let folder = cache.adapter(adapter).await.unwrap();
    assert_eq!(fs::read(folder.join("adapter_model.safetensors")).unwrap(), b"tensors", "a half folder is made anew");
}
