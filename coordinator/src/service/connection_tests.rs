#![allow(clippy::unwrap_used, clippy::expect_used)]
use tokio::io::{AsyncWriteExt as _, DuplexStream, duplex};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;

use super::*;

type Accepted = io::Result<(DuplexStream, SocketAddr)>;

/// A port on which peers appear, and the connections that come of it.
struct Port {
    incoming: mpsc::Sender<Accepted>,
    connections: Pin<Box<dyn Stream<Item = io::Result<Connection<DuplexStream>>> + Send>>,
}

impl Port {
    fn new() -> Self {
        let (incoming, accepted) = mpsc::channel(CONNECTIONS + 8);
        let connections = Box::pin(admit(ReceiverStream::new(accepted), &Access::default(), RefusalLog::new()));
        Self { incoming, connections }
    }

    /// A peer that says this.
    async fn peer(&self, says: &[u8]) -> DuplexStream {
        let (mut peer, here) = duplex(256);
        peer.write_all(says).await.unwrap();
        self.incoming.send(Ok((here, "192.0.2.1:5".parse().unwrap()))).await.unwrap();
        peer
    }

    async fn connection(&mut self) -> Connection<DuplexStream> {
        self.connections.next().await.unwrap().unwrap()
    }

    /// Waits for the peer's connection to be cut, and says after how many seconds it was. No connection comes.
    async fn cut(&mut self, mut peer: DuplexStream) -> u64 {
        let began = Instant::now();
        let mut rest = Vec::new();
        tokio::select! {
            _ = self.connections.next() => panic!("it is no connection"),
            read = peer.read_to_end(&mut rest) => assert_eq!(read.unwrap(), 0),
        }
        began.elapsed().as_secs()
    }
}

#[tokio::test(start_paused = true)]
async fn only_http2_comes_in_and_nothing_of_it_is_lost() {
    let mut port = Port::new();
    let silent = port.peer(b"").await;
    assert_eq!(port.cut(silent).await, 10);
    let half = port.peer(&PREFACE[..9]).await;
    assert_eq!(port.cut(half).await, 10);
    let garbage = port.peer(b"PRI * HTTP/1.1\r\n").await;
    assert_eq!(port.cut(garbage).await, 0);

    let _slow = port.peer(b"").await;
    let mut said = PREFACE.to_vec();
    said.extend(b"and frames");
    let _peer = port.peer(&said).await;
    let mut connection = port.connection().await;
    let mut heard = vec![0; said.len()];
    connection.read_exact(&mut heard).await.unwrap();
    assert_eq!(heard, said, "a slow peer holds up nobody");
}

#[tokio::test(start_paused = true)]
async fn errors_of_the_system_and_too_many_connections_end_nothing() {
    let mut port = Port::new();
    port.incoming.send(Err(io::Error::other("too many open files"))).await.unwrap();
    let mut held = Vec::new();
    for _ in 0..CONNECTIONS {
        let peer = port.peer(PREFACE).await;
        held.push((peer, port.connection().await));
    }
    let surplus = port.peer(PREFACE).await;
    assert_eq!(port.cut(surplus).await, 0);
    held.pop();
    let _next = port.peer(PREFACE).await;
    port.connection().await;
}

#[tokio::test(start_paused = true)]
async fn a_connection_lasts_once_a_call_was_let_in() {
    let mut port = Port::new();
    let (_idle, _busy) = (port.peer(PREFACE).await, port.peer(PREFACE).await);
    let (mut idle, mut busy) = (port.connection().await, port.connection().await);
    for connection in [&mut idle, &mut busy] {
        connection.read_exact(&mut [0; PREFACE.len()]).await.unwrap();
    }
    busy.connect_info().welcome();
    let began = Instant::now();
    assert_eq!(idle.read_u8().await.unwrap_err().kind(), io::ErrorKind::TimedOut);
    assert_eq!(began.elapsed().as_secs(), 30);
    assert!(timeout(Duration::from_secs(9999), busy.read_u8()).await.is_err(), "it stays open");
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_reads_nothing_is_cut_and_one_that_reads_slowly_is_not() {
    let mut port = Port::new();
    let (_deaf, mut slow) = (port.peer(PREFACE).await, port.peer(PREFACE).await);
    let (mut to_deaf, mut to_slow) = (port.connection().await, port.connection().await);
    let began = Instant::now();
    assert_eq!(to_deaf.write_all(&[0; 4096]).await.unwrap_err().kind(), io::ErrorKind::TimedOut);
    assert_eq!(began.elapsed().as_secs(), 30);
    let reads = async {
        for _ in 0..16 {
            tokio::time::sleep(UNREAD - Duration::from_secs(1)).await;
            slow.read_exact(&mut [0; 256]).await.unwrap();
        }
    };
    let (written, ()) = tokio::join!(to_slow.write_all(&[0; 4096]), reads);
    written.unwrap();
}
