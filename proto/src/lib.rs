//! The wire contract of the cluster and the validated types that cross it.
//!
//! The `.proto` files say what goes over gRPC; [`wire`] is their generated code. Nothing outside this
//! crate keeps a wire type: `TryFrom` turns it into a domain type that cannot hold an invalid value,
//! or into an [`InvalidMessage`] that names the field. [`prompts`] computes what each role of a
//! conversation sees, so that worker and dashboard agree without storing it; [`transition`] draws where a reply leads;
//! [`stream`] derives every random seed.

mod calls;
mod cluster;
mod convert;
mod episode;
mod error;
mod ids;
mod metric;
mod model;
pub mod prompts;
pub mod stream;
mod token;
mod trace;
mod training;
pub mod transition;
mod work;

pub use calls::{Ask, ModelAnswer, ModelCall, Said};
pub use cluster::{ClusterStatus, Standing, WorkerLoad, WorkerStanding};
pub use convert::api::{is_api_url, is_key_variable};
pub use episode::{
    ALTERNATIVE_ENTRY, AgentReply, AssessorRole, BestOf, Call, Choice, EnvironmentReply, EpisodeSpec, GeneratorRole,
    Message, Role, Sampling, Score, ScoreMethod, ScoreOutcome, Scoring, Speaker, State, StateMachine,
    TransitionOutcome, Turn,
};
pub use error::InvalidMessage;
pub use ids::{Digest, EpisodeId, RunId, WorkId, WorkerId};
pub use metric::{Metric, MetricKind};
pub use model::{
    ApiLimits, ApiModel, ApiPrice, ApiProtocol, ApiScores, LoadedModel, ModelSource, ModelSpec, PushedFile,
};
pub use token::{BEARER, InvalidToken, Token};
pub use trace::{TRACEPARENT, TraceParent};
pub use training::{
    AdapterRef, Algorithm, FineTuningSpec, LoraSpec, OptimiserSpec, RowMessage, Schedule, StepLoss, TokenRow,
    TrainedAgent, TrainingBackend, TrainingReport, TrainingRow, TrainingSpec,
};
pub use work::{Failure, HeldLease, Join, Joined, Lease, Outcome, TrainingProgress, Work};

/// Generated code: messages, the client and the server. Converted at the edge, never passed on.
#[allow(clippy::all, reason = "generated")]
pub mod wire {
    tonic::include_proto!("influence.v1");
}

/// The protocol versions that this build speaks, lowest and highest.
pub const PROTOCOL: std::ops::RangeInclusive<u32> = 6..=6;

/// The largest gRPC message either side sends or accepts, in bytes. A turn of a long conversation
/// with its token ids is well under 1 MiB; artifacts travel in chunks of [`ARTIFACT_CHUNK`].
pub const MAX_MESSAGE: usize = 16 << 20;

/// Bytes in one chunk of an artifact's stream.
pub const ARTIFACT_CHUNK: usize = 1 << 20;
