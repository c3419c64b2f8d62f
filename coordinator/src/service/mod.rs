//! The gRPC side of the coordinator: decode, call, encode. It decides nothing.
//!
//! Statuses are a closed list, made in [`status`] and, for credentials, in [`crate::access`] alone:
//!
//! | code | meaning | what the worker does |
//! |---|---|---|
//! | `INVALID_ARGUMENT` | the message is invalid, or contradicts what is stored | reports a failure |
//! | `FAILED_PRECONDITION` | the attempt is fenced off or the work is over; of a handshake: the protocols do not overlap; of a session: the worker's model is not the run's | drops the work; leaves |
//! | `ABORTED` | the worker is not known here | joins (again) |
//! | `UNAUTHENTICATED` | the call shows no credential that is known here | leaves, and says so |
//! | `PERMISSION_DENIED` | the credential is another role's | leaves, and says so |
//! | `NOT_FOUND` | there is no such artifact; of an administrator's call: no such worker | reports a failure |
//! | `UNAVAILABLE` | the store, the disk or the coordinator is away; another upload of the artifact goes on | tries again |
//! | `DATA_LOSS` | an artifact, or an upload, is damaged | reports a failure; uploads once more from the first byte |
//! | `OUT_OF_RANGE` | the message is larger than messages may be | reports a failure |
//! | `INTERNAL` | the store cannot be used any more; the run ends | tries again until it is told goodbye |

mod admin;
mod artifacts;
mod calls;
mod connections;
mod guard;
mod models;
mod serve;
mod session;
mod status;

pub(crate) use calls::Service;
pub use serve::ListenError;
pub(crate) use serve::{Listener, serve};
