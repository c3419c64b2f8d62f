//! Who is let in.

use std::net::SocketAddr;

use axum::body::{Body, HttpBody as _};
use axum::extract::{ConnectInfo, Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use futures::StreamExt as _;
use influence_coordinator::access::is_local;
use influence_coordinator::door::Busy;
use influence_proto::{BEARER, Digest, Token};
use subtle::ConstantTimeEq as _;

use super::error::ApiError;

/// What is asked of callers. Of the token it keeps the digest only.
#[derive(Debug, Clone, Copy)]
pub(super) struct Guard {
    token: Option<Digest>,
    /// Whether only this machine can reach the server.
    local: bool,
}

impl Guard {
    pub(super) fn new(listen: SocketAddr, token: Option<&Token>) -> anyhow::Result<Self> {
        let local = listen.ip().to_canonical().is_loopback();
        anyhow::ensure!(
            local || token.is_some(),
            "{listen} can be reached from other machines, and clients would need no token there; give --token-file FILE or \
             INFLUENCE_SERVE_TOKEN (`influence token create` makes tokens), or listen on this machine only, with \
             --listen 127.0.0.1:{}",
            listen.port()
        );
        Ok(Self { token: token.map(Token::digest), local })
    }

    fn check(&self, request: &Request) -> Result<(), ApiError> {
        let header = |name| request.headers().get(name).map(|value: &axum::http::HeaderValue| value.as_bytes());
        let host = header(header::HOST).and_then(|host| std::str::from_utf8(host).ok()).unwrap_or_default();
        if self.local && !is_local(host) {
            let message = "this server answers to localhost only; ask it by http://localhost or http://127.0.0.1";
            return Err(ApiError::new(StatusCode::MISDIRECTED_REQUEST, None, message));
        }
        // Whoever only asks whether the server is up, as orchestrators do, learns nothing else.
        let Some(token) = self.token else { return Ok(()) };
        if request.uri().path() == "/health" {
            return Ok(());
        }
        let refused = |message: &str| Err(ApiError::new(StatusCode::UNAUTHORIZED, Some("invalid_api_key"), message));
        let Some(authorization) = header(header::AUTHORIZATION) else {
            return refused("this server needs a token: send the header `Authorization: Bearer TOKEN` (api_key)");
        };
        let Some(text) = authorization.strip_prefix(BEARER.as_bytes()) else {
            return refused("the header `authorization` must be `Bearer TOKEN`");
        };
        // Digests: their comparison says nothing of the token's length either.
        if bool::from(Digest::of(text).as_bytes().ct_eq(token.as_bytes())) {
            return Ok(());
        }
        refused("the token is not this server's")
    }
}

/// Keeps a connection for as long as a request of its is being answered: replies may take long to come.
pub(super) async fn answering(ConnectInfo(busy): ConnectInfo<Busy>, request: Request, next: Next) -> Response {
    let answering = busy.begin();
    let response = next.run(request).await;
    // What is there as a whole only has to be written.
    if response.body().size_hint().exact().is_some() {
        return response;
    }
    response.map(|body| {
        let pieces = body.into_data_stream().inspect(move |_| {
            let _ = &answering;
        });
        Body::from_stream(pieces)
    })
}

/// Lets a request through, or answers why not. On loopback a name that somebody else has pointed here is refused, which
/// keeps other sites' scripts out (DNS rebinding).
pub(super) async fn guard(State(guard): State<Guard>, request: Request, next: Next) -> Response {
    match guard.check(&request) {
        Ok(()) => next.run(request).await,
        Err(error) => error.into_response(),
    }
}
