use std::cmp::Ordering;
use std::fmt;

use serde::{Deserialize, Serialize};

/// An exact share in [0, 1]: `1/16` or `0.0625`. Counting with it never rounds, so the number of
/// selected episodes does not depend on how a machine represents 0.1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Fraction {
    numerator: u64,
    denominator: u64,
}

/// Text that is no share.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("must be a share from 0 to 1, as in `1/16` or `0.0625`, but is `{0}`")]
pub struct InvalidFraction(String);

/// The longest decimal or term that is read; 10^18 still fits the terms.
const MAX_DIGITS: usize = 18;

impl Fraction {
    /// Nothing.
    pub const ZERO: Self = Self { numerator: 0, denominator: 1 };
    /// Everything.
    pub const ONE: Self = Self { numerator: 1, denominator: 1 };

    /// `numerator / denominator` in lowest terms; none unless it lies in [0, 1].
    pub fn new(numerator: u64, denominator: u64) -> Option<Self> {
        if denominator == 0 || numerator > denominator {
            return None;
        }
        let common = greatest_common_divisor(numerator, denominator);
        Some(Self { numerator: numerator / common, denominator: denominator / common })
    }

    /// Reads `1/16`, `0.0625`, `.5`, `0` or `1`. Decimals are exact, not floating point.
    ///
    /// # Errors
    /// When the text is anything else, has terms of more than 18 digits, or lies outside [0, 1].
    pub fn parse(text: &str) -> Result<Self, InvalidFraction> {
        let refuse = || InvalidFraction(text.chars().take(40).flat_map(char::escape_default).collect());
        let parsed = match text.trim().split_once('/') {
            Some((above, below)) => Self::new(whole(above).ok_or_else(refuse)?, whole(below).ok_or_else(refuse)?),
            None => decimal(text.trim()),
        };
        parsed.ok_or_else(refuse)
    }

    /// The smallest whole number that is at least this share of `n`.
    pub fn ceil_of(self, n: usize) -> usize {
        let share = u128::from(self.numerator) * n as u128;
        share.div_ceil(u128::from(self.denominator)) as usize
    }

    /// How many must be added to `n` for those to be this share of all; to the nearest, halves up. Of a share of all, none.
    pub fn added_to(self, n: usize) -> usize {
        let (numerator, rest) = (u128::from(self.numerator), u128::from(self.denominator - self.numerator));
        if rest == 0 { 0 } else { ((2 * numerator * n as u128 + rest) / (2 * rest)) as usize }
    }

    /// The whole number nearest to this share of `n`; halves go up.
    pub fn round_of(self, n: usize) -> usize {
        let (numerator, denominator) = (u128::from(self.numerator), u128::from(self.denominator));
        ((2 * numerator * n as u128 + denominator) / (2 * denominator)) as usize
    }

    /// This share of `n` as its whole part and the remainder's share of one.
    pub(crate) fn split(self, n: usize) -> (usize, Self) {
        let share = u128::from(self.numerator) * n as u128;
        let denominator = u128::from(self.denominator);
        let rest = Self::new((share % denominator) as u64, self.denominator).unwrap_or(Self::ZERO);
        ((share / denominator) as usize, rest)
    }

    /// Nothing at all.
    pub const fn is_zero(self) -> bool {
        self.numerator == 0
    }

    /// The nearest floating-point number.
    pub fn as_f64(self) -> f64 {
        self.numerator as f64 / self.denominator as f64
    }

    /// Numerator and denominator of an exact sum, which may exceed 1; none when they outgrow 128 bits.
    pub(crate) fn sum(shares: impl IntoIterator<Item = Self>) -> Option<(u128, u128)> {
        shares.into_iter().try_fold((0_u128, 1_u128), |(above, below), share| {
            let (numerator, denominator) = (u128::from(share.numerator), u128::from(share.denominator));
            let above = above.checked_mul(denominator)?.checked_add(numerator.checked_mul(below)?)?;
            let below = below.checked_mul(denominator)?;
            let common = greatest_common_divisor_wide(above, below);
            Some((above / common, below / common))
        })
    }
}

fn whole(text: &str) -> Option<u64> {
    let text = text.trim();
    let plain = (1..=MAX_DIGITS).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
    plain.then(|| text.parse().ok()).flatten()
}

fn decimal(text: &str) -> Option<Fraction> {
    let (before, after) = text.split_once('.').unwrap_or((text, ""));
    if before.is_empty() && after.is_empty() {
        return None;
    }
    let digits = format!("{before}{after}");
    let denominator = 10_u64.checked_pow(u32::try_from(after.len()).ok()?)?;
    Fraction::new(whole(&digits)?, denominator)
}

fn greatest_common_divisor(a: u64, b: u64) -> u64 {
    if b == 0 { a.max(1) } else { greatest_common_divisor(b, a % b) }
}

fn greatest_common_divisor_wide(a: u128, b: u128) -> u128 {
    if b == 0 { a.max(1) } else { greatest_common_divisor_wide(b, a % b) }
}

impl fmt::Display for Fraction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.denominator {
            1 => write!(f, "{}", self.numerator),
            denominator => write!(f, "{}/{denominator}", self.numerator),
        }
    }
}

impl Ord for Fraction {
    fn cmp(&self, other: &Self) -> Ordering {
        let left = u128::from(self.numerator) * u128::from(other.denominator);
        left.cmp(&(u128::from(other.numerator) * u128::from(self.denominator)))
    }
}

impl PartialOrd for Fraction {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl TryFrom<String> for Fraction {
    type Error = InvalidFraction;
    fn try_from(text: String) -> Result<Self, InvalidFraction> {
        Self::parse(&text)
    }
}

impl From<Fraction> for String {
    fn from(fraction: Fraction) -> String {
        fraction.to_string()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    #[test]
    fn reads_ratios_and_decimals_exactly() {
        for (text, shown) in
            [("1/16", "1/16"), ("0.0625", "1/16"), (".5", "1/2"), ("1", "1"), ("0", "0"), ("0.1", "1/10")]
        {
            assert_eq!(Fraction::parse(text).unwrap().to_string(), shown, "{text}");
        }
        assert_eq!(Fraction::parse(" 4 / 16 ").unwrap(), Fraction::parse("0.25").unwrap());
    }

    #[test]
    fn refuses_what_is_no_share_and_says_what_is() {
        for text in ["", ".", "1/0", "2", "-1", "1.5", "3/2", "a", "1e-3", "0.1234567890123456789", "1/2/3", "NaN"] {
            assert_eq!(
                Fraction::parse(text).unwrap_err().to_string(),
                format!("must be a share from 0 to 1, as in `1/16` or `0.0625`, but is `{text}`")
            );
        }
    }

    #[test]
    fn counts_without_rounding_errors() {
        let tenth = Fraction::parse("0.1").unwrap();
        assert_eq!(tenth.ceil_of(30), 3, "0.1 * 30 is 3.0000000000000004 in floating point");
        assert_eq!(tenth.ceil_of(31), 4);
        assert_eq!(tenth.ceil_of(0), 0);
        assert_eq!(Fraction::parse("1/4").unwrap().round_of(10), 3);
        assert_eq!(Fraction::parse("1/3").unwrap().added_to(10), 5);
        assert_eq!((Fraction::ZERO.added_to(10), Fraction::parse("1/10").unwrap().added_to(9)), (0, 1));
        assert_eq!(Fraction::parse("1/3").unwrap().split(10), (3, Fraction::new(1, 3).unwrap()));
    }

    #[test]
    fn sums_exactly() {
        let sum = |texts: &[&str]| Fraction::sum(texts.iter().map(|t| Fraction::parse(t).unwrap()));
        assert_eq!(sum(&["1/3", "1/3", "1/3"]), Some((1, 1)));
        assert_eq!(sum(&["0.1", "0.2", "0.7"]), Some((1, 1)));
        assert_eq!(sum(&["0.5", "1/3"]), Some((5, 6)));
    }
}
