use super::*;

#[test]
fn an_attempt_counts_only_once_it_is_known_to_have_started() {
    let mut d = with_workers(LIMITS, &[100]);
    d.handle(episode(0, "a", "0"), 0);
    for lost in 0..10 {
        let effects = d.handle(Event::Tick, 2000 * (lost + 1));
        assert_eq!(grants(&effects), granted("worker0", "w0", lost as u32 + 2), "delivery failures cost nothing");
    }
    let mut now = 30_000;
    for lost in 1..=3 {
        let attempt = item(&d, 0).attempt;
        let effects = d.handle(failed(0, attempt, true), now);
        if lost == 3 {
            assert_eq!(effects, [Effect::Exhausted { work: work(0), attempt, error: "boom".into() }]);
        }
        now += 20;
        d.handle(Event::Tick, now);
    }
    assert!(empty(&d));
}

#[test]
fn a_failure_that_no_attempt_can_mend_ends_the_work_at_once() {
    let mut d = with_workers(LIMITS, &[1]);
    d.handle(episode(0, "a", "0"), 0);
    let effects = d.handle(failed(0, 1, false), 1);
    assert_eq!(effects, [Effect::Exhausted { work: work(0), attempt: 1, error: "boom".into() }]);
    assert_eq!(d.handle(finished(0, 1), 2), [], "nothing comes after the end");
}

#[test]
fn an_attempt_that_its_holder_ended_is_not_revived_by_a_renewal_on_its_way_nor_counted_twice() {
    let mut d = with_workers(LIMITS, &[1]);
    d.handle(episode(0, "a", "0"), 0);
    assert_eq!(d.handle(failed(0, 1, true), 1), []);
    assert_eq!(d.handle(failed(0, 1, true), 2), [], "the report is repeated: its answer was lost");
    let crossed = d.handle(renewed(0, 0, 1, 1), 3);
    assert!(matches!(&crossed[..], [Effect::Revoke { attempt: 1, .. }]), "{crossed:?}");
    assert_eq!(item(&d, 0).losses, 1);
    d.handle(Event::Credits(worker(0), 1), 4);
    assert_eq!(grants(&d.handle(Event::Tick, 20)), granted("worker0", "w0", 2));
}

#[test]
fn a_loss_that_was_reported_after_it_expired_counts_once() {
    let mut d = with_workers(LIMITS, &[1]);
    d.handle(episode(0, "a", "0"), 0);
    d.handle(renewed(0, 0, 1, 1), 1);
    d.handle(Event::Tick, 2000);
    assert_eq!(item(&d, 0).losses, 1);
    d.handle(failed(0, 1, true), 2001);
    assert_eq!(item(&d, 0).losses, 1);
}

#[test]
fn a_lost_grant_is_tried_again_after_a_while_with_a_number_that_the_store_does_not_know() {
    let mut d = with_workers(LIMITS, &[1]);
    d.handle(episode(0, "a", "0"), 0);
    d.handle(Event::Credits(worker(0), 1), 0);
    let lost = Event::GrantLost { work: work(0), attempt: 1, stored: 6 };
    assert_eq!(d.handle(lost, 5), []);
    assert_eq!(d.handle(Event::Tick, 14), [], "not before its time");
    assert_eq!(grants(&d.handle(Event::Tick, 15)), granted("worker0", "w0", 7));
    assert_eq!(item(&d, 0).losses, 0);
}

#[test]
fn what_the_store_knows_to_be_done_is_done() {
    let mut d = with_workers(LIMITS, &[1]);
    d.handle(episode(0, "a", "0"), 0);
    let effects = d.handle(Event::AlreadyFinished(work(0)), 1);
    assert_eq!(effects.last(), Some(&Effect::Finished(work(0))));
    assert!(empty(&d));
}

#[test]
fn a_result_of_a_fenced_attempt_does_not_count() {
    let mut d = with_workers(LIMITS, &[2]);
    d.handle(episode(0, "a", "0"), 0);
    assert_eq!(grants(&d.handle(Event::Tick, 1000)), granted("worker0", "w0", 2));
    assert_eq!(d.handle(finished(0, 1), 1001), []);
    assert_eq!(d.handle(finished(0, 2), 1002), [Effect::Finished(work(0))]);
    assert_eq!(d.handle(finished(0, 2), 1003), [], "and a repeat ends nothing");
}
