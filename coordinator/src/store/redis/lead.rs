//! Who leads a run: whose token the key `lead` holds until it runs out by the server's clock.
//!
//! A lead comes with a *fence*, which the server keeps with the run and every write carries. Taking
//! the lead changes it, so what an earlier leader still has under way is refused however late it
//! arrives. A lead that ran out and that nobody else took keeps its fence, and may be kept again.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use influence_proto::RunId;

use super::call::{Call, CallError, Led, prefix, read, unexpected};
use super::link::Link;
use super::{SCHEMA_KEY, SCHEMA_VERSION, newer, scripts};
use crate::store::StoreError;

/// The runs that one handle leads, with their fences.
#[derive(Debug)]
pub(super) struct Leads {
    token: String,
    held: Mutex<HashMap<RunId, String>>,
}

/// A text that no other handle and no other call draws.
pub(super) fn draw_token() -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let draw = || RandomState::new().hash_one((std::process::id(), now));
    format!("{:016x}{:016x}", draw(), draw())
}

impl Leads {
    pub(super) fn new() -> Self {
        Self { token: draw_token(), held: Mutex::default() }
    }

    fn fence(&self, run: &RunId) -> Option<String> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner).get(run).cloned()
    }

    fn remember(&self, run: &RunId, fence: Option<String>) {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        match fence {
            Some(fence) => held.insert(run.clone(), fence),
            None => held.remove(run),
        };
    }

    pub(super) async fn take(&self, link: &Link, run: &RunId, leader: &str, ttl: Duration) -> Result<(), CallError> {
        let call = Call::new(&scripts::LEAD, &[&prefix(run), SCHEMA_KEY])
            .arg(SCHEMA_VERSION)
            .arg(&self.token)
            .arg(leader)
            .arg(u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX).clamp(1, LONGEST_MS))
            .arg(self.fence(run).unwrap_or_default());
        let (word, mut fields) = call.send(link).await?;
        match word.as_str() {
            "ok" => {
                self.remember(run, Some(fields.text()?));
                Ok(())
            }
            "led" => {
                self.remember(run, None);
                Err(StoreError::Led { run: run.to_string(), leader: fields.text()? }.into())
            }
            "no_run" => Err(StoreError::NoSuchRun(run.to_string()).into()),
            "newer" => Err(newer(link, fields.number()?)),
            other => Err(unexpected(other)),
        }
    }

    pub(super) async fn give_up(&self, link: &Link, run: &RunId) -> Result<(), CallError> {
        let fence = self.fence(run).unwrap_or_default();
        let call = Call::new(&scripts::RESIGN, &[&prefix(run)]).arg(&self.token).arg(fence);
        read(link, call).await?;
        self.remember(run, None);
        Ok(())
    }

    /// The right to write to a run.
    pub(super) async fn must_hold<'a>(&self, link: &'a Link, run: &'a RunId) -> Result<Led<'a>, CallError> {
        let prefix = prefix(run);
        if let Some(fence) = self.fence(run) {
            return Ok(Led { link, run, prefix, fence });
        }
        let leader = read(link, Call::new(&scripts::LEADER, &[&prefix])).await?.optional()?;
        Err(StoreError::NotLeader { run: run.to_string(), leader: leader.unwrap_or_else(|| "nobody".into()) }.into())
    }
}

/// Ten years: the server refuses what its clock cannot count.
const LONGEST_MS: u64 = 10 * 365 * 24 * 3_600_000;
