//! Ctrl-C and SIGTERM: the first asks, the second insists.

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::telemetry::say;

/// A token that the first SIGINT or SIGTERM cancels. The second ends the process at once; nothing is
/// lost by that, as everything acknowledged is on disk.
pub(crate) fn token() -> anyhow::Result<CancellationToken> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let token = CancellationToken::new();
    let cancelled = token.clone();
    tokio::spawn(async move {
        for asked in 0_u32.. {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            if asked > 0 {
                std::process::exit(130);
            }
            say("stopping; again to stop at once");
            cancelled.cancel();
        }
    });
    Ok(token)
}
