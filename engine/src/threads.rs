//! Who computes on which threads.

/// Keeps candle from starting a thread pool of its own, unless `CANDLE_NUM_THREADS` asks for one: its threads spin while
/// they wait, and take the cores from rayon's, on which everything here runs. Candle has no other switch.
///
/// # Safety
/// No other thread may run: call it first in `main`.
pub unsafe fn leave_threads_to_rayon() {
    const NAME: &str = "CANDLE_NUM_THREADS";
    if std::env::var_os(NAME).is_none() {
        // SAFETY: the caller sees to it that nobody reads the environment meanwhile.
        unsafe { std::env::set_var(NAME, "1") };
    }
}

/// Numbers that one thread takes at least of an elementwise operation, so that no other is woken for a few.
pub(crate) const SERIAL: usize = 1 << 14;
