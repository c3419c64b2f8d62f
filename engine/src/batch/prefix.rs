//! What has been computed before: sequences' keys and values, found by their tokens.
//!
//! A tree of blocks. A node holds the tokens of one block and what the model made of them after the tokens of all nodes
//! above it; an adapter sees the same tokens differently, so each has a tree of its own. Where a prompt leaves the tree
//! in the middle of a block, it goes on from a copy of that block. A row's bits do not depend on how its prompt was cut
//! into chunks, so they do not depend on what is found here either.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::attention::{BLOCK, KvBlock};

/// Which tree: the adapter's number; none for the base weights.
pub(super) type Salt = Option<u64>;

/// Of a node; greater than those of the nodes above it.
pub(super) type NodeId = u64;

/// Blocks by the tokens that they and those before them hold.
#[derive(Debug, Default)]
pub(super) struct PrefixCache {
    nodes: BTreeMap<NodeId, Node>,
    roots: BTreeMap<Salt, Vec<NodeId>>,
    /// All nodes, the least recently used first.
    by_use: BTreeSet<(u64, NodeId)>,
    /// Grows with every use.
    clock: u64,
    next: NodeId,
}

#[derive(Debug)]
struct Node {
    salt: Salt,
    parent: Option<NodeId>,
    /// 1 to [`BLOCK`]; a node with fewer has no children.
    tokens: Box<[u32]>,
    block: Arc<KvBlock>,
    children: Vec<NodeId>,
    used: u64,
    /// Sessions that hold it, and requests without one.
    holders: usize,
}

/// The longest beginning of a prompt that is known.
#[derive(Debug, Default)]
pub(super) struct PrefixMatch {
    /// The last may be held in part only.
    pub(super) blocks: Vec<Arc<KvBlock>>,
    /// How many tokens.
    pub(super) tokens: usize,
}

impl PrefixMatch {
    /// Blocks that need not be copied to be used.
    pub(super) fn whole_blocks(&self) -> usize {
        self.tokens / BLOCK
    }

    /// Leaves out a block that is held in part.
    pub(super) fn cut_to_whole_blocks(&mut self) {
        self.blocks.truncate(self.whole_blocks());
        self.tokens = self.blocks.len() * BLOCK;
    }
}

impl PrefixCache {
    /// What is known of `tokens`, and marks it as used.
    pub(super) fn find(&mut self, salt: Salt, tokens: &[u32]) -> PrefixMatch {
        self.clock += 1;
        let mut found = PrefixMatch::default();
        let mut at = None;
        loop {
            let rest = &tokens[found.tokens..];
            let best = self.children(salt, at).iter().map(|id| (common(&self.nodes[id].tokens, rest), *id)).max();
            let Some((count, id)) = best.filter(|(count, _)| *count > 0) else { return found };
            self.touch(id);
            found.blocks.push(self.nodes[&id].block.clone());
            found.tokens += count;
            if count < BLOCK {
                return found;
            }
            at = Some(id);
        }
    }

    /// Remembers what `blocks` hold of `tokens`; what is known already stays as it is. The nodes from the first on.
    pub(super) fn insert(&mut self, salt: Salt, tokens: &[u32], blocks: &[Arc<KvBlock>]) -> Vec<NodeId> {
        self.clock += 1;
        let mut at = None;
        let mut path = Vec::with_capacity(blocks.len());
        for (tokens, block) in tokens.chunks(BLOCK).zip(blocks) {
            let known = self.children(salt, at).iter().copied().find(|id| {
                let node = &self.nodes[id].tokens;
                common(node, tokens) == node.len().min(tokens.len())
            });
            let id = match known {
                Some(id) if self.nodes[&id].tokens.len() >= tokens.len() => id,
                // It held the beginning of this one only.
                Some(id) => {
                    if let Some(node) = self.nodes.get_mut(&id) {
                        (node.tokens, node.block) = (tokens.into(), block.clone());
                    }
                    id
                }
                None => self.add(salt, at, tokens, block),
            };
            self.touch(id);
            path.push(id);
            at = Some(id);
        }
        path
    }

    /// A session needs this node.
    pub(super) fn hold(&mut self, id: NodeId) {
        if let Some(node) = self.nodes.get_mut(&id) {
            node.holders += 1;
        }
    }

    /// No session's end shall make these nodes go; eviction may.
    pub(super) fn keep(&mut self, path: &[NodeId]) {
        path.iter().for_each(|id| self.hold(*id));
    }

    /// A session no longer needs this node; forgets it if none does and no other follows it. A node that was evicted
    /// meanwhile is nobody's.
    pub(super) fn release(&mut self, id: NodeId) {
        let Some(node) = self.nodes.get_mut(&id) else { return };
        node.holders -= 1;
        if node.holders == 0 && node.children.is_empty() {
            self.remove(id);
        }
    }

    /// Forgets the block that has gone unused for longest of those that only this cache holds and that no other follows;
    /// false if there is none.
    pub(super) fn evict(&mut self) -> bool {
        let idle = |node: &Node| node.children.is_empty() && Arc::strong_count(&node.block) == 1;
        let Some((_, id)) = self.by_use.iter().find(|(_, id)| idle(&self.nodes[id])).copied() else { return false };
        self.remove(id);
        true
    }

    /// Forgets a node that no other follows.
    fn remove(&mut self, id: NodeId) {
        if let Some(node) = self.nodes.remove(&id) {
            self.by_use.remove(&(node.used, id));
            let siblings = match node.parent {
                Some(parent) => self.nodes.get_mut(&parent).map(|parent| &mut parent.children),
                None => self.roots.get_mut(&node.salt),
            };
            if let Some(siblings) = siblings {
                siblings.retain(|sibling| *sibling != id);
                if siblings.is_empty() && node.parent.is_none() {
                    self.roots.remove(&node.salt);
                }
            }
        }
    }

    fn children(&self, salt: Salt, node: Option<NodeId>) -> &[NodeId] {
        match node {
            Some(id) => &self.nodes[&id].children,
            None => self.roots.get(&salt).map_or(&[], Vec::as_slice),
        }
    }

    fn add(&mut self, salt: Salt, parent: Option<NodeId>, tokens: &[u32], block: &Arc<KvBlock>) -> NodeId {
        let id = self.next;
        self.next += 1;
        let (tokens, block) = (tokens.into(), block.clone());
        let node = Node { salt, parent, tokens, block, children: Vec::new(), used: 0, holders: 0 };
        self.nodes.insert(id, node);
        self.by_use.insert((0, id));
        match parent.and_then(|parent| self.nodes.get_mut(&parent)) {
            Some(parent) => parent.children.push(id),
            None => self.roots.entry(salt).or_default().push(id),
        }
        id
    }

    fn touch(&mut self, id: NodeId) {
        if let Some(node) = self.nodes.get_mut(&id) {
            let before = std::mem::replace(&mut node.used, self.clock);
            self.by_use.remove(&(before, id));
            self.by_use.insert((self.clock, id));
        }
    }
}

/// How many tokens two sequences have in common at their beginnings.
pub(super) fn common(one: &[u32], other: &[u32]) -> usize {
    one.iter().zip(other).take_while(|(a, b)| a == b).count()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::attention::{KvCache, KvPool, KvShape, KvType};

    struct Shelf {
        pool: Arc<KvPool>,
        cache: PrefixCache,
    }

    impl Shelf {
        fn new() -> Self {
            let shape = KvShape { layers: 1, kv_heads: 1, width: 1 };
            Self { pool: Arc::new(KvPool::new(shape, KvType::F32)), cache: PrefixCache::default() }
        }

        /// A sequence as it is after it was run, on blocks of its own.
        fn remember(&mut self, salt: Salt, tokens: &[u32]) {
            let mut cache = KvCache::new(self.pool.clone(), tokens.len());
            cache.make_room(tokens.len()).unwrap();
            cache.advance(tokens.len());
            self.cache.insert(salt, tokens, cache.blocks());
        }

        fn found(&mut self, salt: Salt, tokens: &[u32]) -> usize {
            let found = self.cache.find(salt, tokens);
            assert_eq!(found.blocks.len(), found.tokens.div_ceil(BLOCK));
            found.tokens
        }
    }

    fn counting(from: u32, count: usize) -> Vec<u32> {
        (from..).take(count).collect()
    }

    /// Protects: a prompt gets exactly its longest known beginning, down to the token.
    #[test]
    fn the_longest_beginning_is_found() {
        let mut shelf = Shelf::new();
        shelf.remember(None, &counting(0, 38));
        assert_eq!(shelf.found(None, &counting(0, 75)), 38);
        assert_eq!(shelf.found(None, &counting(0, 25)), 25);
        assert_eq!(shelf.found(None, &[counting(0, 35), counting(900, 15)].concat()), 35);
        assert_eq!(shelf.found(None, &counting(1, 75)), 0);
        assert_eq!(shelf.found(Some(1), &counting(0, 75)), 0, "another adapter's");
        // A sibling that leaves the first in the middle of a block, and the first's continuation.
        shelf.remember(None, &[counting(0, 25), counting(500, 15)].concat());
        shelf.remember(None, &counting(0, 45));
        assert_eq!(shelf.found(None, &[counting(0, 25), counting(500, 22)].concat()), 40);
        assert_eq!(shelf.found(None, &counting(0, 75)), 45);
        assert_eq!(shelf.pool.living(), 3 + 2, "what was known is not kept twice");
    }

    /// Protects: memory comes back, the least recently used first, never from under what follows or a running row.
    #[test]
    fn what_is_least_used_goes_first_and_what_is_in_use_stays() {
        let mut shelf = Shelf::new();
        shelf.remember(None, &counting(0, 32));
        shelf.remember(Some(7), &counting(0, 16));
        shelf.remember(None, &counting(1000, 16));
        assert_eq!(shelf.found(None, &counting(0, 32)), 32);
        let held = shelf.cache.find(None, &counting(1000, 16));
        assert!(shelf.cache.evict());
        assert_eq!(shelf.found(Some(7), &counting(0, 16)), 0);
        assert!(shelf.cache.evict());
        assert_eq!(shelf.found(None, &counting(0, 32)), 16, "its end, not its beginning");
        assert!(shelf.cache.evict());
        assert!(!shelf.cache.evict(), "what is left is in use");
        assert_eq!(shelf.pool.living(), 1);
        drop(held);
        assert!(shelf.cache.evict());
        assert_eq!((shelf.pool.living(), shelf.cache.roots.len(), shelf.cache.by_use.len()), (0, 0, 0));
    }
}
