use super::*;

#[test]
fn a_lease_survives_a_lost_stream_for_the_grace_period_only() {
    let mut d = with_workers(LIMITS, &[1, 0]);
    assert_eq!(grants(&d.handle(episode(0, "a", "0"), 0)), granted("worker0", "w0", 1));
    d.handle(Event::Credits(worker(1), 1), 1);
    d.handle(Event::Disconnected(worker(0)), 100);
    assert_eq!(d.handle(Event::Tick, 599), []);
    let late = d.handle(Event::Tick, 600);
    assert_eq!(grants(&late), granted("worker1", "w0", 2));
    let lost = d.handle(renewed(0, 0, 1, 1), 700);
    assert!(matches!(&lost[..], [Effect::Revoke { attempt: 1, .. }]), "{lost:?}");
}

#[test]
fn renewals_keep_a_lease_whose_stream_is_gone() {
    let mut d = with_workers(LIMITS, &[1]);
    d.handle(episode(0, "a", "0"), 0);
    d.handle(Event::Disconnected(worker(0)), 100);
    for now in (200..3000).step_by(400) {
        assert_eq!(d.handle(renewed(0, 0, 1, now), now), []);
        assert_eq!(d.handle(Event::Tick, now), []);
    }
}

#[test]
fn an_expired_attempt_is_renewed_while_it_is_the_current_one() {
    let mut d = with_workers(LIMITS, &[1]);
    d.handle(episode(0, "a", "0"), 0);
    d.handle(renewed(0, 0, 1, 1), 1);
    for round in 0..5 {
        // Each expiry of a started attempt is a loss, and each return takes it back.
        let now = 2000 * (round + 1);
        assert!(matches!(&d.handle(Event::Tick, now)[..], [Effect::Revoke { .. }]), "round {round}");
        assert_eq!(d.handle(renewed(0, 0, 1, 2 + round), now + 1), []);
    }
    assert_eq!(d.handle(finished(0, 1), 10_100), [Effect::Finished(work(0))]);
    assert!(empty(&d));
}

#[test]
fn a_lease_without_progress_is_revoked_not_renewed_and_its_worker_counted_as_stalled() {
    let mut d = with_workers(LIMITS, &[1]);
    d.handle(episode(0, "a", "0"), 0);
    for now in (0..5000).step_by(500) {
        assert_eq!(d.handle(renewed(0, 0, 1, 7), now), []);
    }
    let effects = d.handle(Event::Tick, 5500);
    assert!(matches!(&effects[..], [Effect::Revoke { reason, .. }] if reason.contains("no progress")), "{effects:?}");
    let refused = d.handle(renewed(0, 0, 1, 8), 5501);
    assert!(matches!(&refused[..], [Effect::Revoke { .. }]), "{refused:?}");
    assert_eq!(d.standing(5501).workers[0].stalled, 1);
}

#[test]
fn a_stored_turn_is_progress() {
    let mut d = with_workers(LIMITS, &[1]);
    d.handle(episode(0, "a", "0"), 0);
    for now in (500..20_000).step_by(500) {
        assert_eq!(d.handle(Event::TurnRecorded { worker: worker(0), work: work(0), attempt: 1 }, now), []);
        assert_eq!(d.handle(Event::Tick, now), []);
    }
    assert_eq!(d.standing(20_000).workers[0].turns, 39);
}

#[test]
fn after_a_restart_work_waits_for_its_earlier_holder() {
    let limits = Limits { reclaim_ms: 1000, ..LIMITS };
    let mut d = with_workers(limits, &[2]);
    assert_eq!(d.handle(renewed(0, 0, 4, 1), 5), [], "not submitted yet: not refused");
    for i in 0..2 {
        let task = Task { work: work(i), attempt: 4, kind: kind("a", "0") };
        assert_eq!(d.handle(Event::Submit(task), 10), []);
    }
    let older = d.handle(renewed(0, 0, 3, 1), 400);
    assert_eq!(revoked(&older), [("worker0".into(), 3)], "only the highest stored attempt comes back");
    assert_eq!(d.handle(renewed(0, 0, 4, 1), 500), [], "it keeps what it holds");
    assert_eq!(grants(&d.handle(Event::Tick, 1000)), granted("worker0", "w1", 5), "the other is handed out anew");
}

#[test]
fn a_worker_is_forgotten_once_nothing_of_it_can_come() {
    let mut d = with_workers(LIMITS, &[1, 1]);
    d.handle(episode(0, "a", "0"), 0);
    d.handle(Event::Disconnected(worker(0)), 100);
    d.handle(Event::Disconnected(worker(1)), 100);
    d.handle(Event::Tick, 1099);
    assert!(d.knows(&worker(0)) && d.knows(&worker(1)));
    d.handle(Event::Tick, 1100);
    assert!(!d.knows(&worker(0)) && !d.knows(&worker(1)));
    assert_eq!((d.connected(), d.workers.len(), d.seats.len()), (0, 0, 0));
    d.handle(joined(0, false), 1200);
    d.handle(Event::Connected(worker(0)), 1200);
    assert_eq!(grants(&d.handle(Event::Credits(worker(0), 1), 1200)), granted("worker0", "w0", 2));
}
