//! SIGTERM: a worker hands back what it holds and leaves, a coordinator gives up the lead; a second one ends either at
//! once, and none of them hangs because another has gone.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::time::{Duration, Instant};

use support::acknowledged::nothing_acknowledged_is_missing;
use support::outcome::outcome;
use support::processes::Place;
use support::servers::free_port;
use support::{LARGE, Lab};

/// Asks a process to end, and waits for it; returns its exit code and how long it took.
fn terminate(place: &mut Place) -> (Option<i32>, Duration) {
    let asked = Instant::now();
    place.signal("TERM");
    let end = place.wait(Duration::from_secs(20));
    let end = end.unwrap_or_else(|| panic!("it did not end:\n{}", place.said()));
    (end.code(), asked.elapsed())
}

#[test]
fn processes_that_are_asked_to_end_do_so_in_time_and_the_run_goes_on_as_if_they_had_not() {
    let calm = Lab::new();
    calm.succeed(&[&["run", "configs/experiments/tiny.yaml"][..], &LARGE].concat());
    let expected = outcome(&calm, &[]);

    let lab = Lab::new();
    let listen = format!("127.0.0.1:{}", free_port());
    let command = [&["coordinator", "configs/experiments/tiny.yaml", "--listen", &listen][..], &LARGE].concat();
    let mut coordinator = Place::start(&lab, "coordinator", &command);
    let url = format!("http://{listen}");
    let worker = |name: &str, grace: &str| {
        let command = ["worker", "--coordinator", &url, "--name", name, "--slots", "2", "--grace", grace];
        Place::start(&lab, name, &command)
    };
    let [mut leaves, mut waits, mut hurries, stays] =
        [("leaves", "0"), ("waits", "1"), ("hurries", "60"), ("stays", "30")].map(|(name, grace)| worker(name, grace));
    for place in [&leaves, &waits, &hurries, &stays] {
        place.until_said("turn stored", 1);
    }

    // What a worker holds is handed back, not waited for: no lease of it runs out.
    let (code, took) = terminate(&mut leaves);
    assert_eq!(code, Some(0), "{}", leaves.said());
    eprintln!("a worker with --grace 0 ended after {took:.1?}");
    assert!(!coordinator.said().contains("lease revoked"), "{}", coordinator.said());

    // A coordinator that does not answer holds up no worker for longer than its grace period and a little.
    coordinator.signal("STOP");
    let (code, took) = terminate(&mut waits);
    assert_eq!(code, Some(0), "{}", waits.said());
    eprintln!("a worker with --grace 1 whose coordinator hangs ended after {took:.1?}");
    hurries.signal("TERM");
    hurries.until_said("again to stop at once", 1);
    let (code, took) = terminate(&mut hurries);
    assert_eq!(code, Some(130), "{}", hurries.said());
    eprintln!("a worker that was asked twice ended after {took:.1?}");
    coordinator.signal("CONT");

    // A coordinator that is asked to end gives up the lead: the same command again leads at once.
    let (code, took) = terminate(&mut coordinator);
    assert_eq!(code, Some(1), "{}", coordinator.said());
    eprintln!("the coordinator ended after {took:.1?}");
    coordinator.start_again(&lab);
    coordinator.until_said("worker joined", 5);
    let end = coordinator.wait(Duration::from_secs(90));
    assert!(end.is_some_and(|e| e.success()), "{end:?}\n{}", coordinator.said());

    let actual = outcome(&lab, &[]);
    assert_eq!(actual.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>());
    for (key, value) in &expected {
        assert_eq!(&actual[key], value, "{key} differs");
    }
    let said: String = [&leaves, &waits, &hurries, &stays].map(Place::said).concat();
    nothing_acknowledged_is_missing(&said).unwrap();
}
