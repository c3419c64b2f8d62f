//! Leads that run out, and who may write then.

use std::time::Duration;

use influence_proto::WorkId;

use super::super::attempts;
use super::faults::{training_report, training_spec};
use super::planned;
use super::server::Server;
use crate::planning::Phase;
use crate::store::behaviour::{TTL, one_handle_leads_at_a_time, run_id, spec, turn};
use crate::store::{RedisStore, RunStatus, Store, StoreError};

const SHORT: Duration = Duration::from_millis(150);

/// Two handles; the first leads a run, for a short time only.
async fn two() -> (RedisStore, RedisStore, Server, WorkId) {
    let (one, server) = super::fresh().await;
    let other = server.store().await;
    let work = planned(&one, 1).await.remove(0);
    one.start_attempt(&run_id(), &work, 1, None).await.unwrap();
    one.lead(&run_id(), "one", SHORT).await.unwrap();
    (one, other, server, work)
}

#[tokio::test]
async fn two_handles_do_not_lead_one_run() {
    let (one, server) = super::fresh().await;
    one_handle_leads_at_a_time(&one, &server.store().await).await;
}

#[tokio::test]
async fn a_lead_that_ran_out_is_taken_and_every_write_of_the_old_leader_is_refused() {
    let (one, other, _server, work) = two().await;
    let run = run_id();
    let early = other.lead(&run, "other", TTL).await;
    assert_eq!(early, Err(StoreError::Led { run: "demo".into(), leader: "one".into() }));
    tokio::time::sleep(SHORT * 2).await;
    other.lead(&run, "other", TTL).await.expect("it ran out");
    let refused = [
        one.set_run_status(&run, RunStatus::Finished).await,
        one.plan(&run, Phase::Train, 1, vec![spec("b")]).await,
        one.plan(&run, Phase::Train, 0, vec![spec("e0")]).await,
        one.set_active(&run, Phase::Train, 0, TTL).await,
        one.start_attempt(&run, &work, 2, None).await.map(|_| ()),
        one.record_turn(&run, &work, 1, turn(0, "late")).await,
        one.finish_episode(&run, &work, 1, 0).await,
        one.fail(&run, &work, 1, "late").await,
        one.reopen(&run, Phase::Train, 0).await,
        one.judge(&run, Phase::Train, 0, vec![], vec![]).await,
        one.plan_training(&run, 0, &work, training_spec()).await,
        one.finish_training(&run, &work, 1, training_report()).await,
    ];
    for (call, refused) in refused.into_iter().enumerate() {
        let wanted = StoreError::NotLeader { run: "demo".into(), leader: "other".into() };
        assert_eq!(refused, Err(wanted), "call {call}");
    }
    assert_eq!(one.lead(&run, "one", TTL).await, Err(StoreError::Led { run: "demo".into(), leader: "other".into() }));
    one.resign(&run).await.expect("it has nothing to give up");
    other.record_turn(&run, &work, 1, turn(0, "x")).await.expect("the leader goes on");
    assert_eq!(one.journal(&run, &spec("e0").id).await.unwrap(), [turn(0, "x")], "reading needs no lead");
}

#[tokio::test]
async fn a_write_that_was_held_back_past_the_lead_is_refused() {
    let (one, other, server, work) = two().await;
    // As if the old leader's machine had been paused after it had begun the call.
    let run = run_id();
    let led = one.leads.must_hold(&one.link, &run).await.unwrap();
    tokio::time::sleep(SHORT * 2).await;
    other.lead(&run_id(), "other", SHORT).await.unwrap();
    let late = attempts::record_turn(&led, &work, 1, &turn(0, "late")).await;
    assert!(matches!(one.named(late.unwrap_err()), StoreError::NotLeader { .. }));
    other.resign(&run_id()).await.unwrap();
    let later = attempts::record_turn(&led, &work, 1, &turn(0, "late")).await;
    let refused = StoreError::NotLeader { run: "demo".into(), leader: "nobody".into() };
    assert_eq!(one.named(later.unwrap_err()), refused);
    assert_eq!(server.store().await.journal(&run_id(), &spec("e0").id).await.unwrap(), []);
}

#[tokio::test]
async fn a_lead_that_ran_out_and_nobody_took_goes_on() {
    let (one, other, _server, work) = two().await;
    tokio::time::sleep(SHORT * 2).await;
    one.record_turn(&run_id(), &work, 1, turn(0, "x")).await.expect("nobody else leads");
    one.lead(&run_id(), "one", TTL).await.unwrap();
    one.record_turn(&run_id(), &work, 1, turn(1, "x")).await.unwrap();
    let led = other.lead(&run_id(), "other", TTL).await;
    assert!(matches!(led, Err(StoreError::Led { .. })), "{led:?}");
}

#[tokio::test]
async fn who_was_led_past_hears_of_it_even_if_nobody_leads_any_more() {
    let (one, other, _server, work) = two().await;
    tokio::time::sleep(SHORT * 2).await;
    other.lead(&run_id(), "other", TTL).await.unwrap();
    other.record_turn(&run_id(), &work, 1, turn(0, "unheard")).await.unwrap();
    other.resign(&run_id()).await.unwrap();
    // What it knows of the run may be out of date, so it must not go on as if nothing had been.
    let told = one.lead(&run_id(), "one", TTL).await;
    assert!(matches!(told, Err(StoreError::Led { .. })), "{told:?}");
    one.lead(&run_id(), "one", TTL).await.expect("it may begin anew");
    one.record_turn(&run_id(), &work, 1, turn(1, "x")).await.unwrap();
}

#[tokio::test]
async fn a_lead_outlives_the_servers_restart() {
    let (one, other, mut server, work) = two().await;
    one.lead(&run_id(), "one", TTL).await.unwrap();
    server.restart();
    let led = loop {
        match other.lead(&run_id(), "other", TTL).await {
            Err(error) if error.retryable() => tokio::time::sleep(Duration::from_millis(20)).await,
            answer => break answer,
        }
    };
    assert!(matches!(led, Err(StoreError::Led { .. })), "{led:?}");
    one.record_turn(&run_id(), &work, 1, turn(0, "x")).await.unwrap();
}
