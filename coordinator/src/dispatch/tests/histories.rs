use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::{RngAlgorithm, TestCaseError, TestError, TestRng, TestRunner};

use super::audit::audit;
use super::world::{Seen, WORKERS, World};
use crate::dispatch::rules::Rule;

/// Steps of the longest history.
const STEPS: usize = 40;
/// Histories per test; there are ten.
const CASES: u32 = 10_000;

/// One random thing that happens. Numbers are a worker, a piece of work, and how many attempts before
/// its last one is meant.
#[derive(Debug, Clone)]
enum Op {
    Submit,
    Connect(usize),
    Disconnect(usize),
    Credits(usize, u32),
    Drain(usize),
    Pause(bool),
    Renew(usize),
    StandStill(usize),
    Claim(usize, usize, u32),
    Turn(usize, u32),
    Result(usize, u32),
    Fail(usize, u32, bool),
    GiveBack(usize, u32),
    LoseGrant(usize, u32),
    StoreAway(bool),
    Wait(u64),
}

fn op() -> impl Strategy<Value = Op> {
    let w = 0..WORKERS;
    let attempt = || (0..4_usize, prop_oneof![3 => Just(0_u32), 1 => 0..3_u32]);
    prop_oneof![
        4 => Just(Op::Submit),
        2 => w.clone().prop_map(Op::Connect),
        1 => w.clone().prop_map(Op::Disconnect),
        5 => (w.clone(), 0..4_u32).prop_map(|(w, n)| Op::Credits(w, n)),
        1 => (0..WORKERS * 3).prop_map(|w| if w < WORKERS { Op::Drain(w) } else { Op::Renew(w % WORKERS) }),
        1 => any::<bool>().prop_map(Op::Pause),
        6 => w.clone().prop_map(Op::Renew),
        2 => w.clone().prop_map(Op::StandStill),
        3 => (w, attempt()).prop_map(|(w, (i, back))| Op::Claim(w, i, back)),
        2 => attempt().prop_map(|(i, back)| Op::Turn(i, back)),
        2 => attempt().prop_map(|(i, back)| Op::Result(i, back)),
        2 => (attempt(), 0..8_u32).prop_map(|((i, back), r)| Op::Fail(i, back, r > 0)),
        1 => attempt().prop_map(|(i, back)| Op::GiveBack(i, back)),
        1 => attempt().prop_map(|(i, back)| Op::LoseGrant(i, back)),
        1 => any::<bool>().prop_map(Op::StoreAway),
        8 => (1..700_u64).prop_map(Op::Wait),
    ]
}

fn happen(world: &mut World, op: &Op) -> Result<(), String> {
    match *op {
        Op::Submit => world.submit(),
        Op::Connect(w) => world.connect(w),
        Op::Disconnect(w) => world.disconnect(w),
        Op::Credits(w, n) => world.credits(w, n),
        Op::Drain(w) => world.drain(w),
        Op::Pause(paused) => world.pause(paused),
        Op::Renew(w) => world.renew(w, world.now),
        Op::StandStill(w) => world.renew(w, 0),
        Op::Claim(w, i, back) => world.claim(w, i, back),
        Op::Turn(i, back) => world.turn(i, back),
        Op::Result(i, back) => world.result(i, back),
        Op::Fail(i, back, retryable) => world.fail(i, back, retryable),
        Op::GiveBack(i, back) => world.give_back(i, back),
        Op::LoseGrant(i, back) => world.lose_grant(i, back),
        Op::StoreAway(away) => {
            world.away = away;
            Ok(())
        }
        Op::Wait(ms) => world.wait(ms),
    }
}

fn history(ops: &[Op], without: Option<Rule>) -> Result<Seen, String> {
    let mut world = World::new(without)?;
    for op in ops {
        happen(&mut world, op)?;
    }
    if without.is_none() {
        audit(&world.d)?;
    }
    world.settle()?;
    Ok(world.seen)
}

/// Lets so many random histories happen, the same ones for the same seed.
fn histories(seed: u8, cases: u32, without: Option<Rule>, look: impl Fn(Seen)) -> Result<(), String> {
    // A twin's failure is wanted: nobody reads it.
    let max_shrink_iters = if without.is_some() { 0 } else { 4096 };
    let config = ProptestConfig { cases, failure_persistence: None, max_shrink_iters, ..ProptestConfig::default() };
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &[seed; 32]);
    let outcome = TestRunner::new_with_rng(config, rng).run(&vec(op(), 1..=STEPS), |ops| {
        look(history(&ops, without).map_err(TestCaseError::fail)?);
        Ok(())
    });
    outcome.map_err(|error| match error {
        TestError::Fail(promise, ops) => format!("{promise}, after {ops:?}"),
        TestError::Abort(reason) => reason.to_string(),
    })
}

macro_rules! batches {
    ($($name:ident: $seed:literal),*) => {$(
        #[test]
        fn $name() {
            histories($seed, CASES, None, |_| {}).unwrap();
        }
    )*};
}

// 100,000 in all, side by side.
batches!(
    histories_0: 0, histories_1: 1, histories_2: 2, histories_3: 3, histories_4: 4,
    histories_5: 5, histories_6: 6, histories_7: 7, histories_8: 8, histories_9: 9
);

#[test]
fn histories_reach_what_they_are_about() {
    let all = std::cell::Cell::new(Seen::default());
    histories(10, 2000, None, |seen| {
        let mut sum = all.get();
        sum.duplicates += seen.duplicates;
        sum.won_by_second += seen.won_by_second;
        sum.both_lost += seen.both_lost;
        sum.revived += seen.revived;
        sum.exhausted += seen.exhausted;
        sum.stalled += seen.stalled;
        all.set(sum);
    })
    .unwrap();
    let all = all.get();
    let least = [all.duplicates, all.won_by_second, all.both_lost, all.revived, all.exhausted, all.stalled];
    assert!(least.iter().all(|n| *n >= 10), "{all:?}");
}

/// A machine without the rule must break this promise in one of some histories.
fn twin(without: Rule, promise: &str) {
    let broken = histories(11, 2000, Some(without), |_| {}).expect_err("no history needs the rule");
    assert!(broken.contains(promise), "{broken}");
}

#[test]
fn without_the_fence_a_late_result_counts() {
    twin(Rule::Fence, "a result of a fenced attempt counted");
}

#[test]
fn without_asking_for_a_start_undelivered_attempts_count() {
    twin(Rule::StartedOnly, "an attempt that had not started, or one twice, was counted");
}

#[test]
fn without_the_bound_of_credits_workers_get_too_much() {
    twin(Rule::Credits, "more leases than credits");
}

#[test]
fn without_looking_at_the_holder_a_worker_gets_its_own_duplicate() {
    twin(Rule::OncePerWorker, "two attempts on one worker");
}

#[test]
fn without_remembering_the_end_work_ends_twice() {
    twin(Rule::EndOnce, "work ended twice");
}

#[test]
fn without_the_pause_work_is_granted() {
    twin(Rule::Paused, "granted while paused");
}
