#![allow(clippy::unwrap_used, clippy::expect_used)]

use proptest::prelude::*;

use super::*;

const VOCABULARY: u32 = 4;
const LONGEST: usize = 3;

/// Logits after a path: any function of it will do, as long as the paths differ.
fn logits_after(path: &[u32], salt: u32) -> Vec<f32> {
    (0..VOCABULARY)
        .map(|token| {
            let mixed = path.iter().fold(salt * 31 + token, |h, t| h.wrapping_mul(2_654_435_761).wrapping_add(t + 1));
            (mixed % 1000) as f32 / 250.0
        })
        .collect()
}

fn probability(path: &[u32], salt: u32) -> f64 {
    (0..path.len())
        .map(|i| {
            let logits = logits_after(&path[..i], salt);
            let total: f64 = logits.iter().map(|x| f64::from(*x).exp()).sum();
            f64::from(logits[path[i] as usize]).exp() / total
        })
        .product()
}

/// Runs a walk as the engine does, on a sequence that is cut back and extended.
fn walk(tree: AnswerTree, salt: u32) -> (AnswerDistribution, usize) {
    let tree = Arc::new(tree);
    let mut walk = ScoreWalk::new(tree.clone(), Warp::default());
    let mut path = Vec::new();
    for steps in 0.. {
        match walk.accept(&logits_after(&path, salt)).unwrap() {
            Step::Visit { kept, token } => {
                path.truncate(kept);
                path.push(token);
            }
            Step::Done(score) => return (score, steps),
        }
    }
    unreachable!()
}

/// All replies of the longest length, each given to the longest form that it begins with.
fn brute_force(forms: &[(usize, Vec<u32>)], answers: usize, salt: u32) -> Vec<f64> {
    let mut sums = vec![0.0; answers];
    for code in 0..VOCABULARY.pow(LONGEST as u32) {
        let reply: Vec<u32> = (0..LONGEST as u32).map(|i| code / VOCABULARY.pow(i) % VOCABULARY).collect();
        let begins = forms.iter().filter(|(_, form)| reply.starts_with(form));
        if let Some((owner, _)) = begins.max_by_key(|(_, form)| form.len()) {
            sums[*owner] += probability(&reply, salt);
        }
    }
    sums
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Protects: the probabilities of answers, whatever forms begin with one another (`1` and `10`).
    #[test]
    fn equals_brute_force(
        raw in prop::collection::vec((0usize..3, prop::collection::vec(0..VOCABULARY, 1..=LONGEST)), 1..12),
        salt in 0u32..1000,
    ) {
        let mut forms: Vec<(usize, Vec<u32>)> = Vec::new();
        for (owner, form) in raw {
            if !forms.iter().any(|(_, other)| *other == form) {
                forms.push((owner, form));
            }
        }
        let answers: Vec<String> = (0..3).map(|i| format!("answer {i}")).collect();
        let encoded = forms.iter().map(|(o, ids)| (*o, format!("{ids:?}"), ids.clone())).collect();
        let tree = AnswerTree::from_forms(answers, encoded).unwrap();
        let expected_steps = tree.further_steps();
        let (score, steps) = walk(tree, salt);
        prop_assert_eq!(steps, expected_steps);
        let expected = brute_force(&forms, 3, salt);
        let mass: f64 = expected.iter().sum();
        prop_assert!((score.mass - mass).abs() < 1e-6, "mass {} is not {}", score.mass, mass);
        for ((_, got), want) in score.probabilities.iter().zip(&expected) {
            prop_assert!((got * mass - want).abs() < 1e-6, "{got} is not {want}");
        }
    }
}

/// Protects: what counts as an answer.
#[test]
fn forms_are_the_four_cases_with_and_without_a_space() {
    let expected = ["yEs", " yEs", "yes", " yes", "YES", " YES", "Yes", " Yes"];
    assert_eq!(surface_forms("yEs"), expected);
    assert_eq!(surface_forms("7"), ["7", " 7"]);
    assert_eq!(surface_forms("i am"), ["i am", " i am", "I AM", " I AM", "I am", " I am"]);
}

/// Protects: two answers that one reply could mean are refused, not silently given to one of them.
#[test]
fn refuses_answers_that_share_a_form() {
    let answers = vec!["Yes".to_owned(), "yes".to_owned()];
    let forms = vec![(0, "yes".to_owned(), vec![1]), (1, "yes".to_owned(), vec![1])];
    let refused = AnswerTree::from_forms(answers, forms).unwrap_err();
    assert!(matches!(refused, AnswerError::Shared { .. }), "{refused}");
    assert_eq!(AnswerTree::from_forms(Vec::new(), Vec::new()), Err(AnswerError::None));
}
