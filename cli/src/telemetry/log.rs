//! Lines on stderr, for people or for machines.

use std::io::IsTerminal as _;
use std::sync::OnceLock;

use anyhow::Context;
use tracing::Subscriber;
use tracing_subscriber::fmt::layer as lines;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::{EnvFilter, Layer};

use super::LogFormat;
use crate::terminal::harmless;

/// What is said to people whatever the filter.
const SAID: &str = "influence_said";
/// What is for traces alone, and what is in the log whatever its filter.
const ALWAYS: [&str; 3] = ["influence_trace=off", "influence_content=off", "influence_said=info"];

static FORMAT: OnceLock<LogFormat> = OnceLock::new();

/// Logs what passes `filter`.
pub(super) fn layer<S>(filter: &str, format: LogFormat) -> anyhow::Result<Box<dyn Layer<S> + Send + Sync>>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    let mut chosen = EnvFilter::try_new(filter)
        .with_context(|| format!("--log `{filter}` is no filter; try `info` or `influence_worker=debug`"))?;
    for directive in ALWAYS {
        chosen = chosen.add_directive(directive.parse().context("a directive of our own")?);
    }
    let _ = FORMAT.set(format);
    let written = lines().with_writer(std::io::stderr);
    Ok(match format {
        LogFormat::Text => written.with_ansi(std::io::stderr().is_terminal()).with_filter(chosen).boxed(),
        LogFormat::Json => {
            let json = written.json().flatten_event(true).with_current_span(true).with_span_list(false);
            json.with_filter(chosen).boxed()
        }
    })
}

fn is_json() -> bool {
    FORMAT.get() == Some(&LogFormat::Json)
}

/// Tells people what is going on: a line on stderr, or a line of the log where that is for machines.
pub(crate) fn say(text: impl AsRef<str>) {
    let text = text.as_ref();
    if is_json() {
        tracing::info!(target: SAID, "{text}");
    } else {
        eprintln!("{text}");
    }
}

/// Tells why a command failed.
pub(crate) fn fail(error: &anyhow::Error) {
    if is_json() {
        tracing::error!(target: SAID, "{error:#}");
    } else {
        eprintln!("error: {}", harmless(&format!("{error:#}")));
    }
}
