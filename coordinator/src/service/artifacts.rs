//! Artifacts in chunks.

use futures::{StreamExt as _, stream};
use influence_proto::{ARTIFACT_CHUNK, Digest, wire};
use tonic::{Status, Streaming};

use super::status;
use crate::artifacts::Artifacts;

pub(super) async fn stat(artifacts: &Artifacts, sha256: &str) -> Result<wire::StatArtifactReply, Status> {
    let digest = Digest::parse(sha256).map_err(status::invalid)?;
    let complete = artifacts.contains(digest).await.map_err(status::artifact)?;
    Ok(wire::StatArtifactReply { complete, bytes: 0 })
}

pub(super) async fn put(artifacts: &Artifacts, mut chunks: Streaming<wire::ArtifactChunk>) -> Result<Digest, Status> {
    let mut incoming = artifacts.incoming().await.map_err(status::artifact)?;
    loop {
        match chunks.message().await {
            Ok(Some(chunk)) => {
                if let Err(error) = incoming.write(chunk.data).await {
                    incoming.abandon().await;
                    return Err(status::artifact(error));
                }
            }
            Ok(None) => return incoming.finish().await.map_err(status::artifact),
            Err(broken) => {
                incoming.abandon().await;
                return Err(broken);
            }
        }
    }
}

pub(super) async fn get(
    artifacts: &Artifacts,
    sha256: &str,
) -> Result<stream::BoxStream<'static, Result<wire::ArtifactChunk, Status>>, Status> {
    let digest = Digest::parse(sha256).map_err(status::invalid)?;
    let content = artifacts.stream(digest).await.map_err(status::artifact)?;
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
