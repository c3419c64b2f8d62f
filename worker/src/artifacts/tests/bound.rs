//! The bound of the cache.

use std::time::{Duration, SystemTime};

use super::*;

fn artifact(coordinator: &Rehearsal, letter: u8) -> Digest {
    keep(coordinator, &[letter; 1000])
}

fn age(path: &std::path::Path, hours: u64) {
    let then = SystemTime::now() - Duration::from_secs(hours * 3600);
    fs::File::open(path).unwrap().set_modified(then).unwrap();
}

fn names(folder: &tempfile::TempDir) -> Vec<Digest> {
    let mut found: Vec<_> = files(folder)
        .iter()
        .filter_map(|path| Digest::parse(path.file_name().unwrap().to_str().unwrap()).ok())
        .collect();
    found.sort();
    found
}

fn sorted<const N: usize>(mut digests: [Digest; N]) -> Vec<Digest> {
    digests.sort();
    digests.to_vec()
}

#[tokio::test]
async fn what_was_not_used_for_longest_goes_first_and_what_is_in_use_stays() {
    let (coordinator, _, folder) = setup().await;
    let cache = cache(&coordinator, &folder, 3000);
    let [a, b, c, d, e] = [b'a', b'b', b'c', b'd', b'e'].map(|letter| artifact(&coordinator, letter));
    let held = cache.get(a).await.unwrap();
    age(&held, 9);
    for (digest, hours) in [(b, 7), (c, 8)] {
        age(&cache.get(digest).await.unwrap(), hours);
    }
    assert_eq!(names(&folder), sorted([a, b, c]), "three fit");
    cache.get(d).await.unwrap();
    assert_eq!(names(&folder), sorted([a, b, d]), "the oldest is in use, the second oldest goes");
    cache.get(b).await.unwrap();
    age(&folder.path().join("artifacts").join(d.to_string()), 1);
    cache.get(e).await.unwrap();
    assert_eq!(names(&folder), sorted([a, b, e]), "use counts, not arrival");
    drop(held);
    cache.get(c).await.unwrap();
    assert_eq!(names(&folder), sorted([b, c, e]), "what is in use no more goes");
}

#[tokio::test]
async fn what_is_in_use_stays_even_beyond_the_bound() {
    let (coordinator, _, folder) = setup().await;
    let cache = cache(&coordinator, &folder, 1500);
    let (a, b) = (artifact(&coordinator, b'a'), artifact(&coordinator, b'b'));
    let held = [cache.get(a).await.unwrap(), cache.get(b).await.unwrap()];
    assert!(held.iter().all(|path| path.exists()));
}

#[tokio::test]
async fn an_adapter_goes_with_its_files_and_counts_once() {
    let (coordinator, _, folder) = setup().await;
    let cache = cache(&coordinator, &folder, 3000);
    let [config, old, new, other] = [b'c', b'o', b'n', b'x'].map(|letter| artifact(&coordinator, letter));
    let first = cache.adapter(AdapterRef { config, weights: old }).await.unwrap().to_path_buf();
    age(&folder.path().join("artifacts").join(old.to_string()), 3);
    let second = cache.adapter(AdapterRef { config, weights: new }).await.unwrap();
    assert!(first.exists() && second.exists(), "links take no room");
    let dataset = cache.get(other).await.unwrap();
    assert!(!first.exists() && second.join("adapter_model.safetensors").exists());
    assert_eq!(names(&folder), sorted([config, new, other]));
    // Whatever the adapter in use was made of stays too.
    let last = artifact(&coordinator, b'l');
    cache.get(last).await.unwrap();
    assert!(second.join("adapter_config.json").exists() && dataset.exists());
    assert_eq!(names(&folder), sorted([config, new, other, last]));
}

#[tokio::test]
async fn copies_of_an_adapters_files_count_and_go_too() {
    let (coordinator, _, folder) = setup().await;
    let cache = cache(&coordinator, &folder, 4500);
    let [config, weights, other] = [b'c', b'w', b'x'].map(|letter| artifact(&coordinator, letter));
    let adapter = cache.adapter(AdapterRef { config, weights }).await.unwrap().to_path_buf();
    // As on a file system without links.
    for file in ["adapter_config.json", "adapter_model.safetensors"] {
        let bytes = fs::read(adapter.join(file)).unwrap();
        fs::remove_file(adapter.join(file)).unwrap();
        fs::write(adapter.join(file), bytes).unwrap();
    }
    let before = fs::metadata(&adapter).unwrap().modified().unwrap();
    cache.adapter(AdapterRef { config, weights }).await.unwrap();
    assert_eq!(fs::metadata(&adapter).unwrap().modified().unwrap(), before, "copies are not made anew");
    cache.get(other).await.unwrap();
    assert!(!adapter.exists());
}

#[tokio::test]
async fn parts_that_nobody_fetches_any_more_are_swept_away() {
    let (coordinator, cache, folder) = setup().await;
    let partial = folder.path().join("artifacts/partial");
    fs::create_dir_all(&partial).unwrap();
    let [stale, fetched, young] = ["stale", "fetched", "young"].map(|name| partial.join(Digest::of(name).to_string()));
    for (path, hours) in [(&stale, 25), (&fetched, 25), (&young, 23)] {
        fs::write(path, "half").unwrap();
        age(path, hours);
    }
    let other = fs::File::open(&fetched).unwrap();
    other.lock().unwrap();
    cache.get(artifact(&coordinator, b'a')).await.unwrap();
    assert!(!stale.exists() && fetched.exists() && young.exists());
}
