//! Who is let in.

use std::sync::Arc;

use axum::body::Body;
use axum::http::{Method, Request, Response, StatusCode};
use influence_proto::Token;
use tower::ServiceExt as _;

use super::store;
use crate::dashboard::login::Login;
use crate::dashboard::{Dashboard, DashboardAddress, DashboardError, Live, Pages, router};
use crate::store::Store;
use crate::store::behaviour::run_id;

const TOKEN: &str = "0123456789abcdef-dashboard";

async fn send(
    store: &Arc<dyn Store>,
    locked: bool,
    method: Method,
    path: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> Response<Body> {
    let login = locked.then(|| Login::new(&Token::new(TOKEN).unwrap()));
    let mut request = Request::builder().method(method).uri(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let form = request.header("content-type", "application/x-www-form-urlencoded");
    let request = form.body(Body::from(body.to_owned())).unwrap();
    router(Pages { login, ..Pages::new(store.clone(), Live::default()) }).oneshot(request).await.unwrap()
}

/// Protects: other sites cannot change anything, whatever they say of themselves.
#[tokio::test]
async fn a_change_comes_from_this_site_or_not_at_all() {
    let store = store().await;
    let before = store.marks(&run_id()).await.unwrap().len();
    let path = "/runs/demo/episodes/e1/marks";
    let host = ("host", "localhost:5000");
    let strangers: [&[(&str, &str)]; 9] = [
        &[host],
        &[host, ("origin", "null")],
        &[host, ("origin", "http://evil.example")],
        &[host, ("origin", "http://localhost:5001")],
        &[host, ("origin", "http://localhost:5000.evil.example")],
        &[host, ("origin", "localhost:5000")],
        &[host, ("sec-fetch-site", "cross-site")],
        &[host, ("sec-fetch-site", "same-site"), ("origin", "http://localhost:5000")],
        &[host, ("referer", "http://localhost:5000/")],
    ];
    for headers in strangers {
        let answer = send(&store, false, Method::POST, path, headers, "label=x").await;
        assert_eq!(answer.status(), StatusCode::FORBIDDEN, "{headers:?}");
    }
    let rebound = [("host", "evil.example"), ("origin", "http://evil.example")];
    let answer = send(&store, false, Method::POST, path, &rebound, "label=x").await;
    assert_eq!(answer.status(), StatusCode::MISDIRECTED_REQUEST);
    assert_eq!(store.marks(&run_id()).await.unwrap().len(), before);
    let own = [host, ("origin", "http://localhost:5000"), ("sec-fetch-site", "same-origin")];
    assert_eq!(send(&store, false, Method::POST, path, &own, "label=x").await.status(), StatusCode::SEE_OTHER);
    assert_eq!(store.marks(&run_id()).await.unwrap().len(), before + 1);
}

/// Protects: with a token nothing is shown or changed without the cookie, which only the token gets and no script can read.
#[tokio::test]
async fn without_the_token_nothing_is_shown() {
    let store = store().await;
    let host = ("host", "cluster.example:5000");
    let get =
        async |path: &str, cookie: &str| send(&store, true, Method::GET, path, &[host, ("cookie", cookie)], "").await;
    let turned = get("/runs/demo?x=1", "").await;
    assert_eq!(turned.status(), StatusCode::SEE_OTHER);
    assert_eq!(turned.headers()["location"], "/login?to=%2Fruns%2Fdemo%3Fx%3D1");
    assert_eq!(get("/runs/demo/events", "").await.status(), StatusCode::UNAUTHORIZED);
    assert_eq!(get("/runs/demo/marks.jsonl", "").await.status(), StatusCode::SEE_OTHER);
    assert_eq!(get("/login", "").await.status(), StatusCode::OK);
    let own = [host, ("origin", "http://cluster.example:5000")];
    let mark = "/runs/demo/episodes/e1/marks";
    assert_eq!(send(&store, true, Method::POST, mark, &own, "label=x").await.status(), StatusCode::UNAUTHORIZED);
    for wrong in ["token=", "token=0123456789abcdef-dashboarD", "token=x&to=//evil.example"] {
        let answer = send(&store, true, Method::POST, "/login", &own, wrong).await;
        assert_eq!(answer.status(), StatusCode::UNAUTHORIZED, "{wrong}");
        assert!(!answer.headers().contains_key("set-cookie"));
    }
    let foreign = [host, ("origin", "http://evil.example")];
    let right = format!("token={TOKEN}&to=%2Fruns%2Fdemo");
    assert_eq!(send(&store, true, Method::POST, "/login", &foreign, &right).await.status(), StatusCode::FORBIDDEN);
    let entered = send(&store, true, Method::POST, "/login", &own, &right).await;
    assert_eq!(entered.status(), StatusCode::SEE_OTHER);
    assert_eq!(entered.headers()["location"], "/runs/demo");
    let set = entered.headers()["set-cookie"].to_str().unwrap().to_owned();
    assert!(set.contains("HttpOnly") && set.contains("SameSite=Strict") && !set.contains(TOKEN), "{set}");
    let cookie = set.split(';').next().unwrap();
    assert_eq!(get("/runs/demo", &format!("other=1; {cookie}")).await.status(), StatusCode::OK);
    let digit = if cookie.ends_with('0') { "1" } else { "0" };
    let forged = format!("{}{digit}", &cookie[..cookie.len() - 1]);
    for cookie in [&*forged, "influence_dashboard=", "influence_dashboard=0123456789abcdef-dashboard", "x"] {
        assert_eq!(get("/runs/demo", cookie).await.status(), StatusCode::SEE_OTHER, "{cookie}");
    }
}

/// Protects: what others can reach wants a token, and a word about plain text.
#[tokio::test]
async fn an_address_that_others_reach_wants_a_token() {
    let store = store().await;
    let bind = async |address: &str, token: Option<&str>, allow_plaintext| {
        let token = token.map(|token| Token::new(token).unwrap());
        let at = DashboardAddress { address: address.parse().unwrap(), token, allow_plaintext };
        Dashboard::bind(at, store.clone(), Live::default()).await
    };
    assert!(matches!(bind("0.0.0.0:0", None, true).await, Err(DashboardError::Exposed(_))));
    let plain = bind("[::]:0", Some(TOKEN), false).await.unwrap_err();
    let told = plain.to_string();
    assert!(matches!(plain, DashboardError::PlainText(_)) && told.contains("--dashboard-plaintext"), "{told}");
    for (address, token, plain) in [("0.0.0.0:0", Some(TOKEN), true), ("127.0.0.1:0", None, false)] {
        assert!(bind(address, token, plain).await.is_ok(), "{address}");
    }
}
