//! Listening, serving and stopping.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use futures::Stream;
use influence_proto::MAX_MESSAGE;
use influence_proto::wire::admin_server::AdminServer;
use influence_proto::wire::coordinator_server::CoordinatorServer;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;
use tonic::transport::server::{Connected, TcpIncoming};

use super::calls::Service;

/// A connection on which nothing comes back is asked for a sign of life this often.
const KEEP_ALIVE: Duration = Duration::from_secs(10);
/// How long connections have to end by themselves once serving is to stop.
const STOP: Duration = Duration::from_secs(5);

/// Why the coordinator cannot listen.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// Workers are not authenticated yet, so nobody else may reach the port.
    #[error("the coordinator listens on this machine only, but {address} is reachable from elsewhere; give a loopback address, as in --listen 127.0.0.1:{port}", port = address.port())]
    NotLoopback {
        /// The address given.
        address: SocketAddr,
    },
    /// Another process listens there.
    #[error("port {} of {} is in use by another process; give another one with --listen {}:PORT (0 takes any free one), or end that process", address.port(), address.ip(), address.ip())]
    InUse {
        /// The address given.
        address: SocketAddr,
    },
    /// The system refuses.
    #[error("cannot listen on {address}: {source}; give another address with --listen ADDRESS:PORT")]
    Io {
        /// The address given.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
}

/// A bound port.
#[derive(Debug)]
pub(crate) struct Listener {
    listener: TcpListener,
    /// Where workers find it; its port is the real one.
    pub(crate) address: SocketAddr,
}

impl Listener {
    pub(crate) async fn bind(address: SocketAddr) -> Result<Self, ListenError> {
        if !address.ip().is_loopback() {
            return Err(ListenError::NotLoopback { address });
        }
        let refused = |source: io::Error| match source.kind() {
            io::ErrorKind::AddrInUse => ListenError::InUse { address },
            _ => ListenError::Io { address, source },
        };
        let listener = TcpListener::bind(address).await.map_err(refused)?;
        let address = listener.local_addr().map_err(refused)?;
        Ok(Self { listener, address })
    }
}

impl Listener {
    /// The connections that come in.
    pub(crate) fn incoming(self) -> TcpIncoming {
        TcpIncoming::from(self.listener).with_nodelay(Some(true))
    }
}

/// Serves until the service's `stop` is cancelled, then gives open calls a few seconds to end.
pub(crate) async fn serve<I, IO>(incoming: I, service: Service)
where
    I: Stream<Item = io::Result<IO>> + Send + 'static,
    IO: AsyncRead + AsyncWrite + Connected + Unpin + Send + 'static,
{
    let (stop, readers) = (service.stop.clone(), service.readers.clone());
    let admin = AdminServer::new(service.clone());
    let server =
        CoordinatorServer::new(service).max_decoding_message_size(MAX_MESSAGE).max_encoding_message_size(MAX_MESSAGE);
    let stopped = CancellationToken::clone(&stop);
    let serving = Server::builder()
        .http2_keepalive_interval(Some(KEEP_ALIVE))
        .http2_keepalive_timeout(Some(KEEP_ALIVE))
        .add_service(server)
        .add_service(admin)
        .serve_with_incoming_shutdown(incoming, async move { stopped.cancelled().await });
    let overdue = async {
        stop.cancelled().await;
        tokio::time::sleep(STOP).await;
    };
    tokio::select! {
        result = serving => {
            if let Err(error) = result {
                tracing::error!(%error, "serving ended");
            }
        }
        () = overdue => tracing::warn!("connections that did not end by themselves were cut"),
    }
    readers.close();
    readers.wait().await;
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    #[tokio::test]
    async fn addresses_that_others_can_reach_are_refused_with_the_flag() {
        let refused = Listener::bind("0.0.0.0:50051".parse().unwrap()).await.unwrap_err().to_string();
        for part in ["0.0.0.0:50051", "--listen 127.0.0.1:50051"] {
            assert!(refused.contains(part), "{part} is missing in: {refused}");
        }
    }

    #[tokio::test]
    async fn a_port_in_use_is_named_with_the_way_out() {
        let first = Listener::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let port = first.address.port();
        let refused = Listener::bind(first.address).await.unwrap_err().to_string();
        for part in [format!("port {port}").as_str(), "--listen", "in use"] {
            assert!(refused.contains(part), "{part} is missing in: {refused}");
        }
    }
}
