//! What was refused: to the caller as a status, to people in the log, however many there are.

use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tonic::Status;

use super::Role;

/// Why a call is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("this call needs the {needs}'s token, and none was sent; {}", needs.way_out())]
    Missing { needs: Role },
    #[error("the header `authorization` must be `Bearer TOKEN`")]
    NoBearer,
    #[error(
        "the token is none of this coordinator's; use the file from the folder that it was started with (--tokens)"
    )]
    WrongToken,
    #[error("this call needs the {needs}'s token, and the {is}'s credential was sent; {}", needs.way_out())]
    WrongRole { is: Role, needs: Role },
    #[error(
        "this call needs the admin's token, and this coordinator has none: start it with --tokens DIR where DIR has \
         an admin.token, or with INFLUENCE_ADMIN_TOKEN"
    )]
    NoAdmin,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Worker => "worker",
            Self::Admin => "admin",
        })
    }
}

impl Role {
    const fn way_out(self) -> &'static str {
        match self {
            Self::Worker => "give --token-file with the coordinator's worker.token, or INFLUENCE_WORKER_TOKEN",
            Self::Admin => "give the coordinator's admin.token, or INFLUENCE_ADMIN_TOKEN",
        }
    }
}

impl From<Refusal> for Status {
    fn from(refusal: Refusal) -> Self {
        let message = refusal.to_string();
        match refusal {
            Refusal::Missing { .. } | Refusal::NoBearer | Refusal::WrongToken => Self::unauthenticated(message),
            Refusal::WrongRole { .. } | Refusal::NoAdmin => Self::permission_denied(message),
        }
    }
}

/// Refusals in one span of time that are written down one by one.
const LINES: u32 = 20;
const SPAN: Duration = Duration::from_secs(10);

/// Writes refusals down, a bounded number of them: a flood of callers must not become a flood of lines. Clones share
/// the bound.
#[derive(Debug, Clone)]
pub(crate) struct RefusalLog {
    span: Arc<Mutex<Span>>,
}

#[derive(Debug)]
struct Span {
    began: Instant,
    lines: u32,
    left_out: u64,
}

impl RefusalLog {
    pub(crate) fn new() -> Self {
        Self { span: Arc::new(Mutex::new(Span::new(Instant::now()))) }
    }

    /// `peer` was refused, for this reason.
    pub(crate) fn refused(&self, peer: SocketAddr, reason: impl fmt::Display) {
        if let Some(left_out) = self.line() {
            tracing::warn!(%peer, %reason, left_out, "refused");
        }
    }

    /// No connection can be accepted.
    pub(crate) fn not_accepted(&self, error: &std::io::Error) {
        if let Some(left_out) = self.line() {
            tracing::warn!(%error, left_out, "a connection cannot be accepted; are there too many open files (ulimit -n)?");
        }
    }

    fn line(&self) -> Option<u64> {
        self.span.lock().unwrap_or_else(PoisonError::into_inner).line(Instant::now())
    }
}

impl Span {
    const fn new(began: Instant) -> Self {
        Self { began, lines: 0, left_out: 0 }
    }

    /// Whether there is room for a line; if so, how many were left out before it.
    fn line(&mut self, now: Instant) -> Option<u64> {
        if now.saturating_duration_since(self.began) >= SPAN {
            (self.began, self.lines) = (now, 0);
        }
        if self.lines == LINES {
            self.left_out += 1;
            return None;
        }
        self.lines += 1;
        Some(std::mem::take(&mut self.left_out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_refusals_is_a_few_lines_and_a_count() {
        let start = Instant::now();
        let mut span = Span::new(start);
        let said = (0..1000).filter(|_| span.line(start) == Some(0)).count();
        assert_eq!(said, 20);
        assert_eq!(span.line(start + SPAN / 2), None);
        assert_eq!(span.line(start + SPAN), Some(981), "what was left out is counted");
        assert_eq!(span.line(start + SPAN), Some(0));
    }
}
