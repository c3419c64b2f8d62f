#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::http::{Request, Response, StatusCode};
use influence_proto::{EpisodeId, WorkId};
use serde_json::json;
use tower::ServiceExt as _;

use super::{Live, Pages, router};

mod live;
mod play;
mod review;
mod safe;
mod site;
mod tabs;
use crate::planning::Phase;
use crate::store::behaviour::{run_id, spec, turn};
use crate::store::memory::MemoryStore;
use crate::store::{Mark, NewRun, Selected, Store, Verdict};

pub(super) const ATTACK: &str = "<script>alert(1)</script>\"'&<img src=x onerror=alert(2)>";

/// A run of two conversations, one of which says what no page must believe.
pub(super) async fn store() -> Arc<dyn Store> {
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
    let experiment =
        json!({"iterations": 1, "seed": 1, "environments": {"class": ATTACK}, "roles": {"agent": {"model": "m"}}});
    let new = NewRun { id: run_id(), name: "demo".into(), digest: "d".into(), experiment };
    store.create_run(new).await.unwrap();
    store.lead(&run_id(), "me", Duration::from_secs(60)).await.unwrap();
    let mut bad = spec("e2");
    bad.environment = ATTACK.into();
    bad.agent_name = ATTACK.into();
    bad.opening = Arc::from([influence_proto::Message {
        speaker: influence_proto::Speaker::Environment,
        content: ATTACK.into(),
    }]);
    store.plan(&run_id(), Phase::Train, 0, vec![spec("e1"), bad]).await.unwrap();
    let mut verdicts = Vec::new();
    for (id, said, reward) in [("e1", "Hello", 8.0), ("e2", ATTACK, 3.0)] {
        let work = WorkId::new(id).unwrap();
        store.start_attempt(&run_id(), &work, 1, None).await.unwrap();
        store.record_turn(&run_id(), &work, 1, turn(0, said)).await.unwrap();
        store.finish_episode(&run_id(), &work, 1, 1).await.unwrap();
        let episode = EpisodeId::new(id).unwrap();
        let selected = (reward > 5.0).then_some(Selected::Best);
        let (vetoed, unscored) = (false, false);
        verdicts.push(Verdict { episode, reward: Some(reward), influence: Some(0.5), vetoed, unscored, selected });
    }
    store.judge(&run_id(), Phase::Train, 0, verdicts, vec![ATTACK.into()]).await.unwrap();
    let episode = EpisodeId::new("e2").unwrap();
    let (label, note) = (ATTACK.to_owned(), ATTACK.to_owned());
    store.mark(&run_id(), Mark { episode, turn: Some(0), label, note, at_ms: 1 }).await.unwrap();
    store
}

async fn ask(store: &Arc<dyn Store>, path: &str, host: &str) -> Response<Body> {
    let app = router(Pages::new(store.clone(), Live::default()));
    app.oneshot(Request::get(path).header("host", host).body(Body::empty()).unwrap()).await.unwrap()
}

async fn page(store: &Arc<dyn Store>, path: &str) -> String {
    let answer = ask(store, path, "localhost:5000").await;
    assert_eq!(answer.status(), StatusCode::OK, "{path}");
    let policy = answer.headers()["content-security-policy"].to_str().unwrap().to_owned();
    assert!(policy.contains("default-src 'none'") && !policy.contains("unsafe"), "{policy}");
    String::from_utf8(to_bytes(answer.into_body(), 1 << 20).await.unwrap().to_vec()).unwrap()
}

const PATHS: [&str; 17] = [
    "/compare?phase=train&a=demo&b=demo",
    "/",
    "/runs/demo",
    "/runs/demo/conversations",
    "/runs/demo/training",
    "/runs/demo/workers",
    "/runs/demo/metrics",
    "/runs/demo/play?episode=e2",
    "/runs/demo/data",
    "/runs/demo/review",
    "/runs/demo/timeline",
    "/runs/demo/config",
    "/runs/demo/episodes/e2?as=agent",
    "/runs/demo/episodes/e2?as=preference",
    "/beside?a=demo/e1&b=demo/e2",
    "/runs/demo/episodes/e1",
    "/runs/demo/episodes/e2?prompts=1",
];

/// Protects: what models and files say is text on every page, and no page has script or style of its own in it.
#[tokio::test]
async fn text_stays_text() {
    let store = store().await;
    for path in PATHS {
        let page = page(&store, path).await;
        assert!(!page.contains("<script>") && !page.contains("<img") && !page.contains(" style="), "{path}: {page}");
    }
    assert!(page(&store, PATHS[16]).await.contains("alert(1)"), "it is shown");
    let filter = "/runs/demo/conversations?filter=%22%3E%3Cscript%3Ealert(3)%3C%2Fscript%3E";
    let told = page(&store, filter).await;
    assert!(told.contains("is not understood") && !told.contains("<script>"), "{told}");
}

/// Protects: figures, their charts, and the way from a point to the conversations behind it.
#[tokio::test]
async fn figures_lead_to_conversations() {
    let store = store().await;
    let run = page(&store, "/runs/demo").await;
    assert!(run.contains("5.50 ± 2.50") && run.contains("2 of 2"), "{run}");
    let behind = "/runs/demo/conversations?filter=phase%20%3D%20train%20and%20iteration%20%3D%200";
    assert!(run.contains(behind), "{run}");
    assert!(page(&store, behind).await.contains("2 of 2 conversations"));
    let found = page(&store, "/runs/demo/conversations?filter=selected%20%3D%20best").await;
    assert!(found.contains("1 of 2 conversations") && found.contains("/runs/demo/episodes/e1"), "{found}");
    let order = |page: &str| page.find("episodes/e1").unwrap() < page.find("episodes/e2").unwrap();
    assert!(order(&page(&store, "/runs/demo/conversations?sort=-reward").await));
    assert!(!order(&page(&store, "/runs/demo/conversations?sort=reward&page=99").await));
}

/// Protects: a conversation shows what was said and thought, prompts only where they are asked for, and its neighbours.
#[tokio::test]
async fn a_conversation_is_shown_whole() {
    let store = store().await;
    let shown = page(&store, "/runs/demo/episodes/e1").await;
    for part in [
        "Hi",
        "Hello",
        "rating 1.90",
        "no; 1 0.10, 2 0.90",
        "/runs/demo/episodes/e2\" data-key=\"ArrowRight\"",
        "selected: best",
    ] {
        assert!(shown.contains(part), "{part:?} is not in {shown}");
    }
    assert!(!shown.contains("The conversation history is"));
    assert!(!shown.contains("data-events"), "it has ended");
    store.plan(&run_id(), Phase::Train, 1, vec![spec("later")]).await.unwrap();
    let later = page(&store, "/runs/demo/episodes/later").await;
    assert!(later.contains("data-events=\"/runs/demo/episodes/later/events\" data-state=\"0-pending-–\""), "{later}");
    let open = page(&store, "/runs/demo/episodes/e1?prompts=1").await;
    assert!(open.contains("The conversation history is") && open.contains("<h3>environment</h3>"), "{open}");
}

/// Protects: every role's view of a conversation is what that role is shown, and two conversations stand side by side.
#[tokio::test]
async fn a_conversation_is_read_as_others_see_it_and_beside_another() {
    let store = store().await;
    let agent = page(&store, "/runs/demo/episodes/e1?as=agent").await;
    assert!(agent.contains(">system<") && agent.contains(">assistant<") && !agent.contains("rating 1.90"), "{agent}");
    let user = page(&store, "/runs/demo/episodes/e1?as=environment").await;
    let said = |page: &str, who: &str, text: &str| {
        let bubble = format!("<span class=\"who\">{who}</span><p>{text}</p>");
        assert!(page.contains(&bubble), "{bubble} is not in {page}");
    };
    said(&agent, "assistant", "Hello");
    said(&user, "user", "Hello");
    said(&user, "assistant", "Hi");
    let judge = page(&store, "/runs/demo/episodes/e1?as=preference").await;
    assert!(judge.contains("The conversation history is:") && judge.contains("&#60;Ada&#62;: Hello"), "{judge}");
    for path in [
        "/runs/demo/episodes/e1?as=influence",
        "/runs/demo/episodes/e1?as=%3Cscript%3E",
        "/beside",
        "/beside?a=demo/e1&b=demo/e9",
    ] {
        assert_eq!(ask(&store, path, "localhost").await.status(), StatusCode::NOT_FOUND, "{path}");
    }
    let turn = ask(&store, "/runs/demo/episodes/e1?turn=1", "localhost").await;
    assert_eq!(turn.headers()["location"], "/runs/demo/episodes/e1#turn-1");
    let both = page(&store, "/beside?a=demo/e1&b=demo/e2").await;
    assert!(both.contains("<mark>Hello</mark>") && both.contains("/runs/demo/episodes/e2"), "{both}");
    let same = page(&store, "/beside?a=demo/e1&b=demo/e1").await;
    assert!(same.contains("Hello") && !same.contains("<mark>"), "{same}");
}

/// Protects: other names than this machine's are refused, as a page of another site could have one pointed here.
#[tokio::test]
async fn only_this_machine_is_answered() {
    let store = store().await;
    for host in ["127.0.0.1:5000", "[::1]:5000", "LOCALHOST", "127.1.2.3"] {
        assert_eq!(ask(&store, "/", host).await.status(), StatusCode::OK, "{host}");
    }
    for host in ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example:5000", "10.0.0.1", ""] {
        assert_eq!(ask(&store, "/", host).await.status(), StatusCode::MISDIRECTED_REQUEST, "{host}");
    }
}

/// Protects: a comparison pairs what began alike, and says of what it cannot compare that it is not there.
#[tokio::test]
async fn iterations_are_compared_opening_by_opening() {
    let store = store().await;
    store.plan(&run_id(), Phase::Train, 1, vec![spec("later")]).await.unwrap();
    let work = WorkId::new("later").unwrap();
    store.start_attempt(&run_id(), &work, 1, None).await.unwrap();
    store.record_turn(&run_id(), &work, 1, turn(0, "Well")).await.unwrap();
    store.finish_episode(&run_id(), &work, 1, 1).await.unwrap();
    let episode = EpisodeId::new("later").unwrap();
    let verdict =
        Verdict { episode, reward: Some(9.5), influence: None, vetoed: false, unscored: false, selected: None };
    store.judge(&run_id(), Phase::Train, 1, vec![verdict], Vec::new()).await.unwrap();
    let compared = page(&store, "/compare?phase=train&a=demo&a_iteration=0&b=demo&b_iteration=1").await;
    for part in [
        "1 initial states are in both, 1 in one of them only",
        ">8.00</td>",
        ">9.50</td>",
        "+1.50",
        "episodes/e1\">8.00",
        "episodes/later\">9.50",
    ] {
        assert!(compared.contains(part), "{part:?} is not in {compared}");
    }
    assert!(
        page(&store, "/runs/demo")
            .await
            .contains("/compare?phase=train&#38;a=demo&#38;a_iteration=0&#38;b=demo&#38;b_iteration=1")
    );
    let last = page(&store, "/compare?phase=train&a=demo&a_iteration=0&b=demo").await;
    assert!(last.contains("+1.50"), "the last iteration if none is named: {last}");
    for path in [
        "/compare",
        "/compare?a=demo&b=demo",
        "/compare?phase=train&a=demo&a_iteration=7&b=demo",
        "/compare?phase=x&a=demo&b=demo",
    ] {
        assert_eq!(ask(&store, path, "localhost").await.status(), StatusCode::NOT_FOUND, "{path}");
    }
}

#[tokio::test]
async fn what_is_not_there_is_said_to_be_so() {
    let store = store().await;
    for path in ["/nothing", "/runs/none", "/runs/demo/episodes/e9", "/runs/%2e%2e/config", "/runs/a%20b"] {
        let answer = ask(&store, path, "localhost").await;
        assert_eq!(answer.status(), StatusCode::NOT_FOUND, "{path}");
        assert!(answer.headers().contains_key("content-security-policy"));
    }
}
