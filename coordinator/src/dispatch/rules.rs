//! The rules whose absence a test must notice.

use super::state::Dispatch;

/// A rule that the machine keeps. In tests it has twins that go without one, each of which must fail
/// the property test: else the test would hold nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rule {
    /// Only an attempt that the store would still accept ends the work.
    Fence,
    /// Only an attempt that is known to have started counts as lost.
    StartedOnly,
    /// A worker gets no more than it asked for.
    Credits,
    /// A worker never holds two attempts of one work.
    OncePerWorker,
    /// What has ended does not end again.
    EndOnce,
    /// Nothing is granted while paused.
    Paused,
}

impl Dispatch {
    /// Always, outside tests.
    #[cfg(not(test))]
    pub(super) const fn keeps(&self, _rule: Rule) -> bool {
        true
    }

    #[cfg(test)]
    pub(super) fn keeps(&self, rule: Rule) -> bool {
        self.without != Some(rule)
    }
}
