#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeSet;

use influence_proto::EpisodeId;
use proptest::prelude::*;

use super::{Candidate, CandidateTurn, Fraction, Selection, select};
use crate::config::{RewardSettings, RewardTurns, SelectionLevel, SelectionSettings, VetoSettings};

const MEAN: RewardSettings = RewardSettings { turns: RewardTurns::Mean, length_penalty: 0.0 };

fn turn(rating: Option<f64>, influence: Option<f64>) -> CandidateTurn {
    CandidateTurn { rating, influence, characters: 10 }
}

fn candidate(id: &str, environment: &str, turns: &[CandidateTurn]) -> Candidate {
    Candidate {
        id: EpisodeId::new(id).unwrap(),
        environment_class: "class".into(),
        environment: environment.into(),
        initial_state: "1".into(),
        turns: turns.to_vec(),
    }
}

fn rated(id: &str, rating: f64) -> Candidate {
    candidate(id, "a", &[turn(Some(rating), None)])
}

fn settings(best: &str, worst: &str) -> SelectionSettings {
    SelectionSettings {
        level: SelectionLevel::Environment,
        best: Fraction::parse(best).unwrap(),
        worst: Fraction::parse(worst).unwrap(),
        veto: None,
    }
}

fn vetoing(best: &str, worst: &str, negatives_on_vetoed: bool) -> SelectionSettings {
    SelectionSettings { veto: Some(VetoSettings { threshold: 0.5, negatives_on_vetoed }), ..settings(best, worst) }
}

fn names(ids: &[EpisodeId]) -> Vec<&str> {
    ids.iter().map(EpisodeId::as_str).collect()
}

fn reward_of(reward: &RewardSettings, turns: &[CandidateTurn]) -> Option<f64> {
    let selection = select(&[candidate("x", "a", turns)], reward, &settings("1", "0"));
    selection.rewards.into_values().next().unwrap().reward
}

#[test]
fn a_reward_is_the_mean_or_final_rating_less_the_penalty() {
    let turns = [turn(Some(4.0), None), turn(Some(7.0), None)];
    assert_eq!(reward_of(&MEAN, &turns), Some(5.5));
    assert_eq!(reward_of(&RewardSettings { turns: RewardTurns::Final, ..MEAN }, &turns), Some(7.0));
    assert_eq!(reward_of(&RewardSettings { length_penalty: 0.25, ..MEAN }, &turns), Some(3.0));
}

#[test]
fn an_unscored_turn_is_never_a_zero() {
    let last_unscored = [turn(Some(4.0), None), turn(None, None)];
    let first_unscored = [turn(None, None), turn(Some(4.0), None)];
    let last = RewardSettings { turns: RewardTurns::Final, ..MEAN };
    assert_eq!(reward_of(&MEAN, &last_unscored), None);
    assert_eq!(reward_of(&last, &last_unscored), None);
    assert_eq!(reward_of(&last, &first_unscored), Some(4.0), "the final reward uses the last turn alone");
    assert_eq!(reward_of(&MEAN, &[]), None);
    let unscored = candidate("u", "a", &[turn(None, None)]);
    let selection = select(&[unscored, rated("s", 1.0)], &MEAN, &settings("1", "0"));
    assert_eq!(names(&selection.best), ["s"]);
    assert!(selection.rewards[&EpisodeId::new("u").unwrap()].unscored);
}

#[test]
fn the_best_come_first_and_ties_go_by_id() {
    let episodes = [rated("d", 5.0), rated("b", 5.0), rated("c", 9.0), rated("a", 1.0)];
    let selection = select(&episodes, &MEAN, &settings("1/2", "1/2"));
    assert_eq!(names(&selection.best), ["c", "b"]);
    assert_eq!(names(&selection.worst), ["a", "d"]);
    assert!(selection.short.is_empty());
}

#[test]
fn the_worst_exclude_the_best_and_too_few_are_reported() {
    let selection = select(&[rated("a", 1.0), rated("b", 2.0), rated("c", 3.0)], &MEAN, &settings("1/2", "1/2"));
    assert_eq!((names(&selection.best), names(&selection.worst)), (vec!["c", "b"], vec!["a"]));
    assert_eq!(selection.short, ["environment `a`: 1 of 2 worst episodes, because the rest are among the best"]);
    let alone = select(&[rated("a", 1.0)], &MEAN, &settings("0", "1"));
    assert!(alone.worst.is_empty() && alone.short.is_empty(), "a group of one has no worst");
}

#[test]
fn groups_compete_apart() {
    let episodes = [
        candidate("a1", "a", &[turn(Some(9.0), None)]),
        candidate("a2", "a", &[turn(Some(8.0), None)]),
        candidate("b1", "b", &[turn(Some(2.0), None)]),
        candidate("b2", "b", &[turn(Some(1.0), None)]),
    ];
    let level = |level| SelectionSettings { level, ..settings("1/2", "0") };
    assert_eq!(names(&select(&episodes, &MEAN, &level(SelectionLevel::Environment)).best), ["a1", "b1"]);
    assert_eq!(names(&select(&episodes, &MEAN, &level(SelectionLevel::EnvironmentClass)).best), ["a1", "a2"]);
    assert_eq!(names(&select(&episodes, &MEAN, &level(SelectionLevel::InitialState)).best), ["a1", "b1"]);
}

#[test]
fn a_veto_leaves_harmful_and_unknown_episodes_out() {
    let harm = |id: &str, rating, influence| candidate(id, "a", &[turn(Some(rating), influence)]);
    let episodes = [
        harm("harmful", 9.0, Some(0.5)),
        harm("unknown", 8.0, None),
        harm("good", 5.0, Some(0.4)),
        harm("poor", 4.0, Some(0.0)),
    ];
    let strict = select(&episodes, &MEAN, &vetoing("1/2", "1/2", false));
    assert_eq!((names(&strict.best), names(&strict.worst)), (vec!["good"], vec!["poor"]), "1/2 of the 2 left");
    let lenient = select(&episodes, &MEAN, &vetoing("1/2", "1/2", true));
    assert_eq!(names(&lenient.best), ["good"]);
    assert_eq!(names(&lenient.worst), ["poor", "unknown"], "1/2 of all 4");
    let of = |id: &str| strict.rewards[&EpisodeId::new(id).unwrap()];
    assert!(of("harmful").vetoed && !of("harmful").vetoed_as_unscored());
    assert!(of("unknown").vetoed_as_unscored());
    assert!(!of("good").vetoed);
    let none = select(&episodes[..2], &MEAN, &vetoing("1/2", "0", false));
    assert_eq!(
        none.short,
        [
            "environment `a`: none of 2 episodes can be selected (0 unscored, 1 vetoed, 1 vetoed because their influence is unscored)"
        ]
    );
}

/// Rating and influence of each turn.
type Scores = Vec<(Option<f64>, Option<f64>)>;

fn episodes() -> impl Strategy<Value = Vec<Candidate>> {
    // Few distinct values, so that ties happen.
    let score = prop_oneof![1 => Just(None), 6 => (0..4_u8).prop_map(|n| Some(f64::from(n)))];
    let harm = prop_oneof![1 => Just(None), 6 => (0..3_u8).prop_map(|n| Some(f64::from(n) / 2.0))];
    let turns = prop::collection::vec((score, harm), 1..3);
    prop::collection::vec((turns, 0..3_u8), 0..40).prop_map(|list| {
        let make = |(n, (turns, environment)): (usize, (Scores, u8))| {
            let turns: Vec<_> = turns.into_iter().map(|(rating, influence)| turn(rating, influence)).collect();
            candidate(&format!("e{n:02}"), &format!("env{environment}"), &turns)
        };
        list.into_iter().enumerate().map(make).collect()
    })
}

fn check(episodes: &[Candidate], settings: &SelectionSettings, selection: &Selection) -> Result<(), TestCaseError> {
    let (best, worst): (BTreeSet<_>, BTreeSet<_>) = (selection.best.iter().collect(), selection.worst.iter().collect());
    prop_assert_eq!(best.len(), selection.best.len(), "no episode twice");
    prop_assert!(best.is_disjoint(&worst));
    let environments: BTreeSet<&str> = episodes.iter().map(|e| e.environment.as_str()).collect();
    for environment in environments {
        let members: Vec<_> = episodes.iter().filter(|e| e.environment == environment).map(|e| &e.id).collect();
        let reward = |id: &EpisodeId| selection.rewards[id].reward;
        let pool: Vec<_> =
            members.iter().filter(|id| !selection.rewards[**id].vetoed && reward(id).is_some()).collect();
        let taken: Vec<_> = members.iter().filter(|id| best.contains(**id)).collect();
        prop_assert_eq!(taken.len(), settings.best.ceil_of(pool.len()));
        for id in &taken {
            prop_assert!(pool.contains(id), "only scored episodes without a veto");
            let better = pool.iter().filter(|other| reward(other) > reward(id));
            prop_assert!(better.into_iter().all(|other| best.contains(**other)), "none better is left out");
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn counts_are_exact_pools_disjoint_and_order_does_not_matter(
        episodes in episodes(), best in 0..=8_u64, worst in 0..=8_u64, veto in any::<bool>(), shuffle in any::<u64>(),
    ) {
        let share = |n: u64| Fraction::new(n, 8).unwrap().to_string();
        let settings = if veto { vetoing(&share(best), &share(worst), false) } else { settings(&share(best), &share(worst)) };
        let selection = select(&episodes, &MEAN, &settings);
        check(&episodes, &settings, &selection)?;
        let order = influence_proto::stream::permutation(shuffle, episodes.len());
        let shuffled: Vec<Candidate> = order.into_iter().map(|i| episodes[i].clone()).collect();
        prop_assert_eq!(select(&shuffled, &MEAN, &settings), selection);
    }
}
