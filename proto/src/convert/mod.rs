//! Between wire types and domain types. Out is infallible; in refuses what no domain type can hold
//! and names the field.

pub(crate) mod api;
mod calls;
mod cluster;
mod episode;
mod machine;
mod training;
mod turn;
mod work;

use crate::InvalidMessage;

/// A field that proto3 cannot make required.
fn required<T>(value: Option<T>, field: &str) -> Result<T, InvalidMessage> {
    value.ok_or_else(|| InvalidMessage::new(field, "is missing"))
}

/// Converts a nested message and puts its field in front of what it refuses.
fn nested<W, D: TryFrom<W, Error = InvalidMessage>>(value: Option<W>, field: &str) -> Result<D, InvalidMessage> {
    D::try_from(required(value, field)?).map_err(|e| e.inside(field))
}

/// Like [`nested`], for a field that may be absent.
fn optional<W, D: TryFrom<W, Error = InvalidMessage>>(
    value: Option<W>,
    field: &str,
) -> Result<Option<D>, InvalidMessage> {
    value.map(D::try_from).transpose().map_err(|e| e.inside(field))
}

/// Like [`nested`], for a list.
fn list<W, D: TryFrom<W, Error = InvalidMessage>>(values: Vec<W>, field: &str) -> Result<Vec<D>, InvalidMessage> {
    values
        .into_iter()
        .enumerate()
        .map(|(i, value)| D::try_from(value).map_err(|e| e.inside(&format!("{field}[{i}]"))))
        .collect()
}

/// A number that must lie in a range.
fn bounded(value: f64, field: &str, range: std::ops::RangeInclusive<f64>) -> Result<f64, InvalidMessage> {
    if range.contains(&value) {
        return Ok(value);
    }
    let problem = format!("must lie between {} and {}, but is {value}", range.start(), range.end());
    Err(InvalidMessage::new(field, problem))
}

/// A count that must not be zero.
fn positive(value: u32, field: &str) -> Result<u32, InvalidMessage> {
    if value == 0 { Err(InvalidMessage::new(field, "must be 1 or more, but is 0")) } else { Ok(value) }
}
