//! How a process describes what it measures.

/// One metric: its name, and what it says with its unit. Declared once, where it is measured; documents and dashboards are
/// checked against it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Metric {
    /// As in `influence_turns_total`.
    pub name: &'static str,
    /// How its values relate to each other.
    pub kind: MetricKind,
    /// What it counts or measures, with its unit and labels.
    pub help: &'static str,
}

/// How the values of a metric relate to each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MetricKind {
    /// It only grows, from 0 at the process's start.
    Counter,
    /// It says how something is now.
    Gauge,
    /// Values by their size, in seconds.
    Histogram,
}

impl Metric {
    /// One that only grows.
    pub const fn counter(name: &'static str, help: &'static str) -> Self {
        Self { name, kind: MetricKind::Counter, help }
    }

    /// One that says how something is now.
    pub const fn gauge(name: &'static str, help: &'static str) -> Self {
        Self { name, kind: MetricKind::Gauge, help }
    }

    /// Durations, in seconds.
    pub const fn histogram(name: &'static str, help: &'static str) -> Self {
        Self { name, kind: MetricKind::Histogram, help }
    }

    /// Tells whoever collects metrics in this process what it is.
    pub fn describe(&self) {
        match self.kind {
            MetricKind::Counter => metrics::describe_counter!(self.name, self.help),
            MetricKind::Gauge => metrics::describe_gauge!(self.name, self.help),
            MetricKind::Histogram => metrics::describe_histogram!(self.name, self.help),
        }
    }
}
