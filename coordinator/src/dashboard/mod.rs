//! The web pages: a store's runs, their figures and conversations, for people who read.
//!
//! HTML is rendered here, charts are SVG, and nothing is fetched from elsewhere. What models said is text and stays so:
//! templates escape it, and the content security policy allows no script but the one that is served from here.

mod charts;
mod error;
mod events;
mod live;
mod pages;
mod report;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::access::is_local;
use crate::catalogue::{Rows, Usages};
use crate::store::Store;
use error::PageError;
use events::Events;
pub use live::Live;
pub use report::{ReportError, ReportForm, report};

/// Why the pages cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum DashboardError {
    /// Others could reach it, and there is no login yet.
    #[error(
        "the dashboard on {0} could be reached from other machines, and has no login yet; give it an address of this machine, \
         as in 127.0.0.1:5000, and reach it from elsewhere by `ssh -L 5000:127.0.0.1:5000 HOST`"
    )]
    Exposed(SocketAddr),
    /// The system refuses.
    #[error("the dashboard cannot listen on {address}: {source}; give another address")]
    Listen {
        /// The address given.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// It broke off.
    #[error("the dashboard broke off: {0}")]
    Serve(std::io::Error),
}

/// How long a client that does not take its page can hold up the end.
const STOP: Duration = Duration::from_secs(1);

/// What all pages read.
#[derive(Debug, Clone)]
struct Pages {
    store: Arc<dyn Store>,
    rows: Arc<Rows>,
    usages: Arc<Usages>,
    live: Live,
    events: Events,
}

impl Pages {
    fn new(store: Arc<dyn Store>, live: Live) -> Self {
        Self { store, rows: Arc::default(), usages: Arc::default(), live, events: Events::default() }
    }
}

/// A dashboard that has its port.
#[derive(Debug)]
pub struct Dashboard {
    listener: TcpListener,
    /// With the real port.
    pub address: SocketAddr,
    pages: Pages,
}

impl Dashboard {
    /// Takes the port; 0 is any free one.
    ///
    /// # Errors
    /// An address that others could reach, or that is taken.
    pub async fn bind(address: SocketAddr, store: Arc<dyn Store>, live: Live) -> Result<Self, DashboardError> {
        if !address.ip().is_loopback() {
            return Err(DashboardError::Exposed(address));
        }
        let failed = |source| DashboardError::Listen { address, source };
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        Ok(Self { listener, address, pages: Pages::new(store, live) })
    }

    /// Serves until cancelled; pages that are being sent then are finished, within [`STOP`].
    ///
    /// # Errors
    /// When the system breaks it off.
    pub async fn serve(self, cancel: CancellationToken) -> Result<(), DashboardError> {
        self.pages.events.end_with(&cancel);
        let app = router(self.pages);
        let serving = axum::serve(self.listener, app).with_graceful_shutdown(cancel.clone().cancelled_owned());
        let late = async {
            cancel.cancelled().await;
            tokio::time::sleep(STOP).await;
        };
        tokio::select! {
            ended = serving => ended.map_err(DashboardError::Serve),
            () = late => Ok(()),
        }
    }
}

fn router(pages: Pages) -> Router {
    Router::new()
        .route("/", get(pages::runs))
        .route("/runs/{run}", get(pages::run))
        .route("/runs/{run}/conversations", get(pages::conversations))
        .route("/runs/{run}/data", get(pages::data))
        .route("/runs/{run}/timeline", get(pages::timeline))
        .route("/runs/{run}/training", get(pages::training))
        .route("/runs/{run}/config", get(pages::config))
        .route("/runs/{run}/episodes/{episode}", get(pages::conversation))
        .route("/runs/{run}/workers", get(pages::workers))
        .route("/runs/{run}/events", get(events::of_run))
        .route("/runs/{run}/workers/events", get(events::of_workers))
        .route("/runs/{run}/episodes/{episode}/events", get(events::of_conversation))
        .route("/compare", get(pages::compare))
        .route("/beside", get(pages::beside))
        .route("/style.css", get(|| asset("text/css; charset=utf-8", include_str!("assets/style.css"))))
        .route("/icon.svg", get(|| asset("image/svg+xml", include_str!("assets/icon.svg"))))
        .route("/page.js", get(|| script(include_str!("assets/page.js"))))
        .route("/keys.js", get(|| script(include_str!("assets/keys.js"))))
        .route("/live.js", get(|| script(include_str!("assets/live.js"))))
        .fallback(|| async { PageError::nothing_here() })
        .layer(from_fn(guard))
        .with_state(pages)
}

async fn script(content: &'static str) -> impl IntoResponse {
    asset("text/javascript; charset=utf-8", content).await
}

async fn asset(kind: &'static str, content: &'static str) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, kind)], content)
}

/// Pages are for this machine's own browser: a name that somebody else has pointed here is refused, which keeps other sites'
/// scripts from reading them (DNS rebinding). Every answer says that nothing but what is served here may be loaded.
async fn guard(request: Request, next: Next) -> Response {
    let host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    if !is_local(host) {
        return (StatusCode::MISDIRECTED_REQUEST, "this dashboard answers to localhost only\n").into_response();
    }
    let mut response = next.run(request).await;
    let policy = "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src 'self'; base-uri 'none'; \
                  form-action 'self'; frame-ancestors 'none'";
    let headers = response.headers_mut();
    for (name, value) in [
        (header::CONTENT_SECURITY_POLICY, policy),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-store"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}

#[cfg(test)]
mod tests;
