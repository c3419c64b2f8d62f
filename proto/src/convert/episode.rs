use std::sync::Arc;

use crate::wire;
use crate::{
    AssessorRole, BestOf, EpisodeId, EpisodeSpec, GeneratorRole, InvalidMessage, Message, Sampling, Scoring, Speaker,
};

use super::{bounded, list, nested, optional, positive};

impl From<EpisodeSpec> for wire::EpisodeSpec {
    fn from(spec: EpisodeSpec) -> Self {
        Self {
            id: spec.id.into(),
            environment_class: spec.environment_class,
            environment: spec.environment,
            initial_state: spec.initial_state,
            seed: spec.seed,
            max_turns: spec.max_turns,
            agent_name: spec.agent_name,
            opening: spec.opening.iter().cloned().map(Into::into).collect(),
            machine: Some(Arc::unwrap_or_clone(spec.machine).into()),
            agent: Some(Arc::unwrap_or_clone(spec.agent).into()),
            environment_role: Some(Arc::unwrap_or_clone(spec.environment_role).into()),
            preference: Some(Arc::unwrap_or_clone(spec.preference).into()),
            transition: Some(Arc::unwrap_or_clone(spec.transition).into()),
            influence: spec.influence.map(|role| Arc::unwrap_or_clone(role).into()),
            scoring: Some(spec.scoring.into()),
            trained: spec.trained.map(Into::into),
            best_of: spec.best_of.map(|BestOf { candidates, veto }| wire::BestOf { candidates, veto }),
        }
    }
}

impl TryFrom<wire::EpisodeSpec> for EpisodeSpec {
    type Error = InvalidMessage;
    fn try_from(spec: wire::EpisodeSpec) -> Result<Self, InvalidMessage> {
        let opening: Vec<Message> = list(spec.opening, "opening")?;
        match opening.last() {
            None => return Err(InvalidMessage::new("opening", "is empty")),
            Some(last) if last.speaker == Speaker::Agent => {
                return Err(InvalidMessage::new("opening", "ends with the agent's own message"));
            }
            Some(_) => {}
        }
        let preference: AssessorRole = nested(spec.preference, "preference")?;
        let influence: Option<AssessorRole> = optional(spec.influence, "influence")?;
        for (role, field) in [(Some(&preference), "preference"), (influence.as_ref(), "influence")] {
            if role.is_some_and(|r| r.answers.is_empty()) {
                return Err(InvalidMessage::new(format!("{field}.answers"), "is empty"));
            }
        }
        let best_of = spec.best_of.map(|wire::BestOf { candidates, veto }| BestOf { candidates, veto });
        if best_of.is_some_and(|best_of| best_of.candidates < 2) {
            return Err(InvalidMessage::new("best_of.candidates", "must be 2 or more"));
        }
        if influence.is_none() && best_of.is_some_and(|best_of| best_of.veto.is_some()) {
            return Err(InvalidMessage::new("best_of.veto", "needs the influence role, which is missing"));
        }
        Ok(Self {
            id: EpisodeId::new(spec.id)?,
            environment_class: spec.environment_class,
            environment: spec.environment,
            initial_state: spec.initial_state,
            seed: spec.seed,
            max_turns: positive(spec.max_turns, "max_turns")?,
            agent_name: spec.agent_name,
            opening: opening.into(),
            machine: Arc::new(nested(spec.machine, "machine")?),
            agent: Arc::new(nested(spec.agent, "agent")?),
            environment_role: Arc::new(nested(spec.environment_role, "environment_role")?),
            preference: preference.into(),
            transition: Arc::new(nested(spec.transition, "transition")?),
            influence: influence.map(Into::into),
            scoring: nested(spec.scoring, "scoring")?,
            trained: spec.trained.map(TryInto::try_into).transpose()?,
            best_of,
        })
    }
}

impl From<GeneratorRole> for wire::GeneratorRole {
    fn from(role: GeneratorRole) -> Self {
        Self { model: role.model, system_prompt: role.system_prompt, sampling: Some(role.sampling.into()) }
    }
}

impl TryFrom<wire::GeneratorRole> for GeneratorRole {
    type Error = InvalidMessage;
    fn try_from(role: wire::GeneratorRole) -> Result<Self, InvalidMessage> {
        let sampling = nested(role.sampling, "sampling")?;
        Ok(Self { model: role.model, system_prompt: role.system_prompt, sampling })
    }
}

impl From<Sampling> for wire::Sampling {
    fn from(sampling: Sampling) -> Self {
        let Sampling { temperature, top_p, top_k, min_p, stop, max_tokens } = sampling;
        Self { temperature, top_p, top_k, min_p, stop, max_tokens }
    }
}

impl TryFrom<wire::Sampling> for Sampling {
    type Error = InvalidMessage;
    fn try_from(sampling: wire::Sampling) -> Result<Self, InvalidMessage> {
        Ok(Self {
            temperature: bounded(sampling.temperature, "temperature", 0.0..=100.0)?,
            top_p: bounded(sampling.top_p, "top_p", f64::MIN_POSITIVE..=1.0)?,
            top_k: sampling.top_k,
            min_p: bounded(sampling.min_p, "min_p", 0.0..=1.0)?,
            stop: sampling.stop,
            max_tokens: positive(sampling.max_tokens, "max_tokens")?,
        })
    }
}

impl From<AssessorRole> for wire::AssessorRole {
    fn from(role: AssessorRole) -> Self {
        Self {
            model: role.model,
            system_prompt: role.system_prompt,
            suffix: role.suffix,
            answers: role.answers,
            sees_tools: role.sees_tools,
        }
    }
}

impl TryFrom<wire::AssessorRole> for AssessorRole {
    type Error = InvalidMessage;
    fn try_from(role: wire::AssessorRole) -> Result<Self, InvalidMessage> {
        Ok(Self {
            model: role.model,
            system_prompt: role.system_prompt,
            suffix: role.suffix,
            answers: role.answers,
            sees_tools: role.sees_tools,
        })
    }
}

impl From<Scoring> for wire::Scoring {
    fn from(scoring: Scoring) -> Self {
        let Scoring { prefix, temperature, top_p, min_mass } = scoring;
        Self { prefix, temperature, top_p, min_mass }
    }
}

impl TryFrom<wire::Scoring> for Scoring {
    type Error = InvalidMessage;
    fn try_from(scoring: wire::Scoring) -> Result<Self, InvalidMessage> {
        Ok(Self {
            prefix: scoring.prefix,
            temperature: bounded(scoring.temperature, "temperature", f64::MIN_POSITIVE..=100.0)?,
            top_p: bounded(scoring.top_p, "top_p", f64::MIN_POSITIVE..=1.0)?,
            min_mass: bounded(scoring.min_mass, "min_mass", 0.0..=1.0)?,
        })
    }
}
