//! Tables from outside, row by row: JSON lines, or Parquet.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, Write};
use std::path::{Path, PathBuf};

use influence_proto::Digest;
use parquet::file::serialized_reader::SerializedFileReader;
use parquet::record::reader::RowIter;
use sha2::{Digest as _, Sha256};

/// What a Parquet file begins with.
const MAGIC: &[u8] = b"PAR1";
/// The longest line that is read.
const MAX_LINE: u64 = 16 << 20;

/// A file of rows that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RowError {
    /// The file itself.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// One of its rows.
    #[error("{}:{line}: {problem}", path.display())]
    Row {
        /// The file.
        path: PathBuf,
        /// From 1.
        line: usize,
        /// What is wrong with it, and what a row looks like.
        problem: String,
    },
}

impl RowError {
    pub(crate) fn of(path: &Path, line: usize, problem: String) -> Self {
        Self::Row { path: path.to_owned(), line, problem }
    }
}

/// Hands out every row that is not blank, with the number of its line, from 1.
pub(crate) fn each_row(path: &Path, mut row: impl FnMut(usize, &str) -> Result<(), RowError>) -> Result<(), RowError> {
    let failed = |source| RowError::Io { path: path.to_owned(), source };
    let mut lines = json_lines(path).map_err(failed)?;
    let mut bytes = Vec::new();
    for line in 1.. {
        bytes.clear();
        if Read::take(&mut lines, MAX_LINE + 1).read_until(b'\n', &mut bytes).map_err(failed)? == 0 {
            break;
        }
        if bytes.len() as u64 > MAX_LINE {
            return Err(RowError::of(path, line, format!("is longer than {} MiB, the limit of a row", MAX_LINE >> 20)));
        }
        let text = std::str::from_utf8(&bytes).map_err(|_| RowError::of(path, line, "is not UTF-8".to_owned()))?;
        if !text.trim().is_empty() {
            row(line, text)?;
        }
    }
    Ok(())
}

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

/// What identifies a file.
///
/// # Errors
/// When it cannot be read.
pub(crate) fn file_digest(path: &Path) -> io::Result<Digest> {
    let (mut file, mut hash) = (File::open(path)?, Sha256::new());
    let mut bytes = vec![0; 1 << 16];
    loop {
        match file.read(&mut bytes)? {
            0 => return Ok(Digest::from_bytes(hash.finalize().into())),
            count => hash.update(&bytes[..count]),
        }
    }
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
