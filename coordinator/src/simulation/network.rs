//! gRPC over the simulated network.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::time::Duration;

use futures::Stream;
use hyper_util::rt::TokioIo;
use influence_proto::MAX_MESSAGE;
use influence_proto::wire::coordinator_client::CoordinatorClient;
use tonic::transport::{Channel, Endpoint, Uri};
use turmoil::net::{TcpListener, TcpStream};

pub(super) const PORT: u16 = 50051;

/// The connections that come in at this host.
pub(super) async fn incoming() -> impl Stream<Item = io::Result<(TcpStream, SocketAddr)>> + Send + 'static {
    let listener = TcpListener::bind(("0.0.0.0", PORT)).await.unwrap();
    futures::stream::unfold(listener, |listener| async move { Some((listener.accept().await, listener)) })
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
