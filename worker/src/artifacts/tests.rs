//! Files that arrive whole or not at all, and go when they are too many.
#![allow(clippy::unwrap_used)]

mod bound;
mod uploads;

use std::fs;
use std::path::PathBuf;

use influence_proto::{AdapterRef, Digest};
use tonic::Code;

use super::*;
use crate::client::Client;
use crate::session::rehearsal::{Fault, Rehearsal};

/// More than any test here needs.
const ROOM: u64 = 1 << 30;

async fn setup() -> (Rehearsal, ArtifactCache, tempfile::TempDir) {
    let coordinator = Rehearsal::start().await;
    let folder = tempfile::tempdir().unwrap();
    let cache = cache(&coordinator, &folder, ROOM);
    (coordinator, cache, folder)
}

/// A cache as another process of this machine would open it.
fn cache(coordinator: &Rehearsal, folder: &tempfile::TempDir, limit: u64) -> ArtifactCache {
    ArtifactCache::new(Client::new(coordinator.options()).unwrap(), folder.path(), 1, limit)
}

fn keep(coordinator: &Rehearsal, data: &[u8]) -> Digest {
    coordinator.script().artifacts.insert(Digest::of(data).to_string(), data.to_vec());
    Digest::of(data)
}

/// Bytes that differ from place to place.
fn content(bytes: usize) -> Vec<u8> {
    (0..bytes).map(|i| (i % 251) as u8 ^ (i >> 10) as u8).collect()
}

/// Every file of the cache.
fn files(folder: &tempfile::TempDir) -> Vec<PathBuf> {
    let mut open = vec![folder.path().join("artifacts")];
    let mut found = Vec::new();
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            if entry.path().is_dir() { open.push(entry.path()) } else { found.push(entry.path()) }
        }
    }
    found
}

#[tokio::test]
async fn a_download_that_breaks_after_any_chunk_goes_on_from_there() {
    let data = content(8500);
    for broken in 0..=9 {
        let (coordinator, cache, folder) = setup().await;
        let digest = keep(&coordinator, &data);
        coordinator.script().faults.push_back(Fault::Break(broken));
        let path = cache.get(digest).await.unwrap();
        assert!(fs::read(&*path).unwrap() == data, "broken after {broken} chunks");
        assert_eq!(coordinator.script().downloads, [0, data.len().min(broken * 1000) as u64]);
        assert_eq!(files(&folder), [path.to_path_buf()], "nothing else stays");
        coordinator.script().artifacts.clear();
        cache.get(digest).await.unwrap();
    }
}

#[tokio::test]
async fn a_download_goes_on_though_it_breaks_more_often_than_it_may_stand_still() {
    let (coordinator, cache, _folder) = setup().await;
    let digest = keep(&coordinator, &content(12_000));
    coordinator.script().faults.extend(vec![Fault::Break(1); 11]);
    cache.get(digest).await.unwrap();
    assert_eq!(coordinator.script().downloads, (0..12).map(|i| i * 1000).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_download_of_a_killed_worker_is_gone_on_with() {
    let (coordinator, cache, folder) = setup().await;
    let data = content(8500);
    let digest = keep(&coordinator, &data);
    let partial = folder.path().join("artifacts/partial");
    fs::create_dir_all(&partial).unwrap();
    fs::write(partial.join(digest.to_string()), &data[..3500]).unwrap();
    assert!(fs::read(&*cache.get(digest).await.unwrap()).unwrap() == data);
    assert_eq!(coordinator.script().downloads, [3500]);
}

#[tokio::test]
async fn what_is_left_of_a_damaged_download_is_fetched_anew() {
    for left in [vec![1; 3500], vec![1; 8500], vec![1; 20_000]] {
        let (coordinator, cache, folder) = setup().await;
        let data = content(8500);
        let digest = keep(&coordinator, &data);
        let partial = folder.path().join("artifacts/partial");
        fs::create_dir_all(&partial).unwrap();
        fs::write(partial.join(digest.to_string()), &left).unwrap();
        assert!(fs::read(&*cache.get(digest).await.unwrap()).unwrap() == data);
        assert_eq!(coordinator.script().downloads, [left.len() as u64, 0]);
    }
}

#[tokio::test]
async fn another_content_under_the_digest_is_fetched_twice_and_refused() {
    let (coordinator, cache, folder) = setup().await;
    let digest = Digest::of("what was asked for");
    coordinator.script().artifacts.insert(digest.to_string(), b"something else".to_vec());
    let error = cache.get(digest).await.unwrap_err();
    assert!(matches!(error, ArtifactError::Damaged { .. }), "{error}");
    assert!(error.to_string().contains(&digest.to_string()));
    assert_eq!(coordinator.script().downloads, [0, 0]);
    assert!(files(&folder).is_empty(), "{:?}", files(&folder));
}

#[tokio::test]
async fn a_cached_file_that_was_damaged_is_fetched_again() {
    let (coordinator, cache, _folder) = setup().await;
    let digest = keep(&coordinator, b"whole");
    let path = cache.get(digest).await.unwrap().to_path_buf();
    fs::write(&path, b"who").unwrap();
    assert_eq!(fs::read(&*cache.get(digest).await.unwrap()).unwrap(), b"whole");
}

#[tokio::test(flavor = "multi_thread")]
async fn many_that_ask_for_one_file_at_once_fetch_it_once_across_processes() {
    let (coordinator, _, folder) = setup().await;
    let data = content(50_000);
    let digest = keep(&coordinator, &data);
    let asked: Vec<_> = (0..8)
        .map(|_| {
            let cache = cache(&coordinator, &folder, ROOM);
            tokio::spawn(async move { fs::read(&*cache.get(digest).await.unwrap()).unwrap() })
        })
        .collect();
    for asked in asked {
        assert!(asked.await.unwrap() == data);
    }
    assert_eq!(coordinator.script().downloads, [0]);
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
