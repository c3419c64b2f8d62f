//! Uploads that break, go on, collide and lie.

use std::time::{Duration, SystemTime};

use super::*;

/// Uploads `content` from `offset` on.
async fn upload(artifacts: &Artifacts, content: &[u8], offset: usize) -> Result<Digest, ArtifactError> {
    let mut upload = artifacts.upload(Digest::of(content), offset as u64).await?;
    upload.write(&content[offset..]).await?;
    upload.finish().await
}

fn age(file: &std::path::Path, hours: u64) {
    let then = SystemTime::now() - Duration::from_secs(hours * 3600);
    std::fs::File::options().write(true).open(file).unwrap().set_modified(then).unwrap();
}

#[tokio::test]
async fn an_upload_that_breaks_after_any_chunk_goes_on_from_there_even_in_another_process() {
    let content = content(9 << 20);
    let digest = Digest::of(&content);
    let chunks: Vec<&[u8]> = content.chunks(2 << 20).collect();
    for broken in 0..=chunks.len() {
        let setup = Setup::new().await;
        let mut first = setup.artifacts.upload(digest, 0).await.unwrap();
        for chunk in &chunks[..broken] {
            first.write(chunk).await.unwrap();
        }
        drop(first);
        assert!(!setup.artifacts.contains(digest).await.unwrap(), "half an artifact is none");
        let artifacts = setup.again().await;
        let here = artifacts.spooled(digest).await.unwrap();
        assert_eq!(here, content.len().min(broken * (2 << 20)) as u64);
        assert_eq!(upload(&artifacts, &content, here as usize).await.unwrap(), digest);
        assert!(artifacts.get(digest).await.unwrap() == content, "broken after {broken} chunks");
        assert!(!setup.spooled(digest).exists());
    }
}

#[tokio::test]
async fn an_empty_upload_is_an_artifact() {
    let setup = Setup::new().await;
    assert_eq!(upload(&setup.artifacts, b"", 0).await.unwrap(), Digest::of(""));
    assert_eq!(setup.artifacts.get(Digest::of("")).await.unwrap(), b"");
}

#[tokio::test]
async fn an_upload_goes_on_from_where_it_stopped_and_from_nowhere_else() {
    let setup = Setup::new().await;
    let content = b"0123456789";
    setup.artifacts.upload(Digest::of(content), 0).await.unwrap().write(&content[..4]).await.unwrap();
    for offset in [0, 3, 5, 10] {
        let error = upload(&setup.artifacts, content, offset).await.unwrap_err();
        assert!(matches!(error, ArtifactError::Offset { spooled: 4, .. }), "{error}");
        assert!(error.to_string().contains("go on from 4"), "{error}");
    }
    let other = setup.artifacts.upload(Digest::of("other"), 1).await.unwrap_err();
    assert!(matches!(other, ArtifactError::Offset { spooled: 0, .. }), "{other}");
    assert!(!setup.spooled(Digest::of("other")).exists());
    upload(&setup.artifacts, content, 4).await.unwrap();
    assert_eq!(setup.artifacts.get(Digest::of(content)).await.unwrap(), content);
}

#[tokio::test]
async fn one_artifact_has_one_upload_at_a_time() {
    let setup = Setup::new().await;
    let (content, digest) = (b"0123456789", Digest::of("0123456789"));
    let mut first = setup.artifacts.upload(digest, 0).await.unwrap();
    first.write(&content[..5]).await.unwrap();
    for offset in [0, 5] {
        let error = setup.artifacts.clone().upload(digest, offset).await.unwrap_err();
        assert!(matches!(error, ArtifactError::Busy { .. }), "{error}");
    }
    upload(&setup.artifacts, b"another", 0).await.unwrap();
    first.write(&content[5..]).await.unwrap();
    first.finish().await.unwrap();
    assert_eq!(setup.artifacts.get(digest).await.unwrap(), content);
    // The right to it was given back.
    drop(setup.artifacts.upload(digest, 0).await.unwrap());
}

#[tokio::test]
async fn an_upload_of_something_else_is_refused_and_nothing_of_it_stays() {
    for bytes in [10, 9 << 20] {
        let setup = Setup::new().await;
        let (named, sent) = (Digest::of("what it says"), content(bytes));
        let mut upload = setup.artifacts.upload(named, 0).await.unwrap();
        upload.write(&sent).await.unwrap();
        let error = upload.finish().await.unwrap_err();
        assert!(matches!(error, ArtifactError::Mismatch { found, .. } if found == Digest::of(&sent)), "{error}");
        assert!(!setup.artifacts.contains(named).await.unwrap());
        assert_eq!(setup.artifacts.spooled(named).await.unwrap(), 0);
    }
}

#[tokio::test]
async fn a_damaged_spool_is_noticed_and_the_next_upload_begins_anew() {
    let setup = Setup::new().await;
    let content = content(1 << 20);
    let digest = Digest::of(&content);
    setup.artifacts.upload(digest, 0).await.unwrap().write(&content[..1000]).await.unwrap();
    std::fs::write(setup.spooled(digest), vec![0; 1000]).unwrap();
    assert!(matches!(upload(&setup.artifacts, &content, 1000).await, Err(ArtifactError::Mismatch { .. })));
    assert_eq!(upload(&setup.artifacts, &content, 0).await.unwrap(), digest);
}

#[tokio::test]
async fn an_upload_without_end_is_refused() {
    let setup = Setup::new().await;
    let mut upload = setup.artifacts.upload(Digest::of("long"), 0).await.unwrap().limited_to(100);
    upload.write(&[1; 100]).await.unwrap();
    let error = upload.write(&[1]).await.unwrap_err();
    assert!(matches!(error, ArtifactError::TooLarge { limit: 100, .. }), "{error}");
    assert!(!setup.spooled(Digest::of("long")).exists());
}

#[tokio::test]
async fn what_was_left_unfinished_is_swept_away_after_a_day() {
    let setup = Setup::new().await;
    let (old, young, kept) =
        (Digest::of("old"), Digest::of("young"), setup.artifacts.put(b"kept".to_vec()).await.unwrap());
    for digest in [old, young] {
        setup.artifacts.upload(digest, 0).await.unwrap().write(b"half").await.unwrap();
    }
    age(&setup.spooled(old), 25);
    age(&setup.spooled(young), 23);
    let left = setup.file_of(kept).with_file_name(format!("{kept}#1"));
    std::fs::write(&left, "half").unwrap();
    age(&left, 25);
    age(&setup.file_of(kept), 1000);
    let artifacts = setup.again().await;
    assert_eq!(artifacts.spooled(old).await.unwrap(), 0);
    assert_eq!(artifacts.spooled(young).await.unwrap(), 4);
    assert!(!left.exists());
    assert_eq!(artifacts.get(kept).await.unwrap(), b"kept", "what is finished stays");
}
