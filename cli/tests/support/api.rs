//! A server that answers for every role of a lab, as OpenAI's do, well or badly.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::Response;
use serde_json::{Value, json};
use tokio::runtime::Runtime;

/// How a server answers.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Manner {
    /// Until every answer.
    pub(crate) delay: Duration,
    /// More requests at once are refused; so is every third. None: everything is answered.
    pub(crate) room: Option<usize>,
    /// The reply to the request of a number.
    pub(crate) says: fn(usize) -> String,
}

/// What the server did, across its deaths.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) running: AtomicUsize,
    pub(crate) most: AtomicUsize,
    pub(crate) asked: AtomicUsize,
    pub(crate) answered: AtomicUsize,
    pub(crate) refused: AtomicUsize,
}

/// Serves until the runtime is dropped, which cuts every connection.
pub(crate) fn start(address: SocketAddr, manner: Manner, tally: Arc<Tally>) -> (SocketAddr, Runtime) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    // A port that was left a moment ago may be taken for one more.
    let bind = || runtime.block_on(tokio::net::TcpListener::bind(address));
    let listener = (0..50).find_map(|_| bind().inspect_err(|_| std::thread::sleep(Duration::from_millis(100))).ok());
    let listener = listener.expect("the port is taken");
    let address = listener.local_addr().unwrap();
    let app = Router::new().fallback(answer).with_state((manner, tally));
    runtime.spawn(async move { axum::serve(listener, app).await });
    (address, runtime)
}

/// Any free port of this machine.
pub(crate) fn anywhere() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

/// Counts a request for as long as it lives, however it ends.
struct Running(Arc<Tally>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::Relaxed);
    }
}

async fn answer(State((manner, tally)): State<(Manner, Arc<Tally>)>, bytes: Bytes) -> Response<Body> {
    let Ok(request) = serde_json::from_slice::<Value>(&bytes) else { return reply(404, &json!({})) };
    let running = tally.running.fetch_add(1, Ordering::Relaxed) + 1;
    let _running = Running(tally.clone());
    tally.most.fetch_max(running, Ordering::Relaxed);
    tokio::time::sleep(manner.delay).await;
    let number = tally.asked.fetch_add(1, Ordering::Relaxed);
    if manner.room.is_some_and(|room| number.is_multiple_of(3) || running > room) {
        tally.refused.fetch_add(1, Ordering::Relaxed);
        return reply(429, &json!({"error": {"message": "slow down"}}));
    }
    let system = request["messages"][0]["content"].as_str().unwrap_or_default();
    let tokens: &[(&str, f64)] = match system.split(' ').next() {
        Some("Rate") => &[("7", 0.5), ("10", 0.25), ("1", 0.125)],
        Some("Does") => &[("yes", 0.9), ("no", 0.1)],
        Some("Is") => &[("0", 0.75), ("1", 0.25)],
        // Of two comments it prefers whatever stands first.
        Some("Two") => &[("A", 0.75), ("B", 0.25)],
        _ => &[],
    };
    tally.answered.fetch_add(1, Ordering::Relaxed);
    let entry = |(token, p): &(&str, f64)| json!({"token": token, "logprob": p.ln()});
    let listed: Vec<Value> = tokens.iter().map(entry).collect();
    let mut choice = json!({"message": {"content": (manner.says)(number)}, "finish_reason": "stop"});
    if let Some(first) = listed.first() {
        let mut first = first.clone();
        first["top_logprobs"] = listed.clone().into();
        choice["logprobs"] = json!({"content": [first]});
    }
    reply(200, &json!({"choices": [choice], "usage": {"prompt_tokens": 9, "completion_tokens": 2}}))
}

fn reply(status: u16, body: &Value) -> Response<Body> {
    Response::builder().status(status).body(Body::from(body.to_string())).unwrap()
}
