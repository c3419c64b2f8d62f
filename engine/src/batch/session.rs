//! Prompts that continue one another, and what is remembered for them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Weak};

use super::prefix::{NodeId, PrefixCache};

/// One role's prompts in one conversation: each continues the one before, or most of it.
///
/// What is remembered for a session is forgotten as soon as its next prompt no longer begins so, and all of it when the last
/// clone is dropped; what other sessions have in common with it stays for as long as they do. Requests without a session are
/// remembered until their memory is needed. Results do not depend on it.
#[derive(Debug, Clone)]
pub struct Session(Arc<u64>);

impl Session {
    /// A session of its own.
    pub fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Self(Arc::new(NEXT.fetch_add(1, Relaxed)))
    }
}

impl Default for Session {
    fn default() -> Self {
        Self::new()
    }
}

impl PartialEq for Session {
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0
    }
}

/// What each session holds of the cache.
#[derive(Debug, Default)]
pub(super) struct Sessions {
    by_id: BTreeMap<u64, Held>,
}

#[derive(Debug)]
struct Held {
    alive: Weak<u64>,
    nodes: BTreeSet<NodeId>,
}

impl Sessions {
    /// The session holds `path`, in addition to what it holds already.
    pub(super) fn add(&mut self, session: &Session, path: &[NodeId], cache: &mut PrefixCache) {
        let fresh = || Held { alive: Arc::downgrade(&session.0), nodes: BTreeSet::new() };
        let held = self.by_id.entry(*session.0).or_insert_with(fresh);
        for id in path {
            if held.nodes.insert(*id) {
                cache.hold(*id);
            }
        }
    }

    /// The session holds `path` and nothing else.
    pub(super) fn replace(&mut self, session: &Session, path: &[NodeId], cache: &mut PrefixCache) {
        self.add(session, path, cache);
        if let Some(held) = self.by_id.get_mut(&*session.0) {
            let path: BTreeSet<NodeId> = path.iter().copied().collect();
            // From the end, as a node goes only when no other follows it.
            held.nodes.iter().rev().filter(|id| !path.contains(id)).for_each(|id| cache.release(*id));
            held.nodes = path;
        }
    }

    /// Forgets what the sessions held that have ended since the last call.
    pub(super) fn end(&mut self, cache: &mut PrefixCache) {
        self.by_id.retain(|_, held| {
            let alive = held.alive.strong_count() > 0;
            if !alive {
                held.nodes.iter().rev().for_each(|id| cache.release(*id));
            }
            alive
        });
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;
    use crate::attention::{BLOCK, KvCache, KvPool, KvShape, KvType};

    /// A cache of one layer, and who holds what of it.
    struct Shelf {
        pool: Arc<KvPool>,
        cache: PrefixCache,
        sessions: Sessions,
    }

    impl Shelf {
        fn new() -> Self {
            let shape = KvShape { layers: 1, kv_heads: 1, width: 1 };
            let pool = Arc::new(KvPool::new(shape, KvType::F32));
            Self { pool, cache: PrefixCache::default(), sessions: Sessions::default() }
        }

        /// Remembers `tokens` as a row does that goes on from what is known of them.
        fn run(&mut self, session: Option<&Session>, tokens: &[u32]) {
            let found = self.cache.find(None, tokens);
            let mut row = KvCache::new(self.pool.clone(), tokens.len());
            row.resume(found.blocks, found.tokens).unwrap();
            let missing = tokens.len() - found.tokens;
            row.make_room(missing).unwrap();
            row.advance(missing);
            let whole = tokens.len() / BLOCK;
            let part = self.cache.insert(None, &tokens[..whole * BLOCK], &row.blocks()[..whole]);
            let path = self.cache.insert(None, tokens, row.blocks());
            match session {
                Some(session) => {
                    self.sessions.add(session, &part, &mut self.cache);
                    self.sessions.replace(session, &path, &mut self.cache);
                }
                None => self.cache.keep(&path),
            }
        }

        fn known(&mut self, tokens: &[u32]) -> usize {
            self.cache.find(None, tokens).tokens
        }

        fn end(&mut self) {
            self.sessions.end(&mut self.cache);
        }
    }

    fn counting(from: u32, count: usize) -> Vec<u32> {
        (from..).take(count).collect()
    }

    /// Protects: a session's memory is that of its latest prompt, and none once it has ended; what others share with it
    /// stays, and so does what nobody's session asked for.
    #[test]
    fn a_session_holds_its_latest_prompt_for_as_long_as_it_lives() {
        let mut shelf = Shelf::new();
        let (one, other) = (Session::new(), Session::new());
        shelf.run(Some(&one), &counting(0, 70));
        assert_eq!(shelf.pool.living(), 5);
        // The next prompt leaves the first after 40 tokens.
        let next = [counting(0, 40), counting(500, 60)].concat();
        shelf.run(Some(&one), &next);
        assert_eq!((shelf.known(&counting(0, 70)), shelf.known(&next)), (40, 100));
        assert_eq!(shelf.pool.living(), 7, "the end of the first prompt is gone");
        shelf.run(Some(&other), &counting(0, 33));
        shelf.run(None, &counting(900, 16));
        shelf.run(None, &counting(0, 16));
        let clone = one.clone();
        drop(one);
        shelf.end();
        assert_eq!(shelf.known(&next), 100, "a clone is alive");
        drop(clone);
        shelf.end();
        // In whole blocks: the last that the other holds has more of the first.
        assert_eq!((shelf.known(&next), shelf.known(&counting(900, 16))), (48, 16));
        drop(other);
        shelf.end();
        assert_eq!((shelf.known(&next), shelf.known(&counting(900, 16))), (16, 16));
        assert_eq!((shelf.pool.living(), shelf.sessions.by_id.len()), (2, 0));
    }

    /// What may happen between steps.
    #[derive(Debug, Clone)]
    enum Event {
        Begins(u32),
        /// The session's prompt goes on from this share of what it was, with other tokens.
        Asks {
            session: usize,
            kept: f64,
            first: u32,
            more: usize,
        },
        Ends(usize),
        Evicts,
    }

    fn events() -> impl Strategy<Value = Vec<Event>> {
        let asks = (0..100_usize, 0.3..1.0, 0..4_u32, 1..50_usize);
        let event = prop_oneof![
            2 => (0..3_u32).prop_map(Event::Begins),
            6 => asks.prop_map(|(session, kept, first, more)| Event::Asks { session, kept, first: first * 7, more }),
            1 => (0..100_usize).prop_map(Event::Ends),
            1 => Just(Event::Evicts),
        ];
        prop::collection::vec(event, 1..60)
    }

    proptest! {
        /// Protects: whatever sessions ask for, in any order and with evictions between, their latest prompts are known
        /// where nothing was evicted, and nothing is left once all have ended.
        #[test]
        fn no_order_of_events_loses_or_leaks_a_block(events in events()) {
            let mut shelf = Shelf::new();
            let mut sessions: Vec<(Session, Vec<u32>, bool)> = Vec::new();
            let mut evicted = false;
            for event in events {
                match event {
                    Event::Begins(which) => sessions.push((Session::new(), counting(which * 1000, 20), false)),
                    Event::Evicts => evicted |= shelf.cache.evict(),
                    _ if sessions.is_empty() => {}
                    Event::Ends(which) => drop(sessions.swap_remove(which % sessions.len())),
                    Event::Asks { session, kept, first, more } => {
                        let which = session % sessions.len();
                        let (session, prompt, asked) = &mut sessions[which];
                        prompt.truncate((prompt.len() as f64 * kept).ceil() as usize);
                        prompt.extend(counting(first, more));
                        *asked = true;
                        shelf.run(Some(session), prompt);
                        prop_assert_eq!(shelf.known(prompt), prompt.len());
                    }
                }
                shelf.end();
                for (_, prompt, asked) in &sessions {
                    prop_assert!(evicted || !asked || shelf.known(prompt) == prompt.len());
                }
            }
            sessions.clear();
            shelf.end();
            prop_assert_eq!(shelf.pool.living(), 0);
        }
    }
}
