//! The web pages: a store's runs, their figures and conversations, for people who read.
//!
//! HTML is rendered here, charts are SVG, and nothing is fetched from elsewhere. What models said is text and stays so:
//! templates escape it, and the content security policy allows no script but the one that is served from here.

mod charts;
mod error;
mod events;
mod live;
mod login;
mod pages;
mod report;
mod site;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::{get, post};
use influence_proto::Token;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::access::is_local;
use crate::catalogue::{Rows, Usages};
use crate::door::Door;
use crate::playground::Playground;
use crate::store::Store;
use error::PageError;
use events::Events;
pub use live::Live;
use login::Login;
use pages::in_query;
pub use report::{ReportError, ReportForm, report};
pub use site::{SiteError, site};

/// Why the pages cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum DashboardError {
    /// Others could reach it without a token.
    #[error(
        "the dashboard on {0} could be reached from other machines: give --dashboard-token FILE (`influence token create` makes \
         one), or an address of this machine, as in 127.0.0.1:5000, and reach it from elsewhere by \
         `ssh -L 5000:127.0.0.1:5000 HOST`"
    )]
    Exposed(SocketAddr),
    /// Others could read the token on its way.
    #[error(
        "the dashboard's token would travel to {0} in plain text: give --dashboard-plaintext if the network is to be trusted, or \
         put a server that speaks TLS before 127.0.0.1:5000, or use `ssh -L 5000:127.0.0.1:5000 HOST`"
    )]
    PlainText(SocketAddr),
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

/// Where the pages are, and who may see them.
#[derive(Debug, Clone)]
pub struct DashboardAddress {
    /// Port 0 takes any free one.
    pub address: SocketAddr,
    /// What is asked for before a page is shown. Needed where others can reach the address.
    pub token: Option<Token>,
    /// Whether it may travel in plain text to an address that others can reach.
    pub allow_plaintext: bool,
}

/// What the login page needs.
const OPEN: [&str; 6] = ["/login", "/style.css", "/icon.svg", "/page.js", "/keys.js", "/live.js"];
/// The longest that a browser may send.
const MOST_SENT: usize = 64 << 10;
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
    playground: Playground,
    login: Option<Login>,
}

impl Pages {
    fn new(store: Arc<dyn Store>, live: Live) -> Self {
        let (events, playground) = (Events::default(), Playground::default());
        Self { store, rows: Arc::default(), usages: Arc::default(), live, events, playground, login: None }
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
    /// An address that is taken, or that others could reach without enough being asked of them.
    pub async fn bind(at: DashboardAddress, store: Arc<dyn Store>, live: Live) -> Result<Self, DashboardError> {
        let DashboardAddress { address, token, allow_plaintext } = at;
        if !address.ip().to_canonical().is_loopback() {
            if token.is_none() {
                return Err(DashboardError::Exposed(address));
            }
            if !allow_plaintext {
                return Err(DashboardError::PlainText(address));
            }
        }
        let failed = |source| DashboardError::Listen { address, source };
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let login = token.as_ref().map(Login::new);
        Ok(Self { listener, address, pages: Pages { login, ..Pages::new(store, live) } })
    }

    /// Serves until cancelled; pages that are being sent then are finished, within [`STOP`].
    ///
    /// # Errors
    /// When the system breaks it off.
    pub async fn serve(self, cancel: CancellationToken) -> Result<(), DashboardError> {
        self.pages.events.end_with(&cancel);
        let app = router(self.pages.clone());
        let serving =
            axum::serve(Door::new(self.listener), app).with_graceful_shutdown(cancel.clone().cancelled_owned());
        let late = async {
            cancel.cancelled().await;
            tokio::time::sleep(STOP).await;
        };
        // So that the first reader of a large run does not wait for it.
        let ahead = async {
            for run in self.pages.store.runs().await.into_iter().flatten().rev() {
                let _ = self.pages.rows.of(&*self.pages.store, &run.id).await;
            }
            std::future::pending::<Result<(), DashboardError>>().await
        };
        tokio::select! {
            ended = ahead => ended,
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
        .route("/runs/{run}/metrics", get(pages::metrics))
        .route("/runs/{run}/training", get(pages::training))
        .route("/runs/{run}/config", get(pages::config))
        .route("/runs/{run}/episodes/{episode}", get(pages::conversation))
        .route("/runs/{run}/workers", get(pages::workers))
        .route("/runs/{run}/play", get(pages::play).post(pages::begin))
        .route("/runs/{run}/play/{name}", get(pages::played))
        .route("/runs/{run}/play/{name}/say", post(pages::say))
        .route("/runs/{run}/play/{name}/events", get(events::of_play))
        .route("/runs/{run}/events", get(events::of_run))
        .route("/runs/{run}/workers/events", get(events::of_workers))
        .route("/runs/{run}/episodes/{episode}/events", get(events::of_conversation))
        .route("/login", get(login::page).post(login::enter))
        .route("/runs/{run}/review", get(pages::review))
        .route("/runs/{run}/marks.jsonl", get(pages::export))
        .route("/runs/{run}/episodes/{episode}/marks", post(pages::mark))
        .route("/compare", get(pages::compare))
        .route("/beside", get(pages::beside))
        .route("/style.css", get(|| asset("text/css; charset=utf-8", include_str!("assets/style.css"))))
        .route("/icon.svg", get(|| asset("image/svg+xml", include_str!("assets/icon.svg"))))
        .route("/page.js", get(|| script(include_str!("assets/page.js"))))
        .route("/keys.js", get(|| script(include_str!("assets/keys.js"))))
        .route("/live.js", get(|| script(include_str!("assets/live.js"))))
        .fallback(|| async { PageError::nothing_here() })
        .layer(DefaultBodyLimit::max(MOST_SENT))
        .layer(from_fn_with_state(pages.clone(), guard))
        .with_state(pages)
}

async fn script(content: &'static str) -> impl IntoResponse {
    asset("text/javascript; charset=utf-8", content).await
}

async fn asset(kind: &'static str, content: &'static str) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, kind)], content)
}

/// Whether a change was asked for by a page of this site. A browser says which site a request comes from.
fn from_here(headers: &HeaderMap, host: &str) -> bool {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let origin = text("origin").map(|origin| origin.split_once("://").is_some_and(|(_, name)| name == host));
    let site = text("sec-fetch-site").map(|site| site == "same-origin");
    origin.unwrap_or(true) && site.unwrap_or(true) && (origin.is_some() || site.is_some())
}

/// Without a login, pages are for this machine's own browser: a name that somebody else has pointed here is refused, which
/// keeps other sites' scripts from reading them (DNS rebinding). With one, the cookie does: it goes to the name that it came
/// from. Every answer says that nothing but what is served here may be loaded.
async fn guard(State(pages): State<Pages>, request: Request, next: Next) -> Response {
    let host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    let path = request.uri().path();
    let reads = matches!(*request.method(), Method::GET | Method::HEAD);
    let open = OPEN.contains(&path);
    let mut response = match &pages.login {
        None if !is_local(host) => {
            return (StatusCode::MISDIRECTED_REQUEST, "this dashboard answers to localhost only\n").into_response();
        }
        _ if !reads && !from_here(request.headers(), host) => {
            PageError::forbidden("Only pages of this dashboard can change something.").into_response()
        }
        Some(login) if !open && !login.admits(request.headers()) => {
            if reads && !path.ends_with("/events") {
                let to = request.uri().path_and_query().map(|to| in_query(to.as_str())).unwrap_or_default();
                Redirect::to(&format!("/login?to={to}")).into_response()
            } else {
                StatusCode::UNAUTHORIZED.into_response()
            }
        }
        _ => next.run(request).await,
    };
    let policy = "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src 'self'; base-uri 'none'; \
                  form-action 'self'; frame-ancestors 'none'";
    let headers = response.headers_mut();
    for (name, value) in [
        (header::CONTENT_SECURITY_POLICY, policy),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        // Stricter, and forms would not say where they come from.
        (header::REFERRER_POLICY, "same-origin"),
        (header::CACHE_CONTROL, "no-store"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}

#[cfg(test)]
mod tests;
