//! A coordinator as its admins see it.

use influence_proto::{ClusterStatus, WorkerId};

use crate::client::{CallError, Client, ClientOptions, ConnectError, Credentials};

/// What people may ask of a running coordinator.
#[derive(Debug)]
pub struct Admin {
    client: Client,
}

/// An admin's call that failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AdminError {
    /// Nobody answers.
    #[error(
        "no coordinator answers at {address}: {reason}; start one with `influence coordinator`, or say where it is with --coordinator URL"
    )]
    Away {
        /// Where it was looked for.
        address: String,
        /// Why.
        reason: String,
    },
    /// It does not do it.
    #[error("the coordinator at {address} refuses: {reason}")]
    Refused {
        /// Where it is.
        address: String,
        /// Why.
        reason: String,
    },
}

impl Admin {
    /// An admin of the coordinator at one of these addresses. Call it inside a runtime.
    ///
    /// # Errors
    /// When an address or a credential cannot be used.
    pub fn new(coordinators: Vec<String>, credentials: Credentials) -> Result<Self, ConnectError> {
        Ok(Self { client: Client::new(ClientOptions { addresses: coordinators, credentials })? })
    }

    /// How the run and its workers stand.
    ///
    /// # Errors
    /// [`AdminError`]: nobody answers, or the credential does not suffice.
    pub async fn status(&self) -> Result<ClusterStatus, AdminError> {
        self.client.status().await.map_err(|e| self.failed(e))
    }

    /// Asks a worker, by its id or name, to hand back what it holds and leave.
    ///
    /// # Errors
    /// As [`Admin::status`]; when there is no such worker, or several.
    pub async fn drain_worker(&self, worker: String) -> Result<WorkerId, AdminError> {
        self.client.drain_worker(worker).await.map_err(|e| self.failed(e))
    }

    /// Lets nothing be handed out; what workers hold goes on.
    ///
    /// # Errors
    /// As [`Admin::status`].
    pub async fn pause(&self) -> Result<(), AdminError> {
        self.client.pause().await.map_err(|e| self.failed(e))
    }

    /// Lets work be handed out again.
    ///
    /// # Errors
    /// As [`Admin::status`].
    pub async fn resume(&self) -> Result<(), AdminError> {
        self.client.resume().await.map_err(|e| self.failed(e))
    }

    fn failed(&self, error: CallError) -> AdminError {
        let address = self.client.address().to_owned();
        match error {
            CallError::Away(reason) => AdminError::Away { address, reason },
            CallError::Fenced(reason) | CallError::Unknown(reason) | CallError::Refused(reason) => {
                AdminError::Refused { address, reason }
            }
            other => AdminError::Refused { address, reason: other.to_string() },
        }
    }
}
