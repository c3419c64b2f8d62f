use std::collections::BTreeMap;

use influence_proto::RunId;
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::EpisodeRow;
use crate::experiment::{NANO, RoleUsage};
use crate::planning::Phase;
use crate::selection::reply_characters;
use crate::store::{Store, StoreError};

/// What the episodes of a phase used.
#[derive(Debug, Clone, Default)]
pub struct Usage {
    /// Episodes that are counted.
    pub episodes: usize,
    /// By role.
    pub roles: BTreeMap<&'static str, RoleUsage>,
    /// The agent's replies.
    pub replies: u64,
    /// Characters of them, trimmed.
    pub characters: u64,
}

impl Usage {
    /// Tokens of all roles, prompts and replies.
    pub fn tokens(&self) -> u64 {
        self.roles.values().map(|role| role.prompt_tokens + role.generated_tokens).sum()
    }

    /// What all roles cost, where their models have a price.
    pub fn dollars(&self) -> f64 {
        self.roles.values().map(|role| role.dollars).sum()
    }

    /// With what other episodes used.
    pub fn add(&mut self, other: &Self) {
        self.episodes += other.episodes;
        self.replies += other.replies;
        self.characters += other.characters;
        for (name, used) in &other.roles {
            let role = self.roles.entry(name).or_default();
            role.calls += used.calls;
            role.prompt_tokens += used.prompt_tokens;
            role.generated_tokens += used.generated_tokens;
            role.dollars += used.dollars;
        }
    }
}

/// What is counted so far, of phases that no longer change. It stands in every turn, so a large phase takes a while.
#[derive(Debug, Default)]
pub struct Usages(Mutex<BTreeMap<(RunId, u32, Phase), Usage>>);

impl Usages {
    /// Counts the episodes of a judged phase, goes on where the last call ended, and ends at `until`: all of them are counted
    /// once `episodes` is their number.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn count(
        &self,
        store: &dyn Store,
        run: &RunId,
        rows: &[EpisodeRow],
        until: Instant,
    ) -> Result<Usage, StoreError> {
        let Some(first) = rows.first() else { return Ok(Usage::default()) };
        let mut all = self.0.lock().await;
        let usage = all.entry((run.clone(), first.iteration, first.phase)).or_default();
        while let Some(row) = rows.get(usage.episodes) {
            if Instant::now() >= until {
                break;
            }
            for turn in store.journal(run, &row.record.id).await? {
                usage.replies += 1;
                usage.characters += reply_characters(&turn) as u64;
                for call in &turn.calls {
                    let role = usage.roles.entry(call.role.name()).or_default();
                    role.calls += 1;
                    role.prompt_tokens += u64::from(call.prompt_tokens);
                    role.generated_tokens += u64::from(call.generated_tokens);
                    role.dollars += call.nanodollars as f64 / NANO;
                }
            }
            usage.episodes += 1;
        }
        Ok(usage.clone())
    }
}
