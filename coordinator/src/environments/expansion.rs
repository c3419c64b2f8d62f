//! Templates of openings to initial states: each is one combination of the values of the variables that its template uses.

use influence_proto::stream;

use super::template::Draw;

/// Initial states that an environment's templates are expanded to, if they have as many combinations: what a run of 20
/// iterations with 160 each needs, and a fifth of that to hold out.
pub(super) const INITIAL_STATES: usize = 4000;

/// The combinations of one template's variables in a fixed order that looks random: the n-th is the number
/// `offset + n * step` modulo their number, whose digits are the values' places, the base of each being the length of its list.
/// As `step` has no divisor in common with that number, no combination comes twice before all have come.
#[derive(Debug, Clone)]
pub(super) struct Expansion {
    /// Variables, and how many values each has.
    digits: Vec<(usize, u64)>,
    combinations: u64,
    offset: u64,
    step: u64,
}

impl Expansion {
    /// Of a template by its name and its environment's, and the variables that it uses, each with its number of values.
    pub(super) fn new(environment: &str, template: &str, digits: Vec<(usize, u64)>) -> Self {
        let product = digits.iter().map(|(_, values)| *values).fold(1u64, u64::saturating_mul);
        let number = |what: &str| stream::derive(0, &["expansion", environment, template, what]) % product;
        let mut step = number("step").max(1);
        while greatest_common_divisor(step, product) != 1 {
            step = step % product + 1;
        }
        Self { digits, combinations: product, offset: number("offset"), step }
    }

    /// How many there are.
    pub(super) const fn combinations(&self) -> u64 {
        self.combinations
    }

    /// The draw with the values of combination `n` in it.
    pub(super) fn apply<'d>(&self, n: u64, draw: Draw<'d>) -> Draw<'d> {
        let place = u128::from(self.offset) + u128::from(n) * u128::from(self.step);
        let mut rest = (place % u128::from(self.combinations)) as u64;
        self.digits.iter().fold(draw, |draw, (variable, values)| {
            let digit = rest % values;
            rest /= values;
            draw.choosing(*variable, digit as usize)
        })
    }
}

fn greatest_common_divisor(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { greatest_common_divisor(b, a % b) }
}

/// Deals initial states to templates in turn, first to all of them their first combination, until there are
/// [`INITIAL_STATES`] or no combinations are left: pairs of template and combination.
pub(super) fn deal(combinations: &[u64]) -> Vec<(usize, u64)> {
    let most = combinations.iter().copied().max().unwrap_or_default();
    let all = (0..most).flat_map(|n| (0..combinations.len()).map(move |template| (template, n)));
    all.filter(|(template, n)| *n < combinations[*template]).take(INITIAL_STATES).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::collections::BTreeSet;

    use super::super::template::{Template, UsedIn, Variables};
    use super::*;

    /// Protects: all combinations, each once, and every value of a list about equally often in any stretch.
    #[test]
    fn every_combination_comes_once() {
        let mut variables = Variables::default();
        for (name, count) in [("a", 6), ("b", 4), ("c", 5), ("d", 9)] {
            variables.set(name, (0..count).map(|value| format!("{name}{value}")).collect());
        }
        let template = Template::parse("{a} {b} {c}", &variables, UsedIn::Prompt).unwrap();
        let expansion = Expansion::new("smoking", "balcony", variables.lists_of(template.variables()));
        assert_eq!(expansion.combinations(), 120);
        let texts: Vec<String> = (0..120).map(|n| template.render(&expansion.apply(n, variables.draw(1)))).collect();
        assert_eq!(texts.iter().collect::<BTreeSet<_>>().len(), 120);
        let with = |value: &str| texts[..30].iter().filter(|text| text.contains(value)).count();
        assert!((0..6).all(|value| with(&format!("a{value}")) == 5), "{texts:?}");
        assert!((0..4).all(|value| with(&format!("b{value}")) >= 2), "{texts:?}");
        let other = Expansion::new("smoking", "party", variables.lists_of(template.variables()));
        assert_ne!(template.render(&other.apply(0, variables.draw(1))), texts[0]);
    }

    #[test]
    fn initial_states_are_dealt_in_turn() {
        assert_eq!(deal(&[2, 1, 3]), [(0, 0), (1, 0), (2, 0), (0, 1), (2, 1), (2, 2)]);
        let many = deal(&[u64::MAX, 70]);
        assert_eq!((many.len(), many[3999]), (INITIAL_STATES, (0, 3929)));
        assert!(deal(&[]).is_empty());
    }
}
