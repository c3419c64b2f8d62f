//! What Hugging Face's template environment offers beyond Jinja itself.

use minijinja::value::Kwargs;
use minijinja::{Environment, Error, ErrorKind, Value};
use serde::Serialize;
use serde_json::ser::{Formatter, PrettyFormatter, Serializer};

/// The day that every template is told: 26 July 2024, the one that Llama 3's templates fall back to. A prompt is a pure
/// function of its messages, so that a run that is resumed tomorrow still builds the same one.
const TODAY: Date = Date { year: 2024, month: 7, day: 26 };

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const WEEKDAY: &str = "Friday";

struct Date {
    year: u32,
    month: usize,
    day: u32,
}

pub(super) fn register(environment: &mut Environment<'static>) {
    environment.add_function("raise_exception", |message: String| -> Result<String, Error> {
        Err(Error::new(ErrorKind::InvalidOperation, message))
    });
    environment.add_function("strftime_now", |format: String| strftime(&format, &TODAY));
    environment.add_filter("tojson", to_json);
}

/// The directives that templates use; others are left as they stand. The time of day is midnight.
fn strftime(format: &str, date: &Date) -> String {
    let month = MONTHS[date.month - 1];
    let mut out = String::new();
    let mut letters = format.chars();
    while let Some(letter) = letters.next() {
        if letter != '%' {
            out.push(letter);
            continue;
        }
        match letters.next() {
            Some('Y') => out.push_str(&date.year.to_string()),
            Some('y') => out.push_str(&format!("{:02}", date.year % 100)),
            Some('m') => out.push_str(&format!("{:02}", date.month)),
            Some('d') => out.push_str(&format!("{:02}", date.day)),
            Some('B') => out.push_str(month),
            Some('b') => out.push_str(&month[..3]),
            Some('A') => out.push_str(WEEKDAY),
            Some('a') => out.push_str(&WEEKDAY[..3]),
            Some('H' | 'M' | 'S') => out.push_str("00"),
            Some('%') => out.push('%'),
            Some(other) => out.extend(['%', other]),
            None => out.push('%'),
        }
    }
    out
}

/// JSON as Python's `json.dumps(ensure_ascii=False)` spaces it; Jinja's own filter escapes HTML, which no prompt wants.
fn to_json(value: Value, options: Kwargs) -> Result<String, Error> {
    let indent: Option<usize> = options.get("indent")?;
    let written = match indent {
        Some(width) => {
            let spaces = " ".repeat(width.min(16));
            serialise(&value, PrettyFormatter::with_indent(spaces.as_bytes()))
        }
        None => serialise(&value, PythonSpacing),
    };
    written.map_err(|e| Error::new(ErrorKind::BadSerialization, e.to_string()))
}

fn serialise(value: &Value, formatter: impl Formatter) -> Result<String, serde_json::Error> {
    let mut out = Vec::new();
    value.serialize(&mut Serializer::with_formatter(&mut out, formatter))?;
    Ok(String::from_utf8_lossy(&out).into_owned())
}

struct PythonSpacing;

impl Formatter for PythonSpacing {
    fn begin_array_value<W: ?Sized + std::io::Write>(&mut self, writer: &mut W, first: bool) -> std::io::Result<()> {
        writer.write_all(if first { b"" } else { b", " })
    }

    fn begin_object_key<W: ?Sized + std::io::Write>(&mut self, writer: &mut W, first: bool) -> std::io::Result<()> {
        writer.write_all(if first { b"" } else { b", " })
    }

    fn begin_object_value<W: ?Sized + std::io::Write>(&mut self, writer: &mut W) -> std::io::Result<()> {
        writer.write_all(b": ")
    }
}
