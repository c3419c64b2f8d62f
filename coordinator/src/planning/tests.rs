#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::{BTreeMap, BTreeSet};

use influence_proto::prompts::{ChatRole, assessor};
use influence_proto::{EpisodeSpec, Message, RunId, Speaker, wire};

use super::{Phase, plan, pool, shares};
use crate::config::Experiment;
use crate::config::tests::fixture::{CLINIC, Configs};
use crate::selection::Fraction;

fn planned(experiment: &Experiment, phase: Phase, iteration: u32) -> Vec<EpisodeSpec> {
    plan(experiment, &RunId::new("run").unwrap(), phase, iteration, None).unwrap()
}

fn states_of<'s>(specs: &'s [EpisodeSpec], environment: &str) -> Vec<&'s str> {
    specs.iter().filter(|s| s.environment == environment).map(|s| s.initial_state.as_str()).collect()
}

fn clinic(settings: &str) -> Experiment {
    Configs::new().experiment(&format!("environments: {{class: clinic, {settings}}}\n"))
}

#[test]
fn planning_twice_gives_the_same_specs_and_the_wire_takes_them() {
    let experiment = clinic("siblings: 2, order: random");
    let specs = planned(&experiment, Phase::Train, 1);
    assert_eq!(specs, planned(&experiment, Phase::Train, 1));
    assert_eq!(specs.len(), 3 * 4 * 2);
    for spec in specs {
        assert_eq!(EpisodeSpec::try_from(wire::EpisodeSpec::from(spec.clone())).unwrap(), spec);
    }
}

/// Ids and seeds are promises to stored runs: a change here makes every unfinished run start over.
/// The values were computed apart, with Python's hashlib, from the documented parts.
#[test]
fn ids_and_seeds_are_fixed_for_good() {
    let experiment = clinic("order: fixed, held_out: 0");
    let first = &planned(&experiment, Phase::Train, 0)[0];
    assert_eq!((first.environment.as_str(), first.initial_state.as_str()), ("gameable_smoking", "1"));
    assert_eq!(first.id.as_str(), "1f77cdd143d094c2fe86b7a950fecbf9");
    assert_eq!(first.seed, 16966429772396416426);
}

#[test]
fn ids_differ_everywhere_and_seeds_do_not_know_the_run() {
    let experiment = clinic("siblings: 3, initial_states: 20");
    let mut specs = planned(&experiment, Phase::Train, 0);
    specs.extend(planned(&experiment, Phase::Train, 1));
    specs.extend(planned(&experiment, Phase::Evaluate, 0));
    let ids: BTreeSet<_> = specs.iter().map(|s| &s.id).collect();
    let seeds: BTreeSet<_> = specs.iter().map(|s| s.seed).collect();
    assert_eq!((ids.len(), seeds.len()), (specs.len(), specs.len()), "repeated states are told apart too");
    let other = plan(&experiment, &RunId::new("other").unwrap(), Phase::Train, 0, None).unwrap();
    for (a, b) in specs.iter().zip(&other) {
        assert_ne!(a.id, b.id);
        assert_eq!((a.seed, &a.opening, &a.agent), (b.seed, &b.opening, &b.agent));
    }
}

#[test]
fn siblings_share_drawn_variables_and_iterations_do_not() {
    let experiment = clinic("siblings: 4, initial_states: 6, order: fixed");
    let names = |iteration| -> BTreeMap<(String, String), BTreeSet<String>> {
        let mut names: BTreeMap<_, BTreeSet<String>> = BTreeMap::new();
        for spec in planned(&experiment, Phase::Train, iteration) {
            names.entry((spec.environment, spec.initial_state)).or_default().insert(spec.agent_name);
        }
        names
    };
    let first = names(0);
    assert!(first.values().all(|n| n.len() == 1), "{first:?}");
    assert!(first.values().flatten().collect::<BTreeSet<_>>().len() > 1, "{first:?}");
    assert_ne!(first, names(1));
}

#[test]
fn evaluations_are_paired_across_iterations() {
    let experiment = clinic("held_out: 1/2");
    let (before, after) = (planned(&experiment, Phase::Evaluate, 0), planned(&experiment, Phase::Evaluate, 3));
    assert_eq!(before.len(), 3 * 4);
    for (a, b) in before.iter().zip(&after) {
        assert_ne!(a.id, b.id);
        assert_eq!(EpisodeSpec { id: b.id.clone(), ..a.clone() }, *b);
    }
}

#[test]
fn training_never_sees_what_is_held_out() {
    let experiment = clinic("held_out: 1/4, initial_states: 30, order: random");
    let trained = planned(&experiment, Phase::Train, 0);
    let evaluated = planned(&experiment, Phase::Evaluate, 0);
    for environment in experiment.class.environments() {
        let of = |specs| states_of(specs, environment).into_iter().collect::<BTreeSet<_>>();
        assert_eq!(of(&evaluated).len(), 2);
        assert!(of(&trained).is_disjoint(&of(&evaluated)), "{environment}");
    }
}

#[test]
fn the_split_depends_on_the_seed_and_leaves_both_parts_something() {
    let class = clinic("max_turns: 1").class;
    let held_out = |share: &str, seed| pool(&class, "ordinary_debt", Fraction::parse(share).unwrap(), seed).held_out;
    assert_eq!(held_out("0.25", 1).len(), 2);
    assert_eq!(held_out("0.001", 1).len(), 1);
    assert_eq!(held_out("0.999", 1).len(), 7);
    assert_eq!(held_out("0", 1).len(), 0);
    let splits: BTreeSet<_> = (0..50).map(|seed| held_out("0.25", seed)).collect();
    assert!(splits.len() > 5, "{splits:?}");
}

#[test]
fn sequential_goes_on_where_it_stopped_and_wraps() {
    let experiment = clinic("held_out: 0, initial_states: 3");
    let states = |k| planned(&experiment, Phase::Train, k);
    assert_eq!(states_of(&states(0), "ordinary_debt"), ["1", "2", "3"]);
    assert_eq!(states_of(&states(1), "ordinary_debt"), ["4", "5", "6"]);
    assert_eq!(states_of(&states(2), "ordinary_debt"), ["7", "8", "1"]);
    let more_than_there_are = clinic("held_out: 0, initial_states: 10");
    let wrapped = planned(&more_than_there_are, Phase::Train, 0);
    assert_eq!(states_of(&wrapped, "ordinary_debt"), ["1", "2", "3", "4", "5", "6", "7", "8", "1", "2"]);
}

#[test]
fn fixed_takes_the_first_and_random_takes_each_once() {
    let fixed = clinic("held_out: 0, order: fixed, initial_states: 2");
    assert_eq!(states_of(&planned(&fixed, Phase::Train, 5), "ordinary_debt"), ["1", "2"]);
    let random = clinic("held_out: 0, order: random, initial_states: 8");
    let (first, second) = (planned(&random, Phase::Train, 0), planned(&random, Phase::Train, 1));
    let (a, b) = (states_of(&first, "ordinary_debt"), states_of(&second, "ordinary_debt"));
    assert_ne!(a, b, "another order in another iteration");
    assert_eq!(a.iter().collect::<BTreeSet<_>>().len(), 8, "without replacement");
    let replaced = clinic("held_out: 0, order: random, initial_states: 20");
    assert_eq!(states_of(&planned(&replaced, Phase::Train, 0), "ordinary_debt").len(), 20);
}

#[test]
fn fractions_share_the_total_by_largest_remainder() {
    let counts = |settings: &str| -> Vec<(String, usize)> {
        let experiment = clinic(settings);
        let shares = shares(&experiment.class, &experiment.environments);
        shares.into_iter().map(|(name, n)| (name.to_owned(), n)).collect()
    };
    let of = |list: [(&str, usize); 3]| list.map(|(name, n)| (name.to_owned(), n)).to_vec();
    let names = |a, b, c| of([("gameable_smoking", a), ("ordinary_debt", b), ("ordinary_smoking", c)]);
    assert_eq!(counts("initial_states: 5"), names(5, 5, 5));
    // 12 in all: 3.0 and 9.0, of which two environments get 5 and 4.
    assert_eq!(counts("initial_states: 4, fractions: {gameable: 0.25, ordinary: 0.75}"), names(3, 5, 4));
    // 12 in all: 1/5 is 2.4, the rest is 9.6 and rounds up.
    assert_eq!(counts("initial_states: 4, fractions: {gameable: 1/5, '*': 4/5}"), names(2, 5, 5));
}

#[test]
fn a_share_of_nothing_is_evaluated_but_not_trained_on() {
    let experiment = clinic("fractions: {gameable: 1, ordinary: 0}");
    assert_eq!(planned(&experiment, Phase::Train, 0).len(), 4, "of the one environment in training");
    assert!(!states_of(&planned(&experiment, Phase::Evaluate, 0), "ordinary_debt").is_empty());
    let experiment = clinic("fractions: {gameable: 1}");
    assert!(states_of(&planned(&experiment, Phase::Evaluate, 0), "ordinary_debt").is_empty());
}

#[test]
fn roles_reach_the_spec() {
    let settings = "roles:\n  agent: {max_tokens: 9}\n  influence: {enabled: true, prompts: five_point, sees_tools: true, model: large}\n";
    let experiment = Configs::new().experiment(&format!("{CLINIC}{settings}"));
    let spec = planned(&experiment, Phase::Train, 0).remove(0);
    let influence = spec.influence.unwrap();
    assert_eq!((influence.model.as_str(), influence.sees_tools, influence.answers.len()), ("large", true, 5));
    assert_eq!((spec.agent.model.as_str(), spec.agent.sampling.max_tokens), ("tiny", 9));
    assert_eq!((spec.environment_class.as_str(), spec.max_turns), ("clinic", 2));
    assert!(!spec.preference.sees_tools);
}

/// Protects: with the transcript first, all assessors' prompts begin alike, and none loses its instructions; without it,
/// nothing changes, not even what an experiment is identified by.
#[test]
fn assessors_may_read_the_transcript_before_their_instructions() {
    let roles = |layout: &str| {
        let settings = format!("roles: {{influence: {{enabled: true}}{layout}}}\n");
        Configs::new().experiment(&format!("{CLINIC}{settings}"))
    };
    let (usual, turned) = (roles(""), roles(", assessor_layout: transcript_first"));
    assert!(!usual.resolved().to_string().contains("assessor_layout"));
    assert!(turned.resolved().to_string().contains("transcript_first"));
    let first = |experiment: &Experiment| planned(experiment, Phase::Train, 0).remove(0);
    let (usual, turned) = (first(&usual), first(&turned));
    let history = [Message { speaker: Speaker::Agent, content: "Hello".into() }];
    let assessors =
        |spec: &EpisodeSpec| [spec.preference.clone(), spec.transition.clone(), spec.influence.clone().unwrap()];
    for (usual, turned) in assessors(&usual).into_iter().zip(assessors(&turned)) {
        let before = assessor(&usual, "Ada", &history);
        let after = assessor(&turned, "Ada", &history);
        let [system, told] = &before[..] else { panic!("{before:?}") };
        let [only] = &after[..] else { panic!("{after:?}") };
        let transcript = told.content.strip_suffix(&usual.suffix).unwrap();
        let expected = format!("{transcript}{}\n\n{}", system.content, usual.suffix);
        assert_eq!((only.role, &*only.content), (ChatRole::User, expected.trim_end()));
    }
}
