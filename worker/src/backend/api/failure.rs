//! What a server's answer means when it is not the one that was asked for.

use std::time::{Duration, SystemTime};

use reqwest::StatusCode;
use reqwest::header::HeaderMap;
use serde_json::Value;

/// The most of a server's own words that is repeated.
const WORDS: usize = 300;

/// A request that got no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Failure {
    /// The same request would be refused again.
    Refused {
        /// The status.
        status: u16,
        /// What the server said.
        reason: String,
    },
    /// The server has too much to do, or is away: the same request may be answered later.
    Overload {
        /// When it wants to be asked again.
        after: Option<Duration>,
        /// What happened.
        reason: String,
    },
    /// The server answered what is no answer; it may do better.
    Broken(String),
}

impl Failure {
    /// Of a status that is no success, with what came with it.
    pub(super) fn of_status(status: StatusCode, headers: &HeaderMap, body: &str) -> Self {
        let said = words(body);
        let code = status.as_u16();
        let reason = if said.is_empty() { format!("status {code}") } else { format!("status {code}: {said}") };
        match code {
            // A quota that is used up is not a matter of waiting.
            429 if body.contains("insufficient_quota") => Self::Refused { status: code, reason },
            408 | 425 | 429 | 502..=504 | 520..=524 | 529 => {
                Self::Overload { after: retry_after(headers, SystemTime::now()), reason }
            }
            409 | 500.. => Self::Broken(reason),
            _ => Self::Refused { status: code, reason },
        }
    }

    /// Of a request that did not come to an answer.
    pub(super) fn of_transport(error: reqwest::Error) -> Self {
        let error = error.without_url();
        let mut reason = error.to_string();
        let mut source = std::error::Error::source(&error);
        while let Some(cause) = source {
            reason = format!("{reason}: {cause}");
            source = cause.source();
        }
        Self::Overload { after: None, reason }
    }
}

/// The message in an error's JSON, or the beginning of whatever it is.
fn words(body: &str) -> String {
    let parsed: Option<Value> = serde_json::from_str(body).ok();
    let message = parsed.as_ref().and_then(|value| {
        let error = value.get("error").unwrap_or(value);
        let said = error.get("message").or_else(|| error.get("detail")).unwrap_or(error);
        // A list of what is wrong, each with the input, which need not be repeated.
        let listed = |items: &Vec<Value>| {
            let each = items.iter().filter_map(|item| item.get("msg")?.as_str());
            each.collect::<Vec<_>>().join("; ")
        };
        said.as_str().map(str::to_owned).or_else(|| said.as_array().map(listed))
    });
    let text = message.as_deref().unwrap_or(body).trim();
    let shown: String = text.chars().take(WORDS).map(|c| if c.is_control() { ' ' } else { c }).collect();
    if shown.len() < text.len() { shown + "..." } else { shown }
}

/// `Retry-After` as seconds or as a date, or OpenAI's `retry-after-ms`.
fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let text = |name: &str| headers.get(name)?.to_str().ok().map(str::trim);
    let seconds = |text: &str, unit: f64| {
        let number = text.parse::<f64>().ok().filter(|n| n.is_finite() && *n >= 0.0)?;
        Duration::try_from_secs_f64(number * unit).ok()
    };
    if let Some(wait) = text("retry-after-ms").and_then(|text| seconds(text, 1e-3)) {
        return Some(wait);
    }
    let given = text("retry-after")?;
    seconds(given, 1.0)
        .or_else(|| Some(httpdate::parse_http_date(given).ok()?.duration_since(now).unwrap_or(Duration::ZERO)))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn headers(name: &'static str, value: &str) -> HeaderMap {
        HeaderMap::from_iter([(name.parse::<reqwest::header::HeaderName>().unwrap(), value.parse().unwrap())])
    }

    #[test]
    fn retry_after_is_read_in_all_its_forms() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777);
        for (name, value, wait) in [
            ("retry-after", "3", Some(3.0)),
            ("retry-after", "0.5", Some(0.5)),
            ("retry-after-ms", "250", Some(0.25)),
            ("retry-after", "Sun, 06 Nov 1994 08:49:47 GMT", Some(10.0)),
            ("retry-after", "Sun, 06 Nov 1994 08:00:00 GMT", Some(0.0)),
            ("retry-after", "-1", None),
            ("retry-after", "soon", None),
            ("retry-after", "1e400", None),
        ] {
            let read = retry_after(&headers(name, value), now);
            assert_eq!(read.map(|wait| wait.as_secs_f64()), wait, "{value}");
        }
    }

    #[test]
    fn a_used_up_quota_is_no_overload() {
        let status = StatusCode::TOO_MANY_REQUESTS;
        let body = r#"{"error": {"message": "You exceeded your quota", "code": "insufficient_quota"}}"#;
        let refused = Failure::Refused { status: 429, reason: "status 429: You exceeded your quota".into() };
        assert_eq!(Failure::of_status(status, &HeaderMap::new(), body), refused);
        let plain = Failure::of_status(status, &headers("retry-after", "2"), "slow\u{1b}[2J down");
        let reason = "status 429: slow [2J down".into();
        assert_eq!(plain, Failure::Overload { after: Some(Duration::from_secs(2)), reason });
    }
}
