//! The playground's pages.

use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::{Request, StatusCode};
use influence_proto::{Ask, Join, ModelAnswer, ModelCall, PROTOCOL, Said, Score, Work};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

use super::{ATTACK, store};
use crate::Cluster;
use crate::dashboard::{Live, Pages, router};
use crate::dispatch::{DispatchHandle, DispatchService, Limits, SessionEvent};
use crate::progress::ProgressHandle;
use crate::store::behaviour::run_id;

/// A page's status, address that it leads to, and text.
async fn ask(app: &Router, path: &str, form: Option<&str>) -> (StatusCode, String, String) {
    let request = match form {
        None => Request::get(path),
        Some(_) => Request::post(path).header("content-type", "application/x-www-form-urlencoded"),
    };
    let request = request.header("host", "localhost:5000").header("origin", "http://localhost:5000");
    let answer = app.clone().oneshot(request.body(Body::from(form.unwrap_or_default().to_owned())).unwrap()).await;
    let answer = answer.unwrap();
    let to = answer.headers().get("location").map(|to| to.to_str().unwrap().to_owned()).unwrap_or_default();
    let status = answer.status();
    let text = String::from_utf8(to_bytes(answer.into_body(), 1 << 20).await.unwrap().to_vec()).unwrap();
    (status, to, text)
}

/// The page once it has `part` in it.
async fn until(app: &Router, path: &str, part: &str) -> String {
    for _ in 0..200 {
        let (status, _, text) = ask(app, path, None).await;
        assert_eq!(status, StatusCode::OK, "{path}");
        if text.contains(part) {
            return text;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{part:?} never comes: {}", ask(app, path, None).await.2);
}

fn answer(call: &ModelCall) -> ModelAnswer {
    let said = match &call.ask {
        Ask::Reply { .. } => Said::Reply { text: format!("{ATTACK} says {}", call.role.name()), cut_off: false },
        Ask::Score { answers, .. } => {
            Said::Score(Score::from_masses(answers.iter().map(|answer| (answer.clone(), 0.4)).collect(), 0.01))
        }
    };
    ModelAnswer { call: None, said }
}

/// A worker that answers calls.
async fn work(dispatch: DispatchHandle) {
    let join = Join {
        protocol: (*PROTOCOL.start(), *PROTOCOL.end()),
        name: "w".into(),
        incarnation: 1,
        version: "0".into(),
        device: "cpu".into(),
        can_train: false,
    };
    let worker = dispatch.join(join).await.unwrap();
    let mut session = dispatch.connect(worker.clone()).await.unwrap();
    dispatch.credits(worker.clone(), 1).await.unwrap();
    while let Some(event) = session.events.recv().await {
        let SessionEvent::Lease(lease) = event else { continue };
        let Work::Calls(calls) = lease.payload else { panic!("these are no calls") };
        dispatch.answered(lease.work, lease.attempt, calls.iter().map(answer).collect()).await.unwrap();
        dispatch.credits(worker.clone(), 1).await.unwrap();
    }
}

/// Protects: a person plays a conversation to its end by forms alone; what models say in it is text; nothing of it is stored;
/// and where no models are, or no worker is, the pages say so.
#[tokio::test]
async fn a_conversation_is_played() {
    let store = store().await;
    let live = Live::default();
    let app = router(Pages::new(store.clone(), live.clone()));
    let form = "episode=e1&agent=base&turns=2&you=user";
    assert!(ask(&app, "/runs/demo/play", None).await.2.contains("influence dashboard --play demo"));
    assert_eq!(ask(&app, "/runs/demo/play", Some(form)).await.0, StatusCode::BAD_REQUEST);
    let progress = ProgressHandle::new();
    let (service, dispatch) = DispatchService::new(run_id(), store.clone(), Limits::default(), progress.clone());
    let stop = CancellationToken::new();
    let serving = tokio::spawn(service.run(stop.clone()));
    live.follow(Cluster::new(run_id(), dispatch.clone(), progress.watch()));

    let page = ask(&app, "/runs/demo/play?episode=e2", None).await.2;
    assert!(page.contains("<option value=\"e2\" selected>") && !page.contains("<script>alert"), "{page}");
    for wrong in ["episode=e9&agent=base&turns=2", "episode=e1&agent=7&turns=2", "episode=e1&agent=base&turns=0"] {
        assert!(ask(&app, "/runs/demo/play", Some(wrong)).await.0.is_client_error(), "{wrong}");
    }
    let (status, at, _) = ask(&app, "/runs/demo/play", Some(form)).await;
    assert_eq!(status, StatusCode::SEE_OTHER);
    let waiting = until(&app, &at, "no worker is there yet").await;
    assert!(waiting.contains("Waiting for agent") && waiting.contains("data-events"), "{waiting}");
    assert_eq!(ask(&app, &format!("{at}/say"), Some("text=early")).await.0, StatusCode::BAD_REQUEST);

    let working = tokio::spawn(work(dispatch));
    // The opening's only state ends every conversation after its first turn.
    let end = until(&app, &at, "It is over").await;
    assert!(end.contains("says agent") && end.contains("rating 1.50") && end.contains("&#60;script&#62;"), "{end}");
    assert!(!end.contains("<script>alert") && !end.contains("data-events"), "{end}");
    assert_eq!(ask(&app, &format!("{at}/say"), Some("text=late")).await.0, StatusCode::BAD_REQUEST);

    let (_, at, _) = ask(&app, "/runs/demo/play", Some("episode=e1&agent=base&turns=2&you=agent")).await;
    until(&app, &at, "What do you reply?").await;
    assert_eq!(ask(&app, &format!("{at}/say"), Some("text=+")).await.0, StatusCode::BAD_REQUEST);
    let (status, to, _) = ask(&app, &format!("{at}/say"), Some("text=Have+another")).await;
    assert_eq!((status, &to), (StatusCode::SEE_OTHER, &at));
    assert!(until(&app, &at, "It is over").await.contains("Have another"));
    assert_eq!(ask(&app, "/runs/demo/play/0123", None).await.0, StatusCode::NOT_FOUND);
    let stored: usize = store.iterations(&run_id()).await.unwrap().len();
    assert_eq!((stored, store.spec(&run_id(), &"e1".to_owned().try_into().unwrap()).await.unwrap().max_turns), (1, 2));

    let (_, at, _) = ask(&app, "/runs/demo/play", Some("episode=e1&agent=base&turns=2&you=agent")).await;
    stop.cancel();
    serving.await.unwrap();
    working.await.unwrap();
    ask(&app, &format!("{at}/say"), Some("text=too+late")).await;
    until(&app, &at, "It cannot go on: the coordinator is stopping").await;
}
