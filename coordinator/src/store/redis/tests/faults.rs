//! The server, or the way to it, fails.

use std::time::{Duration, Instant};

use influence_proto::{AdapterRef, Digest, StepLoss, TrainedAgent, TrainingReport, TrainingSpec, WorkId};
use serde_json::json;

use super::server::{Lossy, Server, open};
use super::{new_run, planned};
use crate::planning::Phase;
use crate::store::behaviour::{TTL, run_id, spec, turn};
use crate::store::{EpisodeStatus, RunStatus, Store, StoreError, Verdict};

#[tokio::test]
async fn what_is_acknowledged_outlives_kill_9_and_calls_meanwhile_may_be_repeated() {
    let mut server = Server::start();
    let store = server.store().await;
    let works = planned(&store, 3).await;
    for work in &works {
        store.start_attempt(&run_id(), work, 1, None).await.unwrap();
    }
    for index in 0..4 {
        store.record_turn(&run_id(), &works[0], 1, turn(index, "kept")).await.unwrap();
        server.kill();
        let away = store.record_turn(&run_id(), &works[1], 1, turn(index, "x")).await.unwrap_err();
        assert!(matches!(&away, StoreError::Away { .. }) && away.retryable(), "{away:?}");
        assert!(store.episodes(&run_id(), Phase::Train, 0).await.unwrap_err().retryable());
        server.restart();
        store.record_turn(&run_id(), &works[1], 1, turn(index, "x")).await.expect("it goes on by itself");
    }
    store.finish_episode(&run_id(), &works[0], 1, 4).await.unwrap();
    server.restart();
    let kept: Vec<_> = (0..4).map(|index| turn(index, "kept")).collect();
    assert_eq!(store.journal(&run_id(), &spec("e0").id).await.unwrap(), kept);
    let episodes = store.episodes(&run_id(), Phase::Train, 0).await.unwrap();
    assert_eq!(episodes[0].status, EpisodeStatus::Finished);
    assert_eq!(episodes.iter().map(|e| e.turns).collect::<Vec<_>>(), [4, 4, 0]);
}

#[tokio::test]
async fn many_calls_under_way_lose_nothing_acknowledged_when_the_server_is_killed() {
    let mut server = Server::start();
    let store = std::sync::Arc::new(server.store().await);
    let works = planned(&*store, 50).await;
    let calls: Vec<_> = works
        .iter()
        .cloned()
        .map(|work| {
            let store = store.clone();
            tokio::spawn(async move {
                let mut acknowledged = 0;
                store.start_attempt(&run_id(), &work, 1, None).await.unwrap();
                for index in 0..40 {
                    loop {
                        match store.record_turn(&run_id(), &work, 1, turn(index, "x")).await {
                            Ok(()) => break acknowledged += 1,
                            Err(error) if error.retryable() => tokio::time::sleep(Duration::from_millis(20)).await,
                            Err(error) => panic!("{error}"),
                        }
                    }
                }
                acknowledged
            })
        })
        .collect();
    for _ in 0..3 {
        tokio::time::sleep(Duration::from_millis(60)).await;
        server.restart();
    }
    for call in calls {
        assert_eq!(call.await.unwrap(), 40);
    }
    server.restart();
    let episodes = store.episodes(&run_id(), Phase::Train, 0).await.unwrap();
    assert!(episodes.iter().all(|e| e.turns == 40), "{episodes:?}");
}

#[tokio::test]
async fn a_server_that_hangs_is_away_in_bounded_time_and_is_gone_on_with() {
    let server = Server::start();
    let store = server.store().await;
    let works = planned(&store, 1).await;
    store.start_attempt(&run_id(), &works[0], 1, None).await.unwrap();
    server.signal("STOP");
    let since = Instant::now();
    let away = store.record_turn(&run_id(), &works[0], 1, turn(0, "x")).await.unwrap_err();
    assert!(matches!(&away, StoreError::Away { .. }), "{away:?}");
    assert!(away.to_string().contains("no answer within 5 s") && since.elapsed() < Duration::from_secs(9), "{away}");
    server.signal("CONT");
    store.record_turn(&run_id(), &works[0], 1, turn(0, "x")).await.expect("stored or not, a repeat succeeds");
    assert_eq!(store.journal(&run_id(), &spec("e0").id).await.unwrap(), [turn(0, "x")]);
}

#[tokio::test]
async fn full_memory_is_retryable_keeps_the_lead_and_loses_nothing_acknowledged() {
    let server = Server::start();
    let store = server.store().await;
    let works = planned(&store, 1).await;
    store.start_attempt(&run_id(), &works[0], 1, None).await.unwrap();
    store.record_turn(&run_id(), &works[0], 1, turn(0, "x")).await.unwrap();
    server.tell("CONFIG SET maxmemory 1mb");
    let full = store.record_turn(&run_id(), &works[0], 1, turn(1, "x")).await.unwrap_err();
    assert!(matches!(&full, StoreError::Full { .. }) && full.retryable(), "{full:?}");
    store.lead(&run_id(), "me", TTL).await.expect("the lead is kept");
    store.record_turn(&run_id(), &works[0], 1, turn(0, "x")).await.expect("what is stored is found");
    assert_eq!(store.journal(&run_id(), &spec("e0").id).await.unwrap(), [turn(0, "x")]);
    server.tell("CONFIG SET maxmemory 0");
    store.record_turn(&run_id(), &works[0], 1, turn(1, "x")).await.expect("space again");
    store.finish_episode(&run_id(), &works[0], 1, 2).await.unwrap();
}

#[tokio::test]
async fn every_verb_succeeds_when_its_answer_is_lost() {
    let server = Server::start();
    let way = Lossy::to(&server);
    let store = open(&way.url).await.unwrap().0;
    let (run, work, job) = (run_id(), WorkId::new("a").unwrap(), WorkId::new("t").unwrap());
    // Each call arrives, its answer does not, and the call is carried out a second time.
    macro_rules! lost {
        ($call:expr) => {{
            way.lose();
            let answer = $call.await.expect(stringify!($call));
            assert!(way.lost(), "{} lost no answer", stringify!($call));
            answer
        }};
    }
    lost!(store.create_run(new_run()));
    assert_eq!(store.create_run(new_run()).await, Err(StoreError::RunExists("demo".into())), "another call's");
    lost!(store.lead(&run, "me", TTL));
    lost!(store.lead(&run, "me", TTL));
    lost!(store.plan(&run, Phase::Train, 0, vec![spec("a"), spec("b")]));
    lost!(store.set_active(&run, Phase::Train, 0, Duration::from_secs(3)));
    lost!(store.start_attempt(&run, &work, 1, None));
    lost!(store.record_turn(&run, &work, 1, turn(0, "x")));
    lost!(store.start_attempt(&run, &work, 2, Some(1)));
    lost!(store.record_turn(&run, &work, 2, turn(1, "y")));
    lost!(store.finish_episode(&run, &work, 2, 2));
    let b = WorkId::new("b").unwrap();
    lost!(store.start_attempt(&run, &b, 1, None));
    lost!(store.fail(&run, &b, 1, "poison"));
    lost!(store.reopen(&run, Phase::Train, 0));
    let verdict = |id: &str| Verdict {
        episode: spec(id).id,
        reward: Some(0.1 + 0.2),
        influence: None,
        vetoed: false,
        unscored: false,
        selected: None,
    };
    lost!(store.judge(&run, Phase::Train, 0, vec![verdict("a")], vec!["few".into()]));
    lost!(store.plan_training(&run, 0, &job, training_spec()));
    lost!(store.start_attempt(&run, &job, 1, None));
    lost!(store.fail(&run, &job, 1, "out of memory"));
    lost!(store.start_attempt(&run, &job, 2, None));
    lost!(store.finish_training(&run, &job, 2, training_report()));
    lost!(store.set_run_status(&run, RunStatus::Finished));
    lost!(store.resign(&run));

    assert_eq!(store.journal(&run, &spec("a").id).await.unwrap(), [turn(0, "x"), turn(1, "y")]);
    let episodes = store.episodes(&run, Phase::Train, 0).await.unwrap();
    assert_eq!(episodes[0].verdict, Some(verdict("a")));
    assert_eq!((episodes[0].attempt, episodes[1].attempt, episodes.len()), (2, 1, 2));
    assert_eq!(store.runs().await.unwrap().len(), 1);
    assert_eq!(store.iterations(&run).await.unwrap().len(), 1);
    assert_eq!(store.trainings(&run).await.unwrap()[0].report, Some(training_report()));
}

#[tokio::test]
async fn a_caller_that_goes_away_leaves_the_store_usable() {
    let (store, _server) = super::fresh().await;
    let works = planned(&store, 1).await;
    store.start_attempt(&run_id(), &works[0], 1, None).await.unwrap();
    let run = run_id();
    for index in 0..20 {
        let mut call = Box::pin(store.record_turn(&run, &works[0], 1, turn(index, "x")));
        assert!(futures::poll!(call.as_mut()).is_pending());
        drop(call);
        store.record_turn(&run_id(), &works[0], 1, turn(index, "x")).await.expect("the call was on its way");
    }
    assert_eq!(store.journal(&run_id(), &spec("e0").id).await.unwrap().len(), 20);
}

pub(super) fn training_spec() -> TrainingSpec {
    serde_json::from_value(json!({
        "model": "m", "dataset": Digest::of("rows"), "start": null, "algorithm": "sft", "seed": u64::MAX,
        "lora": {"rank": 1, "alpha": 1.0, "dropout": 0.0, "rank_stabilised": true, "targets": ["q_proj"]},
        "optimiser": {"learning_rate": 0.1, "weight_decay": 0.0, "max_grad_norm": 1.0, "batch_size": 1,
            "epochs": 1, "max_length": 9, "cut_long_rows": false},
    }))
    .unwrap()
}

pub(super) fn training_report() -> TrainingReport {
    let agent = TrainedAgent::Adapter(AdapterRef { config: Digest::of("c"), weights: Digest::of("w") });
    TrainingReport {
        agent,
        steps: 1,
        rows: 2,
        dropped_rows: 0,
        tokens: 3,
        first_loss: Some(0.1),
        last_loss: Some(0.30000000000000004),
        losses: vec![StepLoss { step: 1, loss: 0.1 }],
        nanodollars: 0,
    }
}
