#![allow(clippy::unwrap_used, clippy::expect_used)]

use serde_json::Value;

use super::*;

/// What others make of the same numbers: `tests/reference/statistics.py`.
fn reference(part: &str) -> Vec<Value> {
    let all: Value = serde_json::from_str(include_str!("../../tests/reference/statistics.json")).unwrap();
    all[part].as_array().unwrap().clone()
}

fn pairs<A: serde::de::DeserializeOwned>(case: &Value, name: &str) -> Vec<(A, A)> {
    serde_json::from_value(case[name].clone()).unwrap()
}

#[track_caller]
fn near(ours: f64, theirs: &Value, tolerance: f64) {
    let theirs = theirs.as_f64().unwrap();
    assert!((ours - theirs).abs() <= tolerance * theirs.abs().max(1e-3), "{ours} is not {theirs}");
}

#[test]
fn means_and_their_errors_are_those_of_statsmodels() {
    for case in reference("clustered") {
        let values: Vec<(u32, f64)> = serde_json::from_value(case["values"].clone()).unwrap();
        let ours = Estimate::of(values.iter().copied()).unwrap();
        near(ours.mean, &case["mean"], 1e-12);
        near(ours.standard_error.unwrap(), &case["standard_error"], 1e-10);
        // Theirs has a hundred times as many samples; ours may differ by what 2,000 leave open.
        let bootstrap = bootstrap(values.iter().copied(), 1).unwrap();
        let width = case["bootstrap"][1].as_f64().unwrap() - case["bootstrap"][0].as_f64().unwrap();
        assert!((bootstrap.low - case["bootstrap"][0].as_f64().unwrap()).abs() < 0.06 * width, "{bootstrap:?}");
        assert!((bootstrap.high - case["bootstrap"][1].as_f64().unwrap()).abs() < 0.06 * width, "{bootstrap:?}");
    }
}

#[test]
fn paired_tests_are_those_of_scipy() {
    for case in reference("paired") {
        let ours = paired(&pairs(&case, "pairs"), 1).unwrap();
        near(ours.difference.mean, &case["difference"], 1e-12);
        near(ours.difference.standard_error.unwrap(), &case["standard_error"], 1e-10);
        let interval = ours.interval.unwrap();
        near(interval.low, &case["interval"][0], 1e-6);
        near(interval.high, &case["interval"][1], 1e-6);
        assert!((ours.p.unwrap() / case["p"].as_f64().unwrap() - 1.0).abs() < 1e-6, "{ours:?} {case}");
    }
}

#[test]
fn corrections_are_those_of_statsmodels_and_leave_missing_tests_out() {
    for case in reference("holm") {
        let p: Vec<Option<f64>> = serde_json::from_value(case["p"].clone()).unwrap();
        let mut with_gap = p.clone();
        with_gap.insert(1, None);
        let mut ours = holm(&with_gap);
        assert_eq!(ours.remove(1), None);
        for (ours, theirs) in ours.iter().zip(case["corrected"].as_array().unwrap()) {
            near(ours.unwrap(), theirs, 1e-12);
        }
    }
}

#[test]
fn agreement_is_that_of_scikit_learn() {
    for case in reference("agreement") {
        let ours = Confusion::of(pairs(&case, "pairs"));
        near(ours.kappa().unwrap(), &case["kappa"], 1e-12);
        near(ours.precision().unwrap(), &case["precision"], 1e-12);
        near(ours.recall().unwrap(), &case["recall"], 1e-12);
    }
}

#[test]
fn what_cannot_be_told_is_none() {
    let quiet = Confusion::of([(false, false), (false, false)]);
    assert_eq!((quiet.kappa(), quiet.precision(), quiet.recall()), (None, None, None));
    assert_eq!(Confusion::default().kappa(), None);
    assert_eq!(paired(&[], 1), None);
    let alone = paired(&[(1.0, 2.0)], 1).unwrap();
    assert_eq!((alone.interval, alone.bootstrap, alone.p), (None, None, None));
    // Rounding makes the three differences unequal, by less than counts.
    let constant = paired(&[(0.1, 0.4), (0.2, 0.5), (0.7, 1.0)], 1).unwrap();
    assert_eq!((constant.interval, constant.p), (None, None));
    assert_eq!(bootstrap([("a", 1.0), ("a", 3.0)], 1), None);
    assert_eq!(Estimate::of(Vec::<((), f64)>::new()), None);
}

#[test]
fn siblings_count_as_one_cluster() {
    // By hand: mean 2.5; deviations per cluster -2 and 2; 2/1 * (4 + 4) = 16; sqrt(16) / 4 = 1.
    let clustered = Estimate::of([("a", 1.0), ("a", 2.0), ("b", 3.0), ("b", 4.0)]).unwrap();
    assert_eq!(clustered, Estimate { mean: 2.5, standard_error: Some(1.0) });
    // Alone, each value is a cluster: the usual standard error sqrt(5/3 / 4).
    let alone = Estimate::of([(1, 1.0), (2, 2.0), (3, 3.0), (4, 4.0)]).unwrap();
    assert!((alone.standard_error.unwrap() - (5.0_f64 / 3.0 / 4.0).sqrt()).abs() < 1e-12);
    let single = Estimate::of([("a", 1.0), ("a", 3.0)]).unwrap();
    assert_eq!(single, Estimate { mean: 2.0, standard_error: None });
    let known = |standard_error| Estimate { mean: 5.0, standard_error };
    assert_eq!(known(Some(3.0)).less(known(Some(4.0))), Estimate { mean: 0.0, standard_error: Some(5.0) });
    assert_eq!(known(Some(3.0)).less(single).standard_error, None);
}

#[test]
fn a_bootstrap_is_the_same_for_the_same_seed() {
    let values = || (0..9).map(|i| (i, f64::from(i * i)));
    assert_eq!(bootstrap(values(), 7), bootstrap(values(), 7));
    assert_ne!(bootstrap(values(), 7), bootstrap(values(), 8));
}

#[test]
fn flips_are_counted_from_one_answer_to_the_next() {
    let (yes, no) = (Some(true), Some(false));
    let of = |answers: &[Option<bool>], before| flips(answers.iter().copied(), before);
    assert_eq!(of(&[no, no, yes, None, yes, no], None), Some(Flips { turn: Some(2), number: 2 }));
    assert_eq!(of(&[yes, yes], None), Some(Flips { turn: None, number: 0 }));
    assert_eq!(of(&[yes, yes], no), Some(Flips { turn: Some(0), number: 1 }));
    assert_eq!(of(&[None, None], no), None);
}

#[test]
fn the_front_holds_what_nothing_beats() {
    let points = [Some((5.0, 0.1)), Some((6.0, 0.1)), Some((9.0, 0.8)), Some((8.0, 0.8)), None, Some((9.0, 0.8))];
    // More gain for the same harm beats; equal points do not beat each other.
    assert_eq!(front(&points), [false, true, true, false, false, true]);
}
