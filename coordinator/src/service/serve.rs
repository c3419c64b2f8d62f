//! Listening, serving and stopping.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use futures::{Stream, stream};
use influence_proto::MAX_MESSAGE;
use influence_proto::wire::admin_server::AdminServer;
use influence_proto::wire::coordinator_server::CoordinatorServer;
use rustix::process::{Resource, getrlimit, setrlimit};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;

use super::calls::Service;
use super::connections::{CONNECTIONS, admit};
use super::guard::Guard;
use crate::access::{Access, Exposed, RefusalLog, Role};

/// A connection on which nothing comes back is asked for a sign of life this often.
const KEEP_ALIVE: Duration = Duration::from_secs(10);
/// How long connections have to end by themselves once serving is to stop.
const STOP: Duration = Duration::from_secs(5);

/// Calls at once on one connection; more wait at their caller.
const CALLS: u32 = 256;
/// The names and values of one call's headers, in bytes.
const HEADERS: u32 = 16 << 10;
/// Files that a coordinator opens besides its connections.
const OTHER_FILES: u64 = 256;

/// Why the coordinator cannot listen.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// Others could reach it, and the credentials do not suffice for that.
    #[error(transparent)]
    Exposed(#[from] Exposed),
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
    pub(crate) async fn bind(address: SocketAddr, access: &Access) -> Result<Self, ListenError> {
        access.permits(address)?;
        let refused = |source: io::Error| match source.kind() {
            io::ErrorKind::AddrInUse => ListenError::InUse { address },
            _ => ListenError::Io { address, source },
        };
        let listener = TcpListener::bind(address).await.map_err(refused)?;
        let address = listener.local_addr().map_err(refused)?;
        make_room();
        Ok(Self { listener, address })
    }

    /// The connections as they come.
    pub(crate) fn incoming(self) -> impl Stream<Item = io::Result<(TcpStream, SocketAddr)>> + Send + 'static {
        stream::unfold(self.listener, |listener| async move {
            let accepted = listener.accept().await;
            if let Ok((socket, _)) = &accepted
                && let Err(error) = socket.set_nodelay(true)
            {
                tracing::debug!(%error, "a connection waits to send little");
            }
            Some((accepted, listener))
        })
    }
}

/// Lets this process open as many files as there may be connections, if the system allows it: many systems begin
/// with 1024, which is less than a large cluster's connections.
fn make_room() {
    let wanted = CONNECTIONS as u64 + OTHER_FILES;
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current.is_none_or(|current| current >= wanted) {
        return;
    }
    limit.current = Some(limit.maximum.map_or(wanted, |most| most.min(wanted)));
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::warn!(%error, "the limit of open files cannot be raised");
    }
}

/// Serves until the service's `stop` is cancelled, then gives open calls a few seconds to end.
pub(crate) async fn serve<IO>(
    incoming: impl Stream<Item = io::Result<(IO, SocketAddr)>> + Send + 'static,
    service: Service,
    access: Access,
) where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (stop, readers) = (service.stop.clone(), service.readers.clone());
    let log = RefusalLog::new();
    let admin = AdminServer::new(service.clone());
    let workers =
        CoordinatorServer::new(service).max_decoding_message_size(MAX_MESSAGE).max_encoding_message_size(MAX_MESSAGE);
    let stopped = CancellationToken::clone(&stop);
    let serving = Server::builder()
        .http2_keepalive_interval(Some(KEEP_ALIVE))
        .http2_keepalive_timeout(Some(KEEP_ALIVE))
        .http2_max_header_list_size(HEADERS)
        .max_concurrent_streams(CALLS)
        .add_service(Guard::new(workers, Role::Worker, access.clone(), log.clone()))
        .add_service(Guard::new(admin, Role::Admin, access.clone(), log.clone()))
        .serve_with_incoming_shutdown(admit(incoming, &access, log), async move { stopped.cancelled().await });
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
    async fn addresses_that_others_can_reach_are_refused_without_credentials() {
        let refused =
            Listener::bind("0.0.0.0:50051".parse().unwrap(), &Access::default()).await.unwrap_err().to_string();
        for part in ["0.0.0.0:50051", "--tokens", "--listen 127.0.0.1:50051"] {
            assert!(refused.contains(part), "{part} is missing in: {refused}");
        }
    }

    #[tokio::test]
    async fn a_port_in_use_is_named_with_the_way_out() {
        let first = Listener::bind("127.0.0.1:0".parse().unwrap(), &Access::default()).await.unwrap();
        let port = first.address.port();
        let refused = Listener::bind(first.address, &Access::default()).await.unwrap_err().to_string();
        for part in [format!("port {port}").as_str(), "--listen", "in use"] {
            assert!(refused.contains(part), "{part} is missing in: {refused}");
        }
    }
}
