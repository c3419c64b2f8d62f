//! Plans and selections that are written and read in pieces.

use std::time::Instant;

use influence_proto::EpisodeId;

use super::super::call::iteration_name;
use super::super::{plan, scripts};
use super::{new_run, planned};
use crate::planning::Phase;
use crate::store::behaviour::{TTL, run_id, spec};
use crate::store::{EpisodeStatus, Selected, Store, StoreError, Verdict};

fn verdict(episode: &EpisodeId, position: usize) -> Verdict {
    Verdict {
        episode: episode.clone(),
        reward: (!position.is_multiple_of(7)).then_some(position as f64 / 3.0),
        influence: None,
        vetoed: false,
        unscored: position.is_multiple_of(7),
        selected: (position % 10 == 1).then_some(Selected::Best),
    }
}

#[tokio::test]
async fn ten_thousand_episodes_are_planned_judged_and_listed() {
    let (store, _server) = super::fresh().await;
    let timed = |what: &str, since: Instant| eprintln!("{what}: {:?}", since.elapsed());
    let since = Instant::now();
    let works = planned(&store, 10_000).await;
    timed("planned", since);

    let since = Instant::now();
    store.plan(&run_id(), Phase::Train, 0, (0..10_000).map(|i| spec(&format!("e{i}"))).collect()).await.unwrap();
    timed("planned again", since);
    let since = Instant::now();
    for at in [3, 999, 1000, 9_999] {
        store.start_attempt(&run_id(), &works[at], 1, None).await.unwrap();
        store.fail(&run_id(), &works[at], 1, "poison").await.unwrap();
    }
    store.reopen(&run_id(), Phase::Train, 0).await.unwrap();
    timed("reopened", since);

    let episodes = store.episodes(&run_id(), Phase::Train, 0).await.unwrap();
    assert!(episodes.iter().all(|e| e.status == EpisodeStatus::Pending && e.verdict.is_none()));
    let verdicts: Vec<_> = episodes.iter().enumerate().map(|(at, e)| verdict(&e.id, at)).collect();
    let since = Instant::now();
    store.judge(&run_id(), Phase::Train, 0, verdicts.clone(), vec![]).await.unwrap();
    timed("judged", since);
    store.judge(&run_id(), Phase::Train, 0, verdicts.iter().rev().cloned().collect(), vec![]).await.unwrap();
    let other = store.judge(&run_id(), Phase::Train, 0, verdicts[1..].to_vec(), vec![]).await;
    assert!(matches!(other, Err(StoreError::Conflict { .. })), "{other:?}");

    let since = Instant::now();
    let episodes = store.episodes(&run_id(), Phase::Train, 0).await.unwrap();
    timed("listed", since);
    assert_eq!(episodes.len(), 10_000);
    for (at, (episode, verdict)) in episodes.iter().zip(&verdicts).enumerate() {
        assert_eq!((episode.id.as_str(), episode.verdict.as_ref()), (format!("e{at}").as_str(), Some(verdict)));
    }
}

/// What a leader leaves that dies between the pieces of a plan.
#[tokio::test]
async fn half_a_plan_is_no_plan_and_is_completed_by_the_next_leader() {
    let (store, server) = super::fresh().await;
    store.create_run(new_run()).await.unwrap();
    store.lead(&run_id(), "me", TTL).await.unwrap();
    let specs: Vec<_> = (0..1200).map(|i| spec(&format!("e{i}"))).collect();
    let run = run_id();
    {
        let led = store.leads.must_hold(&store.link, &run).await.unwrap();
        let digest = plan::digest_of(specs.iter().map(super::super::call::to_json)).unwrap();
        for (digest, count) in [("another plan's", 3), (digest.as_str(), 700)] {
            let mut call = led.call(&scripts::PLAN).arg(iteration_name(Phase::Train, 0)).arg(digest).arg(0);
            for spec in &specs[..count] {
                let body = serde_json::to_string(spec).unwrap();
                call = call.arg(spec.id.as_str()).arg(r#"["therapist","smoking","0"]"#).arg(body);
            }
            assert_eq!(led.send(&call).await.unwrap().0, "ok");
        }
    }
    assert_eq!(store.iterations(&run).await.unwrap(), []);
    assert_eq!(store.episodes(&run, Phase::Train, 0).await.unwrap(), []);
    let missing = StoreError::NoSuchWork { run: "demo".into(), work: "e0".into() };
    let work = influence_proto::WorkId::new("e0").unwrap();
    assert_eq!(store.spec(&run, &spec("e0").id).await, Err(missing.clone()));
    assert_eq!(store.journal(&run, &spec("e0").id).await, Err(missing.clone()));
    assert_eq!(store.start_attempt(&run, &work, 1, None).await, Err(missing.clone()));
    assert_eq!(store.fail(&run, &work, 0, "x").await, Err(missing));
    store.resign(&run).await.unwrap();

    let next = server.store().await;
    next.lead(&run, "next", TTL).await.unwrap();
    next.plan(&run, Phase::Train, 0, specs.clone()).await.unwrap();
    let episodes = next.episodes(&run, Phase::Train, 0).await.unwrap();
    assert_eq!(episodes.len(), 1200);
    assert!(episodes.iter().zip(&specs).all(|(episode, spec)| episode.id == spec.id));
    let other = next.plan(&run, Phase::Train, 1, vec![spec("e7")]).await;
    assert!(matches!(&other, Err(StoreError::Conflict { .. })), "an episode of another plan: {other:?}");
    let twice = next.plan(&run, Phase::Train, 1, vec![spec("x"), spec("x")]).await;
    assert!(matches!(&twice, Err(StoreError::Conflict { .. })), "{twice:?}");
    next.start_attempt(&run, &work, 1, None).await.unwrap();
}

#[tokio::test]
async fn half_a_selection_is_none_and_another_may_be_made() {
    let (store, _server) = super::fresh().await;
    planned(&store, 3).await;
    let (run, ids) = (run_id(), ["e0", "e1", "e2"].map(|id| spec(id).id));
    {
        let led = store.leads.must_hold(&store.link, &run).await.unwrap();
        let call = led.call(&scripts::VERDICTS).arg("train:0").arg("half").arg("e0").arg("nonsense");
        assert_eq!(led.send(&call).await.unwrap().0, "ok");
        let end = led.call(&scripts::JUDGE).arg("train:0").arg("half").arg(3).arg("[]");
        assert_eq!(led.send(&end).await.unwrap().0, "gap", "it is not whole");
    }
    assert!(!store.iterations(&run).await.unwrap()[0].judged);
    assert!(store.episodes(&run, Phase::Train, 0).await.unwrap().iter().all(|e| e.verdict.is_none()));
    let verdicts: Vec<_> = ids.iter().enumerate().map(|(at, id)| verdict(id, at)).collect();
    store.judge(&run, Phase::Train, 0, verdicts.clone(), vec![]).await.unwrap();
    let stored = store.episodes(&run, Phase::Train, 0).await.unwrap();
    assert_eq!(stored.into_iter().filter_map(|e| e.verdict).collect::<Vec<_>>(), verdicts);
}
