//! The keys and values of sequences, in blocks that several sequences may share.

use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use candle_core::{Result, bail};

use super::kept::{Element, Kept, KvType, rounded};
use super::pages::{Page, Pages};

/// Positions per block; a block's keys are stored transposed, so that one vector holds neighbouring positions. Small, for
/// where prompts part a block is copied, and where they end a part of one is empty.
pub(crate) const BLOCK: usize = 16;

/// What one position takes in every layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct KvShape {
    pub(crate) layers: usize,
    pub(crate) kv_heads: usize,
    pub(crate) width: usize,
}

impl KvShape {
    pub(crate) fn elements_per_block(self) -> usize {
        self.layers * 2 * self.kv_heads * self.width * BLOCK
    }
}

/// Where blocks come from; counts those that live.
#[derive(Debug)]
pub(crate) struct KvPool {
    pub(crate) shape: KvShape,
    living: Arc<AtomicUsize>,
    place: Place,
}

#[derive(Debug)]
enum Place {
    /// The memory of this process.
    Host(KvType),
    Device(Arc<Pages>),
}

impl KvPool {
    /// In the memory of this process, without a bound.
    pub(crate) fn new(shape: KvShape, kept: KvType) -> Self {
        Self { shape, living: Arc::default(), place: Place::Host(kept) }
    }

    /// On a device.
    pub(crate) fn on(pages: Pages) -> Self {
        Self { shape: pages.shape(), living: Arc::default(), place: Place::Device(Arc::new(pages)) }
    }

    /// Blocks that live now, whoever holds them.
    pub(crate) fn living(&self) -> usize {
        self.living.load(Relaxed)
    }

    fn block(&self) -> Result<Arc<KvBlock>> {
        let data = match &self.place {
            Place::Host(kept) => Data::Host(Kept::zeros(*kept, self.shape.elements_per_block())),
            Place::Device(pages) => Data::Page(Page::take(pages)?),
        };
        Ok(Arc::new(KvBlock { data, _life: Life::begin(self.living.clone()) }))
    }

    fn copy(&self, block: &KvBlock) -> Result<Arc<KvBlock>> {
        let data = match &block.data {
            Data::Host(data) => Data::Host(data.clone()),
            Data::Page(page) => Data::Page(page.copy()?),
        };
        Ok(Arc::new(KvBlock { data, _life: Life::begin(self.living.clone()) }))
    }
}

/// Keys and values of [`BLOCK`] neighbouring positions in every layer.
#[derive(Debug)]
pub(crate) struct KvBlock {
    data: Data,
    _life: Life,
}

#[derive(Debug)]
enum Data {
    /// Per layer and head: keys `[width][BLOCK]`, values `[BLOCK][width]`.
    Host(Kept),
    Page(Page),
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
    pub(crate) fn resume(&mut self, blocks: Vec<Arc<KvBlock>>, len: usize) -> Result<()> {
        (self.blocks, self.len) = (blocks, len);
        self.make_room(0)
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
    pub(crate) fn make_room(&mut self, tokens: usize) -> Result<()> {
        let (first, end) = (self.len / BLOCK, (self.len + tokens).div_ceil(BLOCK));
        for block in self.blocks.iter_mut().skip(first) {
            if Arc::get_mut(block).is_none() {
                *block = self.pool.copy(block)?;
            }
        }
        while self.blocks.len() < end {
            self.blocks.push(self.pool.block()?);
        }
        Ok(())
    }

    /// Where keys and values are on a device, if they are.
    pub(super) fn pages(&self) -> Option<&Arc<Pages>> {
        match &self.pool.place {
            Place::Host(_) => None,
            Place::Device(pages) => Some(pages),
        }
    }

    /// The type of keys and values in this process' memory; of no use where they are on a device.
    pub(super) fn kept(&self) -> KvType {
        match self.pool.place {
            Place::Host(kept) => kept,
            Place::Device(_) => KvType::F32,
        }
    }

    /// The places of positions from `from` on among the rows of the device's pages, as far as there are blocks.
    pub(super) fn slots(&self, from: usize) -> impl Iterator<Item = u32> + '_ {
        let slot = |block: &Arc<KvBlock>| match &block.data {
            Data::Page(page) => page.first_row(),
            Data::Host(_) => 0,
        };
        let rows = self.blocks.iter().map(slot).flat_map(|first| first..first + BLOCK as u32);
        rows.skip(from)
    }

    /// Writes rows `[tokens, kv_heads * width]` from position `len` on, where there is room, to this process' memory.
    pub(super) fn write(&mut self, layer: usize, keys: &[f32], values: &[f32]) -> Result<()> {
        match self.kept() {
            KvType::F32 => self.write_as(layer, keys, values),
            KvType::F16 => self.write_as(layer, &rounded(keys), &rounded(values)),
        }
    }

    fn write_as<E: Element>(&mut self, layer: usize, keys: &[E], values: &[E]) -> Result<()> {
        let KvShape { kv_heads, width, .. } = self.pool.shape;
        let row = kv_heads * width;
        for (i, (key, value)) in keys.chunks_exact(row).zip(values.chunks_exact(row)).enumerate() {
            let position = self.len + i;
            let (keys_at, values_at) = (self.offset(layer, 0, 0), self.offset(layer, 1, 0));
            let at = position % BLOCK;
            // No one else holds it since `make_room`.
            let data = match Arc::get_mut(&mut self.blocks[position / BLOCK]) {
                Some(KvBlock { data: Data::Host(data), .. }) => E::of_mut(data),
                _ => None,
            };
            let Some(data) = data else { bail!("the block of position {position} is shared, or kept elsewhere") };
            for (to, from) in data[keys_at + at..].iter_mut().step_by(BLOCK).zip(key) {
                *to = *from;
            }
            for (head, value) in value.chunks_exact(width).enumerate() {
                let first = values_at + (head * BLOCK + at) * width;
                data[first..first + width].copy_from_slice(value);
            }
        }
        Ok(())
    }

    /// One head's keys, block by block, each `[width][BLOCK]`.
    pub(super) fn keys<E: Element>(&self, layer: usize, head: usize) -> Part<'_, E> {
        self.part(self.offset(layer, 0, head))
    }

    /// One head's values, block by block, each `[BLOCK][width]`.
    pub(super) fn values<E: Element>(&self, layer: usize, head: usize) -> Part<'_, E> {
        self.part(self.offset(layer, 1, head))
    }

    fn part<E>(&self, first: usize) -> Part<'_, E> {
        Part { blocks: &self.blocks, first, len: BLOCK * self.pool.shape.width, element: PhantomData }
    }

    fn offset(&self, layer: usize, which: usize, head: usize) -> usize {
        let KvShape { kv_heads, width, .. } = self.pool.shape;
        ((layer * 2 + which) * kv_heads + head) * BLOCK * width
    }
}

/// The same stretch of every block, whose elements are of type `E`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Part<'a, E> {
    blocks: &'a [Arc<KvBlock>],
    first: usize,
    len: usize,
    element: PhantomData<E>,
}

impl<'a, E: Element> Part<'a, E> {
    /// Of a head.
    #[inline(always)]
    pub(super) fn width(self) -> usize {
        self.len / BLOCK
    }

    /// One block's.
    #[inline(always)]
    pub(super) fn block(self, index: usize) -> &'a [E] {
        match &self.blocks[index].data {
            Data::Host(data) => E::of(data).map_or(&[], |data| &data[self.first..self.first + self.len]),
            Data::Page(_) => &[],
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const SHAPE: KvShape = KvShape { layers: 2, kv_heads: 1, width: 2 };

    fn filled(pool: &Arc<KvPool>, from: usize, to: usize, cache: &mut KvCache) {
        let values: Vec<f32> = (from..to).flat_map(|p| [p as f32, -(p as f32)]).collect();
        cache.make_room(to - from).unwrap();
        for layer in 0..pool.shape.layers {
            cache.write(layer, &values, &values).unwrap();
        }
        cache.advance(to - from);
    }

    /// Protects: sequences that share blocks never see each other's writes, and blocks are counted while they live.
    #[test]
    fn a_shared_block_is_copied_before_it_is_written() {
        let pool = Arc::new(KvPool::new(SHAPE, KvType::F32));
        let mut first = KvCache::new(pool.clone(), 40);
        filled(&pool, 0, 25, &mut first);
        assert_eq!((pool.living(), first.missing_blocks()), (2, 1));
        let mut second = KvCache::new(pool.clone(), 40);
        second.resume(first.blocks().to_vec(), 20).unwrap();
        assert_eq!(pool.living(), 3, "the block that will be written is copied, and no other");
        filled(&pool, 500, 503, &mut second);
        assert_eq!(pool.living(), 3);
        let column = |cache: &KvCache, block: usize| cache.values::<f32>(1, 0).block(block).to_vec();
        assert_eq!(column(&first, 0), column(&second, 0));
        // Position 19 is the last that they share; 20 is each one's own.
        let (one, other) = (column(&first, 1), column(&second, 1));
        assert_eq!((one[3 * 2], one[4 * 2]), (19.0, 20.0));
        assert_eq!((other[3 * 2], other[4 * 2]), (19.0, 500.0));
        drop((first, second));
        assert_eq!(pool.living(), 0);
    }
}
