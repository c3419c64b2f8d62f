//! Peers that send too much, too little or nonsense. A worker finishes its run meanwhile.

use std::net::SocketAddr;
use std::time::Duration;

use influence_proto::{Join, MAX_MESSAGE, wire};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tonic::{Code, Request};

use crate::door::{Door, WORKER, access};
use crate::log;
use crate::setting::{Living, Setting};
use crate::worker::{Session, Worker, join};

/// HTTP/2's first bytes, and empty settings.
const HELLO: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

async fn connect(address: SocketAddr, says: &[u8]) -> TcpStream {
    let mut peer = TcpStream::connect(address).await.unwrap();
    peer.write_all(says).await.unwrap();
    peer
}

/// Whether the other side has closed this connection by now.
async fn closed(peer: &mut TcpStream) -> bool {
    let mut rest = Vec::new();
    tokio::time::timeout(Duration::from_millis(1), peer.read_to_end(&mut rest)).await.is_ok()
}

#[tokio::test]
async fn a_thousand_idle_connections_and_a_deaf_worker_hold_up_nobody() {
    log::listen();
    let setting = Setting::new();
    let living = Living::guarded(&setting, setting.experiment(&[]), access(Some(WORKER), None, None)).await;
    let mut idle = Vec::new();
    for i in 0..1000 {
        // Half of them say nothing at all.
        idle.push(connect(living.address, if i % 2 == 0 { HELLO } else { b"" }).await);
    }
    let mut client = Door::with(WORKER).open(living.address).await.unwrap();
    // It takes three leases, reads none and renews none.
    let join = Join { can_train: false, ..join("deaf", 1) };
    let deaf = Session::open(&mut client, join, 3).await.unwrap();
    let worker = Worker::new(living.address, "well-behaved", 7).through(Door::with(WORKER));
    tokio::spawn(worker.work());
    let mut progress = living.progress.clone();
    let over = progress.wait_for(|p| matches!(p.phase, influence_coordinator::RunPhase::Done));
    let over = tokio::time::timeout(Duration::from_secs(20), over).await;
    over.unwrap_or_else(|_| panic!("the run does not end:\n{}", log::logged())).unwrap();
    drop(deaf);
    living.end().await.unwrap();
}

#[tokio::test]
async fn nonsense_is_cut_off_and_named_in_the_log() {
    log::listen();
    let setting = Setting::new();
    let living = Living::guarded(&setting, setting.experiment(&[]), access(Some(WORKER), None, None)).await;
    let worker = Worker::new(living.address, "well-behaved", 7).through(Door::with(WORKER));
    let worker = tokio::spawn(worker.work());

    for garbage in [&b"GET / HTTP/1.1\r\nhost: here\r\n\r\n"[..], &[0xff; 4096], b"\x16\x03\x01\x02\x00"] {
        let mut peer = connect(living.address, garbage).await;
        let port = peer.local_addr().unwrap();
        log::refusal(&[&port.to_string(), "it does not speak HTTP/2"]).await;
        // Closed, with an error where it had sent more than was read.
        let mut rest = Vec::new();
        let _ = tokio::time::timeout(Duration::from_secs(5), peer.read_to_end(&mut rest)).await.expect("it is closed");
        assert!(rest.is_empty());
    }

    let mut client = Door::with(WORKER).open(living.address).await.unwrap();
    let stat = || Request::new(wire::StatArtifactRequest { sha256: "0".repeat(64) });
    let mut headers = stat();
    headers.metadata_mut().insert("x-padding", "x".repeat(20 << 10).parse().unwrap());
    client.stat_artifact(headers).await.expect_err("the headers are larger than 16 KiB");
    client.stat_artifact(stat()).await.expect("the next call is served");

    let mut unbounded = client.clone().max_encoding_message_size(usize::MAX);
    let large = wire::StatArtifactRequest { sha256: "0".repeat(MAX_MESSAGE + 1) };
    let refused = unbounded.stat_artifact(large).await.unwrap_err();
    assert_eq!(refused.code(), Code::OutOfRange, "{refused}");
    log::refusal(&["message length too large"]).await;

    let mut flood = Vec::new();
    for _ in 0..100 {
        flood.push(connect(living.address, b"garbage").await);
    }
    for peer in &mut flood {
        while !closed(peer).await {}
    }
    let lines = log::logged().lines().filter(|line| line.contains("does not speak HTTP/2")).count();
    assert!(lines < 50, "{lines} lines for 103 refusals");
    living.end().await.unwrap();
    assert_eq!(worker.await.unwrap(), "the run is finished");
}
