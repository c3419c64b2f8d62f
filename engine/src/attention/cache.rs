//! The keys and values of sequences, in blocks that several sequences may share.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// Positions per block; a block's keys are stored transposed, so that one vector holds neighbouring positions.
pub(crate) const BLOCK: usize = 64;

/// What one position takes in every layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct KvShape {
    pub(crate) layers: usize,
    pub(crate) kv_heads: usize,
    pub(crate) width: usize,
}

impl KvShape {
    fn floats_per_block(self) -> usize {
        self.layers * 2 * self.kv_heads * self.width * BLOCK
    }

    /// Bytes of one block.
    pub(crate) fn block_bytes(self) -> usize {
        self.floats_per_block() * size_of::<f32>()
    }
}

/// Where blocks come from; counts those that live.
#[derive(Debug)]
pub(crate) struct KvPool {
    pub(crate) shape: KvShape,
    living: Arc<AtomicUsize>,
}

impl KvPool {
    pub(crate) fn new(shape: KvShape) -> Self {
        Self { shape, living: Arc::default() }
    }

    /// Blocks that live now, whoever holds them.
    pub(crate) fn living(&self) -> usize {
        self.living.load(Relaxed)
    }

    fn block(&self) -> Arc<KvBlock> {
        Arc::new(KvBlock {
            data: vec![0.0; self.shape.floats_per_block()].into(),
            _life: Life::begin(self.living.clone()),
        })
    }
}

/// Keys and values of [`BLOCK`] neighbouring positions in every layer, f32. Per layer and head: keys `[width][BLOCK]`,
/// values `[BLOCK][width]`.
#[derive(Debug, Clone)]
pub(crate) struct KvBlock {
    data: Box<[f32]>,
    _life: Life,
}

/// Counts a block for as long as it lives.
#[derive(Debug)]
struct Life(Arc<AtomicUsize>);

impl Life {
    fn begin(living: Arc<AtomicUsize>) -> Self {
        living.fetch_add(1, Relaxed);
        Self(living)
    }
}

impl Clone for Life {
    fn clone(&self) -> Self {
        Self::begin(self.0.clone())
    }
}

impl Drop for Life {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

/// Keys and values of one sequence, with room for a fixed number of positions.
#[derive(Debug)]
pub struct KvCache {
    pool: Arc<KvPool>,
    blocks: Vec<Arc<KvBlock>>,
    capacity: usize,
    len: usize,
}

impl KvCache {
    /// An empty cache with room for `positions` tokens, rounded up to whole blocks.
    pub(crate) fn new(pool: Arc<KvPool>, positions: usize) -> Self {
        Self { pool, blocks: Vec::new(), capacity: positions.next_multiple_of(BLOCK), len: 0 }
    }

    /// Goes on from the first `len` positions of `blocks`, which others may hold too: a last block that is held in part
    /// is copied now.
    pub(crate) fn resume(&mut self, blocks: Vec<Arc<KvBlock>>, len: usize) {
        (self.blocks, self.len) = (blocks, len);
        self.make_room(0);
    }

    /// Positions that are filled.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Nothing is filled.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Positions that fit.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Blocks that it may yet ask the pool for.
    pub(crate) fn missing_blocks(&self) -> usize {
        (self.capacity / BLOCK).saturating_sub(self.blocks.len())
    }

    /// The blocks of the filled positions.
    pub(crate) fn blocks(&self) -> &[Arc<KvBlock>] {
        &self.blocks[..self.len.div_ceil(BLOCK)]
    }

    /// Forgets everything from position `len` on.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    /// Counts `tokens` more positions as filled, once every layer has written them.
    pub(crate) fn advance(&mut self, tokens: usize) {
        self.len += tokens;
    }

    /// Sees to it that the next `tokens` positions, and those of a block that is filled in part, have blocks which no
    /// one else holds.
    pub(crate) fn make_room(&mut self, tokens: usize) {
        let (first, end) = (self.len / BLOCK, (self.len + tokens).div_ceil(BLOCK));
        for block in self.blocks.iter_mut().skip(first) {
            Arc::make_mut(block);
        }
        while self.blocks.len() < end {
            self.blocks.push(self.pool.block());
        }
    }

    /// Writes rows `[tokens, kv_heads * width]` from position `len` on, where there is room.
    pub(super) fn write(&mut self, layer: usize, keys: &[f32], values: &[f32]) {
        let KvShape { kv_heads, width, .. } = self.pool.shape;
        let row = kv_heads * width;
        for (i, (key, value)) in keys.chunks_exact(row).zip(values.chunks_exact(row)).enumerate() {
            let position = self.len + i;
            let (keys_at, values_at) = (self.offset(layer, 0, 0), self.offset(layer, 1, 0));
            let at = position % BLOCK;
            // No one else holds it since `make_room`, so nothing is copied here.
            let data = &mut Arc::make_mut(&mut self.blocks[position / BLOCK]).data;
            for (to, from) in data[keys_at + at..].iter_mut().step_by(BLOCK).zip(key) {
                *to = *from;
            }
            for (head, value) in value.chunks_exact(width).enumerate() {
                let first = values_at + (head * BLOCK + at) * width;
                data[first..first + width].copy_from_slice(value);
            }
        }
    }

    /// One head's keys, block by block, each `[width][BLOCK]`.
    pub(super) fn keys(&self, layer: usize, head: usize) -> Part<'_> {
        self.part(self.offset(layer, 0, head))
    }

    /// One head's values, block by block, each `[BLOCK][width]`.
    pub(super) fn values(&self, layer: usize, head: usize) -> Part<'_> {
        self.part(self.offset(layer, 1, head))
    }

    fn part(&self, first: usize) -> Part<'_> {
        Part { blocks: &self.blocks, first, len: BLOCK * self.pool.shape.width }
    }

    fn offset(&self, layer: usize, which: usize, head: usize) -> usize {
        let KvShape { kv_heads, width, .. } = self.pool.shape;
        ((layer * 2 + which) * kv_heads + head) * BLOCK * width
    }
}

/// The same stretch of every block.
#[derive(Debug, Clone, Copy)]
pub(super) struct Part<'a> {
    blocks: &'a [Arc<KvBlock>],
    first: usize,
    len: usize,
}

impl<'a> Part<'a> {
    #[inline(always)]
    pub(super) fn iter(self) -> impl Iterator<Item = &'a [f32]> {
        self.blocks.iter().map(move |block| &block.data[self.first..self.first + self.len])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: KvShape = KvShape { layers: 2, kv_heads: 1, width: 2 };

    fn filled(pool: &Arc<KvPool>, from: usize, to: usize, cache: &mut KvCache) {
        let values: Vec<f32> = (from..to).flat_map(|p| [p as f32, -(p as f32)]).collect();
        cache.make_room(to - from);
        for layer in 0..pool.shape.layers {
            cache.write(layer, &values, &values);
        }
        cache.advance(to - from);
    }

    /// Protects: sequences that share blocks never see each other's writes, and blocks are counted while they live.
    #[test]
    fn a_shared_block_is_copied_before_it_is_written() {
        let pool = Arc::new(KvPool::new(SHAPE));
        let mut first = KvCache::new(pool.clone(), 150);
        filled(&pool, 0, 100, &mut first);
        assert_eq!((pool.living(), first.missing_blocks()), (2, 1));
        let mut second = KvCache::new(pool.clone(), 150);
        second.resume(first.blocks().to_vec(), 80);
        assert_eq!(pool.living(), 3, "the block that will be written is copied, and no other");
        filled(&pool, 500, 503, &mut second);
        assert_eq!(pool.living(), 3);
        let column = |cache: &KvCache, block: usize| cache.values(1, 0).iter().nth(block).map(<[f32]>::to_vec);
        assert_eq!(column(&first, 0), column(&second, 0));
        // Position 79 is the last that they share; 80 is each one's own.
        let (one, other) = (column(&first, 1).unwrap_or_default(), column(&second, 1).unwrap_or_default());
        assert_eq!((one[15 * 2], one[16 * 2]), (79.0, 80.0));
        assert_eq!((other[15 * 2], other[16 * 2]), (79.0, 500.0));
        drop((first, second));
        assert_eq!(pool.living(), 0);
    }
}
