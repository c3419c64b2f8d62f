use super::*;

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
fn a_sibling_is_nearer_than_an_episode_of_the_environment() {
    let mut d = with_workers(LIMITS, &[2, 2, 2]);
    let place =
        |d: &mut Dispatch, i, environment, state| grants(&d.handle(episode(i, environment, state), 0))[0].0.clone();
    assert_eq!(place(&mut d, 0, "a", "0"), "worker0");
    d.handle(Event::Draining(worker(0)), 0);
    assert_eq!(place(&mut d, 1, "a", "1"), "worker1");
    assert_eq!(place(&mut d, 2, "b", "0"), "worker2");
    d.handle(Event::Credits(worker(2), 2), 0);
    assert_eq!(place(&mut d, 3, "b", "9"), "worker2", "of its environment");
    assert_eq!(place(&mut d, 4, "a", "1"), "worker1", "its sibling");
}

#[test]
fn a_training_job_goes_to_one_worker_that_trains_and_costs_no_credit() {
    let mut d = with_workers(LIMITS, &[0, 5]);
    let job = |i| Event::Submit(Task { work: work(i), attempt: 0, kind: Kind::Training });
    assert_eq!(grants(&d.handle(job(0), 0)), granted("worker0", "w0", 1));
    assert_eq!(d.handle(job(1), 0), [], "one at a time");
    let next = d.handle(finished(0, 1), 1);
    assert_eq!(grants(&next), granted("worker0", "w1", 1));
    d.handle(finished(1, 1), 2);
    assert!(empty(&d));
}

/// Protects: who plays a conversation by hand does not wait for all that a run has planned.
#[test]
fn calls_go_before_episodes_and_take_a_credit() {
    let mut d = with_workers(LIMITS, &[1, 0]);
    d.handle(episode(0, "a", "0"), 0);
    d.handle(episode(1, "a", "0"), 0);
    let calls = |i| Event::Submit(Task { work: work(i), attempt: 0, kind: Kind::Calls });
    assert_eq!(d.handle(calls(2), 0), [], "no credit is left");
    assert_eq!(grants(&d.handle(Event::Credits(worker(1), 1), 1)), granted("worker1", "w2", 1));
    d.handle(finished(0, 1), 2);
    d.handle(Event::Withdrawn(work(1)), 2);
    d.handle(Event::Credits(worker(0), 1), 3);
    let late = (1..9).flat_map(|s| [renewed(1, 2, 1, s), Event::Tick].map(|event| d.handle(event, s * 500)));
    assert_eq!(late.flatten().collect::<Vec<_>>(), [], "a straggler's second is for episodes");
    assert_eq!(revoked(&d.handle(Event::Withdrawn(work(2)), 4100)), [("worker1".to_owned(), 1)]);
    assert_eq!(d.handle(finished(2, 1), 4200), [], "it comes too late");
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

#[test]
fn while_paused_nothing_is_granted_and_what_is_held_goes_on() {
    let mut d = with_workers(LIMITS, &[3]);
    d.handle(episode(0, "a", "0"), 0);
    d.handle(Event::Paused(true), 1);
    assert_eq!(d.handle(episode(1, "a", "0"), 2), []);
    assert_eq!(d.handle(renewed(0, 0, 1, 1), 500), []);
    assert_eq!(d.handle(Event::Tick, 1200), []);
    assert_eq!(d.handle(finished(0, 1), 1300), [Effect::Finished(work(0))]);
    assert_eq!(d.handle(Event::Credits(worker(0), 3), 1400), []);
    assert_eq!(grants(&d.handle(Event::Paused(false), 1500)), granted("worker0", "w1", 1));
}

#[test]
fn work_that_must_wait_holds_nothing_up() {
    let mut d = with_workers(LIMITS, &[3]);
    d.handle(episode(0, "a", "0"), 0);
    d.handle(failed(0, 1, true), 1);
    assert_eq!(grants(&d.handle(episode(1, "a", "0"), 2)), granted("worker0", "w1", 1));
    assert_eq!(grants(&d.handle(Event::Tick, 11)), granted("worker0", "w0", 2));
}
