//! Connections: they have places, and an end when nothing moves on them.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::serve::Listener;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, Sleep, sleep};

/// Open connections; more wait.
const PLACES: usize = 512;
/// A connection on which nothing was read or written for so long is closed: its client is gone, or takes nothing. Streams of
/// events show more often that they live.
const IDLE: Duration = Duration::from_secs(60);
/// Before the next try, after the system could not accept a connection.
const AGAIN: Duration = Duration::from_millis(100);

/// A port that lets so many in.
#[derive(Debug)]
pub(super) struct Door {
    listener: TcpListener,
    room: Arc<Semaphore>,
    idle: Duration,
}

impl Door {
    pub(super) fn new(listener: TcpListener) -> Self {
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
                    let idle = Box::pin(sleep(self.idle));
                    return (Connection { io, limit: self.idle, idle, _place: place }, address);
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

/// One of them.
#[derive(Debug)]
pub(super) struct Connection {
    io: TcpStream,
    limit: Duration,
    idle: Pin<Box<Sleep>>,
    _place: OwnedSemaphorePermit,
}

impl Connection {
    /// Ends the connection when nothing has moved for too long.
    fn moved<T>(&mut self, cx: &mut Context<'_>, done: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if done.is_ready() {
            self.idle.as_mut().reset(Instant::now() + self.limit);
            return done;
        }
        self.idle.as_mut().poll(cx).map(|()| Err(io::ErrorKind::TimedOut.into()))
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
        this.moved(cx, done)
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
        let flood = async { while held.write_all(&[0; 1 << 16]).await.is_ok() {} };
        tokio::time::timeout(Duration::from_secs(20), flood).await.expect("what nobody takes is not written for ever");
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
