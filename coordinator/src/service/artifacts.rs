//! Artifacts in chunks.

use std::time::Duration;

use futures::{StreamExt as _, stream};
use influence_proto::{ARTIFACT_CHUNK, Digest, wire};
use tonic::{Status, Streaming};

use super::status;
use crate::artifacts::Artifacts;

/// An upload that is silent for longer is given up; what came of it stays.
const SILENCE: Duration = Duration::from_secs(30);

pub(super) async fn stat(artifacts: &Artifacts, sha256: &str) -> Result<wire::StatArtifactReply, Status> {
    let digest = Digest::parse(sha256).map_err(status::invalid)?;
    if let Some(bytes) = artifacts.size(digest).await.map_err(status::artifact)? {
        return Ok(wire::StatArtifactReply { complete: true, bytes });
    }
    let bytes = artifacts.spooled(digest).await.map_err(status::artifact)?;
    Ok(wire::StatArtifactReply { complete: false, bytes })
}

pub(super) async fn put(artifacts: &Artifacts, mut chunks: Streaming<wire::ArtifactChunk>) -> Result<Digest, Status> {
    let missing = || Status::invalid_argument("the upload's first chunk must say what is uploaded in `upload`");
    let first = next(&mut chunks).await?.ok_or_else(missing)?;
    let upload = first.upload.ok_or_else(missing)?;
    let digest = Digest::parse(&upload.sha256).map_err(status::invalid)?;
    if artifacts.contains(digest).await.map_err(status::artifact)? {
        return Ok(digest);
    }
    let mut upload = artifacts.upload(digest, upload.offset).await.map_err(status::artifact)?;
    let mut piece = Some(first.data);
    while let Some(data) = piece {
        upload.write(&data).await.map_err(status::artifact)?;
        piece = next(&mut chunks).await?.map(|chunk| chunk.data);
    }
    upload.finish().await.map_err(status::artifact)
}

async fn next(chunks: &mut Streaming<wire::ArtifactChunk>) -> Result<Option<wire::ArtifactChunk>, Status> {
    let silent = |_| Status::unavailable(format!("the upload was silent for {} s; go on with it", SILENCE.as_secs()));
    tokio::time::timeout(SILENCE, chunks.message()).await.map_err(silent)?
}

pub(super) async fn get(
    artifacts: &Artifacts,
    request: wire::GetArtifactRequest,
) -> Result<stream::BoxStream<'static, Result<wire::ArtifactChunk, Status>>, Status> {
    let digest = Digest::parse(&request.sha256).map_err(status::invalid)?;
    let content = artifacts.stream(digest, request.offset).await.map_err(status::artifact)?;
    let chunks = content.flat_map(|piece| {
        let chunks: Vec<_> = match piece {
            Ok(bytes) => bytes
                .chunks(ARTIFACT_CHUNK)
                .map(|c| Ok(wire::ArtifactChunk { data: c.to_vec(), upload: None }))
                .collect(),
            Err(error) => vec![Err(status::artifact(error))],
        };
        stream::iter(chunks)
    });
    Ok(chunks.boxed())
}
