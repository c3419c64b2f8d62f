//! Connections, from the socket to the first byte of HTTP/2: their number, their handshakes and their silence are
//! bounded, and whoever does not keep to it is named in the log.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures::{Stream, StreamExt as _, stream};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio::time::{Sleep, sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tonic::transport::server::Connected;

use crate::access::{Access, RefusalLog};

/// Open connections. A worker has two; this is room for 2,000 of them.
pub(super) const CONNECTIONS: usize = 4096;
/// From the connection to the first 24 bytes of HTTP/2, TLS included.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// From there to the first call that the caller may make. Workers call at once.
const FIRST_CALL: Duration = Duration::from_secs(30);
/// How long a peer may leave everything that it is sent unread.
const UNREAD: Duration = Duration::from_secs(30);
/// Before the next try, after the system could not accept a connection.
const ACCEPT_AGAIN: Duration = Duration::from_millis(50);

/// What every HTTP/2 connection begins with (RFC 9113, section 3.4).
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Who is at the other end; an extension of each of its requests.
#[derive(Debug, Clone)]
pub(super) struct Peer {
    pub(super) address: SocketAddr,
    /// It has shown a certificate, and the handshake has verified it.
    pub(super) certificate: bool,
    welcome: Arc<AtomicBool>,
}

impl Peer {
    pub(super) fn new(address: SocketAddr, certificate: bool) -> Self {
        Self { address, certificate, welcome: Arc::default() }
    }

    /// It may make a call: its connection may last.
    pub(super) fn welcome(&self) {
        self.welcome.store(true, Ordering::Relaxed);
    }

    fn is_welcome(&self) -> bool {
        self.welcome.load(Ordering::Relaxed)
    }
}

/// The connections of `incoming` that speak HTTP/2, over TLS where `access` says so. Handshakes go on side by side and
/// end with the stream.
pub(super) fn admit<IO, Incoming>(
    incoming: Incoming,
    access: &Access,
    log: RefusalLog,
) -> impl Stream<Item = io::Result<Connection<IO>>> + Send + use<IO, Incoming>
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    Incoming: Stream<Item = io::Result<(IO, SocketAddr)>> + Send + 'static,
{
    let door =
        Door { tls: access.tls().cloned().map(TlsAcceptor::from), log, room: Arc::new(Semaphore::new(CONNECTIONS)) };
    let state = (incoming.boxed(), JoinSet::new(), door);
    stream::unfold(state, |(mut incoming, mut handshakes, door)| async move {
        loop {
            tokio::select! {
                biased;
                Some(opened) = handshakes.join_next() => if let Ok(Some(connection)) = opened {
                    return Some((Ok(connection), (incoming, handshakes, door)));
                },
                Some(accepted) = incoming.next() => match accepted {
                    Ok((io, address)) => match door.room.clone().try_acquire_owned() {
                        Ok(place) => {
                            handshakes.spawn(door.clone().open(io, address, place));
                        }
                        Err(_) => door.log.refused(address, format_args!("{CONNECTIONS} connections are open already")),
                    },
                    Err(error) => {
                        door.log.not_accepted(&error);
                        sleep(ACCEPT_AGAIN).await;
                    }
                },
                else => return None,
            }
        }
    })
}

#[derive(Clone)]
struct Door {
    tls: Option<TlsAcceptor>,
    log: RefusalLog,
    room: Arc<Semaphore>,
}

/// Why nothing came of a connection.
enum Unopened {
    /// It was closed without a word, as by a probe of the port.
    Silent,
    Refused(String),
}

impl Door {
    async fn open<IO>(self, io: IO, address: SocketAddr, place: OwnedSemaphorePermit) -> Option<Connection<IO>>
    where
        IO: AsyncRead + AsyncWrite + Unpin + Send,
    {
        let opened = timeout(HANDSHAKE, self.handshake(io)).await.unwrap_or_else(|_| {
            let waited = HANDSHAKE.as_secs();
            Err(Unopened::Refused(format!("it did not begin to speak HTTP/2 within {waited} s")))
        });
        match opened {
            Ok(wire) => {
                let certificate = match &wire {
                    Wire::Plain(_) => false,
                    Wire::Tls(tls) => tls.get_ref().1.peer_certificates().is_some(),
                };
                let peer = Peer::new(address, certificate);
                Some(Connection::new(wire, peer, self.log, place))
            }
            Err(Unopened::Silent) => None,
            Err(Unopened::Refused(reason)) => {
                self.log.refused(address, reason);
                None
            }
        }
    }

    async fn handshake<IO>(&self, io: IO) -> Result<Wire<IO>, Unopened>
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        let mut wire = match &self.tls {
            None => Wire::Plain(io),
            Some(tls) => match tls.accept(io).await {
                Ok(stream) => Wire::Tls(Box::new(stream)),
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Err(Unopened::Silent),
                Err(error) => return Err(Unopened::Refused(format!("the TLS handshake failed: {error}"))),
            },
        };
        let mut said = [0; PREFACE.len()];
        let mut length = 0;
        while length < said.len() {
            let read = wire.read(&mut said[length..]).await;
            let read = read.map_err(|error| Unopened::Refused(format!("the connection broke: {error}")))?;
            if read == 0 {
                return Err(if length == 0 { Unopened::Silent } else { Unopened::Refused("it hung up".to_owned()) });
            }
            length += read;
            if said[..length] != PREFACE[..length] {
                // The first byte of a TLS handshake.
                let tls = matches!((&wire, said[0]), (Wire::Plain(_), 0x16));
                let hint = if tls { " but TLS, and this port has none (http://, not https://)" } else { "" };
                return Err(Unopened::Refused(format!("it does not speak HTTP/2{hint}")));
            }
        }
        Ok(wire)
    }
}

/// The bytes of a connection.
#[derive(Debug)]
enum Wire<IO> {
    Plain(IO),
    Tls(Box<TlsStream<IO>>),
}

/// A connection that speaks HTTP/2. It ends itself when its peer makes no call that it may make, or reads nothing.
#[derive(Debug)]
pub(super) struct Connection<IO> {
    wire: Wire<IO>,
    /// What is left of the preface, which the handshake has read.
    preface: &'static [u8],
    peer: Peer,
    log: RefusalLog,
    first_call: Option<Pin<Box<Sleep>>>,
    unread: Option<Pin<Box<Sleep>>>,
    _place: OwnedSemaphorePermit,
}

impl<IO> Connection<IO> {
    fn new(wire: Wire<IO>, peer: Peer, log: RefusalLog, place: OwnedSemaphorePermit) -> Self {
        let first_call = Some(Box::pin(sleep(FIRST_CALL)));
        Self { wire, preface: PREFACE, peer, log, first_call, unread: None, _place: place }
    }

    /// Ends the connection of a peer that has had long enough for a first call.
    fn check_first_call(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        let Some(deadline) = &mut self.first_call else { return Ok(()) };
        if self.peer.is_welcome() {
            self.first_call = None;
            return Ok(());
        }
        if deadline.as_mut().poll(cx).is_pending() {
            return Ok(());
        }
        Err(self.end(format!("it made no call that it may make within {} s", FIRST_CALL.as_secs())))
    }

    /// Ends the connection of a peer that leaves unread what it is sent: `written` is pending for too long.
    fn check_unread<T>(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.unread = None;
            return written;
        }
        ready!(self.unread.get_or_insert_with(|| Box::pin(sleep(UNREAD))).as_mut().poll(cx));
        Poll::Ready(Err(self.end(format!("it read nothing for {} s", UNREAD.as_secs()))))
    }

    fn end(&self, reason: String) -> io::Error {
        self.log.refused(self.peer.address, &reason);
        io::Error::new(io::ErrorKind::TimedOut, reason)
    }
}

impl<IO> Connected for Connection<IO> {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> AsyncRead for Connection<IO> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.preface.is_empty() {
            let (now, later) = this.preface.split_at(this.preface.len().min(buffer.remaining()));
            buffer.put_slice(now);
            this.preface = later;
            return Poll::Ready(Ok(()));
        }
        this.check_first_call(cx)?;
        Pin::new(&mut this.wire).poll_read(cx, buffer)
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Connection<IO> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.wire).poll_write(cx, bytes);
        this.check_unread(cx, written)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let flushed = Pin::new(&mut this.wire).poll_flush(cx);
        this.check_unread(cx, flushed)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let shut = Pin::new(&mut this.wire).poll_shutdown(cx);
        this.check_unread(cx, shut)
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> AsyncRead for Wire<IO> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(io) => Pin::new(io).poll_read(cx, buffer),
            Self::Tls(io) => Pin::new(io).poll_read(cx, buffer),
        }
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Wire<IO> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(io) => Pin::new(io).poll_write(cx, bytes),
            Self::Tls(io) => Pin::new(io).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(io) => Pin::new(io).poll_flush(cx),
            Self::Tls(io) => Pin::new(io).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(io) => Pin::new(io).poll_shutdown(cx),
            Self::Tls(io) => Pin::new(io).poll_shutdown(cx),
        }
    }
}

#[cfg(test)]
#[path = "connection_tests.rs"]
mod tests;
