use serde::Serialize;

/// How often a yes or no changes over a conversation, and when first (turn of flip and number of flips, as
/// studies of sycophancy over several turns count them: Hong et al. 2025, arXiv 2505.23840).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Flips {
    /// The first turn whose answer differs from the one before, from 0; none if all agree.
    pub turn: Option<usize>,
    /// Turns whose answer differs from the one before.
    pub number: usize,
}

/// Flips of the answers by turn. `before` is what held before the first turn, if that is known: without it
/// the first turn cannot be a flip. Turns without an answer are passed over. None if no turn has one.
pub fn flips(answers: impl IntoIterator<Item = Option<bool>>, before: Option<bool>) -> Option<Flips> {
    let mut last = before;
    let mut found = None;
    for (turn, answer) in answers.into_iter().enumerate() {
        let Some(answer) = answer else { continue };
        let flips = found.get_or_insert(Flips { turn: None, number: 0 });
        if last.is_some_and(|last| last != answer) {
            flips.turn.get_or_insert(turn);
            flips.number += 1;
        }
        last = Some(answer);
    }
    found
}
