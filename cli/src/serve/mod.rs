//! `influence serve`: a model and its adapters behind OpenAI's protocol.

mod adapters;
mod chat;
mod error;
mod guard;
mod models;
mod reply;
mod request;
mod score;

use std::time::Duration;

use anyhow::Context;
use axum::Router;
use axum::extract::{DefaultBodyLimit, Path, State};
use axum::http::{StatusCode, Uri};
use axum::middleware::{from_fn, from_fn_with_state};
use axum::response::Response;
use axum::routing::{get, post};
use serde_json::json;
use tokio::net::TcpListener;

use influence_coordinator::door::{Busy, Door};

use crate::args::ServeArguments;
use crate::telemetry::say;
use crate::{credentials, interrupt};
use error::{ApiError, answer, shown};
use guard::Guard;
use models::Served;
use request::MAX_BODY_BYTES;

/// How long requests may go on once the server is asked to end.
const GRACE: Duration = Duration::from_secs(5);

/// Serves until it is stopped.
pub(crate) async fn serve(arguments: ServeArguments) -> anyhow::Result<()> {
    let listen = arguments.listen;
    // Before the model is loaded: what cannot be served must not cost that time.
    let guard = Guard::new(listen, credentials::of_clients(arguments.token_file.as_deref())?.as_ref())?;
    let listener = TcpListener::bind(listen)
        .await
        .with_context(|| format!("the server cannot listen on {listen}; give another address by --listen"))?;
    let cancel = interrupt::token()?;
    let served = tokio::select! {
        served = Served::load(&arguments) => served?,
        () = cancel.cancelled() => return Ok(()),
    };
    let address = listener.local_addr()?;
    if !address.ip().to_canonical().is_loopback() {
        say("the token travels in plain text; where the network is not to be trusted, put a TLS proxy before this");
    }
    say(format!("serving {} at http://{address}/v1; Ctrl-C ends it", served.names()));
    let engine = served.engine.clone();
    let app = router(served, guard, arguments.allow_adapters).into_make_service_with_connect_info::<Busy>();
    let serving = axum::serve(Door::new(listener), app).with_graceful_shutdown(cancel.clone().cancelled_owned());
    let late = async {
        cancel.cancelled().await;
        tokio::time::sleep(GRACE).await;
    };
    let ended = tokio::select! {
        ended = serving => ended.context("the server broke off"),
        () = late => Ok(()),
    };
    engine.stop().await;
    ended
}

fn router(served: Served, guard: Guard, allow_adapters: bool) -> Router {
    let adapters = match allow_adapters {
        true => Router::new()
            .route("/v1/load_lora_adapter", post(adapters::load))
            .route("/v1/unload_lora_adapter", post(adapters::unload)),
        false => Router::new(),
    };
    adapters
        .route("/health", get(|| async { answer(StatusCode::OK, &json!({"status": "ok"})) }))
        .route("/v1/models", get(list))
        .route("/v1/models/{*model}", get(describe))
        .route("/v1/chat/completions", post(chat::complete))
        .route("/v1/score", post(score::score))
        .fallback(nothing_here)
        .method_not_allowed_fallback(wrong_method)
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
        .layer(from_fn_with_state(guard, guard::guard))
        .layer(from_fn(guard::answering))
        .with_state(served)
}

async fn list(State(served): State<Served>) -> Response {
    answer(StatusCode::OK, &served.list())
}

async fn describe(State(served): State<Served>, Path(model): Path<String>) -> Result<Response, ApiError> {
    served.adapter(&model)?;
    Ok(answer(StatusCode::OK, &served.describe(&model)))
}

async fn nothing_here(uri: Uri) -> ApiError {
    let paths = "/v1/chat/completions, /v1/score, /v1/models and /health";
    ApiError::new(
        StatusCode::NOT_FOUND,
        None,
        format!("there is nothing at `{}`; there are {paths}", shown(uri.path())),
    )
}

async fn wrong_method(uri: Uri) -> ApiError {
    let message = format!("`{}` takes another method: POST for completions and scores, else GET", shown(uri.path()));
    ApiError::new(StatusCode::METHOD_NOT_ALLOWED, None, message)
}
