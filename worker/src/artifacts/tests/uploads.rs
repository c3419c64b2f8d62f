//! Uploads that break and go on.

use super::*;

/// Four chunks of an upload, the last one short.
fn file(folder: &tempfile::TempDir) -> (PathBuf, Vec<u8>) {
    let (path, data) = (folder.path().join("weights"), content((3 << 20) + 17));
    fs::write(&path, &data).unwrap();
    (path, data)
}

#[tokio::test]
async fn an_upload_that_breaks_after_any_chunk_goes_on_from_there() {
    for broken in 0..=3 {
        let (coordinator, cache, folder) = setup().await;
        let (path, data) = file(&folder);
        coordinator.script().faults.push_back(Fault::Break(broken));
        let digest = cache.put(&path).await.unwrap();
        assert_eq!(digest, Digest::of(&data));
        assert!(coordinator.script().artifacts[&digest.to_string()] == data, "broken after {broken} chunks");
        assert_eq!(coordinator.script().uploads, [0, (broken << 20) as u64]);
    }
}

#[tokio::test]
async fn an_upload_whose_answer_is_lost_is_not_sent_again() {
    let (coordinator, cache, folder) = setup().await;
    let (path, _) = file(&folder);
    coordinator.script().faults.push_back(Fault::After(Code::Unavailable));
    cache.put(&path).await.unwrap();
    cache.put(&path).await.unwrap();
    assert_eq!(coordinator.script().uploads, [0]);
}

#[tokio::test]
async fn an_empty_file_is_uploaded() {
    let (coordinator, cache, folder) = setup().await;
    let empty = folder.path().join("empty");
    fs::write(&empty, b"").unwrap();
    assert_eq!(cache.put(&empty).await.unwrap(), Digest::of(b""));
    assert!(coordinator.script().artifacts.contains_key(&Digest::of(b"").to_string()));
}

#[tokio::test]
async fn what_the_coordinator_has_of_a_damaged_upload_is_sent_anew_once() {
    for left in [1000, 20 << 20] {
        let (coordinator, cache, folder) = setup().await;
        let (path, data) = file(&folder);
        let name = Digest::of(&data).to_string();
        coordinator.script().spooled.insert(name.clone(), vec![0; left]);
        cache.put(&path).await.unwrap();
        assert!(coordinator.script().artifacts[&name] == data);
        assert_eq!(coordinator.script().uploads, [left as u64, 0]);
    }
}

#[tokio::test]
async fn an_upload_that_is_always_refused_ends_in_an_error() {
    let (coordinator, cache, folder) = setup().await;
    let (path, _) = file(&folder);
    coordinator.script().faults.extend(vec![Fault::Before(Code::InvalidArgument); 3]);
    let error = cache.put(&path).await.unwrap_err();
    assert!(matches!(error, ArtifactError::Store { .. }) && error.to_string().contains("weights"), "{error}");
    assert_eq!(coordinator.script().uploads.len(), 2);
}
