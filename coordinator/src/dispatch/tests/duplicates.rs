use super::*;

const LATE: u64 = 2001;

/// Worker 0 has held episode 0 for longer than a straggler's time; worker 1 has a credit.
fn straggling() -> Dispatch {
    let mut d = with_workers(LIMITS, &[1, 0]);
    d.handle(episode(0, "a", "0"), 0);
    for now in [400, 1200, 2000] {
        assert_eq!(d.handle(renewed(0, 0, 1, now), now), []);
    }
    d.handle(Event::Credits(worker(1), 1), 2000);
    d
}

/// The same, and worker 1 has been given a duplicate, which has started.
fn doubled() -> Dispatch {
    let mut d = straggling();
    let grant = Effect::Grant { worker: worker(1), work: work(0), attempt: 2, beside: Some(1) };
    assert_eq!(d.handle(Event::Tick, LATE), [grant]);
    assert_eq!(d.handle(renewed(1, 0, 2, 1), LATE), []);
    d
}

fn renew_both(d: &mut Dispatch, now: u64) {
    assert_eq!(d.handle(renewed(0, 0, 1, now), now), []);
    assert_eq!(d.handle(renewed(1, 0, 2, now), now), []);
    assert_eq!(d.handle(Event::Tick, now), []);
}

#[test]
fn a_straggler_is_duplicated_once_and_no_sooner_than_its_time() {
    let mut d = straggling();
    assert_eq!(d.handle(Event::Tick, LATE - 1), [], "not longer than its time yet");
    assert_eq!(grants(&d.handle(Event::Tick, LATE)), granted("worker1", "w0", 2));
    d.handle(joined(2, false), LATE);
    d.handle(Event::Connected(worker(2)), LATE);
    d.handle(Event::Credits(worker(2), 5), LATE);
    for now in (LATE..20_000).step_by(500) {
        renew_both(&mut d, now);
    }
}

#[test]
fn the_first_result_of_either_counts_and_the_other_is_told() {
    for (winner, loser) in [(1, ("worker1", 2)), (2, ("worker0", 1))] {
        let mut d = doubled();
        let effects = d.handle(finished(0, winner), 2500);
        let [Effect::Revoke { worker, attempt, reason, .. }, Effect::Finished(_)] = &effects[..] else {
            panic!("{effects:?}")
        };
        assert_eq!((worker.as_str(), *attempt), loser);
        assert_eq!(*reason, format!("attempt {winner} finished first"));
        assert!(empty(&d));
        assert_eq!(d.handle(finished(0, loser.1), 2501), [], "the other's comes too late");
    }
}

#[test]
fn its_time_is_twice_what_others_took_where_that_is_longer() {
    let mut d = with_workers(LIMITS, &[2, 0]);
    d.handle(episode(0, "a", "0"), 0);
    d.handle(episode(1, "a", "1"), 0);
    let both = |now| Event::Renewed(worker(0), vec![held(0, 1, now), held(1, 1, now)]);
    for now in (500..3000).step_by(500) {
        d.handle(both(now), now);
    }
    assert_eq!(d.handle(finished(1, 1), 3000), [Effect::Finished(work(1))]);
    d.handle(Event::Credits(worker(1), 1), 3000);
    for now in (3000..=6000).step_by(500) {
        d.handle(renewed(0, 0, 1, now), now);
        assert_eq!(d.handle(Event::Tick, now), [], "{now}");
    }
    assert_eq!(grants(&d.handle(Event::Tick, 6001)), granted("worker1", "w0", 2));
}

#[test]
fn what_others_took_is_forgotten_with_their_batch() {
    let mut d = with_workers(LIMITS, &[1, 0]);
    d.handle(episode(0, "a", "0"), 0);
    d.handle(renewed(0, 0, 1, 1), 900);
    d.handle(finished(0, 1), 1800);
    assert_eq!(d.finished, (1, 1800));
    d.handle(episode(1, "a", "0"), 1900);
    assert_eq!(d.finished, (0, 0));
}

#[test]
fn pending_work_comes_first_and_the_longest_running_next() {
    let mut d = with_workers(LIMITS, &[2, 0]);
    d.handle(episode(0, "a", "0"), 0);
    d.handle(episode(1, "a", "0"), 100);
    let both = |now| Event::Renewed(worker(0), vec![held(0, 1, now), held(1, 1, now)]);
    for now in (500..=3000).step_by(500) {
        d.handle(both(now), now);
    }
    d.handle(episode(2, "a", "0"), 3000);
    d.handle(Event::Credits(worker(1), 2), 3000);
    let duplicates = grants(&d.handle(Event::Tick, 3001));
    assert_eq!(duplicates, granted("worker1", "w0", 2), "w2 has taken one credit, and w0 is older than w1");
    assert_eq!(item(&d, 2).leases.len(), 1);
}

#[test]
fn a_worker_never_gets_the_work_that_it_holds() {
    let mut d = with_workers(LIMITS, &[1]);
    d.handle(episode(0, "a", "0"), 0);
    for now in [400, 1200, 2000] {
        d.handle(renewed(0, 0, 1, now), now);
    }
    d.handle(Event::Credits(worker(0), 1), 2000);
    assert_eq!(d.handle(Event::Tick, 2500), []);
}

#[test]
fn training_what_has_not_started_and_what_is_paused_or_spent_is_not_duplicated() {
    let mut d = with_workers(LIMITS, &[0, 1]);
    d.handle(joined(1, true), 0);
    d.handle(Event::Submit(Task { work: work(0), attempt: 0, kind: Kind::Training }), 0);
    for now in (400..4000).step_by(400) {
        d.handle(renewed(0, 0, 1, now), now);
        assert_eq!(d.handle(Event::Tick, now), [], "a training job");
    }

    let limits = Limits { lease_ms: 10_000, ..LIMITS };
    let mut d = with_workers(limits, &[1, 1]);
    d.handle(episode(0, "a", "0"), 0);
    assert_eq!(d.handle(Event::Tick, 3000), [], "nobody has heard of its holder yet");
    d.handle(Event::Paused(true), 3000);
    d.handle(renewed(0, 0, 1, 1), 3000);
    assert_eq!(d.handle(Event::Tick, 3001), [], "paused");
    assert_eq!(grants(&d.handle(Event::Paused(false), 3002)), []);
    assert_eq!(grants(&d.handle(Event::Tick, 3002)), granted("worker1", "w0", 2));

    let mut d = straggling();
    let place = d.places[&work(0)];
    d.items.get_mut(&place).unwrap().losses = LIMITS.attempts;
    assert_eq!(d.handle(Event::Tick, LATE), [], "it may not be lost once more");
}

#[test]
fn when_one_of_two_ends_the_other_goes_on_alone() {
    let endings: [(&str, Event, u32); 4] = [
        ("failed", failed(0, 1, true), 1),
        ("returned", Event::Returned { work: work(0), attempt: 1 }, 0),
        ("lost", Event::GrantLost { work: work(0), attempt: 2, stored: 2 }, 0),
        ("failed", failed(0, 2, true), 1),
    ];
    for (how, ending, losses) in endings {
        let mut d = doubled();
        d.handle(Event::Credits(worker(0), 0), 2002);
        assert_eq!(d.handle(ending.clone(), 2002), [], "{how}");
        assert_eq!((item(&d, 0).leases.len(), item(&d, 0).losses, d.queues.episodes.len()), (1, losses, 0), "{how}");
        let left = item(&d, 0).leases[0].attempt;
        assert_eq!(d.handle(ending, 2003), [], "{how}: a repeat changes nothing");
        assert_eq!(item(&d, 0).losses, losses, "{how}");
        let effects = d.handle(finished(0, left), 2004);
        assert_eq!(effects, [Effect::Finished(work(0))], "{how}");
        assert!(empty(&d), "{how}");
    }
}

#[test]
fn a_failure_for_good_of_one_ends_the_work_and_revokes_the_other() {
    let mut d = doubled();
    let effects = d.handle(failed(0, 1, false), 2002);
    assert_eq!(revoked(&effects), [("worker1".into(), 2)]);
    let exhausted = Effect::Exhausted { work: work(0), attempt: 1, error: "boom".into() };
    assert_eq!(effects.last(), Some(&exhausted), "under the attempt that failed: the store knows it");
    assert!(empty(&d));
}

#[test]
fn when_both_are_gone_the_next_attempt_fences_both() {
    let mut d = doubled();
    d.handle(Event::Credits(worker(0), 1), 2002);
    let effects = d.handle(Event::Tick, 4000);
    assert_eq!(revoked(&effects), [("worker0".into(), 1), ("worker1".into(), 2)]);
    let next = Effect::Grant { worker: worker(0), work: work(0), attempt: 3, beside: None };
    assert_eq!(effects.last(), Some(&next));
    assert_eq!(item(&d, 0).losses, 2);
    for (w, attempt) in [(0, 1), (1, 2)] {
        assert_eq!(revoked(&d.handle(renewed(w, 0, attempt, 9), 4001)).len(), 1);
        assert_eq!(d.handle(finished(0, attempt), 4002), []);
    }
}

#[test]
fn the_budget_is_the_works_but_a_live_attempt_may_still_finish_it() {
    let mut d = doubled();
    let place = d.places[&work(0)];
    d.items.get_mut(&place).unwrap().losses = LIMITS.attempts - 1;
    assert_eq!(d.handle(failed(0, 1, true), 2002), []);
    let effects = d.handle(failed(0, 2, true), 2003);
    assert_eq!(effects, [Effect::Exhausted { work: work(0), attempt: 2, error: "boom".into() }]);
}

#[test]
fn an_expired_newer_attempt_comes_back_and_an_expired_older_one_does_not() {
    let mut d = doubled();
    d.handle(renewed(0, 0, 1, 9), 2900);
    assert_eq!(revoked(&d.handle(Event::Tick, 3001)), [("worker1".into(), 2)]);
    assert_eq!(d.handle(renewed(1, 0, 2, 9), 3002), [], "it is the highest, and the store accepts both");
    assert_eq!((item(&d, 0).leases.len(), item(&d, 0).losses), (2, 0));

    let mut d = doubled();
    d.handle(renewed(1, 0, 2, 9), 2900);
    assert_eq!(revoked(&d.handle(Event::Tick, 3001)), [("worker0".into(), 1)]);
    assert_eq!(revoked(&d.handle(renewed(0, 0, 1, 9), 3002)), [("worker0".into(), 1)]);
    let effects = d.handle(finished(0, 1), 3003);
    assert_eq!(effects.last(), Some(&Effect::Finished(work(0))), "though its result, if the store took it, counts");
}

#[test]
fn the_holder_of_one_cannot_claim_the_other() {
    let mut d = doubled();
    d.handle(renewed(0, 0, 1, 9), 2900);
    d.handle(Event::Tick, 3001);
    assert_eq!(revoked(&d.handle(renewed(0, 0, 2, 9), 3002)), [("worker0".into(), 2)]);
    assert_eq!(item(&d, 0).leases.len(), 1);
}

#[test]
fn a_third_attempt_runs_beside_the_one_that_is_left() {
    let mut d = doubled();
    d.handle(failed(0, 1, true), 2002);
    d.handle(Event::Credits(worker(0), 1), 2002);
    for now in (2500..=4500).step_by(500) {
        d.handle(renewed(1, 0, 2, now), now);
        let effects = d.handle(Event::Tick, now);
        let third = Effect::Grant { worker: worker(0), work: work(0), attempt: 3, beside: Some(2) };
        assert_eq!(effects, if now == 4500 { vec![third] } else { vec![] }, "{now}");
    }
    assert_eq!(d.handle(finished(0, 1), 4501), [], "which fences the first off");
}
