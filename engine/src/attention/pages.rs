//! Keys and values on a device: one tensor a layer, cut into pages.

use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{DType, Device, Result, Tensor, bail};

use super::cache::{BLOCK, KvShape};

/// A bounded number of pages of [`BLOCK`] positions each.
#[derive(Debug)]
pub(crate) struct Pages {
    shape: KvShape,
    /// Per layer: keys and values, each `[pages * BLOCK, kv_heads * width]`.
    layers: Vec<(Tensor, Tensor)>,
    free: Mutex<Vec<u32>>,
}

/// A page that is held; given back when it is dropped.
#[derive(Debug)]
pub(super) struct Page {
    index: u32,
    pages: Arc<Pages>,
}

impl Pages {
    /// Takes the memory for `count` pages.
    pub(crate) fn new(shape: KvShape, count: usize, device: &Device, dtype: DType) -> Result<Self> {
        let rows = (count * BLOCK, shape.kv_heads * shape.width);
        let layer = |_| Ok((Tensor::zeros(rows, dtype, device)?, Tensor::zeros(rows, dtype, device)?));
        let layers = (0..shape.layers).map(layer).collect::<Result<_>>()?;
        // Taken from the end.
        let free = Mutex::new((0..count as u32).rev().collect());
        Ok(Self { shape, layers, free })
    }

    pub(super) fn shape(&self) -> KvShape {
        self.shape
    }

    /// A layer's keys and values, each `[rows, kv_heads * width]`.
    pub(super) fn layer(&self, layer: usize) -> (&Tensor, &Tensor) {
        let (keys, values) = &self.layers[layer];
        (keys, values)
    }

    fn free(&self) -> std::sync::MutexGuard<'_, Vec<u32>> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Page {
    pub(super) fn take(pages: &Arc<Pages>) -> Result<Self> {
        match pages.free().pop() {
            Some(index) => Ok(Self { index, pages: pages.clone() }),
            None => bail!("all pages for keys and values are taken"),
        }
    }

    /// Another page with the same content.
    pub(super) fn copy(&self) -> Result<Self> {
        let copy = Self::take(&self.pages)?;
        for (keys, values) in &self.pages.layers {
            for all in [keys, values] {
                let page = all.narrow(0, self.first_row() as usize, BLOCK)?.copy()?;
                all.slice_set(&page, 0, copy.first_row() as usize)?;
            }
        }
        Ok(copy)
    }

    /// Its first row in the tensors of the layers.
    pub(super) fn first_row(&self) -> u32 {
        self.index * BLOCK as u32
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        self.pages.free().push(self.index);
    }
}
