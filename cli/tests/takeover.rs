//! Two coordinators on one Redis: one leads, the other stands by. The leader is killed, and cut off from
//! Redis; the other takes over, workers move over, and the one that was cut off finds itself deposed and
//! writes nothing more.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::time::{Duration, Instant};

use support::acknowledged::nothing_acknowledged_is_missing;
use support::outcome::outcome;
use support::processes::Place;
use support::servers::{Redis, Wire, free_port};
use support::{LARGE, Lab};

#[test]
fn a_standby_takes_over_from_a_leader_that_is_killed_or_cut_off() {
    let calm = Lab::new();
    calm.succeed(&[&["run", "configs/experiments/tiny.yaml"][..], &LARGE].concat());
    let expected = outcome(&calm, &[]);

    let lab = Lab::new();
    let redis = Redis::start(lab.path("redis"));
    let wires = [Wire::to(redis.port), Wire::to(redis.port)];
    let ports = [free_port(), free_port()];
    let mut coordinators: Vec<Place> = Vec::new();
    for (i, name) in ["first", "second"].into_iter().enumerate() {
        let (store, listen) = (format!("redis://127.0.0.1:{}", wires[i].port), format!("127.0.0.1:{}", ports[i]));
        let options = ["--store", &store, "--listen", &listen, "--takeover", "2"];
        let command = [&["coordinator", "configs/experiments/tiny.yaml"][..], &LARGE, &options].concat();
        coordinators.push(Place::start(&lab, name, &command));
        coordinators[i].until_said(["leading", "standing by"][i], 1);
    }
    let urls = ports.map(|port| format!("http://127.0.0.1:{port}"));
    let worker = |i: usize| {
        let name = format!("worker{i}");
        let command = ["worker", "--coordinator", &urls[0], "--coordinator", &urls[1], "--name", &name, "--slots", "2"];
        Place::start(&lab, &name, &command)
    };
    let workers: Vec<Place> = (0..2).map(worker).collect();
    workers[0].until_said("turn stored", 3);

    // The leader is killed: the standby leads within the takeover time, and the workers come over.
    let killed = Instant::now();
    coordinators[0].kill();
    coordinators[1].until_said("leading", 1);
    eprintln!("the standby led {:.1?} after the leader was killed", killed.elapsed());
    coordinators[1].until_said("worker joined", 2);
    coordinators[0].start_again(&lab);
    coordinators[0].until_said("standing by", 1);

    // The leader is cut off from Redis: the other takes over; the one that was cut off is deposed.
    let cut = Instant::now();
    wires[1].cut();
    coordinators[0].until_said("leading", 2);
    eprintln!("the standby led {:.1?} after the leader was cut off", cut.elapsed());
    wires[1].mend();
    coordinators[1].until_said("the lead of the run is lost", 1);

    for coordinator in &mut coordinators {
        let end = coordinator.wait(Duration::from_secs(90));
        assert!(end.is_some_and(|e| e.success()), "{end:?}\n{}", coordinator.said());
    }
    let store = format!("redis://127.0.0.1:{}", redis.port);
    let actual = outcome(&lab, &["--store", &store]);
    assert_eq!(actual.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>());
    for (key, value) in &expected {
        assert_eq!(&actual[key], value, "{key} differs");
    }
    let said: String = workers.iter().map(Place::said).collect();
    nothing_acknowledged_is_missing(&said).unwrap();
}

/// Protects: a coordinator and its Redis may be started in any order, as after a machine's restart; and it can be told to
/// end while it waits.
#[test]
fn a_coordinator_that_starts_before_its_redis_waits_for_it() {
    let lab = Lab::new();
    let mut redis = Redis::start(lab.path("redis"));
    redis.kill();
    let store = format!("redis://127.0.0.1:{}", redis.port);
    let start = |name: &str| {
        let listen = format!("127.0.0.1:{}", free_port());
        let command = ["coordinator", "configs/experiments/tiny.yaml", "--store", &store, "--listen", &listen];
        let place = Place::start(&lab, name, &command);
        place.until_said("waiting: the store redis://", 1);
        place
    };
    let (patient, mut told) = (start("patient"), start("told"));
    told.signal("TERM");
    let end = told.wait(Duration::from_secs(10));
    assert!(end.is_some_and(|end| !end.success()), "{end:?}\n{}", told.said());
    redis.start_again();
    patient.until_said("leading", 1);
}
