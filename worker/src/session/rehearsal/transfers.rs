//! Artifacts as the real coordinator takes and gives them.

use influence_proto::wire::admin_server::Admin;
use influence_proto::{Digest, wire};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::{Fault, Reply, Shared};

/// Bytes in a chunk of a download.
const CHUNK: usize = 1000;

impl Shared {
    pub(super) fn stat(&self, sha256: &str) -> Reply<wire::StatArtifactReply> {
        let script = self.0.lock().unwrap();
        let complete = script.artifacts.contains_key(sha256);
        let bytes = script.spooled.get(sha256).map_or(0, |spooled| spooled.len() as u64);
        Ok(Response::new(wire::StatArtifactReply { complete, bytes }))
    }

    pub(super) async fn take(&self, mut chunks: Streaming<wire::ArtifactChunk>) -> Reply<wire::PutArtifactReply> {
        let first = chunks.message().await?.unwrap();
        let wire::Upload { sha256, offset } = first.upload.clone().unwrap();
        let fault = {
            let mut script = self.0.lock().unwrap();
            script.uploads.push(offset);
            let spooled = script.spooled.entry(sha256.clone()).or_default().len() as u64;
            if spooled != offset {
                return Err(Status::invalid_argument(format!("go on from {spooled}")));
            }
            script.faults.pop_front()
        };
        if let Some(Fault::Before(code)) = fault {
            return Err(Status::new(code, "ordered"));
        }
        let left = if let Some(Fault::Break(chunks)) = fault { chunks } else { usize::MAX };
        let mut chunk = Some(first);
        for _ in 0..left {
            let Some(data) = chunk.take().map(|chunk| chunk.data) else { break };
            self.0.lock().unwrap().spooled.get_mut(&sha256).unwrap().extend(data);
            chunk = chunks.message().await?;
        }
        if chunk.is_some() || left == 0 {
            return Err(Status::unavailable("the connection broke"));
        }
        let mut script = self.0.lock().unwrap();
        let data = script.spooled.remove(&sha256).unwrap();
        if Digest::of(&data).to_string() != sha256 {
            return Err(Status::data_loss("the upload is damaged"));
        }
        script.artifacts.insert(sha256.clone(), data);
        if let Some(Fault::After(code)) = fault {
            return Err(Status::new(code, "ordered"));
        }
        Ok(Response::new(wire::PutArtifactReply { sha256 }))
    }

    pub(super) fn give(
        &self,
        request: &wire::GetArtifactRequest,
    ) -> Reply<ReceiverStream<Result<wire::ArtifactChunk, Status>>> {
        let mut script = self.0.lock().unwrap();
        let data =
            script.artifacts.get(&request.sha256).cloned().ok_or_else(|| Status::not_found("no such artifact"))?;
        script.downloads.push(request.offset);
        let rest = data
            .get(request.offset as usize..)
            .ok_or_else(|| Status::invalid_argument(format!("the artifact has {} bytes", data.len())))?;
        let pieces: Vec<_> = rest.chunks(CHUNK).collect();
        let sent = match script.faults.pop_front() {
            Some(Fault::After(_)) => Some(pieces.len() / 2),
            Some(Fault::Break(chunks)) => Some(chunks),
            _ => None,
        };
        let (sender, receiver) = mpsc::channel(pieces.len() + 1);
        for data in pieces.iter().take(sent.unwrap_or(pieces.len())) {
            sender.try_send(Ok(wire::ArtifactChunk { data: data.to_vec(), upload: None })).unwrap();
        }
        if sent.is_some() {
            sender.try_send(Err(Status::unavailable("the connection broke"))).unwrap();
        }
        Ok(Response::new(ReceiverStream::new(receiver)))
    }
}

/// What this coordinator has no use for.
fn nobody<T>() -> Reply<T> {
    Err(Status::unimplemented("not rehearsed"))
}

#[tonic::async_trait]
impl Admin for Shared {
    async fn push_model(&self, request: Request<wire::PushModelRequest>) -> Reply<wire::PushModelReply> {
        let wire::PushModelRequest { model, files } = request.into_inner();
        let mut script = self.0.lock().unwrap();
        if model != "tiny" {
            return Err(Status::invalid_argument(format!("the run uses no model `{model}`")));
        }
        if !files.iter().all(|file| script.artifacts.contains_key(&file.sha256)) {
            return Err(Status::invalid_argument("upload the files first"));
        }
        script.pushed.insert(model, files);
        Ok(Response::new(wire::PushModelReply {}))
    }

    async fn status(&self, _: Request<wire::StatusRequest>) -> Reply<wire::StatusReply> {
        nobody()
    }

    async fn drain_worker(&self, _: Request<wire::DrainWorkerRequest>) -> Reply<wire::DrainWorkerReply> {
        nobody()
    }

    async fn pause(&self, _: Request<wire::PauseRequest>) -> Reply<wire::PauseReply> {
        nobody()
    }

    async fn resume(&self, _: Request<wire::ResumeRequest>) -> Reply<wire::ResumeReply> {
        nobody()
    }
}
