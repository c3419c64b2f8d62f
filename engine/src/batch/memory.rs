//! Memory for keys and values: what running rows hold and may yet need, and what is remembered beside them.

use std::sync::Arc;

use super::prefix::{PrefixCache, Salt, common};
use super::row::Row;
use super::session::Sessions;
use crate::attention::{BLOCK, KvCache, KvPool};
use crate::model::Model;

/// All keys and values of an engine, within a bound.
#[derive(Debug)]
pub(super) struct Memory {
    pool: Arc<KvPool>,
    block_bytes: usize,
    limit: usize,
    /// None if nothing is to be remembered.
    prefixes: Option<PrefixCache>,
    sessions: Sessions,
}

impl Memory {
    /// At most `bytes` at any time.
    pub(super) fn new(model: &Model, bytes: usize, prefix_cache: bool) -> candle_core::Result<Self> {
        let block_bytes = model.kv_block_bytes();
        let limit = bytes / block_bytes;
        let pool = Arc::new(model.new_pool(limit)?);
        let prefixes = prefix_cache.then(PrefixCache::default);
        Ok(Self { pool, block_bytes, limit, prefixes, sessions: Sessions::default() })
    }

    /// Bytes that are held now, in use or remembered.
    pub(super) fn bytes(&self) -> usize {
        self.pool.living() * self.block_bytes
    }

    /// A cache for `positions` tokens that holds as many of the prompt's as are known, but for the last: its logits are
    /// still needed. Forgets what it must. None if there is no room beside the `promised` blocks that running rows may
    /// yet need.
    pub(super) fn claim(&mut self, salt: Salt, prompt: &[u32], positions: usize, promised: usize) -> Option<KvCache> {
        let mut cache = KvCache::new(self.pool.clone(), positions);
        let Some(prefixes) = &mut self.prefixes else {
            return (self.pool.living() + promised + cache.missing_blocks() <= self.limit).then_some(cache);
        };
        let mut found = prefixes.find(salt, &prompt[..prompt.len() - 1]);
        let fresh = cache.missing_blocks() - found.whole_blocks();
        while self.pool.living() + promised + fresh > self.limit {
            if prefixes.evict() {
                continue;
            }
            if found.whole_blocks() == found.blocks.len() {
                return None;
            }
            // A block that would be copied only takes up room.
            found.cut_to_whole_blocks();
        }
        if let Err(error) = cache.resume(found.blocks, found.tokens) {
            // Nothing is lost but time: the prompt is computed from its beginning.
            tracing::warn!(%error, "what is known of a prompt cannot be used");
            return Some(KvCache::new(self.pool.clone(), positions));
        }
        Some(cache)
    }

    /// Whether a row that is at `running` will soon have computed more of the prompt than is known now.
    pub(super) fn is_worth_waiting_for(&mut self, salt: Salt, prompt: &[u32], running: &[u32]) -> bool {
        let Some(prefixes) = &mut self.prefixes else { return false };
        let prompt = &prompt[..prompt.len() - 1];
        let shared = common(prompt, running) / BLOCK;
        shared > 0 && shared > prefixes.find(salt, prompt).whole_blocks()
    }

    /// Forgets all that no running row uses.
    pub(super) fn clear_prefix_cache(&mut self) {
        if let Some(prefixes) = &mut self.prefixes {
            while prefixes.evict() {}
        }
    }

    /// Forgets what only sessions needed that have ended.
    pub(super) fn end_sessions(&mut self) {
        if let Some(prefixes) = &mut self.prefixes {
            self.sessions.end(prefixes);
        }
    }

    /// Remembers the whole blocks of its prompt that a running row has computed.
    pub(super) fn remember_part(&mut self, row: &Row) {
        let Some(prefixes) = &mut self.prefixes else { return };
        let path = prefixes.insert(row.salt(), row.whole_blocks(), row.cache.blocks());
        match &row.session {
            Some(session) => self.sessions.add(session, &path, prefixes),
            None => prefixes.keep(&path),
        }
    }

    /// Remembers what a finished row's cache holds, in the place of what its session held before.
    pub(super) fn remember(&mut self, row: &Row) {
        let Some(prefixes) = &mut self.prefixes else { return };
        let path = prefixes.insert(row.salt(), row.lasting(), row.cache.blocks());
        match &row.session {
            Some(session) => self.sessions.replace(session, &path, prefixes),
            None => prefixes.keep(&path),
        }
    }
}
