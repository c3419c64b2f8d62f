//! Adapters that a worker fetches, loads and loses.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::time::Duration;

use influence_proto::{AdapterRef, Digest, EpisodeId, Lease, Outcome, TrainedAgent, Work};

use super::Credentials;
use super::rehearsal::Rehearsal;
use super::tests::{Setup, backend, lease, leases};
use crate::backend::BackendError;
use crate::backend::scripted::Asked;

/// A coordinator that has an adapter, and `count` leases of it.
async fn coordinator(count: usize) -> Rehearsal {
    let (config, weights) = (b"{}".to_vec(), vec![7; 5000]);
    let adapter = AdapterRef { config: Digest::of(&config), weights: Digest::of(&weights) };
    let coordinator = Rehearsal::start().await;
    for data in [config, weights] {
        coordinator.script().artifacts.insert(Digest::of(&data).to_string(), data);
    }
    for lease in leases(count) {
        coordinator.script().leases.push_back(with_adapter(lease, adapter));
    }
    coordinator
}

fn with_adapter(mut lease: Lease, adapter: AdapterRef) -> Lease {
    if let Work::Episode { spec, .. } = &mut lease.payload {
        spec.trained = Some(TrainedAgent::Adapter(adapter));
        spec.id = EpisodeId::new(lease.work.as_str()).unwrap();
    }
    lease
}

/// How the work ended, once `count` results are there.
async fn outcome(setup: &Setup, work: &str, count: usize) -> Outcome {
    setup.coordinator.until("the results", |script| script.finished.len() == count).await;
    setup.coordinator.script().finished.iter().find(|(of, _, _)| of == work).unwrap().2.clone()
}

async fn end(setup: Setup) {
    setup.coordinator.goodbye();
    setup.end().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_adapter_is_fetched_and_loaded_once_for_all_its_episodes() {
    let setup = Setup::with(coordinator(3).await, Duration::ZERO);
    setup.coordinator.until("three results", |script| script.finished.len() == 3).await;
    let asked = setup.backend.asked();
    assert_eq!(asked.iter().filter(|asked| matches!(asked, Asked::Load(_))).count(), 1);
    for asked in &asked {
        if let Asked::Reply { prompt, adapter, .. } = asked {
            assert_eq!(adapter.is_some(), prompt.starts_with("[system]AGENT"), "the agent alone has the adapter");
        }
    }
    end(setup).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_missing_adapter_fails_the_episode_and_not_the_worker() {
    let broken = with_adapter(lease("e0", 1), AdapterRef { config: Digest::of("a"), weights: Digest::of("b") });
    let setup = Setup::new(vec![broken, lease("e1", 1)], Duration::ZERO).await;
    let failed = outcome(&setup, "e0", 2).await;
    let Outcome::Failed(failure) = failed else { panic!("{failed:?}") };
    assert!(failure.message.contains(&Digest::of("a").to_string()), "{}", failure.message);
    end(setup).await;
}

/// Protects: an adapter whose folder another worker of the machine removed meanwhile is fetched again by the next
/// attempt, while one that is no adapter of the model fails for good.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_adapter_that_vanishes_while_it_is_loaded_is_tried_again() {
    for removed in [true, false] {
        let mut backend = backend(Duration::ZERO);
        backend.on_load = Some(Box::new(move |folder| {
            if removed {
                std::fs::remove_dir_all(folder).unwrap();
            }
            Err(BackendError::Refused("it cannot be loaded".into()))
        }));
        let setup = Setup::over(coordinator(1).await, backend, Credentials::default());
        let failed = outcome(&setup, "e0", 1).await;
        let Outcome::Failed(failure) = failed else { panic!("{failed:?}") };
        assert_eq!(failure.retryable, removed, "{}", failure.message);
        end(setup).await;
    }
}
