//! Connections: they have places, and an end when nothing moves on them.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::extract::connect_info::Connected;
use axum::serve::{IncomingStream, Listener};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, Sleep, sleep};

/// Open connections; more wait.
const PLACES: usize = 512;
/// A connection on which nothing was read or written for so long is closed: its client is gone, or takes nothing. Streams of
/// events show more often that they live; what takes longer to answer says so by its [`Busy`].
const IDLE: Duration = Duration::from_secs(60);
/// Before the next try, after the system could not accept a connection.
const AGAIN: Duration = Duration::from_millis(100);

/// A port that lets so many in.
#[derive(Debug)]
pub struct Door {
    listener: TcpListener,
    room: Arc<Semaphore>,
    idle: Duration,
}

impl Door {
    /// Before the connections of a listener.
    pub fn new(listener: TcpListener) -> Self {
        Self { listener, room: Arc::new(Semaphore::new(PLACES)), idle: IDLE }
    }
}

impl Listener for Door {
    type Io = Connection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Connection, SocketAddr) {
        loop {
            let place = self.room.clone().acquire_owned().await;
            match (self.listener.accept().await, place) {
                (Ok((io, address)), Ok(place)) => {
                    // Pieces of an answer are small, and are wanted at once.
                    let _ = io.set_nodelay(true);
                    let idle = Box::pin(sleep(self.idle));
                    let busy = Busy::default();
                    return (Connection { io, limit: self.idle, idle, busy, stuck: None, _place: place }, address);
                }
                (Err(error), _) => {
                    tracing::debug!(%error, "a connection could not be accepted");
                    sleep(AGAIN).await;
                }
                // The semaphore is never closed.
                (_, Err(_)) => sleep(AGAIN).await,
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// How many requests of a connection are being answered: while it is not 0, nothing need move. Handlers find it in their
/// request's `ConnectInfo`.
#[derive(Debug, Clone, Default)]
pub struct Busy(Arc<AtomicUsize>);

impl Busy {
    /// A request is being answered until this is dropped.
    pub fn begin(&self) -> Answering {
        self.0.fetch_add(1, Ordering::AcqRel);
        Answering(self.clone())
    }

    fn is(&self) -> bool {
        self.0.load(Ordering::Acquire) > 0
    }
}

impl Connected<IncomingStream<'_, Door>> for Busy {
    fn connect_info(stream: IncomingStream<'_, Door>) -> Self {
        stream.io().busy.clone()
    }
}

/// One request that is being answered.
#[derive(Debug)]
pub struct Answering(Busy);

impl Drop for Answering {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// One of them.
#[derive(Debug)]
pub struct Connection {
    io: TcpStream,
    limit: Duration,
    idle: Pin<Box<Sleep>>,
    busy: Busy,
    /// Runs while something could not be written.
    stuck: Option<Pin<Box<Sleep>>>,
    _place: OwnedSemaphorePermit,
}

impl Connection {
    /// Ends the connection when nothing has moved for too long.
    fn moved<T>(&mut self, cx: &mut Context<'_>, done: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if done.is_ready() {
            self.idle.as_mut().reset(Instant::now() + self.limit);
            return done;
        }
        while self.idle.as_mut().poll(cx).is_ready() {
            if !self.busy.is() {
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
            self.idle.as_mut().reset(Instant::now() + self.limit);
        }
        Poll::Pending
    }
}

impl AsyncRead for Connection {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let done = Pin::new(&mut this.io).poll_read(cx, buffer);
        this.moved(cx, done)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let done = Pin::new(&mut this.io).poll_write(cx, bytes);
        if done.is_ready() {
            this.stuck = None;
            return this.moved(cx, done);
        }
        // However long an answer takes: what there is of it must be taken.
        let limit = this.limit;
        let stuck = this.stuck.get_or_insert_with(|| Box::pin(sleep(limit)));
        stuck.as_mut().poll(cx).map(|()| Err(io::ErrorKind::TimedOut.into()))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    async fn door(idle: Duration) -> Door {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Door { listener, room: Arc::new(Semaphore::new(1)), idle }
    }

    /// Protects: a client that says nothing, or takes nothing, is let go and gives its place to the next one.
    #[tokio::test]
    async fn a_client_that_stands_still_loses_its_place() {
        let mut door = door(Duration::from_millis(200)).await;
        let address = door.local_addr().unwrap();
        let _silent = TcpStream::connect(address).await.unwrap();
        let (mut held, _) = door.accept().await;
        assert_eq!(held.read_u8().await.unwrap_err().kind(), io::ErrorKind::TimedOut);
        drop(held);
        let _deaf = TcpStream::connect(address).await.unwrap();
        let (mut held, _) = door.accept().await;
        let _answering = held.busy.begin();
        let flood = async { while held.write_all(&[0; 1 << 16]).await.is_ok() {} };
        tokio::time::timeout(Duration::from_secs(20), flood).await.expect("what nobody takes is not written for ever");
    }

    /// Protects: who waits for a long answer is not let go, and is as soon as it has come and nothing follows.
    #[tokio::test]
    async fn a_client_that_waits_for_an_answer_stays() {
        let mut door = door(Duration::from_millis(100)).await;
        let _waiting = TcpStream::connect(door.local_addr().unwrap()).await.unwrap();
        let (mut held, _) = door.accept().await;
        let answering = held.busy.begin();
        assert!(tokio::time::timeout(Duration::from_millis(500), held.read_u8()).await.is_err());
        drop(answering);
        assert_eq!(held.read_u8().await.unwrap_err().kind(), io::ErrorKind::TimedOut);
    }

    /// Protects: one that goes on, however slowly, stays.
    #[tokio::test]
    async fn a_slow_client_stays() {
        let mut door = door(Duration::from_secs(2)).await;
        let mut slow = TcpStream::connect(door.local_addr().unwrap()).await.unwrap();
        let (mut held, _) = door.accept().await;
        for byte in 0..5 {
            sleep(Duration::from_millis(500)).await;
            slow.write_u8(byte).await.unwrap();
            assert_eq!(held.read_u8().await.unwrap(), byte);
        }
    }
}
