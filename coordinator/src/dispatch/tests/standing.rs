use super::*;

use crate::dispatch::DispatchError;

#[test]
fn the_standing_counts_what_is_held_duplicated_and_left() {
    let mut d = with_workers(LIMITS, &[2, 0, 0]);
    for i in 0..3 {
        d.handle(episode(i, "a", "0"), 0);
    }
    for now in [400, 1200, 2000] {
        d.handle(Event::Renewed(worker(0), vec![held(0, 1, now), held(1, 1, now)]), now);
    }
    d.handle(Event::Credits(worker(1), 3), 2000);
    d.handle(Event::Tick, 2001);
    d.handle(Event::Draining(worker(2)), 2001);
    d.handle(Event::Disconnected(worker(2)), 2001);
    d.handle(episode(3, "a", "0"), 2001);
    d.handle(Event::Paused(true), 2001);
    let standing = d.standing(2100);
    assert_eq!((standing.paused, standing.pending, standing.leased), (true, 1, 3));
    let [first, second, third] = &standing.workers[..] else { panic!("{standing:?}") };
    assert_eq!((first.held, first.duplicates, first.credits, first.silent_ms), (2, 0, 0, 100));
    assert_eq!((second.held, second.duplicates, second.credits), (3, 2, 0), "w2, and both of the first worker's");
    assert_eq!((third.held, third.connected, third.draining), (0, false, true));
    assert_eq!((first.can_train, second.can_train, first.device.as_str()), (true, false, "cpu"));
}

#[test]
fn a_worker_is_found_by_id_or_by_a_name_that_only_one_has() {
    let mut d = Dispatch::new(LIMITS);
    assert!(matches!(d.find("x"), Err(DispatchError::NoSuchWorker { known, .. }) if known.contains("no worker")));
    for id in ["gpu-a-0001", "gpu-b-0002", "gpu-b-0003"] {
        let worker = WorkerId::new(id).unwrap();
        d.handle(Event::Joined { worker, version: String::new(), device: String::new(), can_train: false }, 0);
    }
    assert_eq!(d.find("gpu-b-0003").unwrap().as_str(), "gpu-b-0003");
    assert_eq!(d.find("gpu-a").unwrap().as_str(), "gpu-a-0001");
    let several = d.find("gpu-b").unwrap_err().to_string();
    assert!(several.contains("`gpu-b-0002`, `gpu-b-0003`") && several.contains("give the id"), "{several}");
    let none = d.find("gpu\u{1b}").unwrap_err().to_string();
    assert!(none.contains("`gpu\\u{1b}`") && none.contains("`gpu-a-0001`"), "{none}");
}
