//! The curves as TensorBoard's event files: records of TensorFlow's `Event` message, one after the other.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::PathBuf;

use prost::Message;

use super::curves::CURVES;
use super::{Export, ExportError};
use crate::experiment::summary;
use crate::planning::Phase;

/// What is used of `tensorflow/core/util/event.proto`.
#[derive(Clone, PartialEq, Message)]
struct Event {
    #[prost(double, tag = "1")]
    wall_time: f64,
    #[prost(int64, tag = "2")]
    step: i64,
    #[prost(string, optional, tag = "3")]
    file_version: Option<String>,
    #[prost(message, optional, tag = "5")]
    summary: Option<Summary>,
}

#[derive(Clone, PartialEq, Message)]
struct Summary {
    #[prost(message, repeated, tag = "1")]
    values: Vec<Value>,
}

#[derive(Clone, PartialEq, Message)]
struct Value {
    #[prost(string, tag = "1")]
    tag: String,
    #[prost(float, optional, tag = "2")]
    simple_value: Option<f32>,
}

/// A folder for the iterations and one for the evaluations, which TensorBoard shows as two lines in each chart.
pub(super) async fn events(export: &Export<'_>) -> Result<Vec<(PathBuf, u64)>, ExportError> {
    let created = export.run.created_ms as f64 / 1e3;
    let mut spent = 0.0;
    let mut phases: BTreeMap<Phase, Vec<Event>> = BTreeMap::new();
    for row in summary(export.store, &export.run.id).await? {
        spent += row.active.as_secs_f64();
        let value = |(name, figure): (&str, f64)| Value { tag: name.to_owned(), simple_value: Some(figure as f32) };
        let figures = CURVES.iter().filter_map(|curve| Some((curve.name, (curve.of)(&row)?)));
        let summary = Some(Summary { values: figures.map(value).collect() });
        let event = Event { wall_time: created + spent, step: row.iteration.into(), file_version: None, summary };
        phases.entry(row.phase).or_default().push(event);
    }
    let mut written = Vec::new();
    for (phase, events) in phases {
        let name = format!("events.out.tfevents.{}.{}", export.run.created_ms / 1000, export.run.id);
        let mut file = export.file(&format!("tensorboard/{}/{name}", phase.name()))?;
        let version = Some("brain.Event:2".to_owned());
        let begin = Event { wall_time: created, step: 0, file_version: version, summary: None };
        for event in std::iter::once(&begin).chain(&events) {
            record(&mut file, &event.encode_to_vec()).map_err(file.failed())?;
        }
        written.push((file.finish()?, events.len() as u64));
    }
    Ok(written)
}

/// A record of TensorFlow's `TFRecord` files: length, its checksum, content, its checksum.
fn record(out: &mut impl Write, content: &[u8]) -> io::Result<()> {
    let length = (content.len() as u64).to_le_bytes();
    out.write_all(&length)?;
    out.write_all(&masked(&length).to_le_bytes())?;
    out.write_all(content)?;
    out.write_all(&masked(content).to_le_bytes())
}

/// CRC-32C, rotated and shifted, as the format has it.
fn masked(bytes: &[u8]) -> u32 {
    crc32c(bytes).rotate_right(15).wrapping_add(0xa282_ead8)
}

/// Bit by bit: the files have a few kilobytes.
fn crc32c(bytes: &[u8]) -> u32 {
    let step = |crc: u32, _| (crc >> 1) ^ if crc & 1 == 1 { 0x82f6_3b78 } else { 0 };
    !bytes.iter().fold(u32::MAX, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), step))
}

#[cfg(test)]
mod tests {
    use super::crc32c;

    /// The check value that the catalogues of CRCs give for this one.
    #[test]
    fn checksums_are_those_of_the_format() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    }
}
