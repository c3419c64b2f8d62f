use std::time::Duration;

use influence_proto::stream;

/// Waits that double up to a limit, each cut by chance, so that many workers do not come back at the same moment.
#[derive(Debug, Clone)]
pub(crate) struct Backoff {
    seed: u64,
    tries: u32,
    first: Duration,
    longest: Duration,
}

impl Backoff {
    /// From a tenth of a second to five seconds.
    pub(crate) const fn new(seed: u64) -> Self {
        Self { seed, tries: 0, first: Duration::from_millis(100), longest: Duration::from_secs(5) }
    }

    /// The same, up to another longest wait.
    pub(crate) const fn up_to(self, longest: Duration) -> Self {
        Self { longest, ..self }
    }

    /// The next wait: between half of it and all of it.
    pub(crate) fn next(&mut self) -> Duration {
        let whole = self.first.saturating_mul(1_u32.checked_shl(self.tries).unwrap_or(u32::MAX)).min(self.longest);
        let chance = stream::uniform(stream::derive(self.seed, &["backoff", &self.tries.to_string()]));
        self.tries = self.tries.saturating_add(1);
        whole.mul_f64(0.5 + chance / 2.0)
    }

    /// How often it was waited since the last success.
    pub(crate) const fn tries(&self) -> u32 {
        self.tries
    }

    /// Begins anew, after a success.
    pub(crate) fn reset(&mut self) {
        self.tries = 0;
    }
}
