//! Where a trace goes on: W3C trace context (<https://www.w3.org/TR/trace-context/>), between processes.

use std::fmt;

use opentelemetry::propagation::{Extractor, Injector, TextMapPropagator as _};
use opentelemetry::trace::TraceContextExt as _;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt as _;

/// The header, and the metadata key of a gRPC call, that carries it.
pub const TRACEPARENT: &str = "traceparent";

/// A span of some process, under which another process goes on. Nothing but traces depends on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TraceParent(String);

impl TraceParent {
    /// The current span. None where nothing is traced.
    pub fn current() -> Option<Self> {
        Self::of(&Span::current())
    }

    /// `span`, to go on under. None where nothing is traced.
    pub fn of(span: &Span) -> Option<Self> {
        if span.is_disabled() {
            return None;
        }
        let mut carrier = Carrier(None);
        TraceContextPropagator::new().inject_context(&span.context(), &mut carrier);
        carrier.0.map(Self)
    }

    /// What another process sent. None if it is not of the form of a trace parent: a trace is no reason to refuse work.
    pub fn parse(text: &str) -> Option<Self> {
        let parent = Self(text.to_owned());
        parent.context().span().span_context().is_valid().then_some(parent)
    }

    /// Makes `span`, which has not been entered yet, a child of this.
    pub fn adopt(&self, span: &Span) {
        // Refused where nothing is traced.
        let _ = span.set_parent(self.context());
    }

    /// As it is sent.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    fn context(&self) -> opentelemetry::Context {
        // A context of its own: what happens to be current here is not its parent.
        let nothing = opentelemetry::Context::new();
        TraceContextPropagator::new().extract_with_context(&nothing, &Carrier(Some(self.0.clone())))
    }
}

impl fmt::Display for TraceParent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Holds the one entry that is wanted; a trace's state is left behind.
struct Carrier(Option<String>);

impl Injector for Carrier {
    fn set(&mut self, key: &str, value: String) {
        if key == TRACEPARENT {
            self.0 = Some(value);
        }
    }
}

impl Extractor for Carrier {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.as_deref().filter(|_| key == TRACEPARENT)
    }

    fn keys(&self) -> Vec<&str> {
        vec![TRACEPARENT]
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_is_no_trace_parent_is_none() {
        let whole = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        assert_eq!(TraceParent::parse(whole).unwrap().as_str(), whole);
        for wrong in ["", "00", "00-0-0-01", "zz-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"] {
            assert_eq!(TraceParent::parse(wrong), None, "{wrong}");
        }
        let nobody = "00-00000000000000000000000000000000-00f067aa0ba902b7-01";
        assert_eq!(TraceParent::parse(nobody), None);
    }

    #[test]
    fn without_a_tracer_there_is_nothing_to_send() {
        assert_eq!(TraceParent::current(), None);
        assert_eq!(TraceParent::of(&tracing::info_span!("alone")), None);
    }
}
