//! The memory of the process.

/// A busy coordinator takes less time and memory with it than with the system's: `make bench-dispatch`.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// `mi_option_purge_delay`, in milliseconds; the library waits ten times as long with its arenas (`arena_purge_mult`).
const PURGE_DELAY: libmimalloc_sys::mi_option_t = 15;

/// Keeps memory that was freed for ten seconds or more before the system gets it back. A training frees and takes hundreds of
/// megabytes with each row, and the system clears what it hands out: an eighth of a step's time.
pub(crate) fn keep_freed_memory() {
    // SAFETY: the option exists in both versions of the library, and takes any number.
    unsafe { libmimalloc_sys::mi_option_set(PURGE_DELAY, 10_000) };
}
