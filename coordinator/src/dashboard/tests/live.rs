//! What pages show while a run goes on.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, BodyDataStream};
use axum::http::{Request, StatusCode};
use futures::StreamExt as _;
use influence_proto::{Join, PROTOCOL, WorkId, WorkerLoad};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

use super::{ATTACK, store};
use crate::Cluster;
use crate::dashboard::{Live, Pages, router};
use crate::dispatch::{DispatchService, Limits};
use crate::planning::Phase;
use crate::progress::ProgressHandle;
use crate::store::Store;
use crate::store::behaviour::{run_id, spec, turn};

async fn ask(app: &Router, path: &str) -> (StatusCode, Body) {
    let request = Request::get(path).header("host", "localhost").body(Body::empty()).unwrap();
    let answer = app.clone().oneshot(request).await.unwrap();
    (answer.status(), answer.into_body())
}

async fn page(app: &Router, path: &str) -> String {
    let (status, body) = ask(app, path).await;
    assert_eq!(status, StatusCode::OK, "{path}");
    String::from_utf8(axum::body::to_bytes(body, 1 << 20).await.unwrap().to_vec()).unwrap()
}

async fn events(app: &Router, path: &str) -> BodyDataStream {
    let (status, body) = ask(app, path).await;
    assert_eq!(status, StatusCode::OK, "{path}");
    body.into_data_stream()
}

/// What the next event says; one that does not come in time fails.
async fn next(events: &mut BodyDataStream) -> Option<String> {
    let event = tokio::time::timeout(Duration::from_secs(2), events.next()).await.expect("it says nothing");
    Some(String::from_utf8(event?.unwrap().to_vec()).unwrap().trim().to_owned())
}

async fn begin(store: &Arc<dyn Store>) -> WorkId {
    store.plan(&run_id(), Phase::Train, 1, vec![spec("later")]).await.unwrap();
    let work = WorkId::new("later").unwrap();
    store.start_attempt(&run_id(), &work, 1, None).await.unwrap();
    work
}

/// Protects: every turn and the end are told of within 2 s, on the conversation's page and on the run's.
#[tokio::test]
async fn turns_are_told_of_as_they_happen() {
    let store = store().await;
    let work = begin(&store).await;
    let app = router(Pages::new(store.clone(), Live::default()));
    let mut conversation = events(&app, "/runs/demo/episodes/later/events").await;
    let mut run = events(&app, "/runs/demo/events").await;
    assert_eq!(next(&mut conversation).await.unwrap(), "data: 0-pending-–", "what the page has in its data-state");
    let mut before = next(&mut run).await.unwrap();
    store.record_turn(&run_id(), &work, 1, turn(0, "Well")).await.unwrap();
    assert_eq!(next(&mut conversation).await.unwrap(), "data: 1-pending-–");
    let after = next(&mut run).await.unwrap();
    assert_ne!(after, before);
    before = after;
    store.finish_episode(&run_id(), &work, 1, 1).await.unwrap();
    assert_eq!(next(&mut conversation).await.unwrap(), "data: 1-finished-–");
    assert_ne!(next(&mut run).await.unwrap(), before);
    let (status, _) = ask(&app, "/runs/none/events").await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    let mut nothing = events(&app, "/runs/demo/episodes/none/events").await;
    assert_eq!(next(&mut nothing).await, None, "a stream about nothing ends");
}

/// Protects: streams are bounded in number, a client that leaves gives its place back, and none holds up the end.
#[tokio::test]
async fn streams_have_places_and_an_end() {
    let store = store().await;
    let pages = Pages::new(store.clone(), Live::default());
    let stop = CancellationToken::new();
    pages.events.end_with(&stop);
    let app = router(pages);
    let mut open = Vec::new();
    for _ in 0..64 {
        open.push(events(&app, "/runs/demo/events").await);
    }
    assert_eq!(ask(&app, "/runs/demo/events").await.0, StatusCode::SERVICE_UNAVAILABLE);
    open.pop();
    let mut last = events(&app, "/runs/demo/events").await;
    assert!(next(&mut last).await.is_some());
    stop.cancel();
    assert_eq!(next(&mut last).await, None);
}

/// Protects: the page tells who works and how; what a worker says of itself is text; and a process that does not carry the run
/// on says so instead of showing nothing.
#[tokio::test]
async fn workers_are_shown_by_who_knows_them() {
    let store = store().await;
    let live = Live::default();
    let app = router(Pages::new(store.clone(), live.clone()));
    let path = "/runs/demo/workers";
    assert!(page(&app, path).await.contains("does not carry the run on"));
    let progress = ProgressHandle::new();
    let (service, dispatch) = DispatchService::new(run_id(), store.clone(), Limits::default(), progress.clone());
    let stop = CancellationToken::new();
    let serving = tokio::spawn(service.run(stop.clone()));
    live.follow(Cluster::new(run_id(), dispatch.clone(), progress.watch()));
    let shown = page(&app, path).await;
    assert!(shown.contains("No worker has joined yet") && shown.contains("data-events"), "{shown}");
    let join = Join {
        protocol: (*PROTOCOL.start(), *PROTOCOL.end()),
        name: "gpu".into(),
        incarnation: 1,
        version: "0".into(),
        device: ATTACK.into(),
        can_train: true,
    };
    let worker = dispatch.join(join).await.unwrap();
    let session = dispatch.connect(worker.clone()).await.unwrap();
    dispatch.credits(worker.clone(), 6).await.unwrap();
    let load = WorkerLoad { memory_bytes: 3 << 29, backing_off: 0 };
    dispatch.renew(worker.clone(), Vec::new(), load).await.unwrap();
    dispatch.turn_recorded(worker.clone(), WorkId::new("w").unwrap(), 1, 15_000).await.unwrap();
    let shown = page(&app, path).await;
    for part in [worker.as_str(), "0 of 6", "1.5 GiB", ">idle<", "&#60;script&#62;", ">1000</td>"] {
        assert!(shown.contains(part), "{part:?} is not in {shown}");
    }
    assert!(!shown.contains("<script>alert"), "{shown}");
    dispatch.renew(worker.clone(), Vec::new(), WorkerLoad { backing_off: 7, ..load }).await.unwrap();
    let shown = page(&app, path).await;
    assert!(shown.contains(">backing off<") && shown.contains("7 requests are made again"), "{shown}");
    dispatch.disconnect(worker, session.generation).await.unwrap();
    assert!(page(&app, path).await.contains(">away<"));
    stop.cancel();
    serving.await.unwrap();
    assert!(page(&app, path).await.contains("does not carry the run on"), "the coordinator is gone");
}
