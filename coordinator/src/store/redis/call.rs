//! One call: a script with its arguments, and what it answers.

use std::str::FromStr;

use influence_proto::{RunId, WorkId};
use redis::{Cmd, RedisError, ToRedisArgs, Value};
use serde::{Serialize, de::DeserializeOwned};

use super::link::{Link, refusal};
use super::scripts::Script;
use crate::planning::Phase;
use crate::store::StoreError;

/// Why a call failed, before the store's name is added.
#[derive(Debug)]
pub(super) enum CallError {
    Refused(StoreError),
    Redis(RedisError),
    /// An answer that does not hold what this release writes.
    Damaged(String),
}

impl From<StoreError> for CallError {
    fn from(error: StoreError) -> Self {
        Self::Refused(error)
    }
}

impl CallError {
    pub(super) fn at(self, store: &str) -> StoreError {
        match self {
            Self::Refused(error) => error,
            Self::Redis(error) => refusal(store, &error),
            Self::Damaged(detail) => StoreError::Unreadable { store: store.to_owned(), detail },
        }
    }
}

/// A value as JSON text. Domain types always have one.
pub(super) fn to_json(value: &impl Serialize) -> Result<String, CallError> {
    serde_json::to_string(value).map_err(|e| CallError::Damaged(format!("a value has no JSON form: {e}")))
}

/// The value in JSON text; `what` names it.
pub(super) fn from_json<T: DeserializeOwned>(text: &str, what: &str) -> Result<T, CallError> {
    serde_json::from_str(text).map_err(|e| CallError::Damaged(format!("{what} cannot be read: {e}")))
}

/// What a run's keys begin with. The braces keep them in one slot, should they ever be sharded.
pub(super) fn prefix(run: &RunId) -> String {
    format!("influence:{{{run}}}:")
}

/// An iteration's phase in keys, as in `train:3`.
pub(super) fn iteration_name(phase: Phase, iteration: u32) -> String {
    format!("{phase}:{iteration}")
}

pub(super) fn conflict(what: String, problem: impl Into<String>) -> CallError {
    StoreError::Conflict { what, problem: problem.into() }.into()
}

/// A script's call, being put together.
pub(super) struct Call {
    script: &'static Script,
    command: Cmd,
}

impl Call {
    pub(super) fn new(script: &'static Script, keys: &[&str]) -> Self {
        let mut command = redis::cmd("EVALSHA");
        command.arg(script.digest.as_str()).arg(keys.len()).arg(keys);
        Self { script, command }
    }

    pub(super) fn arg(mut self, value: impl ToRedisArgs) -> Self {
        self.command.arg(value);
        self
    }

    /// How it went, in a word, and with what.
    pub(super) async fn send(&self, link: &Link) -> Result<(String, Fields), CallError> {
        let mut fields = Fields::of(link.ask_script(self.script, &self.command).await?)?;
        Ok((fields.text()?, fields))
    }
}

/// A call that only `ok` answers well.
pub(super) async fn read(link: &Link, call: Call) -> Result<Fields, CallError> {
    match call.send(link).await? {
        (word, fields) if word == "ok" => Ok(fields),
        (word, _) => Err(unexpected(&word)),
    }
}

pub(super) fn unexpected(word: &str) -> CallError {
    CallError::Damaged(format!("a script answered `{word}`"))
}

/// The right to write: a run, and the fence that this handle got with its lead.
pub(super) struct Led<'a> {
    pub(super) link: &'a Link,
    pub(super) run: &'a RunId,
    pub(super) prefix: String,
    pub(super) fence: String,
}

impl Led<'_> {
    /// The call of a script that writes.
    pub(super) fn call(&self, script: &'static Script) -> Call {
        Call::new(script, &[&self.prefix]).arg(&self.fence)
    }

    /// How it went, unless another handle leads by now.
    pub(super) async fn send(&self, call: &Call) -> Result<(String, Fields), CallError> {
        let (word, mut fields) = call.send(self.link).await?;
        if word == "deposed" {
            return Err(StoreError::NotLeader { run: self.run.to_string(), leader: fields.text()? }.into());
        }
        Ok((word, fields))
    }

    /// A write to `work`, with `what` for an error that names it.
    pub(super) async fn write(
        &self,
        call: Call,
        work: &WorkId,
        what: impl FnOnce() -> String,
    ) -> Result<Fields, CallError> {
        let (word, mut fields) = self.send(&call).await?;
        let work = work.to_string();
        let refused = match word.as_str() {
            "ok" => return Ok(fields),
            "no_work" => StoreError::NoSuchWork { run: self.run.to_string(), work },
            "fenced" => StoreError::Fenced { work, attempt: fields.number()?, current: fields.number()? },
            "finished" => StoreError::AlreadyFinished { work },
            "given_up" => StoreError::GivenUp { work },
            "conflict" => StoreError::Conflict { what: what(), problem: fields.text()? },
            other => return Err(unexpected(other)),
        };
        Err(refused.into())
    }
}

/// A list in an answer, taken from its front.
pub(super) struct Fields(std::vec::IntoIter<Value>);

impl Fields {
    pub(super) fn of(value: Value) -> Result<Self, CallError> {
        match value {
            Value::Array(values) => Ok(Self(values.into_iter())),
            other => Err(damaged("a list", &other)),
        }
    }

    pub(super) fn optional(&mut self) -> Result<Option<String>, CallError> {
        match self.0.next() {
            None | Some(Value::Nil) => Ok(None),
            Some(Value::BulkString(bytes)) => match String::from_utf8(bytes) {
                Ok(text) => Ok(Some(text)),
                Err(_) => Err(CallError::Damaged("a text is not UTF-8".into())),
            },
            Some(Value::SimpleString(text)) => Ok(Some(text)),
            Some(Value::Int(number)) => Ok(Some(number.to_string())),
            Some(other) => Err(damaged("a text", &other)),
        }
    }

    pub(super) fn text(&mut self) -> Result<String, CallError> {
        self.optional()?.ok_or_else(|| CallError::Damaged("a text is missing".into()))
    }

    pub(super) fn number<T: FromStr>(&mut self) -> Result<T, CallError> {
        let text = self.text()?;
        text.parse().map_err(|_| CallError::Damaged(format!("`{text}` is no number of its kind")))
    }

    /// The next list.
    pub(super) fn list(&mut self) -> Result<Self, CallError> {
        self.0.next().map_or_else(|| Err(CallError::Damaged("a list is missing".into())), Self::of)
    }

    /// What is left, as lists.
    pub(super) fn lists(self) -> impl Iterator<Item = Result<Self, CallError>> {
        self.0.map(Self::of)
    }

    /// What is left, as texts.
    pub(super) fn texts(mut self) -> Result<Vec<String>, CallError> {
        (0..self.0.len()).map(|_| self.text()).collect()
    }
}

fn damaged(wanted: &str, found: &Value) -> CallError {
    let shown: String = format!("{found:?}").chars().take(80).collect();
    CallError::Damaged(format!("{wanted} was expected, but the server answered {shown}"))
}
