use crate::wire;
use crate::{
    Digest, Failure, HeldLease, InvalidMessage, Join, Joined, Lease, LoadedModel, ModelSource, ModelSpec, Outcome,
    PushedFile, RunId, TraceParent, TrainingProgress, TrainingReport, Work, WorkId, WorkerId,
};

use super::{list, nested, positive, required};

impl From<Join> for wire::JoinRequest {
    fn from(join: Join) -> Self {
        Self {
            protocol_min: join.protocol.0,
            protocol_max: join.protocol.1,
            name: join.name,
            incarnation: join.incarnation,
            version: join.version,
            device: join.device,
            can_train: join.can_train,
        }
    }
}

impl From<wire::JoinRequest> for Join {
    fn from(request: wire::JoinRequest) -> Self {
        Self {
            protocol: (request.protocol_min, request.protocol_max),
            name: request.name,
            incarnation: request.incarnation,
            version: request.version,
            device: request.device,
            can_train: request.can_train,
        }
    }
}

impl From<Joined> for wire::JoinReply {
    fn from(joined: Joined) -> Self {
        Self {
            protocol: joined.protocol,
            worker_id: joined.worker.into(),
            run_id: joined.run.into(),
            models: joined.models.into_iter().map(Into::into).collect(),
            lease_ms: joined.lease_ms,
            renew_ms: joined.renew_ms,
        }
    }
}

impl TryFrom<wire::JoinReply> for Joined {
    type Error = InvalidMessage;
    fn try_from(reply: wire::JoinReply) -> Result<Self, InvalidMessage> {
        Ok(Self {
            protocol: reply.protocol,
            worker: WorkerId::new(reply.worker_id)?,
            run: RunId::new(reply.run_id)?,
            models: list(reply.models, "models")?,
            lease_ms: positive(reply.lease_ms, "lease_ms")?,
            renew_ms: positive(reply.renew_ms, "renew_ms")?,
        })
    }
}

impl From<ModelSpec> for wire::Model {
    fn from(model: ModelSpec) -> Self {
        let sources = model.sources.into_iter().map(|s| wire::ModelSource { source: Some(s.into()) }).collect();
        Self { name: model.name, dtype: model.dtype, kv_dtype: model.kv_dtype, sources }
    }
}

impl TryFrom<wire::Model> for ModelSpec {
    type Error = InvalidMessage;
    fn try_from(model: wire::Model) -> Result<Self, InvalidMessage> {
        if model.sources.is_empty() {
            return Err(InvalidMessage::new("sources", "is empty"));
        }
        let sources: Vec<ModelSource> = list(model.sources, "sources")?;
        let api = sources.iter().find_map(|source| match source {
            ModelSource::Api(api) => Some(api),
            _ => None,
        });
        match api {
            Some(api) if api.adapters && sources.len() < 2 => {
                return Err(InvalidMessage::new(
                    "sources",
                    "has an API that takes adapters, and no files to train them on",
                ));
            }
            Some(api) if !api.adapters && sources.len() > 1 => {
                return Err(InvalidMessage::new("sources", "has an API beside others"));
            }
            _ => {}
        }
        Ok(Self { name: model.name, dtype: model.dtype, kv_dtype: model.kv_dtype, sources })
    }
}

impl From<ModelSource> for wire::model_source::Source {
    fn from(source: ModelSource) -> Self {
        match source {
            ModelSource::Hub { repository, revision } => Self::Hub(wire::HubSource { repository, revision }),
            ModelSource::Wheel { package, version, file, sha256 } => {
                Self::Wheel(wire::WheelSource { package, version, file, sha256: sha256.into() })
            }
            ModelSource::Path { path, sha256 } => {
                Self::Path(wire::PathSource { path, sha256: sha256.map(String::from).unwrap_or_default() })
            }
            ModelSource::Pushed { files } => {
                Self::Pushed(wire::PushedSource { files: files.into_iter().map(Into::into).collect() })
            }
            ModelSource::Api(api) => Self::Api(api.into()),
        }
    }
}

impl TryFrom<wire::ModelSource> for ModelSource {
    type Error = InvalidMessage;
    fn try_from(source: wire::ModelSource) -> Result<Self, InvalidMessage> {
        use wire::model_source::Source;
        Ok(match required(source.source, "source")? {
            Source::Hub(hub) => Self::Hub { repository: hub.repository, revision: hub.revision },
            Source::Wheel(w) => {
                Self::Wheel { package: w.package, version: w.version, file: w.file, sha256: Digest::parse(&w.sha256)? }
            }
            Source::Path(p) => {
                let sha256 = (!p.sha256.is_empty()).then(|| Digest::parse(&p.sha256)).transpose()?;
                Self::Path { path: p.path, sha256 }
            }
            Source::Pushed(p) if p.files.is_empty() => return Err(InvalidMessage::new("files", "is empty")),
            Source::Pushed(p) => Self::Pushed { files: list(p.files, "files")? },
            Source::Api(api) => Self::Api(api.try_into()?),
        })
    }
}

impl From<PushedFile> for wire::PushedFile {
    fn from(file: PushedFile) -> Self {
        Self { name: file.name, sha256: file.sha256.into(), bytes: file.bytes }
    }
}

impl TryFrom<wire::PushedFile> for PushedFile {
    type Error = InvalidMessage;
    fn try_from(file: wire::PushedFile) -> Result<Self, InvalidMessage> {
        // It becomes a file of this name on another machine.
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        if file.name.is_empty() || file.name.len() > 128 || file.name.starts_with('.') || !file.name.chars().all(plain)
        {
            let shown: String = file.name.chars().take(40).flat_map(char::escape_default).collect();
            return Err(InvalidMessage::new("name", format!("must be a plain file name, but is `{shown}`")));
        }
        Ok(Self { name: file.name, sha256: Digest::parse(&file.sha256)?, bytes: file.bytes })
    }
}

impl From<LoadedModel> for wire::LoadedModel {
    fn from(model: LoadedModel) -> Self {
        Self { name: model.name, sha256: model.sha256.into() }
    }
}

impl TryFrom<wire::LoadedModel> for LoadedModel {
    type Error = InvalidMessage;
    fn try_from(model: wire::LoadedModel) -> Result<Self, InvalidMessage> {
        Ok(Self { name: model.name, sha256: Digest::parse(&model.sha256)? })
    }
}

impl From<Lease> for wire::Lease {
    fn from(lease: Lease) -> Self {
        let payload = match lease.payload {
            Work::Episode { spec, journal } => wire::lease::Payload::Episode(wire::EpisodeWork {
                spec: Some((*spec).into()),
                journal: journal.into_iter().map(Into::into).collect(),
            }),
            Work::Training(spec) => wire::lease::Payload::Training((*spec).into()),
            Work::Calls(calls) => {
                wire::lease::Payload::Calls(wire::CallsWork { calls: calls.into_iter().map(Into::into).collect() })
            }
        };
        let traceparent = lease.trace.map(|parent| parent.to_string()).unwrap_or_default();
        let checkpoint_sha256 = lease.checkpoint.map(String::from).unwrap_or_default();
        let (work, attempt) = (lease.work.into(), lease.attempt);
        Self { work, attempt, payload: Some(payload), traceparent, checkpoint_sha256 }
    }
}

impl TryFrom<wire::Lease> for Lease {
    type Error = InvalidMessage;
    fn try_from(lease: wire::Lease) -> Result<Self, InvalidMessage> {
        let payload = match required(lease.payload, "payload")? {
            wire::lease::Payload::Episode(work) => {
                Work::Episode { spec: Box::new(nested(work.spec, "spec")?), journal: list(work.journal, "journal")? }
            }
            wire::lease::Payload::Training(work) => Work::Training(Box::new(work.try_into()?)),
            wire::lease::Payload::Calls(work) => Work::Calls(list(work.calls, "calls")?),
        };
        let trace = TraceParent::parse(&lease.traceparent);
        let checkpoint = match lease.checkpoint_sha256.as_str() {
            "" => None,
            digest => Some(Digest::parse(digest)?),
        };
        let (work, attempt) = (WorkId::new(lease.work)?, positive(lease.attempt, "attempt")?);
        Ok(Self { work, attempt, payload, checkpoint, trace })
    }
}

impl From<HeldLease> for wire::HeldLease {
    fn from(held: HeldLease) -> Self {
        Self { work: held.work.into(), attempt: held.attempt, progress: held.progress }
    }
}

impl TryFrom<wire::HeldLease> for HeldLease {
    type Error = InvalidMessage;
    fn try_from(held: wire::HeldLease) -> Result<Self, InvalidMessage> {
        Ok(Self { work: WorkId::new(held.work)?, attempt: positive(held.attempt, "attempt")?, progress: held.progress })
    }
}

impl From<Outcome> for wire::finish_request::Outcome {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Episode { turns } => Self::Episode(wire::EpisodeDone { turns }),
            Outcome::Training(report) => Self::Training(report.into()),
            Outcome::Calls(answers) => {
                Self::Calls(wire::CallsDone { answers: answers.into_iter().map(Into::into).collect() })
            }
            Outcome::Failed(Failure { retryable, message }) => Self::Failure(wire::Failure { retryable, message }),
            Outcome::Returned => Self::Returned(wire::Returned {}),
        }
    }
}

impl TryFrom<wire::finish_request::Outcome> for Outcome {
    type Error = InvalidMessage;
    fn try_from(outcome: wire::finish_request::Outcome) -> Result<Self, InvalidMessage> {
        use wire::finish_request::Outcome as Wire;
        Ok(match outcome {
            Wire::Episode(done) => Self::Episode { turns: positive(done.turns, "turns")? },
            Wire::Training(done) => Self::Training(TrainingReport::try_from(done)?),
            Wire::Calls(done) => Self::Calls(list(done.answers, "answers")?),
            Wire::Failure(f) => Self::Failed(Failure { retryable: f.retryable, message: f.message }),
            Wire::Returned(_) => Self::Returned,
        })
    }
}

impl From<TrainingProgress> for wire::TrainingProgress {
    fn from(p: TrainingProgress) -> Self {
        Self { work: p.work.into(), attempt: p.attempt, step: p.step, steps: p.steps, loss: p.loss }
    }
}

impl TryFrom<wire::TrainingProgress> for TrainingProgress {
    type Error = InvalidMessage;
    fn try_from(p: wire::TrainingProgress) -> Result<Self, InvalidMessage> {
        Ok(Self { work: WorkId::new(p.work)?, attempt: p.attempt, step: p.step, steps: p.steps, loss: p.loss })
    }
}
