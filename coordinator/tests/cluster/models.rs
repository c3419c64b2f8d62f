//! Artifacts and models over the wire.

use influence_proto::wire::worker_event::Event;
use influence_proto::{Digest, LoadedModel, wire};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status};

use crate::door::Client;
use crate::setting::{Living, Setting};
use crate::worker::{client, join};

const CONTENT: &[u8] = b"0123456789abcdef";

fn chunk(data: &[u8], offset: Option<u64>) -> wire::ArtifactChunk {
    let (sha256, bytes) = (Digest::of(CONTENT).to_string(), CONTENT.len() as u64);
    let upload = offset.map(|offset| wire::Upload { sha256, offset, bytes });
    wire::ArtifactChunk { data: data.to_vec(), upload }
}

async fn stat(calls: &mut Client) -> (bool, u64) {
    let request = wire::StatArtifactRequest { sha256: Digest::of(CONTENT).to_string() };
    let reply = calls.stat_artifact(request).await.unwrap().into_inner();
    (reply.complete, reply.bytes)
}

async fn put(calls: &mut Client, chunks: Vec<wire::ArtifactChunk>) -> Result<String, Status> {
    Ok(calls.put_artifact(tokio_stream::iter(chunks)).await?.into_inner().sha256)
}

async fn until_spooled(calls: &mut Client, bytes: u64) {
    while stat(calls).await != (false, bytes) {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn an_upload_goes_on_where_it_broke_and_is_read_from_any_byte() {
    let setting = Setting::new();
    let living = Living::start(&setting, setting.experiment(&[])).await;
    let mut calls = client(living.address).await.unwrap();
    assert_eq!(stat(&mut calls).await, (false, 0));

    let (sender, receiver) = mpsc::channel(4);
    let mut first = client(living.address).await.unwrap();
    let uploading = tokio::spawn(async move { first.put_artifact(ReceiverStream::new(receiver)).await });
    sender.send(chunk(&CONTENT[..6], Some(0))).await.unwrap();
    until_spooled(&mut calls, 6).await;
    let busy = put(&mut calls, vec![chunk(&CONTENT[6..], Some(6))]).await.unwrap_err();
    assert_eq!(busy.code(), Code::Unavailable, "{busy}");

    // Its caller goes away, and may look like one that has said all.
    uploading.abort();
    drop(sender);
    let wrong = loop {
        let refused = put(&mut calls, vec![chunk(CONTENT, Some(0))]).await.unwrap_err();
        // The coordinator may not have noticed yet that the first one is gone.
        if refused.code() != Code::Unavailable {
            break refused;
        }
    };
    assert_eq!(wrong.code(), Code::InvalidArgument);
    assert!(wrong.message().contains("go on from 6"), "{wrong}");

    let whole = Digest::of(CONTENT).to_string();
    assert_eq!(put(&mut calls, vec![chunk(&CONTENT[6..9], Some(6)), chunk(&CONTENT[9..], None)]).await.unwrap(), whole);
    assert_eq!(stat(&mut calls).await, (true, CONTENT.len() as u64));
    assert_eq!(put(&mut calls, vec![chunk(b"", Some(0))]).await.unwrap(), whole, "it is here: nothing more is asked");
    for offset in [0, 5, CONTENT.len() as u64] {
        let request = wire::GetArtifactRequest { sha256: whole.clone(), offset };
        let mut chunks = calls.get_artifact(request).await.unwrap().into_inner();
        let mut got = Vec::new();
        while let Some(chunk) = chunks.message().await.unwrap() {
            got.extend(chunk.data);
        }
        assert_eq!(got, CONTENT[offset as usize..]);
    }
    let beyond = wire::GetArtifactRequest { sha256: whole, offset: 99 };
    assert_eq!(calls.get_artifact(beyond).await.unwrap_err().code(), Code::InvalidArgument);
}

#[tokio::test]
async fn uploads_that_say_nothing_or_something_else_are_refused() {
    let setting = Setting::new();
    let living = Living::start(&setting, setting.experiment(&[])).await;
    let mut calls = client(living.address).await.unwrap();
    for chunks in [vec![], vec![chunk(CONTENT, None)]] {
        let refused = put(&mut calls, chunks).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument);
        assert!(refused.message().contains("`upload`"), "{refused}");
    }
    let refused = put(&mut calls, vec![chunk(b"something else, as long", Some(0))]).await.unwrap_err();
    assert_eq!(refused.code(), Code::DataLoss, "{refused}");
    assert_eq!(stat(&mut calls).await, (false, 0), "nothing of it stays");
}

/// Joins, and opens a session with these models.
async fn hello(calls: &mut Client, name: &str, incarnation: u64, models: &[(&str, &str)]) -> Result<(), Status> {
    let reply = calls.join(wire::JoinRequest::from(join(name, incarnation))).await.unwrap().into_inner();
    open(calls, reply.worker_id, models).await
}

async fn open(calls: &mut Client, worker_id: String, models: &[(&str, &str)]) -> Result<(), Status> {
    let loaded = |(name, files): &(&str, &str)| LoadedModel { name: (*name).into(), sha256: Digest::of(files) };
    let models = models.iter().map(|model| loaded(model).into()).collect();
    let hello = wire::Hello { worker_id, models };
    let event = wire::WorkerEvent { event: Some(Event::Hello(hello)) };
    calls.session(tokio_stream::iter([event])).await.map(drop)
}

/// Protects: a worker that joined a run which is over when it opens its session is told to join again, whatever models it
/// has, and not that it is wrong.
#[tokio::test]
async fn a_worker_of_an_earlier_run_joins_again() {
    let setting = Setting::new();
    let living = Living::start(&setting, setting.experiment(&[])).await;
    let mut calls = client(living.address).await.unwrap();
    let refused = open(&mut calls, "of-another-run-1".to_owned(), &[("its-model", "x")]).await.unwrap_err();
    assert_eq!(refused.code(), Code::Aborted, "{refused}");
}

#[tokio::test]
async fn a_worker_with_other_files_than_the_first_is_refused_even_after_a_restart() {
    let setting = Setting::new();
    let living = Living::start(&setting, setting.experiment(&[])).await;
    let mut calls = client(living.address).await.unwrap();
    hello(&mut calls, "first", 1, &[("made-up", "these files")]).await.unwrap();
    hello(&mut calls, "same", 2, &[("made-up", "these files")]).await.unwrap();
    let unknown = hello(&mut calls, "odd", 3, &[("unheard-of", "x")]).await.unwrap_err();
    assert_eq!(unknown.code(), Code::InvalidArgument);
    assert!(unknown.message().contains("unheard-of"), "{unknown}");
    living.kill();

    let living = Living::start(&setting, setting.experiment(&[])).await;
    let mut calls = client(living.address).await.unwrap();
    let refused = hello(&mut calls, "other", 4, &[("made-up", "other files")]).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    for part in ["`made-up`", &Digest::of("these files").to_string(), &Digest::of("other files").to_string(), "--fresh"]
    {
        assert!(refused.message().contains(part), "{part} is missing in: {}", refused.message());
    }
    hello(&mut calls, "same", 5, &[("made-up", "these files")]).await.unwrap();
}
