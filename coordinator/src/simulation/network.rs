//! gRPC over the simulated network.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::Stream;
use hyper_util::rt::TokioIo;
use influence_proto::MAX_MESSAGE;
use influence_proto::wire::coordinator_client::CoordinatorClient;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tonic::transport::server::Connected;
use tonic::transport::{Channel, Endpoint, Uri};
use turmoil::net::{TcpListener, TcpStream};

pub(super) const PORT: u16 = 50051;

/// A simulated connection as tonic wants it.
#[derive(Debug)]
pub(super) struct Accepted(TcpStream);

impl Connected for Accepted {
    type ConnectInfo = Option<SocketAddr>;

    fn connect_info(&self) -> Self::ConnectInfo {
        self.0.peer_addr().ok()
    }
}

impl AsyncRead for Accepted {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Accepted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

/// The connections that come in at this host.
pub(super) async fn incoming() -> impl Stream<Item = io::Result<Accepted>> + Send + 'static {
    let listener = TcpListener::bind(("0.0.0.0", PORT)).await.unwrap();
    futures::stream::unfold(listener, |listener| async move {
        let accepted = listener.accept().await.map(|(stream, _)| Accepted(stream));
        Some((accepted, listener))
    })
}

/// A client of the coordinator on `host`; none if it does not answer.
pub(super) async fn connect(host: &str) -> Option<CoordinatorClient<Channel>> {
    let connector = tower::service_fn(|uri: Uri| -> Pin<Box<dyn Future<Output = io::Result<_>> + Send>> {
        Box::pin(async move {
            let host = uri.host().unwrap_or_default().to_owned();
            Ok(TokioIo::new(TcpStream::connect((host, PORT)).await?))
        })
    });
    let second = Duration::from_secs(1);
    let endpoint = Endpoint::from_shared(format!("http://{host}:{PORT}"))
        .unwrap()
        .http2_keep_alive_interval(second)
        .keep_alive_timeout(second)
        .keep_alive_while_idle(true);
    let channel = tokio::time::timeout(second, endpoint.connect_with_connector(connector)).await;
    Some(CoordinatorClient::new(channel.ok()?.ok()?).max_decoding_message_size(MAX_MESSAGE))
}
