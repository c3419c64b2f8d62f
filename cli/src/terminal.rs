//! What people read: untrusted text made harmless, numbers with their counts.

use std::io::{ErrorKind, Write};

use anyhow::Context;
use influence_coordinator::statistics::Estimate;

/// Model output and file contents with control characters shown rather than obeyed, so that a reply
/// cannot move the cursor, colour the screen or set the window's title. Newlines stay.
pub(crate) fn harmless(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        // Bidirectional overrides reorder what follows them on screen.
        let hidden = c.is_control() || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        match c {
            '\n' => shown.push('\n'),
            '\t' => shown.push_str("    "),
            c if hidden => shown.extend(c.escape_unicode()),
            c => shown.push(c),
        }
    }
    shown
}

/// Writes to standard output. A reader that went away, as `head` does, is no error.
pub(crate) fn print(text: &str) -> anyhow::Result<()> {
    match std::io::stdout().lock().write_all(text.as_bytes()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        done => done.context("standard output cannot be written to"),
    }
}

/// A number, or a dash where there is none: an absent figure is never shown as 0.
pub(crate) fn figure(value: Option<f64>, digits: usize) -> String {
    value.map_or_else(|| "–".to_owned(), |v| format!("{v:.digits$}"))
}

/// A mean with its standard error.
pub(crate) fn with_error(estimate: Option<Estimate>) -> String {
    to_digits(estimate, 2)
}

/// The same with so many digits after the point.
pub(crate) fn to_digits(estimate: Option<Estimate>, digits: usize) -> String {
    match estimate {
        Some(Estimate { mean, standard_error: Some(error) }) => format!("{mean:.digits$} ± {error:.digits$}"),
        estimate => figure(estimate.map(|e| e.mean), digits),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escape_sequences_are_shown_not_obeyed() {
        assert_eq!(harmless("a\u{1b}[31mred\u{7}\n\tb\r"), "a\\u{1b}[31mred\\u{7}\n    b\\u{d}");
        assert_eq!(harmless("\u{202e}evil"), "\\u{202e}evil");
        assert_eq!(harmless("größe 🙂"), "größe 🙂");
    }

    #[test]
    fn an_absent_figure_is_not_zero() {
        assert_eq!(figure(None, 2), "–");
        assert_eq!(with_error(Some(Estimate { mean: 1.0, standard_error: None })), "1.00");
        assert_eq!(with_error(Some(Estimate { mean: 1.0, standard_error: Some(0.5) })), "1.00 ± 0.50");
    }
}
