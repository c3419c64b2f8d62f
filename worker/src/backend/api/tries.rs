//! How a request is made again.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use influence_proto::stream;
use tokio::time::Instant;

use crate::outbox::Backoff;

/// The longest wait of its own accord between two tries of a request. The window sees to it that this is enough: it holds
/// all requests back while the server is away.
const LONGEST_WAIT: Duration = Duration::from_secs(1);

/// The tries of one request.
pub(super) struct Tries {
    /// The window holds the rest back.
    pub(super) overload: Backoff,
    /// The window knows nothing of what is wrong.
    pub(super) broken: Backoff,
    pub(super) patience: Duration,
    /// Known from the first failure on.
    pub(super) until: Option<Instant>,
    /// Likewise.
    pub(super) repeating: Option<Repeating>,
}

/// A request that is counted among those that are made again, until it is answered or given up.
pub(super) struct Repeating(Arc<AtomicU32>);

impl Repeating {
    pub(super) fn begin(count: &Arc<AtomicU32>) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count.clone())
    }
}

impl Drop for Repeating {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Tries {
    /// Of a request by its number, which makes its waits its own.
    pub(super) fn new(number: u64, patience: Duration) -> Self {
        let seed = stream::derive(u64::from(std::process::id()), &["request", &number.to_string()]);
        let overload = Backoff::new(seed).up_to(LONGEST_WAIT);
        Self { overload, broken: Backoff::new(seed), patience, until: None, repeating: None }
    }

    pub(super) fn any(&self) -> bool {
        self.overload.tries() + self.broken.tries() > 0
    }
}
