#![allow(clippy::unwrap_used, clippy::expect_used)]
use super::*;

async fn fresh() -> (Artifacts, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    (Artifacts::open(&folder.path().join("artifacts")).await.unwrap(), folder)
}

fn file_of(folder: &tempfile::TempDir, digest: Digest) -> PathBuf {
    folder.path().join("artifacts").join(address(digest).as_ref())
}

#[tokio::test]
async fn what_is_put_is_found_by_its_digest() {
    let (artifacts, _folder) = fresh().await;
    for content in [vec![], b"hello".to_vec(), vec![7; 20 << 20]] {
        let digest = artifacts.put(content.clone()).await.unwrap();
        assert_eq!(digest, Digest::of(&content));
        assert_eq!(artifacts.put(content.clone()).await.unwrap(), digest, "again");
        assert!(artifacts.get(digest).await.unwrap() == content);
    }
}

#[tokio::test]
async fn a_missing_artifact_is_named() {
    let (artifacts, _folder) = fresh().await;
    let digest = Digest::of("nothing");
    assert!(!artifacts.contains(digest).await.unwrap());
    let error = artifacts.get(digest).await.unwrap_err();
    assert!(matches!(error, ArtifactError::Missing { .. }) && error.to_string().contains(&digest.to_string()));
}

#[tokio::test]
async fn a_damaged_artifact_is_never_read_and_is_mended_by_putting_it_again() {
    let (artifacts, folder) = fresh().await;
    let digest = artifacts.put(b"good".to_vec()).await.unwrap();
    std::fs::write(file_of(&folder, digest), b"bad").unwrap();
    let error = artifacts.get(digest).await.unwrap_err();
    assert!(matches!(error, ArtifactError::Damaged { found, .. } if found == Digest::of("bad")), "{error}");
    artifacts.put(b"good".to_vec()).await.unwrap();
    assert_eq!(artifacts.get(digest).await.unwrap(), b"good");
}

#[tokio::test]
async fn an_unfinished_upload_is_no_artifact() {
    let (artifacts, folder) = fresh().await;
    let mut incoming = artifacts.incoming().await.unwrap();
    incoming.write(vec![1; 9 << 20]).await.unwrap();
    drop(incoming);
    let mut abandoned = artifacts.incoming().await.unwrap();
    abandoned.write(b"half".to_vec()).await.unwrap();
    abandoned.abandon().await;
    assert!(!folder.path().join("artifacts/sha256").exists());
}
