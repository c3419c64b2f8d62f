//! Sums in lanes: element `i` is added to lane `i % LANES`, then the lanes are added pairwise. So they are taken in one order on
//! every processor, whatever vectors it has.

use std::ops::AddAssign;

/// As many as the widest vector has.
pub(crate) const LANES: usize = 16;

/// Adds the lanes pairwise.
#[inline(always)]
pub(crate) fn fold<T: Copy + AddAssign>(mut lanes: [T; LANES]) -> T {
    let mut width = LANES / 2;
    while width > 0 {
        for lane in 0..width {
            let other = lanes[lane + width];
            lanes[lane] += other;
        }
        width /= 2;
    }
    lanes[0]
}
