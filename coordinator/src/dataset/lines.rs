//! Tables from outside, row by row: JSON lines, or Parquet.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, Write};
use std::path::Path;

use parquet::file::serialized_reader::SerializedFileReader;
use parquet::record::reader::RowIter;

/// What a Parquet file begins with.
const MAGIC: &[u8] = b"PAR1";

/// The rows of a file as JSON objects, one a line. A Parquet file, which is known by its first bytes, is turned into them as
/// it is read: columns are fields, and an empty cell is `null`.
///
/// # Errors
/// A file that cannot be opened, or that begins like Parquet and is none.
pub fn json_lines(path: &Path) -> io::Result<Box<dyn BufRead + Send>> {
    let mut file = File::open(path)?;
    let mut start = Vec::new();
    Read::take(&mut file, MAGIC.len() as u64).read_to_end(&mut start)?;
    file.rewind()?;
    if start != MAGIC {
        return Ok(Box::new(BufReader::new(file)));
    }
    let table = SerializedFileReader::new(file).map_err(damaged)?;
    let rows = RowIter::from_file_into(Box::new(table));
    Ok(Box::new(BufReader::new(Parquet { rows, line: io::Cursor::default() })))
}

struct Parquet {
    rows: RowIter<'static>,
    /// The row that is handed out.
    line: io::Cursor<Vec<u8>>,
}

impl Read for Parquet {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.line.position() == self.line.get_ref().len() as u64 {
            let Some(row) = self.rows.next() else {
                return Ok(0);
            };
            let line = self.line.get_mut();
            line.clear();
            serde_json::to_writer(&mut *line, &row.map_err(damaged)?.to_json_value())?;
            line.write_all(b"\n")?;
            self.line.set_position(0);
        }
        self.line.read(into)
    }
}

fn damaged(error: parquet::errors::ParquetError) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("the Parquet file is damaged, or of a kind that cannot be read: {error}"),
    )
}
