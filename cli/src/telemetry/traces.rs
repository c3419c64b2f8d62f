//! Spans to a collector.

use std::time::Duration;

use anyhow::Context;
use opentelemetry::KeyValue;
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_otlp::{SpanExporter, WithExportConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{Sampler, SdkTracerProvider};
use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::{Layer, Registry};

/// How long a collector may take for what is left at the end.
const LAST: Duration = Duration::from_secs(3);

/// A way to a collector.
#[derive(Debug)]
pub(super) struct Traces {
    provider: SdkTracerProvider,
}

impl Traces {
    /// Sends to `url` the `share` of traces that begin here, and those that others have begun and send.
    pub(super) fn to(url: &str, share: f64, command: &str) -> anyhow::Result<Self> {
        let exporter = SpanExporter::builder().with_tonic().with_endpoint(url).build();
        let exporter = exporter.with_context(|| {
            format!("--otlp `{url}` is no address of a collector; give it as in http://localhost:4317")
        })?;
        let resource = Resource::builder()
            .with_service_name(format!("influence-{command}"))
            .with_attributes([
                KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
                KeyValue::new("process.pid", i64::from(std::process::id())),
            ])
            .build();
        let provider = SdkTracerProvider::builder()
            .with_batch_exporter(exporter)
            .with_sampler(Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(share))))
            .with_resource(resource)
            .build();
        Ok(Self { provider })
    }

    /// Takes spans of ours, and no other library's. `content`: with what was said.
    pub(super) fn layer(&self, content: bool) -> Box<dyn Layer<Registry> + Send + Sync> {
        let tracer = self.provider.tracer("influence");
        let ours = ["influence_trace", "influence_coordinator", "influence_worker", "influence_engine"];
        let mut targets = Targets::new().with_targets(ours.map(|target| (target, LevelFilter::INFO)));
        if content {
            targets = targets.with_target("influence_content", LevelFilter::INFO);
        }
        tracing_opentelemetry::layer()
            .with_tracer(tracer)
            .with_location(false)
            .with_threads(false)
            .with_tracked_inactivity(false)
            .with_filter(targets)
            .boxed()
    }

    /// Sends what is left, if the collector takes it in time.
    pub(super) fn end(self) {
        if let Err(error) = self.provider.shutdown_with_timeout(LAST) {
            tracing::warn!(%error, "the last spans were not sent");
        }
    }
}
