#![allow(clippy::unwrap_used, clippy::expect_used)]
use std::collections::{BTreeMap, BTreeSet};

use influence_proto::{Failure, HeldLease, WorkId, WorkerId};
use proptest::prelude::*;

use super::{Dispatch, Effect, Event, Kind, Limits, Task};

const LIMITS: Limits =
    Limits { lease_ms: 1000, grace_ms: 500, stall_ms: 5000, reclaim_ms: 0, retry_ms: 10, attempts: 3 };

fn work(i: usize) -> WorkId {
    WorkId::new(format!("w{i}")).unwrap()
}

fn worker(i: usize) -> WorkerId {
    WorkerId::new(format!("worker{i}")).unwrap()
}

fn episode(i: usize, environment: &str, state: &str) -> Event {
    let kind = Kind::Episode { environment: environment.into(), initial_state: state.into() };
    Event::Submit(Task { work: work(i), attempt: 0, kind })
}

/// A dispatcher with connected workers of so many credits each.
fn with_workers(limits: Limits, credits: &[u32]) -> Dispatch {
    let mut d = Dispatch::new(limits);
    for (i, credits) in credits.iter().enumerate() {
        d.handle(Event::Joined { worker: worker(i), can_train: i == 0 }, 0);
        d.handle(Event::Connected(worker(i)), 0);
        d.handle(Event::Credits(worker(i), *credits), 0);
    }
    d
}

fn grants(effects: &[Effect]) -> Vec<(String, String, u32)> {
    effects
        .iter()
        .filter_map(|e| match e {
            Effect::Grant { worker, work, attempt } => Some((worker.to_string(), work.to_string(), *attempt)),
            _ => None,
        })
        .collect()
}

fn granted(worker: &str, work: &str, attempt: u32) -> Vec<(String, String, u32)> {
    vec![(worker.into(), work.into(), attempt)]
}

fn held(i: usize, attempt: u32, progress: u64) -> HeldLease {
    HeldLease { work: work(i), attempt, progress }
}

fn failure(retryable: bool) -> Failure {
    Failure { retryable, message: "boom".into() }
}

#[test]
fn siblings_share_a_worker_until_load_says_otherwise() {
    let mut d = with_workers(LIMITS, &[8, 8]);
    let mut to = Vec::new();
    for i in 0..8 {
        let environment = if i < 4 { "a" } else { "b" };
        to.extend(grants(&d.handle(episode(i, environment, "0"), 0)).into_iter().map(|g| g.0));
    }
    assert_eq!(to[..3], ["worker0", "worker0", "worker0"], "siblings together");
    assert_eq!(to[3], "worker1", "but not more than the slack beyond the least loaded");
    let first = to.iter().filter(|w| *w == "worker0").count();
    assert!(first.abs_diff(to.len() - first) <= 2, "and never further apart than the slack: {to:?}");
}

#[test]
fn a_lease_survives_a_lost_stream_for_the_grace_period_only() {
    let mut d = with_workers(LIMITS, &[1, 0]);
    assert_eq!(grants(&d.handle(episode(0, "a", "0"), 0)), granted("worker0", "w0", 1));
    d.handle(Event::Credits(worker(1), 1), 1);
    d.handle(Event::Disconnected(worker(0)), 100);
    assert_eq!(d.handle(Event::Tick, 599), []);
    let late = d.handle(Event::Tick, 600);
    assert_eq!(grants(&late), granted("worker1", "w0", 2));
    let lost = d.handle(Event::Renewed(worker(0), vec![held(0, 1, 1)]), 700);
    assert!(matches!(&lost[..], [Effect::Revoke { attempt: 1, .. }]), "{lost:?}");
}

#[test]
fn renewals_keep_a_lease_whose_stream_is_gone() {
    let mut d = with_workers(LIMITS, &[1]);
    d.handle(episode(0, "a", "0"), 0);
    d.handle(Event::Disconnected(worker(0)), 100);
    for now in (200..3000).step_by(400) {
        assert_eq!(d.handle(Event::Renewed(worker(0), vec![held(0, 1, now)]), now), []);
        assert_eq!(d.handle(Event::Tick, now), []);
    }
}

#[test]
fn an_expired_attempt_is_renewed_while_it_is_the_current_one() {
    let mut d = with_workers(LIMITS, &[1]);
    d.handle(episode(0, "a", "0"), 0);
    d.handle(Event::Renewed(worker(0), vec![held(0, 1, 1)]), 1);
    for round in 0..5 {
        // Each expiry of a started attempt is a loss, and each return takes it back.
        let now = 2000 * (round + 1);
        assert!(matches!(&d.handle(Event::Tick, now)[..], [Effect::Revoke { .. }]), "round {round}");
        assert_eq!(d.handle(Event::Renewed(worker(0), vec![held(0, 1, 2 + round)]), now + 1), []);
    }
    assert_eq!(d.handle(Event::Finished { work: work(0), attempt: 1 }, 10_100), [Effect::Finished(work(0))]);
}

#[test]
fn a_lease_without_progress_is_revoked_and_not_renewed() {
    let mut d = with_workers(LIMITS, &[1]);
    d.handle(episode(0, "a", "0"), 0);
    for now in (0..5000).step_by(500) {
        assert_eq!(d.handle(Event::Renewed(worker(0), vec![held(0, 1, 7)]), now), []);
    }
    let effects = d.handle(Event::Tick, 5500);
    assert!(matches!(&effects[..], [Effect::Revoke { reason, .. }] if reason.contains("no progress")), "{effects:?}");
    let refused = d.handle(Event::Renewed(worker(0), vec![held(0, 1, 8)]), 5501);
    assert!(matches!(&refused[..], [Effect::Revoke { .. }]), "{refused:?}");
}

#[test]
fn an_attempt_counts_only_once_it_is_known_to_have_started() {
    let mut d = with_workers(LIMITS, &[100]);
    d.handle(episode(0, "a", "0"), 0);
    for lost in 0..10 {
        let effects = d.handle(Event::Tick, 2000 * (lost + 1));
        assert_eq!(grants(&effects), granted("worker0", "w0", lost as u32 + 2), "delivery failures cost nothing");
    }
    let mut now = 30_000;
    for failed in 1..=3 {
        let attempt = d.items[&work(0)].attempt;
        let effects = d.handle(Event::Failed { work: work(0), attempt, failure: failure(true) }, now);
        if failed == 3 {
            assert_eq!(effects, [Effect::Exhausted { work: work(0), attempt, error: "boom".into() }]);
        }
        now += 20;
        d.handle(Event::Tick, now);
    }
}

#[test]
fn a_failure_that_no_attempt_can_mend_ends_the_work_at_once() {
    let mut d = with_workers(LIMITS, &[1]);
    d.handle(episode(0, "a", "0"), 0);
    let effects = d.handle(Event::Failed { work: work(0), attempt: 1, failure: failure(false) }, 1);
    assert_eq!(effects, [Effect::Exhausted { work: work(0), attempt: 1, error: "boom".into() }]);
    assert_eq!(d.handle(Event::Finished { work: work(0), attempt: 1 }, 2), [], "nothing comes after the end");
}

#[test]
fn an_attempt_that_its_holder_ended_is_not_revived_by_a_renewal_on_its_way_nor_counted_twice() {
    let mut d = with_workers(LIMITS, &[1]);
    d.handle(episode(0, "a", "0"), 0);
    let failed = || Event::Failed { work: work(0), attempt: 1, failure: failure(true) };
    assert_eq!(d.handle(failed(), 1), []);
    assert_eq!(d.handle(failed(), 2), [], "the report is repeated: its answer was lost");
    let crossed = d.handle(Event::Renewed(worker(0), vec![held(0, 1, 1)]), 3);
    assert!(matches!(&crossed[..], [Effect::Revoke { attempt: 1, .. }]), "{crossed:?}");
    assert_eq!(d.items[&work(0)].losses, 1);
    d.handle(Event::Credits(worker(0), 1), 4);
    assert_eq!(grants(&d.handle(Event::Tick, 20)), granted("worker0", "w0", 2));
}

#[test]
fn after_a_restart_work_waits_for_its_earlier_holder() {
    let limits = Limits { reclaim_ms: 1000, ..LIMITS };
    let mut d = with_workers(limits, &[2]);
    assert_eq!(d.handle(Event::Renewed(worker(0), vec![held(0, 4, 1)]), 5), [], "not submitted yet: not refused");
    let kind = Kind::Episode { environment: "a".into(), initial_state: "0".into() };
    for i in 0..2 {
        let task = Task { work: work(i), attempt: 4, kind: kind.clone() };
        assert_eq!(d.handle(Event::Submit(task), 10), []);
    }
    assert_eq!(d.handle(Event::Renewed(worker(0), vec![held(0, 4, 1)]), 500), [], "it keeps what it holds");
    assert_eq!(grants(&d.handle(Event::Tick, 1000)), granted("worker0", "w1", 5), "the other is handed out anew");
}

#[test]
fn a_training_job_goes_to_one_worker_that_trains_and_costs_no_credit() {
    let mut d = with_workers(LIMITS, &[0, 5]);
    let job = |i| Event::Submit(Task { work: work(i), attempt: 0, kind: Kind::Training });
    assert_eq!(grants(&d.handle(job(0), 0)), granted("worker0", "w0", 1));
    assert_eq!(d.handle(job(1), 0), [], "one at a time");
    let next = d.handle(Event::Finished { work: work(0), attempt: 1 }, 1);
    assert_eq!(grants(&next), granted("worker0", "w1", 1));
}

#[test]
fn a_draining_worker_gets_nothing_and_returned_work_goes_first() {
    let mut d = with_workers(LIMITS, &[2, 0]);
    for i in 0..3 {
        d.handle(episode(i, "a", "0"), 0);
    }
    d.handle(Event::Draining(worker(0)), 1);
    d.handle(Event::Returned { work: work(1), attempt: 1 }, 2);
    let effects = d.handle(Event::Credits(worker(1), 2), 3);
    let order: Vec<_> = grants(&effects).into_iter().map(|g| (g.1, g.2)).collect();
    assert_eq!(order, [("w1".to_owned(), 2), ("w2".to_owned(), 1)], "plan order holds");
}

/// One random thing that happens in the property test.
#[derive(Debug, Clone)]
enum Op {
    Submit,
    Connect(usize),
    Disconnect(usize),
    Credits(usize, u32),
    Renew(usize),
    /// A renewal of the last attempt, whatever became of it.
    RenewLast(usize, usize),
    Turn(usize),
    Finish(usize),
    LateFinish(usize),
    Fail(usize, bool),
    Return(usize),
    GrantLost(usize),
    Wait(u64),
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        Just(Op::Submit),
        (0..3_usize).prop_map(Op::Connect),
        (0..3_usize).prop_map(Op::Disconnect),
        (0..3_usize, 0..4_u32).prop_map(|(w, n)| Op::Credits(w, n)),
        (0..3_usize).prop_map(Op::Renew),
        (0..3_usize, 0..20_usize).prop_map(|(w, i)| Op::RenewLast(w, i)),
        (0..20_usize).prop_map(Op::Turn),
        (0..20_usize).prop_map(Op::Finish),
        (0..20_usize).prop_map(Op::LateFinish),
        (0..20_usize, any::<bool>()).prop_map(|(i, r)| Op::Fail(i, r)),
        (0..20_usize).prop_map(Op::Return),
        (0..20_usize).prop_map(Op::GrantLost),
        (1..900_u64).prop_map(Op::Wait),
    ]
}

/// What an observer of events and effects knows.
struct World {
    d: Dispatch,
    now: u64,
    submitted: usize,
    /// Work to (worker, attempt), from grants until something ends them.
    live: BTreeMap<WorkId, (WorkerId, u32)>,
    attempts: BTreeMap<WorkId, u32>,
    credits: BTreeMap<WorkerId, u32>,
    ended: BTreeSet<WorkId>,
    /// Attempts that their holders ended.
    over: BTreeSet<(WorkId, u32)>,
}

impl World {
    fn new() -> Self {
        let mut d = Dispatch::new(LIMITS);
        for i in 0..4 {
            d.handle(Event::Joined { worker: worker(i), can_train: false }, 0);
        }
        let (live, attempts, credits) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        Self { d, now: 0, submitted: 0, live, attempts, credits, ended: BTreeSet::new(), over: BTreeSet::new() }
    }

    fn tell(&mut self, event: Event) {
        match &event {
            Event::Credits(w, n) => drop(self.credits.insert(w.clone(), *n)),
            Event::Failed { work, attempt, .. }
            | Event::Returned { work, attempt }
            | Event::GrantLost { work, attempt, .. }
            | Event::Finished { work, attempt }
                if self.live.get(work).is_some_and(|(_, a)| a == attempt) =>
            {
                self.live.remove(work);
            }
            _ => {}
        }
        match &event {
            Event::Failed { work, attempt, .. } | Event::Returned { work, attempt } => {
                self.over.insert((work.clone(), *attempt));
            }
            _ => {}
        }
        for effect in self.d.handle(event, self.now) {
            match effect {
                Effect::Grant { worker, work, attempt } => {
                    let before = self.attempts.insert(work.clone(), attempt).unwrap_or(0);
                    assert!(attempt > before, "attempts only grow");
                    assert!(!self.ended.contains(&work), "ended work is not handed out");
                    let credits = self.credits.get_mut(&worker).expect("announced");
                    assert!(*credits > 0, "more leases than credits");
                    *credits -= 1;
                    assert!(self.live.insert(work, (worker, attempt)).is_none(), "two live leases of one work");
                }
                Effect::Revoke { worker, work, attempt, .. } => {
                    if self.live.get(&work) == Some(&(worker, attempt)) {
                        self.live.remove(&work);
                    }
                }
                Effect::Finished(work) | Effect::Exhausted { work, .. } => {
                    self.live.remove(&work);
                    assert!(self.ended.insert(work), "work ends once");
                }
            }
        }
    }

    /// What must hold whatever has happened.
    fn check(&mut self) {
        for (work, item) in &self.d.items {
            assert!(item.losses <= item.attempt, "an attempt was counted twice");
            let Some(lease) = &item.lease else { continue };
            assert!(!self.over.contains(&(work.clone(), item.attempt)), "an ended attempt was revived");
            // A renewal may have given an expired lease back.
            let holder = (lease.worker.clone(), item.attempt);
            assert_eq!(self.live.entry(work.clone()).or_insert(holder.clone()), &holder);
        }
    }

    fn happen(&mut self, op: Op) {
        let attempt = |s: &Self, i: usize| s.attempts.get(&work(i)).copied();
        match op {
            Op::Submit => {
                self.tell(episode(self.submitted, "a", &(self.submitted / 2).to_string()));
                self.submitted += 1;
            }
            Op::Connect(w) => {
                self.tell(Event::Joined { worker: worker(w), can_train: false });
                self.tell(Event::Connected(worker(w)));
            }
            Op::Disconnect(w) => self.tell(Event::Disconnected(worker(w))),
            Op::Credits(w, n) => self.tell(Event::Credits(worker(w), n)),
            Op::Renew(w) => {
                let of_worker = self.live.iter().filter(|(_, (holder, _))| *holder == worker(w));
                let held = of_worker
                    .map(|(work, (_, attempt))| HeldLease { work: work.clone(), attempt: *attempt, progress: self.now })
                    .collect();
                self.tell(Event::Renewed(worker(w), held));
            }
            Op::RenewLast(w, i) => {
                if let Some(attempt) = attempt(self, i) {
                    self.tell(Event::Renewed(worker(w), vec![held(i, attempt, self.now)]));
                }
            }
            Op::Turn(i) => {
                if let Some((worker, attempt)) = self.live.get(&work(i)).cloned() {
                    self.tell(Event::TurnRecorded { worker, work: work(i), attempt });
                }
            }
            Op::Finish(i) => {
                if let Some(attempt) = attempt(self, i) {
                    self.tell(Event::Finished { work: work(i), attempt });
                }
            }
            Op::LateFinish(i) => {
                if let Some(attempt) = attempt(self, i).filter(|a| *a > 1) {
                    let ended = self.ended.clone();
                    self.tell(Event::Finished { work: work(i), attempt: attempt - 1 });
                    assert!(self.ended == ended, "a late result of an older attempt counted");
                }
            }
            Op::Fail(i, retryable) => {
                if let Some(attempt) = attempt(self, i) {
                    self.tell(Event::Failed { work: work(i), attempt, failure: failure(retryable) });
                }
            }
            Op::Return(i) => {
                if let Some(attempt) = attempt(self, i) {
                    self.tell(Event::Returned { work: work(i), attempt });
                }
            }
            Op::GrantLost(i) => {
                if let Some(attempt) = attempt(self, i) {
                    self.tell(Event::GrantLost { work: work(i), attempt, stored: attempt });
                }
            }
            Op::Wait(ms) => {
                self.now += ms;
                self.tell(Event::Tick);
            }
        }
    }

    /// Workers keep coming: everything must end.
    fn settle(&mut self) {
        self.tell(Event::Joined { worker: worker(9), can_train: false });
        self.tell(Event::Connected(worker(9)));
        for _ in 0..200 {
            self.now += 100;
            self.tell(Event::Credits(worker(9), 2));
            self.tell(Event::Tick);
            let mine: Vec<_> = self.live.iter().filter(|(_, (w, _))| *w == worker(9)).collect();
            let mine: Vec<_> = mine.into_iter().map(|(work, (_, attempt))| (work.clone(), *attempt)).collect();
            for (work, attempt) in mine {
                self.tell(Event::Finished { work, attempt });
            }
        }
        assert_eq!(self.ended.len(), self.submitted, "every submitted work ends");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    /// Never two live leases of one work, never more leases than credits, late results never count,
    /// and all work ends exactly once, whatever happens in whatever order.
    #[test]
    fn leases_are_exclusive_bounded_and_end(ops in prop::collection::vec(op(), 0..120)) {
        let mut world = World::new();
        for op in ops {
            world.happen(op);
            world.check();
        }
        world.settle();
    }
}
