//! The handshake.

use influence_proto::{Join, Joined, PROTOCOL};
use tokio_util::sync::CancellationToken;

use super::identity::draw_incarnation;
use super::{WorkerError, WorkerOptions, unless};
use crate::client::{CallError, Client};
use crate::outbox::Backoff;

const RELEASE: &str = env!("CARGO_PKG_VERSION");

/// How this worker introduces itself, the same every time.
#[derive(Debug)]
pub(super) struct Handshake {
    client: Client,
    join: Join,
}

impl Handshake {
    pub(super) fn new(client: Client, options: &WorkerOptions, can_train: bool) -> Self {
        let join = Join {
            protocol: (*PROTOCOL.start(), *PROTOCOL.end()),
            name: options.name.clone(),
            incarnation: draw_incarnation(),
            version: RELEASE.to_owned(),
            device: options.device.clone(),
            can_train,
        };
        Self { client, join }
    }

    pub(super) const fn incarnation(&self) -> u64 {
        self.join.incarnation
    }

    /// Joins, however long the coordinator is away. None when cancelled.
    pub(super) async fn join(&self, cancel: &CancellationToken) -> Result<Option<Joined>, WorkerError> {
        let mut backoff = Backoff::new(self.join.incarnation);
        let address = self.client.address();
        loop {
            let Some(reply) = unless(cancel, self.client.join(self.join.clone())).await else { return Ok(None) };
            match reply {
                Ok(joined) if PROTOCOL.contains(&joined.protocol) => {
                    tracing::info!(
                        coordinator = address, worker = %joined.worker, run = %joined.run, protocol = joined.protocol, "joined"
                    );
                    return Ok(Some(joined));
                }
                Ok(joined) => {
                    let (address, theirs) = (address.to_owned(), joined.protocol);
                    let (lowest, highest) = self.join.protocol;
                    return Err(WorkerError::Protocol { address, theirs, lowest, highest });
                }
                Err(error @ CallError::Away(_)) => {
                    if backoff.tries() == 0 {
                        tracing::warn!(coordinator = address, %error, "waiting for the coordinator");
                    }
                }
                Err(error) => return Err(self.refused(error)),
            }
            if unless(cancel, tokio::time::sleep(backoff.next())).await.is_none() {
                return Ok(None);
            }
        }
    }

    fn refused(&self, error: CallError) -> WorkerError {
        let address = self.client.address().to_owned();
        let reason = match error {
            CallError::Denied(reason) => return WorkerError::Denied { address, reason },
            CallError::Fenced(said) | CallError::Unknown(said) | CallError::Refused(said) => said,
            other => other.to_string(),
        };
        let (lowest, highest) = self.join.protocol;
        WorkerError::Refused { address, lowest, highest, release: RELEASE, reason }
    }
}
