use std::cell::RefCell;
use std::ops::{Bound, RangeBounds, RangeInclusive};

use serde_json::{Map, Value, json};

use super::{Document, Dotted, Problems, Step};
use crate::selection::Fraction;

/// One mapping of a document, read key by key. Every reader returns something usable, the default
/// where the value is missing or wrong, and puts what is wrong on the list. [`Section::finish`]
/// then reports the keys that no reader asked for.
pub(crate) struct Section<'a> {
    document: &'a Document,
    problems: &'a RefCell<Problems>,
    path: Vec<Step>,
    entries: Option<&'a Map<String, Value>>,
    known: Vec<&'static str>,
}

impl<'a> Section<'a> {
    /// The document's root, which must be a mapping.
    pub(crate) fn root(document: &'a Document, problems: &'a RefCell<Problems>) -> Self {
        Self::at(document, problems, Vec::new(), document.root())
    }

    /// The mapping at `path`; nothing there counts as an empty one.
    pub(crate) fn at(
        document: &'a Document,
        problems: &'a RefCell<Problems>,
        path: Vec<Step>,
        value: &'a Value,
    ) -> Self {
        let entries = match value {
            Value::Object(map) => Some(map),
            Value::Null => None,
            other => {
                let name = if path.is_empty() { "the file".to_owned() } else { format!("`{}`", Dotted(&path)) };
                let message = format!("{name} must be a mapping of keys to values, but is {}", describe(other));
                problems.borrow_mut().push(document.problem(&path, message));
                None
            }
        };
        Self { document, problems, path, entries, known: Vec::new() }
    }

    /// Steps from the root to this key.
    pub(crate) fn path_of(&self, key: &str) -> Vec<Step> {
        let mut path = self.path.clone();
        path.push(Step::Key(key.to_owned()));
        path
    }

    /// Reports what is wrong with a key.
    pub(crate) fn report(&self, key: &str, message: impl std::fmt::Display) {
        let path = self.path_of(key);
        let message = format!("`{}` {message}", Dotted(&path));
        self.problems.borrow_mut().push(self.document.problem(&path, message));
    }

    /// The list that this section reports to.
    pub(crate) fn problems(&self) -> &'a RefCell<Problems> {
        self.problems
    }

    /// The document that this section belongs to.
    pub(crate) fn document(&self) -> &'a Document {
        self.document
    }

    /// Tells who wants to know what a key may hold.
    fn trace(&self, key: &str, schema: impl FnOnce() -> Value) {
        if let Some(trace) = &self.document.trace {
            trace.asked(&self.path_of(key), schema());
        }
    }

    /// The raw value; none if the key is missing or holds nothing.
    pub(crate) fn value(&mut self, key: &'static str) -> Option<&'a Value> {
        self.ask(key);
        self.trace(key, || json!({}));
        self.entries?.get(key).filter(|v| !v.is_null())
    }

    fn ask(&mut self, key: &'static str) {
        if !self.known.contains(&key) {
            self.known.push(key);
        }
    }

    /// Whether the file has the key, with or without a value.
    pub(crate) fn has(&self, key: &str) -> bool {
        self.entries.is_some_and(|map| map.contains_key(key))
    }

    /// All entries, for mappings whose keys are names rather than settings.
    pub(crate) fn entries(&self) -> impl Iterator<Item = (&'a String, &'a Value)> + use<'a> {
        self.entries.into_iter().flatten()
    }

    /// A nested mapping; a missing one is empty.
    pub(crate) fn section(&mut self, key: &'static str) -> Section<'a> {
        self.trace(key, || json!({"type": ["object", "null"]}));
        let value = self.value(key).unwrap_or(&Value::Null);
        Section::at(self.document, self.problems, self.path_of(key), value)
    }

    /// A nested mapping, if the key is there.
    pub(crate) fn optional_section(&mut self, key: &'static str) -> Option<Section<'a>> {
        self.ask(key);
        self.trace(key, || json!({"type": ["object", "null"]}));
        let value = self.entries?.get(key)?;
        Some(Section::at(self.document, self.problems, self.path_of(key), value))
    }

    /// Text; numbers and booleans count as the text that they are written as.
    pub(crate) fn text(&mut self, key: &'static str) -> Option<String> {
        self.trace(key, || json!({"type": [SCALAR[0], SCALAR[1], SCALAR[2], "null"]}));
        let value = self.value(key)?;
        let text = scalar_text(value);
        if text.is_none() {
            self.report(key, format_args!("must be text, but is {}", describe(value)));
        }
        text
    }

    /// Text that must be there.
    pub(crate) fn required_text(&mut self, key: &'static str, example: &str) -> String {
        self.trace(key, || json!({"type": SCALAR}));
        if let Some(trace) = &self.document.trace {
            trace.required(&self.path_of(key));
        }
        if !self.has(key) || self.entries.and_then(|m| m.get(key)).is_some_and(Value::is_null) {
            self.ask(key);
            let path = self.path_of(key);
            let message = format!("`{}` is missing; give one, as in `{key}: {example}`", Dotted(&path));
            let place = if self.has(key) { &path } else { &self.path };
            self.problems.borrow_mut().push(self.document.problem(place, message));
            return String::new();
        }
        self.text(key).unwrap_or_default()
    }

    /// A whole number within a range.
    pub(crate) fn integer<N>(&mut self, key: &'static str, range: RangeInclusive<N>, default: N) -> N
    where
        N: Copy + PartialOrd + std::fmt::Display + Into<u64> + TryFrom<u64>,
    {
        self.trace(key, || {
            let (low, high): (u64, u64) = ((*range.start()).into(), (*range.end()).into());
            json!({"type": ["integer", "null"], "minimum": low, "maximum": high, "default": default.into()})
        });
        let Some(value) = self.value(key) else { return default };
        let Some(number) = value.as_u64().or_else(|| whole_float(value)) else {
            self.report(key, format_args!("must be a whole number, 0 or more, but is {}", describe(value)));
            return default;
        };
        match N::try_from(number) {
            Ok(n) if range.contains(&n) => n,
            _ => {
                let (low, high) = (range.start(), range.end());
                self.report(key, format_args!("must be at least {low} and at most {high}, but is {number}"));
                default
            }
        }
    }

    /// A number within a range.
    pub(crate) fn number(&mut self, key: &'static str, range: impl RangeBounds<f64>, default: f64) -> f64 {
        self.trace(key, || number_schema(&range, default));
        let Some(value) = self.value(key) else { return default };
        let Some(number) = value.as_f64() else {
            self.report(key, format_args!("must be a number, but is {}", describe(value)));
            return default;
        };
        if range.contains(&number) {
            return number;
        }
        let low = match range.start_bound() {
            Bound::Included(low) => format!("at least {low}"),
            Bound::Excluded(low) => format!("more than {low}"),
            Bound::Unbounded => "any number".to_owned(),
        };
        let high = match range.end_bound() {
            Bound::Included(high) => format!(" and at most {high}"),
            Bound::Excluded(high) => format!(" and less than {high}"),
            Bound::Unbounded => String::new(),
        };
        self.report(key, format_args!("must be {low}{high}, but is {number}"));
        default
    }

    /// True or false.
    pub(crate) fn flag(&mut self, key: &'static str, default: bool) -> bool {
        self.trace(key, || json!({"type": ["boolean", "null"], "default": default}));
        match self.value(key) {
            None => default,
            Some(Value::Bool(flag)) => *flag,
            Some(other) => {
                self.report(key, format_args!("must be true or false, but is {}", describe(other)));
                default
            }
        }
    }

    /// One of several words.
    pub(crate) fn choice<T: Copy>(&mut self, key: &'static str, choices: &[(&str, T)], default: T) -> T {
        self.trace(
            key,
            || json!({"enum": choices.iter().map(|(name, _)| Some(*name)).chain([None]).collect::<Vec<_>>()}),
        );
        let Some(value) = self.value(key) else { return default };
        let text = scalar_text(value).unwrap_or_default();
        if let Some((_, choice)) = choices.iter().find(|(name, _)| *name == text) {
            return *choice;
        }
        let names: Vec<String> = choices.iter().map(|(name, _)| format!("`{name}`")).collect();
        self.report(key, format_args!("must be one of {}, but is {}", names.join(", "), describe(value)));
        default
    }

    /// An exact share in [0, 1].
    pub(crate) fn fraction(&mut self, key: &'static str, default: Fraction) -> Fraction {
        self.trace(key, || json!({"type": ["number", "string", "null"], "default": default.to_string()}));
        let Some(value) = self.value(key) else { return default };
        match fraction_of(value) {
            Ok(fraction) => fraction,
            Err(message) => {
                self.report(key, message);
                default
            }
        }
    }

    /// A list; none if the key is missing or no list.
    pub(crate) fn list(&mut self, key: &'static str) -> Option<&'a [Value]> {
        self.trace(key, || json!({"type": ["array", "null"]}));
        match self.value(key)? {
            Value::Array(items) => Some(items),
            other => {
                self.report(key, format_args!("must be a list, but is {}", describe(other)));
                None
            }
        }
    }

    /// A list of words or numbers, as text.
    pub(crate) fn texts(&mut self, key: &'static str) -> Option<Vec<String>> {
        let mut texts = Vec::new();
        self.trace(key, || json!({"type": ["array", "null"], "items": {"type": SCALAR}}));
        for item in self.list(key)? {
            match scalar_text(item) {
                Some(text) => texts.push(text),
                None => self.report(key, format_args!("must hold words or numbers, but one is {}", describe(item))),
            }
        }
        Some(texts)
    }

    /// Reports every key that was not asked for.
    pub(crate) fn finish(self) {
        if let Some(trace) = &self.document.trace {
            trace.closed(&self.path);
        }
        for (key, _) in self.entries() {
            if !self.known.contains(&key.as_str()) {
                self.report_unknown(key, &self.known);
            }
        }
    }

    /// Reports a key that is not one of `known`.
    pub(crate) fn report_unknown(&self, key: &str, known: &[&str]) {
        let path = self.path_of(key);
        let hint = match nearest(key, known.iter().copied()) {
            Some(near) => format!("did you mean `{near}`?"),
            None => {
                let names: Vec<String> = known.iter().map(|k| format!("`{k}`")).collect();
                format!("the keys here are {}", names.join(", "))
            }
        };
        let message = format!("unknown key `{}`; {hint}", Dotted(&path));
        self.problems.borrow_mut().push(self.document.problem(&path, message));
    }
}

/// Text is also what YAML takes for a number or a truth value.
const SCALAR: [&str; 3] = ["string", "number", "boolean"];

fn number_schema(range: &impl RangeBounds<f64>, default: f64) -> Value {
    let mut schema = json!({"type": ["number", "null"], "default": default});
    match range.start_bound() {
        Bound::Included(low) => schema["minimum"] = json!(low),
        Bound::Excluded(low) => schema["exclusiveMinimum"] = json!(low),
        Bound::Unbounded => {}
    }
    match range.end_bound() {
        Bound::Included(high) => schema["maximum"] = json!(high),
        Bound::Excluded(high) => schema["exclusiveMaximum"] = json!(high),
        Bound::Unbounded => {}
    }
    schema
}

/// An exact share, or what is wrong with the value.
pub(crate) fn fraction_of(value: &Value) -> Result<Fraction, String> {
    let text = scalar_text(value).ok_or_else(|| format!("must be a share from 0 to 1, but is {}", describe(value)))?;
    Fraction::parse(&text).map_err(|error| error.to_string())
}

fn whole_float(value: &Value) -> Option<u64> {
    let number = value.as_f64()?;
    (number.fract() == 0.0 && (0.0..9e15).contains(&number)).then_some(number as u64)
}

/// A scalar as text; none for lists, mappings and nothing.
pub(crate) fn scalar_text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(flag) => Some(flag.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

/// A value in a message: its kind, and itself where it is short.
pub(crate) fn describe(value: &Value) -> String {
    match value {
        Value::Null => "empty".into(),
        Value::Bool(flag) => format!("`{flag}`"),
        Value::Number(number) => format!("the number {number}"),
        Value::String(text) => format!("the text `{}`", visible(text, 60)),
        Value::Array(_) => "a list".into(),
        Value::Object(_) => "a mapping".into(),
    }
}

/// The beginning of a text, on one line and without control characters.
pub(crate) fn visible(text: &str, characters: usize) -> String {
    let mut shown = String::new();
    for c in text.chars().take(characters) {
        if c.is_control() { shown.extend(c.escape_default()) } else { shown.push(c) }
    }
    if text.chars().nth(characters).is_some() {
        shown.push_str("...");
    }
    shown
}

/// The known name that a misspelt one is likeliest to mean, if any is near.
pub(crate) fn nearest<'n>(name: &str, known: impl IntoIterator<Item = &'n str>) -> Option<&'n str> {
    known
        .into_iter()
        .map(|k| (strsim::jaro_winkler(&name.to_lowercase(), &k.to_lowercase()), k))
        .filter(|(likeness, _)| *likeness >= 0.8)
        .max_by(|a, b| a.0.total_cmp(&b.0).then(b.1.cmp(a.1)))
        .map(|(_, k)| k)
}
