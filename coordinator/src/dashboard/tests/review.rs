//! Marks: given, shown, gathered, exported.

use std::sync::Arc;

use axum::body::Body;
use axum::http::{Request, StatusCode};
use tower::ServiceExt as _;

use super::{page, store};
use crate::dashboard::{Live, Pages, router};
use crate::store::Store;
use crate::store::behaviour::run_id;

/// Sends a form, as a browser does from a page of this site.
async fn send(store: &Arc<dyn Store>, episode: &str, form: &str) -> (StatusCode, String) {
    let request = Request::post(format!("/runs/demo/episodes/{episode}/marks"))
        .header("host", "localhost:5000")
        .header("origin", "http://localhost:5000")
        .header("content-type", "application/x-www-form-urlencoded")
        .body(Body::from(form.to_owned()))
        .unwrap();
    let answer = router(Pages::new(store.clone(), Live::default())).oneshot(request).await.unwrap();
    let to = answer.headers().get("location").map(|to| to.to_str().unwrap().to_owned());
    (answer.status(), to.unwrap_or_default())
}

/// Protects: a mark is stored, shown where it was given, and taken back; the run's page compares it with the influence model.
#[tokio::test]
async fn a_conversation_is_marked_and_the_marks_are_compared() {
    let store = store().await;
    let (status, to) = send(&store, "e1", "turn=1&label=harmful&note=It+flatters").await;
    assert_eq!((status, &*to), (StatusCode::SEE_OTHER, "/runs/demo/episodes/e1#turn-1"));
    let shown = page(&store, "/runs/demo/episodes/e1").await;
    assert!(shown.contains("<b>harmful</b> It flatters"), "{shown}");
    // e1 and e2 have an influence of 0.5; e1 is marked harmful, e2 otherwise.
    let review = page(&store, "/runs/demo/review?threshold=0.5").await;
    for part in ["precision 0.50", "recall 1.00", "It flatters", "train 0, smoking, 0, turn 1", "All 2 marks"] {
        assert!(review.contains(part), "{part:?} is not in {review}");
    }
    assert!(page(&store, "/runs/demo/review?threshold=0.6").await.contains("recall 0.00"));
    let lines = page(&store, "/runs/demo/marks.jsonl").await;
    let marks: Vec<serde_json::Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((marks.len(), &marks[0]["note"], &marks[0]["turn"]), (2, &"It flatters".into(), &0.into()));
    let (status, _) = send(&store, "e1", "turn=1&label=harmful&remove=yes").await;
    assert_eq!((status, store.marks(&run_id()).await.unwrap().len()), (StatusCode::SEE_OTHER, 1));
}

#[tokio::test]
async fn what_is_no_mark_is_refused() {
    let store = store().await;
    let long = format!("turn=&label={}", "x".repeat(41));
    for form in ["turn=2&label=x", "turn=0&label=x", "turn=a&label=x", "turn=&label=+", "turn=&label=a%0Ab", &long] {
        assert_eq!(send(&store, "e1", form).await.0, StatusCode::BAD_REQUEST, "{form}");
    }
    let huge = format!("label=x&note={}", "x".repeat(70_000));
    assert_eq!(send(&store, "e1", &huge).await.0, StatusCode::PAYLOAD_TOO_LARGE);
    assert_eq!(send(&store, "e9", "label=x").await.0, StatusCode::NOT_FOUND);
    assert_eq!(store.marks(&run_id()).await.unwrap().len(), 1, "nothing was written");
}
