#![allow(clippy::unwrap_used, clippy::expect_used)]
mod fake_s3;
mod models;
mod s3;
mod uploads;

use super::*;

/// A folder of artifacts and a spool.
struct Setup {
    artifacts: Artifacts,
    folder: tempfile::TempDir,
}

impl Setup {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let artifacts = open(&folder).await;
        Self { artifacts, folder }
    }

    /// As another process would open them.
    async fn again(&self) -> Artifacts {
        open(&self.folder).await
    }

    fn file_of(&self, digest: Digest) -> PathBuf {
        self.folder.path().join("artifacts").join(address(digest).as_ref())
    }

    fn spooled(&self, digest: Digest) -> PathBuf {
        self.folder.path().join("run/incoming").join(digest.to_string())
    }
}

async fn open(folder: &tempfile::TempDir) -> Artifacts {
    Artifacts::open(folder.path().join("artifacts"), &folder.path().join("run")).await.unwrap()
}

/// Bytes that differ from place to place.
fn content(bytes: usize) -> Vec<u8> {
    (0..bytes).map(|i| (i % 251) as u8 ^ (i >> 16) as u8).collect()
}

async fn from(artifacts: &Artifacts, digest: Digest, offset: u64) -> Vec<u8> {
    let content = artifacts.stream(digest, offset).await.unwrap();
    content.try_collect::<Vec<_>>().await.unwrap().concat()
}

#[tokio::test]
async fn what_is_put_is_found_by_its_digest() {
    let setup = Setup::new().await;
    for content in [vec![], b"hello".to_vec(), content(20 << 20)] {
        let digest = setup.artifacts.put(content.clone()).await.unwrap();
        assert_eq!(digest, Digest::of(&content));
        assert_eq!(setup.artifacts.put(content.clone()).await.unwrap(), digest, "again");
        assert_eq!(setup.artifacts.size(digest).await.unwrap(), Some(content.len() as u64));
        assert!(setup.artifacts.get(digest).await.unwrap() == content);
    }
}

#[tokio::test]
async fn reading_begins_at_any_byte_and_not_beyond_the_end() {
    let setup = Setup::new().await;
    let content = content(PIECE as usize + 1000);
    let digest = setup.artifacts.put(content.clone()).await.unwrap();
    for offset in [0, 1, PIECE - 1, PIECE, PIECE + 1, PIECE + 999, PIECE + 1000] {
        assert!(from(&setup.artifacts, digest, offset).await == content[offset as usize..], "from {offset}");
    }
    let error = setup.artifacts.stream(digest, PIECE + 1001).await.err().unwrap();
    assert!(matches!(error, ArtifactError::Beyond { bytes, .. } if bytes == PIECE + 1000), "{error}");
}

#[tokio::test]
async fn a_missing_artifact_is_named() {
    let setup = Setup::new().await;
    let digest = Digest::of("nothing");
    assert!(!setup.artifacts.contains(digest).await.unwrap());
    let error = setup.artifacts.get(digest).await.unwrap_err();
    assert!(matches!(error, ArtifactError::Missing { .. }) && error.to_string().contains(&digest.to_string()));
}

#[tokio::test]
async fn a_damaged_artifact_is_never_read_and_is_mended_by_putting_it_again() {
    let setup = Setup::new().await;
    let digest = setup.artifacts.put(b"good".to_vec()).await.unwrap();
    std::fs::write(setup.file_of(digest), b"bad").unwrap();
    let error = setup.artifacts.get(digest).await.unwrap_err();
    assert!(matches!(error, ArtifactError::Damaged { found, .. } if found == Digest::of("bad")), "{error}");
    setup.artifacts.put(b"good".to_vec()).await.unwrap();
    assert_eq!(setup.artifacts.get(digest).await.unwrap(), b"good");
}

#[tokio::test]
async fn a_place_that_cannot_be_is_refused_with_what_can() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    std::fs::write(&file, "").unwrap();
    for place in ["gs://bucket/x", "s3://", "s3:///prefix", file.to_str().unwrap()] {
        let error = Artifacts::open(place, folder.path()).await.unwrap_err().to_string();
        assert!(error.contains(place.trim_end_matches('/')) && error.contains("s3://BUCKET/PREFIX"), "{error}");
    }
}
