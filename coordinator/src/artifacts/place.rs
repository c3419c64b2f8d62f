//! Where artifacts are kept: a local folder, or a bucket of an S3-compatible service.

use std::ffi::OsStr;
use std::path::Path as FilePath;
use std::time::Duration;

use object_store::aws::AmazonS3Builder;
use object_store::local::LocalFileSystem;
use object_store::prefix::PrefixStore;
use object_store::{ObjectStore, RetryConfig};

use super::{ArtifactError, spool};

/// How long a service that does not answer is asked again before the caller hears of it.
const PATIENCE: Duration = Duration::from_secs(60);

/// An object store, and what people call it.
pub(super) type Place = (Box<dyn ObjectStore>, String);

/// The store that `place` names.
pub(super) fn open(place: &OsStr) -> Result<Place, ArtifactError> {
    match place.to_str().and_then(|text| text.split_once("://")) {
        // Credentials, region and endpoint: the usual AWS_* variables.
        Some(("s3", rest)) => bucket(AmazonS3Builder::from_env(), rest),
        Some((scheme, _)) => Err(unusable(place, format!("`{scheme}://` is not supported"))),
        None => folder(FilePath::new(place)),
    }
}

/// The bucket and prefix `BUCKET/PREFIX`, reached as `builder` says.
pub(super) fn bucket(builder: AmazonS3Builder, rest: &str) -> Result<Place, ArtifactError> {
    let name = format!("s3://{}", rest.trim_end_matches('/'));
    let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
    if bucket.is_empty() {
        return Err(unusable(name.as_ref(), "it names no bucket".to_owned()));
    }
    // The HTTP client takes its cryptography from the process. It may have been set already: that is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let retry = RetryConfig { retry_timeout: PATIENCE, ..RetryConfig::default() };
    let s3 = builder.with_bucket_name(bucket).with_retry(retry).build();
    let s3 = s3.map_err(|e| unusable(name.as_ref(), e.to_string()))?;
    Ok((Box::new(PrefixStore::new(s3, prefix)), name))
}

fn folder(root: &FilePath) -> Result<Place, ArtifactError> {
    let place = root.display().to_string();
    std::fs::create_dir_all(root).map_err(|e| unusable(root.as_os_str(), e.to_string()))?;
    let store = LocalFileSystem::new_with_prefix(root)
        .map_err(|source| ArtifactError::Io { place: place.clone(), source: Box::new(source) })?;
    for folder in std::fs::read_dir(root.join("sha256")).into_iter().flatten().flatten() {
        // A process that is killed while it writes leaves what it had under the artifact's name with `#` and a number.
        spool::sweep(&folder.path(), |name| name.contains('#'))?;
    }
    Ok((Box::new(store.with_fsync(true)), place))
}

fn unusable(place: &OsStr, problem: String) -> ArtifactError {
    ArtifactError::Place { place: place.to_string_lossy().into_owned(), problem }
}
