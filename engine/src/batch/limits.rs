//! How much one step may take on.

/// Bounds of one step. They shrink when a device runs out of memory, and stay there: it would again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Limits {
    /// Rows.
    pub(super) rows: usize,
    /// Prompt tokens of rows that need more than one.
    pub(super) prefill: usize,
}

impl Limits {
    /// After a step of `rows` rows and `tokens` tokens ran out of memory: the next takes half of the rows, or half of the
    /// tokens of a row. False if there is nothing to halve.
    pub(super) fn shrink(&mut self, rows: usize, tokens: usize) -> bool {
        let prefill = self.prefill.min(tokens).div_ceil(2);
        let smaller = Self { rows: self.rows.min(rows).div_ceil(2), prefill };
        let halved = rows > 1 || tokens > 1;
        if halved {
            *self = smaller;
        }
        halved
    }
}

/// Whether a pass failed for lack of memory, by its words: candle has no kind of error for it.
pub(super) fn is_out_of_memory(error: &candle_core::Error) -> bool {
    let words = error.to_string().to_lowercase();
    words.contains("out of memory") || words.contains("out_of_memory")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Protects: a step that does not fit is tried in halves, down to one token of one row and no further.
    #[test]
    fn steps_shrink_to_one_token_and_no_further() {
        let mut limits = Limits { rows: 100, prefill: 256 };
        assert!(limits.shrink(5, 104));
        assert_eq!(limits, Limits { rows: 3, prefill: 52 });
        let mut times = 1;
        while limits.shrink(limits.rows, limits.rows.max(limits.prefill)) {
            times += 1;
            assert!(times < 20, "it never ends: {limits:?}");
        }
        assert_eq!(limits, Limits { rows: 1, prefill: 1 });
    }

    /// Protects: CUDA's words are understood, and other failures are not taken for it.
    #[test]
    fn words_for_a_lack_of_memory_are_known() {
        let error = |text: &str| candle_core::Error::Msg(text.to_owned());
        assert!(is_out_of_memory(&error("DriverError(CUDA_ERROR_OUT_OF_MEMORY, \"out of memory\")")));
        assert!(!is_out_of_memory(&error("shape mismatch in matmul")));
    }
}
