//! A training job that is done at once: its dataset is read, two small files are its adapter.

use influence_proto::{Digest, wire};
use tonic::Status;

use super::worker::Client;

pub(super) async fn train(mut client: Client, job: wire::TrainingWork) -> Result<wire::TrainingDone, Status> {
    let request = wire::GetArtifactRequest { sha256: job.dataset_sha256.clone(), offset: 0 };
    let mut chunks = client.get_artifact(request).await?.into_inner();
    let mut rows = 0;
    while let Some(chunk) = chunks.message().await? {
        rows += chunk.data.iter().filter(|byte| **byte == b'\n').count();
    }
    let config_sha256 = upload(&mut client, b"{\"r\": 16}".to_vec()).await?;
    let weights_sha256 = upload(&mut client, format!("trained on {}", job.dataset_sha256).into_bytes()).await?;
    Ok(wire::TrainingDone {
        agent: Some(wire::training_done::Agent::Adapter(wire::Adapter { config_sha256, weights_sha256 })),
        steps: 1,
        rows: rows as u32,
        dropped_rows: 0,
        tokens: 1,
        first_loss: Some(2.0),
        last_loss: Some(1.0),
        losses: Vec::new(),
        nanodollars: 0,
    })
}

async fn upload(client: &mut Client, data: Vec<u8>) -> Result<String, Status> {
    let sha256 = Digest::of(&data).to_string();
    let upload = Some(wire::Upload { sha256: sha256.clone(), offset: 0, bytes: data.len() as u64 });
    client.put_artifact(tokio_stream::iter([wire::ArtifactChunk { data, upload }])).await?;
    Ok(sha256)
}
