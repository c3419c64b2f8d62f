//! Rows of GGUF's quantised blocks as codes. Source of the layouts: the block structures of ggml (`ggml-common.h`).

use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{Result, bail};
use half::f16;

use super::compact::{CodedRow, Compact};

/// A kind of block that can be kept as it is.
struct Layout {
    /// Of a code, as kept here.
    bits: u32,
    /// Inputs of one block.
    values: usize,
    bytes: usize,
    /// Inputs that share a factor.
    step: usize,
    /// Appends a block's codes, factors and offsets.
    read: fn(&[u8], &mut CodedRow),
}

fn layout(kind: GgmlDType) -> Option<Layout> {
    let layout = |bits, values, bytes, step, read| Some(Layout { bits, values, bytes, step, read });
    match kind {
        GgmlDType::Q4_0 => layout(4, 32, 18, 32, read_q4_0),
        GgmlDType::Q4_1 => layout(4, 32, 20, 32, read_q4_1),
        GgmlDType::Q8_0 => layout(8, 32, 34, 32, read_q8_0),
        GgmlDType::Q4K => layout(4, 256, 144, 32, read_q4_k),
        GgmlDType::Q5K => layout(8, 256, 176, 32, read_q5_k),
        GgmlDType::Q6K => layout(8, 256, 210, 16, read_q6_k),
        _ => None,
    }
}

/// Keeps a quantised weight `[outputs, inputs]` as codes; output `o` is row `row_of(o)` of the file's. `None` for kinds of
/// blocks that are not read here.
pub(super) fn compact(weight: &QTensor, row_of: impl Fn(usize) -> usize + Sync) -> Result<Option<Compact>> {
    let Some(layout) = layout(weight.dtype()) else { return Ok(None) };
    let (outputs, inputs) = weight.shape().dims2()?;
    let data = weight.data()?;
    let stride = inputs / layout.values * layout.bytes;
    if inputs == 0 || !inputs.is_multiple_of(layout.values) || data.len() != outputs * stride {
        bail!("{} bytes of {:?} are no weight of shape [{outputs}, {inputs}]", data.len(), weight.dtype());
    }
    let row = |output: usize| {
        let start = row_of(output) * stride;
        let mut row = CodedRow::default();
        data[start..start + stride].chunks_exact(layout.bytes).for_each(|block| (layout.read)(block, &mut row));
        row
    };
    Ok(Some(Compact::coded(row, outputs, inputs, layout.bits, layout.step)))
}

fn half_at(block: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
}

/// Low halves of all bytes, then the high ones.
fn push_nibbles(bytes: &[u8], row: &mut CodedRow) {
    row.codes.extend(bytes.iter().map(|byte| (byte & 15).cast_signed()));
    row.codes.extend(bytes.iter().map(|byte| (byte >> 4).cast_signed()));
}

fn read_q4_0(block: &[u8], row: &mut CodedRow) {
    let factor = half_at(block, 0);
    row.factors.push(factor);
    row.offsets.push(-8.0 * factor);
    push_nibbles(&block[2..], row);
}

fn read_q4_1(block: &[u8], row: &mut CodedRow) {
    row.factors.push(half_at(block, 0));
    row.offsets.push(half_at(block, 2));
    push_nibbles(&block[4..], row);
}

fn read_q8_0(block: &[u8], row: &mut CodedRow) {
    row.factors.push(half_at(block, 0));
    row.offsets.push(0.0);
    row.codes.extend(block[2..].iter().map(|byte| byte.cast_signed()));
}

/// Pushes the factors and offsets of the eight parts of a K block: `d`, `dmin`, and twelve bytes of six-bit numbers.
fn push_scales(block: &[u8], row: &mut CodedRow) {
    let (d, d_min, packed) = (half_at(block, 0), half_at(block, 2), &block[4..16]);
    for part in 0..8 {
        let (scale, minimum) = if part < 4 {
            (packed[part] & 63, packed[part + 4] & 63)
        } else {
            let low = packed[part + 4];
            (low & 15 | (packed[part - 4] >> 6) << 4, low >> 4 | (packed[part] >> 6) << 4)
        };
        row.factors.push(d * f32::from(scale));
        row.offsets.push(-(d_min * f32::from(minimum)));
    }
}

fn read_q4_k(block: &[u8], row: &mut CodedRow) {
    push_scales(block, row);
    block[16..].chunks_exact(32).for_each(|bytes| push_nibbles(bytes, row));
}

fn read_q5_k(block: &[u8], row: &mut CodedRow) {
    push_scales(block, row);
    let (high, low) = block[16..].split_at(32);
    for part in 0..8 {
        let bytes = &low[part / 2 * 32..][..32];
        row.codes.extend(bytes.iter().zip(high).map(|(low, high)| {
            let low = low >> (part % 2 * 4) & 15;
            (low | (high >> part & 1) << 4).cast_signed()
        }));
    }
}

fn read_q6_k(block: &[u8], row: &mut CodedRow) {
    let (low, rest) = block.split_at(128);
    let (high, scales) = rest.split_at(64);
    let d = half_at(block, 208);
    for half in 0..2 {
        let (low, high) = (&low[half * 64..][..64], &high[half * 32..][..32]);
        for part in 0..4 {
            row.codes.extend((0..32).map(|i| {
                let low = low[part % 2 * 32 + i] >> (part / 2 * 4) & 15;
                (low | (high[i] >> (part * 2) & 3) << 4).cast_signed() - 32
            }));
        }
    }
    row.factors.extend(scales[..16].iter().map(|scale| d * f32::from(scale.cast_signed())));
    row.offsets.extend([0.0; 16]);
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use candle_core::{Device, Tensor};

    use super::super::panels::{PANEL, PanelRow};
    use super::*;

    /// Protects: what is kept of each kind of block has the very values that candle's dequantisation gives.
    #[test]
    fn codes_have_the_values_of_the_blocks() {
        let (outputs, inputs) = (70, 512);
        let noise = |i: usize| ((i as f32 * 0.7).sin() + (i % 13) as f32 * 0.1 - 0.5) * (1.0 + (i % 7) as f32);
        let values: Vec<f32> = (0..outputs * inputs).map(noise).collect();
        let weight = Tensor::from_vec(values, (outputs, inputs), &Device::Cpu).unwrap();
        for kind in [GgmlDType::Q4_0, GgmlDType::Q4_1, GgmlDType::Q8_0, GgmlDType::Q4K, GgmlDType::Q5K, GgmlDType::Q6K]
        {
            let quantised = QTensor::quantize(&weight, kind).unwrap();
            let expected = quantised.dequantize(&Device::Cpu).unwrap().to_vec2::<f32>().unwrap();
            let kept = compact(&quantised, |output| outputs - 1 - output).unwrap().unwrap();
            assert!(kept.bytes() * 3 < outputs.next_multiple_of(PANEL) * inputs * 4, "{kind:?}: {}", kept.bytes());
            // A range that begins and ends inside of blocks.
            let range = 5..inputs - 3;
            let mut panel = vec![PanelRow::ZERO; range.len()];
            for output in 0..outputs {
                kept.expand(output / PANEL, range.clone(), &mut panel);
                for (input, row) in range.clone().zip(&panel) {
                    let value = row.0[output % PANEL];
                    assert!(value == expected[outputs - 1 - output][input], "{kind:?} at {output}, {input}");
                }
            }
        }
    }
}
