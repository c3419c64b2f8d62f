//! Files to the coordinator and back.

use std::path::Path;
use std::time::Duration;

use influence_proto::{ARTIFACT_CHUNK, Digest, InvalidMessage, wire};
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::{CALL, CallError, Client, silent};

/// Between two chunks of an artifact.
const CHUNK: Duration = Duration::from_secs(30);

/// How much of an artifact the coordinator has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stat {
    pub(crate) complete: bool,
    /// Of an upload that broke off, if it is not complete.
    pub(crate) bytes: u64,
}

impl Client {
    /// Asks how much of an artifact the coordinator has.
    pub(crate) async fn stat_artifact(&self, digest: Digest) -> Result<Stat, CallError> {
        let request = wire::StatArtifactRequest { sha256: digest.to_string() };
        let reply = self.call(CALL, |mut stub| async move { stub.stat_artifact(request).await }).await?;
        Ok(Stat { complete: reply.complete, bytes: reply.bytes })
    }

    /// Uploads a file from a byte on; the coordinator has what is before it. `progress` hears up to which byte it was read.
    pub(crate) async fn put_artifact(
        &self,
        path: &Path,
        digest: Digest,
        offset: u64,
        progress: &(dyn Fn(u64) + Send + Sync),
    ) -> Result<(), CallError> {
        let unreadable = |e: std::io::Error| CallError::Local(format!("{}: {e}", path.display()));
        let mut file = tokio::fs::File::open(path).await.map_err(unreadable)?;
        let bytes = file.metadata().await.map_err(unreadable)?.len();
        let (sender, chunks) = mpsc::channel(2);
        let read = async move {
            file.seek(std::io::SeekFrom::Start(offset)).await?;
            let mut upload = Some(wire::Upload { sha256: digest.to_string(), offset });
            let mut sent = offset;
            loop {
                let mut data = Vec::with_capacity(ARTIFACT_CHUNK);
                (&mut file).take(ARTIFACT_CHUNK as u64).read_to_end(&mut data).await?;
                sent += data.len() as u64;
                // An empty file is one empty chunk.
                let last = data.len() < ARTIFACT_CHUNK;
                let chunk = wire::ArtifactChunk { data, upload: upload.take() };
                if sender.send(chunk).await.is_err() || last {
                    return Ok::<_, std::io::Error>(());
                }
                progress(sent);
            }
        };
        // A slow link moves 64 KiB a second; at the end the coordinator moves the whole of it once more.
        let limit = CALL + Duration::from_secs(bytes >> 16);
        let chunks = ReceiverStream::new(chunks);
        let put = self.call(limit, |mut stub| async move { stub.put_artifact(chunks).await });
        let (read, reply) = tokio::join!(read, put);
        // What was not read was not sent: the coordinator cannot know.
        read.map_err(unreadable)?;
        let stored = Digest::parse(&reply?.sha256)?;
        if stored == digest {
            return Ok(());
        }
        let problem = format!("must be {digest}, which was uploaded, but is {stored}");
        Err(InvalidMessage::new("sha256", problem).into())
    }

    /// Downloads an artifact from a byte on, chunk by chunk, into `sink`. The caller verifies what arrived.
    pub(crate) async fn get_artifact(
        &self,
        digest: Digest,
        offset: u64,
        mut sink: impl FnMut(&[u8]) -> std::io::Result<()>,
    ) -> Result<(), CallError> {
        let request = wire::GetArtifactRequest { sha256: digest.to_string(), offset };
        let mut chunks = self.call(CALL, |mut stub| async move { stub.get_artifact(request).await }).await?;
        loop {
            let chunk = tokio::time::timeout(CHUNK, chunks.message()).await.map_err(|_| silent(CHUNK))??;
            let Some(chunk) = chunk else { return Ok(()) };
            sink(&chunk.data).map_err(|e| CallError::Local(e.to_string()))?;
        }
    }
}
