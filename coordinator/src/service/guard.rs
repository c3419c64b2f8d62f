//! Around each gRPC service: only calls of its role go in.

use std::convert::Infallible;
use std::task::{Context, Poll};

use futures::future::BoxFuture;
use influence_proto::{TRACEPARENT, TraceParent};
use tonic::body::Body;
use tonic::codegen::{Service, http};
use tonic::server::NamedService;
use tonic::{Code, Status};
use tracing::{Instrument as _, Span};

use super::connections::Peer;
use crate::TRACE;
use crate::access::{Access, RefusalLog, Role, Shown};

/// Calls of the workers' service that admins make too: `influence model push` uploads files.
const UPLOAD: [&str; 2] = ["/influence.v1.Coordinator/StatArtifact", "/influence.v1.Coordinator/PutArtifact"];

/// A service that only callers of its role reach.
#[derive(Debug, Clone)]
pub(super) struct Guard<S> {
    service: S,
    role: Role,
    access: Access,
    log: RefusalLog,
}

impl<S> Guard<S> {
    /// `service` for callers with `role`.
    pub(super) const fn new(service: S, role: Role, access: Access, log: RefusalLog) -> Self {
        Self { service, role, access, log }
    }

    fn authorise<B>(&self, request: &http::Request<B>) -> Result<(), Status> {
        let Some(peer) = request.extensions().get::<Peer>() else {
            return Err(Status::internal("the caller's connection is not known"));
        };
        let authorization = request.headers().get(http::header::AUTHORIZATION).map(http::HeaderValue::as_bytes);
        let shown = Shown { authorization, certificate: peer.certificate };
        let also = UPLOAD.contains(&request.uri().path()).then_some(Role::Admin);
        self.access.authorise(self.role, also, shown).map_err(|refusal| {
            self.log.refused(peer.address, refusal);
            Status::from(refusal)
        })?;
        peer.welcome();
        Ok(())
    }
}

impl<S: NamedService> NamedService for Guard<S> {
    const NAME: &'static str = S::NAME;
}

impl<S> Service<http::Request<Body>> for Guard<S>
where
    S: Service<http::Request<Body>, Response = http::Response<Body>, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.service.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        if let Err(status) = self.authorise(&request) {
            return Box::pin(std::future::ready(Ok(status.into_http())));
        }
        let (log, peer) = (self.log.clone(), request.extensions().get::<Peer>().cloned());
        // Renewals and streams belong to no trace, and begin none.
        let span = traced(request.headers(), request.uri().path());
        let answer = span.in_scope(|| self.service.call(request));
        let work = async move {
            let response = answer.await?;
            // Messages that are too large are refused where they are decoded, below the service's own code.
            if let (Some(status), Some(peer)) = (response.extensions().get::<Status>(), peer)
                && status.code() == Code::OutOfRange
            {
                log.refused(peer.address, status.message());
            }
            Ok(response)
        };
        Box::pin(work.instrument(span))
    }
}

/// The span of a call whose caller traces it.
fn traced(headers: &http::HeaderMap, path: &str) -> Span {
    let parent = headers.get(TRACEPARENT).and_then(|value| value.to_str().ok()).and_then(TraceParent::parse);
    let Some(parent) = parent else { return Span::none() };
    let method = path.trim_start_matches('/');
    let span = tracing::info_span!(
        target: TRACE, parent: None, "call", otel.name = method, otel.kind = "server", rpc.system = "grpc"
    );
    parent.adopt(&span);
    span
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use influence_proto::Token;

    use super::*;
    use crate::access::AccessOptions;

    const WORKER: &str = "Bearer worker-worker-worker";
    const ADMIN: &str = "Bearer admin-admin-admin-admin";

    /// Answers every call.
    #[derive(Clone)]
    struct Open;

    impl Service<http::Request<Body>> for Open {
        type Response = http::Response<Body>;
        type Error = Infallible;
        type Future = std::future::Ready<Result<http::Response<Body>, Infallible>>;

        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
            Poll::Ready(Ok(()))
        }

        fn call(&mut self, _: http::Request<Body>) -> Self::Future {
            std::future::ready(Ok(http::Response::default()))
        }
    }

    async fn code(role: Role, path: &str, authorization: Option<&str>) -> Code {
        let token = |text: &str| Some(Token::new(text.strip_prefix("Bearer ").unwrap()).unwrap());
        let options = AccessOptions { worker: token(WORKER), admin: token(ADMIN), ..AccessOptions::default() };
        let mut guard = Guard::new(Open, role, Access::new(options).unwrap(), RefusalLog::new());
        let mut request = http::Request::builder().uri(format!("http://here{path}"));
        if let Some(authorization) = authorization {
            request = request.header("authorization", authorization);
        }
        let mut request = request.body(Body::empty()).unwrap();
        request.extensions_mut().insert(Peer::new("127.0.0.1:9".parse().unwrap(), false));
        let response = guard.call(request).await.unwrap();
        response.extensions().get::<Status>().map_or(Code::Ok, Status::code)
    }

    #[tokio::test]
    async fn a_service_is_reached_with_its_roles_token_only() {
        let admin = "/influence.v1.Admin/Pause";
        assert_eq!(code(Role::Admin, admin, Some(ADMIN)).await, Code::Ok);
        assert_eq!(code(Role::Admin, admin, Some(WORKER)).await, Code::PermissionDenied);
        assert_eq!(code(Role::Admin, admin, None).await, Code::Unauthenticated);
        let join = "/influence.v1.Coordinator/Join";
        assert_eq!(code(Role::Worker, join, Some(WORKER)).await, Code::Ok);
        assert_eq!(code(Role::Worker, join, Some(ADMIN)).await, Code::PermissionDenied);
        assert_eq!(code(Role::Worker, join, Some("Bearer another-token-here")).await, Code::Unauthenticated);
    }

    #[tokio::test]
    async fn admins_upload_and_do_nothing_else_of_a_workers_calls() {
        use influence_proto::wire::coordinator_server::SERVICE_NAME;
        for (method, expected) in [
            ("StatArtifact", Code::Ok),
            ("PutArtifact", Code::Ok),
            ("GetArtifact", Code::PermissionDenied),
            ("RecordTurn", Code::PermissionDenied),
            ("Renew", Code::PermissionDenied),
        ] {
            assert_eq!(
                code(Role::Worker, &format!("/{SERVICE_NAME}/{method}"), Some(ADMIN)).await,
                expected,
                "{method}"
            );
        }
    }
}
