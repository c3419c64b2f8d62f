//! Artifacts in a bucket.

use object_store::aws::AmazonS3Builder;

use super::fake_s3::FakeS3;
use super::*;

const SECRET: &str = "sesame-open-wide";

async fn try_open(fake: &FakeS3, spool: &FilePath) -> Result<Artifacts, ArtifactError> {
    let builder = AmazonS3Builder::new()
        .with_endpoint(&fake.endpoint)
        .with_allow_http(true)
        .with_region("here")
        .with_access_key_id("AKIDTEST")
        .with_secret_access_key(SECRET);
    Artifacts::over(place::bucket(builder, "bucket/some/prefix/")?, spool).await
}

async fn upload(artifacts: &Artifacts, named: Digest, content: &[u8]) -> Result<Digest, ArtifactError> {
    let mut upload = artifacts.upload(named, 0).await?;
    upload.write(content).await?;
    upload.finish().await
}

#[tokio::test]
async fn artifacts_lie_under_the_prefix_and_come_back_whole_or_from_any_byte() {
    let (fake, spool) = (FakeS3::start().await, tempfile::tempdir().unwrap());
    let artifacts = try_open(&fake, spool.path()).await.unwrap();
    for content in [vec![], b"hello".to_vec(), content(8 << 20), content((17 << 20) + 5)] {
        let digest = Digest::of(&content);
        assert_eq!(artifacts.size(digest).await.unwrap(), None);
        assert_eq!(upload(&artifacts, digest, &content).await.unwrap(), digest);
        assert!(artifacts.get(digest).await.unwrap() == content);
        assert!(from(&artifacts, digest, content.len() as u64 / 2).await == content[content.len() / 2..]);
        assert!(fake.bucket().objects[&format!("/bucket/some/prefix/{}", address(digest))] == content);
        assert_eq!(artifacts.spooled(digest).await.unwrap(), 0);
    }
    let put = artifacts.put(b"a dataset".to_vec()).await.unwrap();
    assert_eq!(artifacts.get(put).await.unwrap(), b"a dataset");
    assert!(fake.bucket().parts.is_empty());
}

#[tokio::test]
async fn an_upload_of_something_else_never_gets_its_address() {
    let (fake, spool) = (FakeS3::start().await, tempfile::tempdir().unwrap());
    let artifacts = try_open(&fake, spool.path()).await.unwrap();
    let named = Digest::of("what it says");
    for bytes in [10, 17 << 20] {
        let refused = upload(&artifacts, named, &content(bytes)).await;
        assert!(matches!(refused, Err(ArtifactError::Mismatch { .. })), "{refused:?}");
    }
    assert!(fake.bucket().objects.is_empty());
    assert!(fake.bucket().parts.is_empty(), "the parts are taken back");
}

#[tokio::test]
async fn a_damaged_object_is_refused_at_its_end() {
    let (fake, spool) = (FakeS3::start().await, tempfile::tempdir().unwrap());
    let artifacts = try_open(&fake, spool.path()).await.unwrap();
    let digest = artifacts.put(b"good".to_vec()).await.unwrap();
    fake.bucket().objects.values_mut().for_each(|object| object[0] = b'f');
    assert!(matches!(artifacts.get(digest).await, Err(ArtifactError::Damaged { .. })));
}

#[tokio::test]
async fn a_service_that_fails_now_and_then_is_asked_again() {
    let (fake, spool) = (FakeS3::start().await, tempfile::tempdir().unwrap());
    let artifacts = try_open(&fake, spool.path()).await.unwrap();
    let content = content(9 << 20);
    fake.bucket().failures = 2;
    let digest = upload(&artifacts, Digest::of(&content), &content).await.unwrap();
    fake.bucket().failures = 2;
    assert!(artifacts.get(digest).await.unwrap() == content);
}

#[tokio::test]
async fn the_first_pin_wins_in_a_bucket_too() {
    let (fake, spool) = (FakeS3::start().await, tempfile::tempdir().unwrap());
    let run = RunId::new("demo").unwrap();
    let (first, second) = (Digest::of("first"), Digest::of("second"));
    for said in [first, second] {
        let artifacts = try_open(&fake, spool.path()).await.unwrap();
        assert_eq!(artifacts.pin_model(&run, "tiny", said).await.unwrap(), first);
    }
    let pin = &fake.bucket().objects["/bucket/some/prefix/runs/demo/models/tiny.json"];
    assert!(String::from_utf8_lossy(pin).contains(&first.to_string()));
}

#[tokio::test]
async fn who_is_not_let_in_hears_it_at_once_and_no_secret_is_shown() {
    let (fake, spool) = (FakeS3::start().await, tempfile::tempdir().unwrap());
    let artifacts = try_open(&fake, spool.path()).await.unwrap();
    let shown = format!("{artifacts:?} {:?}", artifacts.upload(Digest::of("x"), 0).await.unwrap());
    assert!(shown.contains("s3://bucket/some/prefix") && !shown.contains(SECRET), "{shown}");
    fake.bucket().closed = true;
    let error = try_open(&fake, spool.path()).await.unwrap_err();
    let shown = format!("{error} {error:?}");
    for part in ["s3://bucket/some/prefix", "AWS_*"] {
        assert!(shown.contains(part), "{part} is missing in: {shown}");
    }
    assert!(!shown.contains(SECRET), "{shown}");
}
