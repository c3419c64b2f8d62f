//! Delivery in order, once each, whatever the coordinator does.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use influence_proto::{AgentReply, Failure, Outcome, Score, TransitionOutcome, Turn, WorkId, WorkerId};
use tokio_util::sync::CancellationToken;
use tonic::Code;

use super::*;
use crate::client::Client;
use crate::session::Identity;
use crate::session::rehearsal::{Fault, Rehearsal};

fn turn(index: u32) -> Turn {
    Turn {
        index,
        reply: AgentReply {
            text: "hi".into(),
            prompt_ids: vec![1],
            restarts: false,
            token_ids: vec![2],
            cut_off: false,
        },
        state: "calm".into(),
        transition: TransitionOutcome {
            score: Score::unscored("test"),
            answer: "no".into(),
            defaulted: true,
            next_state: "calm".into(),
            entered: Vec::new(),
        },
        preference: Score::unscored("test"),
        influence: None,
        environment: None,
        calls: Vec::new(),
        choice: None,
        worker: None,
    }
}

struct Setup {
    coordinator: Rehearsal,
    client: Client,
    identity: Identity,
    lost: CancellationToken,
}

impl Setup {
    async fn new() -> Self {
        let coordinator = Rehearsal::start().await;
        let client = Client::new(coordinator.options()).unwrap();
        let join = influence_proto::Join {
            protocol: (4, 4),
            name: "test".into(),
            incarnation: 7,
            version: "0".into(),
            device: "cpu".into(),
            can_train: false,
        };
        let joined = client.join(join).await.unwrap();
        let identity = Identity::new(joined.worker, 7);
        Self { coordinator, client, identity, lost: CancellationToken::new() }
    }

    fn lane(&self) -> Lane {
        let work = WorkId::new("e1").unwrap();
        Lane::open(self.client.clone(), self.identity.clone(), work, 2, self.lost.clone())
    }

    fn stored(&self) -> Vec<u32> {
        self.coordinator.script().turns.iter().map(|(_, _, turn)| turn.index).collect()
    }
}

#[tokio::test]
async fn turns_and_result_arrive_once_and_in_order_through_faults() {
    let setup = Setup::new().await;
    setup.coordinator.script().faults.extend([
        Fault::Before(Code::Unavailable),
        Fault::After(Code::Unavailable),
        Fault::Before(Code::DeadlineExceeded),
        Fault::After(Code::Internal),
    ]);
    let lane = setup.lane();
    for index in 0..6 {
        lane.turn(turn(index)).await;
    }
    assert_eq!(lane.finish(Outcome::Episode { turns: 6 }).await, Delivery::Stored);
    assert_eq!(setup.stored(), [0, 1, 2, 3, 4, 5]);
    assert_eq!(setup.coordinator.script().finished, [("e1".into(), 2, Outcome::Episode { turns: 6 })]);
}

#[tokio::test]
async fn a_fenced_attempt_is_dropped_and_its_episode_told() {
    let setup = Setup::new().await;
    setup.coordinator.script().faults.push_back(Fault::Before(Code::FailedPrecondition));
    let lane = setup.lane();
    lane.turn(turn(0)).await;
    tokio::time::timeout(Duration::from_secs(10), setup.lost.cancelled()).await.unwrap();
    let delivery = lane.finish(Outcome::Episode { turns: 1 }).await;
    assert!(matches!(delivery, Delivery::Dropped(_)), "{delivery:?}");
    assert!(setup.stored().is_empty());
    assert!(setup.coordinator.script().finished.is_empty(), "nothing is said about another's work");
}

#[tokio::test]
async fn a_refused_turn_is_reported_as_a_failure() {
    let setup = Setup::new().await;
    setup.coordinator.script().faults.push_back(Fault::Before(Code::InvalidArgument));
    let lane = setup.lane();
    lane.turn(turn(0)).await;
    setup.coordinator.until("the failure", |script| !script.finished.is_empty()).await;
    let (_, attempt, outcome) = setup.coordinator.script().finished[0].clone();
    assert_eq!(attempt, 2);
    assert!(matches!(outcome, Outcome::Failed(Failure { retryable: false, .. })), "{outcome:?}");
    assert!(setup.lost.is_cancelled(), "the episode need not go on");
}

#[tokio::test]
async fn what_cannot_be_sent_is_kept_and_the_lane_is_bounded() {
    let mut setup = Setup::new().await;
    setup.coordinator.kill();
    let lane = setup.lane();
    let mut taken = 0;
    while taken < 50 && tokio::time::timeout(Duration::from_millis(200), lane.turn(turn(taken))).await.is_ok() {
        taken += 1;
    }
    assert!((2..10).contains(&taken), "{taken} turns were taken while nobody stored them");
    setup.coordinator.restart(false).await;
    assert_eq!(lane.finish(Outcome::Returned).await, Delivery::Stored);
    assert_eq!(setup.stored(), (0..taken).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_lost_lease_ends_the_lane_while_the_coordinator_is_away() {
    let mut setup = Setup::new().await;
    setup.coordinator.kill();
    let lane = setup.lane();
    lane.turn(turn(0)).await;
    setup.lost.cancel();
    let finish = tokio::time::timeout(Duration::from_secs(5), lane.finish(Outcome::Returned));
    assert!(matches!(finish.await.unwrap(), Delivery::Dropped(_)));
}

#[tokio::test]
async fn an_unknown_worker_waits_for_its_new_name() {
    let setup = Setup::new().await;
    let known = setup.identity.id();
    setup.identity.rename(WorkerId::new("nobody").unwrap());
    let lane = setup.lane();
    lane.turn(turn(0)).await;
    tokio::time::timeout(Duration::from_secs(10), setup.identity.until_forgotten()).await.unwrap();
    setup.identity.rename(known);
    assert_eq!(lane.finish(Outcome::Episode { turns: 1 }).await, Delivery::Stored);
    assert_eq!(setup.stored(), [0]);
}

#[test]
fn waits_grow_to_a_limit_and_differ_between_workers() {
    let waits = |seed| {
        let mut backoff = Backoff::new(seed);
        (0..40).map(|_| backoff.next()).collect::<Vec<_>>()
    };
    let one = waits(1);
    assert!(one[0] >= Duration::from_millis(50) && one[0] <= Duration::from_millis(100));
    assert!(one[39] >= Duration::from_millis(2500) && one.iter().all(|wait| *wait <= Duration::from_secs(5)));
    assert_ne!(one, waits(2));
}
