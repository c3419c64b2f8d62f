//! The keys and values of one sequence.

/// Positions per block; a block of keys is stored transposed, so that one vector holds neighbouring positions.
pub(super) const BLOCK: usize = 64;

/// Keys and values of one sequence in every layer, f32, with room for a fixed number of positions.
///
/// Per layer and head: keys as blocks `[width][BLOCK]`, values as `[position][width]`.
#[derive(Debug)]
pub struct KvCache {
    data: Vec<f32>,
    kv_heads: usize,
    width: usize,
    capacity: usize,
    len: usize,
}

impl KvCache {
    /// An empty cache with room for `positions` tokens, rounded up to whole blocks.
    pub fn new(layers: usize, kv_heads: usize, width: usize, positions: usize) -> Self {
        let capacity = positions.next_multiple_of(BLOCK);
        Self { data: vec![0.0; layers * 2 * kv_heads * width * capacity], kv_heads, width, capacity, len: 0 }
    }

    /// Bytes that such a cache takes.
    pub fn bytes(layers: usize, kv_heads: usize, width: usize, positions: usize) -> usize {
        let floats = layers * 2 * kv_heads * width * positions.next_multiple_of(BLOCK);
        floats * size_of::<f32>()
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

    /// Forgets everything from position `len` on.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    /// Counts `tokens` more positions as filled, once every layer has written them.
    pub(crate) fn advance(&mut self, tokens: usize) {
        self.len += tokens;
    }

    /// Writes rows `[tokens, kv_heads * width]` from position `len` on.
    pub(super) fn write(&mut self, layer: usize, keys: &[f32], values: &[f32]) {
        let row = self.kv_heads * self.width;
        for (i, (key, value)) in keys.chunks_exact(row).zip(values.chunks_exact(row)).enumerate() {
            let position = self.len + i;
            for head in 0..self.kv_heads {
                let part = head * self.width..(head + 1) * self.width;
                let first = self.offset(layer, 0, head) + position / BLOCK * BLOCK * self.width + position % BLOCK;
                let column = self.data[first..].iter_mut().step_by(BLOCK);
                for (to, from) in column.zip(&key[part.clone()]) {
                    *to = *from;
                }
                let first = self.offset(layer, 1, head) + position * self.width;
                self.data[first..first + self.width].copy_from_slice(&value[part]);
            }
        }
    }

    pub(super) fn keys(&self, layer: usize, head: usize) -> &[f32] {
        let first = self.offset(layer, 0, head);
        &self.data[first..first + self.capacity * self.width]
    }

    pub(super) fn values(&self, layer: usize, head: usize) -> &[f32] {
        let first = self.offset(layer, 1, head);
        &self.data[first..first + self.capacity * self.width]
    }

    fn offset(&self, layer: usize, which: usize, head: usize) -> usize {
        ((layer * 2 + which) * self.kv_heads + head) * self.capacity * self.width
    }
}
