use std::time::Instant;

use tracing::{Instrument as _, Span};

use crate::{TRACE, metrics};

/// Carries a call of a store out: its time is measured, and it is a span of the trace that it belongs to, if any.
pub(super) async fn measured<T>(system: &'static str, call: impl Future<Output = T>) -> T {
    let since = Instant::now();
    let span = match Span::current().is_disabled() {
        true => Span::none(),
        false => tracing::info_span!(target: TRACE, "store", db.system.name = system),
    };
    let answer = call.instrument(span).await;
    metrics::store_call(since.elapsed());
    answer
}
