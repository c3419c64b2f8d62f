//! Server-sent events: open pages are told that there is something new, and fetch themselves.
//!
//! All streams share one look at the store per second. A stream makes its next event when its client has room for it, so one
//! that is slow makes nothing pile up. There are so many places, and every stream ends after a while; what it says until then
//! fits the system's buffers, so a client that never reads keeps its place no longer than others.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures::stream;
use influence_proto::RunId;
use tokio::sync::{Mutex, OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::Pages;
use super::error::PageError;
use super::pages::{pulse_of_conversation, pulse_of_play, pulse_of_run, run_id};
use crate::catalogue::EpisodeRow;

/// Open streams.
const PLACES: usize = 64;
/// Between two looks at the store.
const LOOK: Duration = Duration::from_secs(1);
/// A look that takes long is followed by this many times as long without one.
const REST: u32 = 4;
/// A stream ends after so long; the browser opens another.
const LAST: Duration = Duration::from_secs(600);
/// A client that is gone is noticed by what it does not take.
const SIGN_OF_LIFE: Duration = Duration::from_secs(15);

/// The episodes of a run, by phase.
type Phases = Vec<Arc<Vec<EpisodeRow>>>;

/// What all streams share.
#[derive(Debug, Clone)]
pub(super) struct Events {
    places: Arc<Semaphore>,
    looks: Arc<Mutex<HashMap<RunId, Look>>>,
    stop: Arc<OnceLock<CancellationToken>>,
}

/// What the store said.
#[derive(Debug, Clone)]
struct Look {
    good_until: Instant,
    phases: Arc<Phases>,
}

impl Default for Events {
    fn default() -> Self {
        Self { places: Arc::new(Semaphore::new(PLACES)), looks: Arc::default(), stop: Arc::default() }
    }
}

impl Events {
    /// Streams end when `stop` is cancelled.
    pub(super) fn end_with(&self, stop: &CancellationToken) {
        let _ = self.stop.set(stop.clone());
    }

    /// The episodes of a run, as they were a moment ago.
    async fn look(&self, pages: &Pages, run: &RunId) -> Result<Arc<Phases>, PageError> {
        let mut looks = self.looks.lock().await;
        let begun = Instant::now();
        looks.retain(|_, look| look.good_until + LAST > begun);
        if let Some(look) = looks.get(run).filter(|look| look.good_until > begun) {
            return Ok(look.phases.clone());
        }
        let phases = Arc::new(pages.rows.of(&*pages.store, run).await?);
        let good_until = Instant::now() + LOOK.max(begun.elapsed() * REST);
        looks.insert(run.clone(), Look { good_until, phases: phases.clone() });
        Ok(phases)
    }
}

/// Changes whenever something of the run has.
pub(super) async fn of_run(State(pages): State<Pages>, Path(run): Path<String>) -> Result<Response, PageError> {
    let run = pages.store.run(&run_id(run)?).await?.id;
    Ok(open(pages, Some(run), |phases| Some(pulse_of_run(phases))))
}

/// Changes with every turn, and when the conversation ends or is judged.
pub(super) async fn of_conversation(
    State(pages): State<Pages>,
    Path((run, episode)): Path<(String, String)>,
) -> Result<Response, PageError> {
    let run = pages.store.run(&run_id(run)?).await?.id;
    Ok(open(pages, Some(run), move |phases| pulse_of_conversation(phases, &episode)))
}

/// Changes with every step of a conversation that somebody plays.
pub(super) async fn of_play(
    State(pages): State<Pages>,
    Path((run, name)): Path<(String, String)>,
) -> Result<Response, PageError> {
    let (run, of) = (run_id(run)?, pages.clone());
    Ok(open(pages, None, move |_| pulse_of_play(&of, &run, &name)))
}

/// Workers are never the same for long, and no store knows of them.
pub(super) async fn of_workers(State(pages): State<Pages>, Path(run): Path<String>) -> Result<Response, PageError> {
    pages.store.run(&run_id(run)?).await?;
    let begun = Instant::now();
    Ok(open(pages, None, move |_| Some((begun.elapsed().as_secs() / 2).to_string())))
}

/// A stream that says what `pulse` says of the episodes of `run`, whenever that has changed; it ends where `pulse` finds nothing.
fn open<P>(pages: Pages, run: Option<RunId>, pulse: P) -> Response
where
    P: Fn(&[Arc<Vec<EpisodeRow>>]) -> Option<String> + Send + 'static,
{
    let Ok(place) = pages.events.places.clone().try_acquire_owned() else {
        return (StatusCode::SERVICE_UNAVAILABLE, "as many pages are kept up to date as can be\n").into_response();
    };
    let stop = pages.events.stop.get().cloned().unwrap_or_default();
    let watch = Watch { pages, run, pulse, said: None, ends: Instant::now() + LAST, stop, _place: place };
    Sse::new(stream::unfold(watch, Watch::next)).keep_alive(KeepAlive::new().interval(SIGN_OF_LIFE)).into_response()
}

/// One open page.
struct Watch<P> {
    pages: Pages,
    run: Option<RunId>,
    pulse: P,
    said: Option<String>,
    ends: Instant,
    stop: CancellationToken,
    _place: OwnedSemaphorePermit,
}

impl<P: Fn(&[Arc<Vec<EpisodeRow>>]) -> Option<String>> Watch<P> {
    async fn next(mut self) -> Option<(Result<Event, Infallible>, Self)> {
        while Instant::now() < self.ends {
            let look = match &self.run {
                Some(run) => self.pages.events.look(&self.pages, run).await,
                None => Ok(Arc::default()),
            };
            // While the store is away there is nothing to say.
            if let Ok(phases) = look {
                let now = (self.pulse)(&phases)?;
                if self.said.as_ref() != Some(&now) {
                    self.said = Some(now.clone());
                    return Some((Ok(Event::default().data(now)), self));
                }
            }
            tokio::select! {
                () = self.stop.cancelled() => return None,
                () = sleep(LOOK) => {}
            }
        }
        None
    }
}
