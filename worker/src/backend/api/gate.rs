//! How many requests a server is given at once, and how fast.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use influence_proto::ApiLimits;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

/// Requests at once to begin with.
const FIRST: f64 = 8.0;
/// What remains of the window after a sign of overload.
const CUT: f64 = 0.7;
/// So many cuts without a success between them mean that the server is away: then nothing goes for a while, which doubles
/// up to the longest. The first success ends that.
const AWAY: u32 = 3;
const FIRST_HOLD: Duration = Duration::from_millis(200);
const LONGEST_HOLD: Duration = Duration::from_secs(15);
/// A budget per minute may be spent this many seconds ahead.
const BURST_SECONDS: f64 = 6.0;

/// The window of one server: it grows with every success while it is used (by one per success until the first cut, then
/// by one per window), and is cut once for all requests that were under way when the server showed that it was too much.
#[derive(Debug)]
pub(super) struct Window {
    size: f64,
    most: f64,
    running: u32,
    cut_at: Option<Instant>,
    /// Cuts since the last success.
    cuts: u32,
    held_until: Option<Instant>,
    requests: Option<Budget>,
    tokens: Option<Budget>,
}

/// Whether another request may go.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Admission {
    /// It goes, and is counted.
    Now,
    /// Not before this.
    At(Instant),
    /// Not before another has ended.
    Full,
}

/// What a request showed about its server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sign {
    /// It answers.
    Fine,
    /// It has too much to do, or is away.
    Overload,
    /// Nothing: the request itself was wrong, or was taken back.
    None,
}

impl Window {
    pub(super) fn new(limits: &ApiLimits, now: Instant) -> Self {
        let most = f64::from(limits.concurrency);
        Self {
            size: FIRST.min(most),
            most,
            running: 0,
            cut_at: None,
            cuts: 0,
            held_until: None,
            requests: limits.requests_per_minute.map(|n| Budget::new(n, now)),
            tokens: limits.tokens_per_minute.map(|n| Budget::new(n, now)),
        }
    }

    /// Asks for a request of so many tokens.
    pub(super) fn admit(&mut self, tokens: u32, now: Instant) -> Admission {
        if f64::from(self.running) >= self.size.floor() {
            return Admission::Full;
        }
        let budgets = [&mut self.requests, &mut self.tokens].into_iter().flatten();
        let open = budgets.map(|budget| budget.open_at(now)).chain(self.held_until).max();
        if let Some(open) = open.filter(|open| *open > now) {
            return Admission::At(open);
        }
        self.running += 1;
        spend(&mut self.requests, 1.0);
        spend(&mut self.tokens, f64::from(tokens));
        Admission::Now
    }

    /// Takes note of a request's end; `sent` is when it began.
    pub(super) fn ended(&mut self, sign: Sign, sent: Instant, now: Instant) {
        let used = f64::from(self.running) + 1.0 >= self.size.floor();
        self.running = self.running.saturating_sub(1);
        if sign == Sign::Fine {
            self.cuts = 0;
        }
        match sign {
            Sign::Fine if used => {
                let more = if self.cut_at.is_none() { 1.0 } else { 1.0 / self.size };
                self.size = (self.size + more).min(self.most);
            }
            Sign::Overload if self.cut_at.is_none_or(|cut| sent > cut) => {
                self.size = (self.size * CUT).max(1.0);
                self.cut_at = Some(now);
                self.cuts += 1;
                if let Some(doublings) = self.cuts.checked_sub(AWAY) {
                    self.hold(now + FIRST_HOLD.saturating_mul(1 << doublings.min(16)).min(LONGEST_HOLD));
                }
            }
            _ => {}
        }
    }

    /// Replaces what a request was thought to need by what it took.
    pub(super) fn correct(&mut self, thought: u32, taken: u32) {
        spend(&mut self.tokens, f64::from(taken) - f64::from(thought));
    }

    /// Lets nothing go before `until`.
    pub(super) fn hold(&mut self, until: Instant) {
        self.held_until = self.held_until.max(Some(until));
    }

    /// Whether the server seems to be away.
    pub(super) const fn away(&self) -> bool {
        self.cuts >= AWAY
    }

    /// Requests at once.
    pub(super) fn size(&self) -> f64 {
        self.size
    }
}

fn spend(budget: &mut Option<Budget>, amount: f64) {
    if let Some(budget) = budget {
        budget.left -= amount;
    }
}

/// So much a minute. It may be overdrawn by one request, which the next waits for.
#[derive(Debug)]
struct Budget {
    per_second: f64,
    most: f64,
    left: f64,
    filled: Instant,
}

impl Budget {
    fn new(per_minute: u32, now: Instant) -> Self {
        let per_second = f64::from(per_minute) / 60.0;
        let most = (per_second * BURST_SECONDS).max(1.0);
        Self { per_second, most, left: most, filled: now }
    }

    /// When the next may go.
    fn open_at(&mut self, now: Instant) -> Instant {
        let passed = now.saturating_duration_since(self.filled).as_secs_f64();
        (self.left, self.filled) = ((self.left + passed * self.per_second).min(self.most), now);
        // A whole request, or any positive number of tokens.
        let missing = 1.0 - self.left;
        if missing <= 0.0 { now } else { now + Duration::from_secs_f64(missing / self.per_second) }
    }
}

/// A window that callers wait at, in order.
#[derive(Debug)]
pub(super) struct Gate {
    window: Mutex<Window>,
    /// Held by the first in line.
    turn: tokio::sync::Mutex<()>,
    ended: Notify,
}

impl Gate {
    pub(super) fn new(limits: &ApiLimits) -> Self {
        let window = Mutex::new(Window::new(limits, Instant::now()));
        Self { window, turn: tokio::sync::Mutex::default(), ended: Notify::new() }
    }

    pub(super) fn window(&self) -> MutexGuard<'_, Window> {
        self.window.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until a request of about so many tokens may go.
    pub(super) async fn enter(&self, tokens: u32) -> Pass<'_> {
        let _first = self.turn.lock().await;
        loop {
            let admission = self.window().admit(tokens, Instant::now());
            match admission {
                Admission::Now => return Pass { gate: self, sent: Instant::now(), sign: Sign::None },
                Admission::At(time) => sleep_until(time).await,
                // The first in line is the only one who waits for this, and one end that came before is remembered.
                Admission::Full => self.ended.notified().await,
            }
        }
    }
}

/// A request under way; it ends when this is dropped.
#[derive(Debug)]
pub(super) struct Pass<'a> {
    gate: &'a Gate,
    sent: Instant,
    sign: Sign,
}

impl Pass<'_> {
    /// Ends the request, with what it showed.
    pub(super) fn end(mut self, sign: Sign) {
        self.sign = sign;
    }
}

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        self.gate.window().ended(self.sign, self.sent, Instant::now());
        self.gate.ended.notify_one();
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn limits(concurrency: u32) -> ApiLimits {
        ApiLimits { concurrency, ..ApiLimits::default() }
    }

    fn fill(window: &mut Window, now: Instant) -> u32 {
        let mut admitted = 0;
        while window.admit(1, now) == Admission::Now {
            admitted += 1;
        }
        admitted
    }

    #[test]
    fn the_window_grows_to_its_limit_while_it_is_used_and_not_beyond() {
        let now = Instant::now();
        let mut window = Window::new(&limits(20), now);
        for _ in 0..100 {
            fill(&mut window, now);
            window.ended(Sign::Fine, now, now);
        }
        assert_eq!(window.size(), 20.0);
        let mut idle = Window::new(&limits(20), now);
        for _ in 0..100 {
            assert_eq!(idle.admit(1, now), Admission::Now);
            idle.ended(Sign::Fine, now, now);
        }
        assert_eq!(idle.size(), FIRST, "one request at a time says nothing about more");
    }

    #[test]
    fn one_burst_of_refusals_cuts_once() {
        let start = Instant::now();
        let mut window = Window::new(&limits(64), start);
        assert_eq!(fill(&mut window, start), 8);
        let later = start + Duration::from_secs(1);
        for _ in 0..8 {
            window.ended(Sign::Overload, start, later);
        }
        assert!((window.size() - 8.0 * CUT).abs() < 1e-9);
        // Those sent after the cut count again, down to one.
        for minute in 1..60 {
            let sent = start + Duration::from_secs(60 * minute);
            assert_eq!(window.admit(1, sent), Admission::Now);
            window.ended(Sign::Overload, sent, sent + Duration::from_millis(1));
        }
        assert_eq!(window.size(), 1.0);
    }

    #[test]
    fn a_server_that_is_away_is_asked_ever_more_rarely_until_it_answers() {
        let mut now = Instant::now();
        let mut window = Window::new(&limits(8), now);
        let mut waits = Vec::new();
        for _ in 0..12 {
            while let Admission::At(time) = window.admit(1, now) {
                waits.push(time.duration_since(now).as_millis());
                now = time;
            }
            let sent = now + Duration::from_micros(1);
            now += Duration::from_millis(1);
            window.ended(Sign::Overload, sent, now);
        }
        // The first three cuts are taken for chance; a hold runs from the end of a request.
        assert_eq!(waits, [200, 400, 800, 1600, 3200, 6400, 12800, 15000, 15000]);
        assert!(window.away());
        now += LONGEST_HOLD;
        assert_eq!(window.admit(1, now), Admission::Now);
        window.ended(Sign::Fine, now, now);
        assert!(!window.away());
        assert_eq!(window.admit(1, now), Admission::Now, "the first success lets everything go on");
    }

    #[test]
    fn budgets_per_minute_hold_over_a_minute() {
        let start = Instant::now();
        let mut window = Window::new(
            &ApiLimits { requests_per_minute: Some(60), tokens_per_minute: Some(1200), ..limits(64) },
            start,
        );
        let mut admitted = 0;
        let mut now = start;
        while now < start + Duration::from_secs(60) {
            match window.admit(30, now) {
                Admission::Now => {
                    admitted += 1;
                    window.ended(Sign::Fine, now, now);
                }
                Admission::At(time) => {
                    assert!(time > now);
                    now = time;
                }
                Admission::Full => panic!("nothing is running"),
            }
        }
        // 1200 tokens a minute, and 120 ahead, by 30 each.
        assert!((40..=45).contains(&admitted), "{admitted}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_hold_and_a_dropped_request_let_the_next_go() {
        let gate = Gate::new(&limits(1));
        let first = gate.enter(1).await;
        let waiting = gate.enter(1);
        tokio::pin!(waiting);
        assert!(tokio::time::timeout(Duration::from_secs(5), &mut waiting).await.is_err(), "the window is full");
        drop(first);
        waiting.await.end(Sign::Fine);
        let begun = Instant::now();
        gate.window().hold(begun + Duration::from_secs(7));
        gate.enter(1).await.end(Sign::Fine);
        assert!(begun.elapsed() >= Duration::from_secs(7));
    }
}
