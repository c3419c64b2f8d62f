#![allow(clippy::unwrap_used, clippy::expect_used)]
use std::sync::Arc;

use rusqlite::Connection;
use serde_json::json;

use super::*;
use crate::store::EpisodeStatus;
use crate::store::behaviour::{TTL, one_handle_leads_at_a_time, run_id, spec, suite, turn};

fn fresh() -> (SqliteStore, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    (SqliteStore::open(&folder.path().join("new/store.sqlite")).unwrap(), folder)
}

suite!(fresh());

#[tokio::test]
async fn two_handles_do_not_lead_one_run() {
    let (one, folder) = fresh();
    let other = SqliteStore::open(&folder.path().join("new/store.sqlite")).unwrap();
    one_handle_leads_at_a_time(&one, &other).await;
}

async fn planned(store: &SqliteStore, episodes: usize) -> Vec<WorkId> {
    let run = NewRun { id: run_id(), name: "demo".into(), digest: "d".into(), experiment: json!({}) };
    store.create_run(run).await.unwrap();
    store.lead(&run_id(), "me", TTL).await.unwrap();
    let specs: Vec<_> = (0..episodes).map(|i| spec(&format!("e{i}"))).collect();
    let works = specs.iter().map(|s| WorkId::from(&s.id)).collect();
    store.plan(&run_id(), Phase::Train, 0, specs).await.unwrap();
    works
}

#[tokio::test]
async fn what_is_acknowledged_outlives_the_process() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("store.sqlite");
    let store = SqliteStore::open(&file).unwrap();
    let works = planned(&store, 1).await;
    store.start_attempt(&run_id(), &works[0], 1, None).await.unwrap();
    store.record_turn(&run_id(), &works[0], 1, turn(0, "x")).await.unwrap();
    // A copy of the files as they are now is what a killed process leaves.
    let copy = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(folder.path()).unwrap().map(Result::unwrap) {
        if entry.path().is_dir() {
            continue; // The run's lock.
        }
        std::fs::copy(entry.path(), copy.path().join(entry.file_name())).unwrap();
    }
    let reopened = SqliteStore::open(&copy.path().join("store.sqlite")).unwrap();
    assert_eq!(reopened.journal(&run_id(), &spec("e0").id).await.unwrap(), [turn(0, "x")]);
}

/// Protects: a file from before there were metrics takes them.
#[tokio::test]
async fn an_older_file_gets_what_was_added() {
    let (store, folder) = fresh();
    planned(&store, 1).await;
    let file = folder.path().join("new/store.sqlite");
    Connection::open(&file).unwrap().execute_batch("DROP TABLE metrics").unwrap();
    let store = SqliteStore::open(&file).unwrap();
    assert_eq!(store.metrics(&run_id(), &spec("e0").id).await.unwrap(), []);
}

#[tokio::test]
async fn one_refused_call_of_a_group_leaves_the_others_stored() {
    let (store, _folder) = fresh();
    let store = Arc::new(store);
    let works = planned(&store, 40).await;
    let calls: Vec<_> = works
        .into_iter()
        .enumerate()
        .map(|(i, work)| {
            let store = store.clone();
            tokio::spawn(async move {
                store.start_attempt(&run_id(), &work, 1, None).await.unwrap();
                // Every fourth leaves a gap and is refused.
                store.record_turn(&run_id(), &work, 1, turn(u32::from(i % 4 == 0), "x")).await.is_ok()
            })
        })
        .collect();
    let mut stored = 0;
    for call in calls {
        stored += usize::from(call.await.unwrap());
    }
    let episodes = store.episodes(&run_id(), Phase::Train, 0).await.unwrap();
    assert_eq!((stored, episodes.iter().filter(|e| e.turns == 1).count()), (30, 30));
}

#[tokio::test]
async fn a_full_disk_is_retryable_names_the_file_and_loses_nothing_acknowledged() {
    let (store, _folder) = fresh();
    let works = planned(&store, 1).await;
    store.start_attempt(&run_id(), &works[0], 1, None).await.unwrap();
    store.limit_pages(40).await.unwrap();
    let mut stored = 0;
    let error = loop {
        let long = "x".repeat(5000);
        match store.record_turn(&run_id(), &works[0], 1, turn(stored, &long)).await {
            Ok(()) => stored += 1,
            Err(error) => break error,
        }
        assert!(stored < 1000, "the limit holds");
    };
    assert!(error.retryable() && error.to_string().contains("store.sqlite"), "{error}");
    assert!(matches!(error, StoreError::Full { .. }), "{error:?}");
    assert_eq!(store.journal(&run_id(), &spec("e0").id).await.unwrap().len(), stored as usize);
    store.limit_pages(1_000_000).await.unwrap();
    store.record_turn(&run_id(), &works[0], 1, turn(stored, "x")).await.expect("space again");
    store.finish_episode(&run_id(), &works[0], 1, stored + 1).await.unwrap();
    assert_eq!(store.episodes(&run_id(), Phase::Train, 0).await.unwrap()[0].status, EpisodeStatus::Finished);
}

/// Protects: a file of the release before keeps what is in it, and takes marks.
#[tokio::test]
async fn a_file_without_marks_is_brought_up_to_date() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("store.sqlite");
    {
        let store = SqliteStore::open(&file).unwrap();
        planned(&store, 1).await;
    }
    let old = Connection::open(&file).unwrap();
    old.execute_batch("DROP TABLE marks; PRAGMA user_version = 3").unwrap();
    drop(old);
    let store = SqliteStore::open(&file).unwrap();
    let mark = Mark { episode: spec("e0").id, turn: None, label: "fine".into(), note: String::new(), at_ms: 1 };
    store.mark(&run_id(), mark.clone()).await.unwrap();
    assert_eq!(store.marks(&run_id()).await.unwrap(), [mark]);
}

#[test]
fn later_foreign_and_damaged_files_are_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let refusal = |file: &std::path::Path| SqliteStore::open(file).unwrap_err();

    let later = folder.path().join("later.sqlite");
    drop(SqliteStore::open(&later).unwrap());
    Connection::open(&later).unwrap().pragma_update(None, "user_version", schema::VERSION + 1).unwrap();
    assert_eq!(
        refusal(&later),
        StoreError::Newer { store: later.display().to_string(), found: schema::VERSION + 1, known: schema::VERSION }
    );

    let foreign = folder.path().join("foreign.sqlite");
    Connection::open(&foreign).unwrap().execute_batch("CREATE TABLE cats (name TEXT)").unwrap();
    assert!(refusal(&foreign).to_string().contains("another program"));

    let damaged = folder.path().join("damaged.sqlite");
    std::fs::write(&damaged, "not a database at all ".repeat(100)).unwrap();
    let error = refusal(&damaged);
    assert!(matches!(error, StoreError::Unreadable { .. }) && error.to_string().contains("damaged.sqlite"), "{error}");
}
