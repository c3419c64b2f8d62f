//! Tables as Parquet, column by column, a bounded number of rows at a time.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use parquet::basic::{Compression, ConvertedType, LogicalType, Repetition, Type as Physical, ZstdLevel};
use parquet::data_type::{BoolType, ByteArray, ByteArrayType, DataType, DoubleType, Int64Type};
use parquet::errors::ParquetError;
use parquet::file::properties::WriterProperties;
use parquet::file::writer::{SerializedColumnWriter, SerializedFileWriter};
use parquet::schema::types::{Type, TypePtr};

use super::ExportError;
use super::cells::{Cell, Column, Kind};
use super::file::NewFile;
use super::tables::Table;

/// A row group is written when its cells have about so many bytes: what is held in memory.
const GROUP_BYTES: usize = 16 << 20;

/// A Parquet file that is being written.
pub(super) struct ParquetTable<R: 'static> {
    columns: &'static [Column<R>],
    writer: SerializedFileWriter<NewFile>,
    /// Of the row group that is collected, by column.
    cells: Vec<Vec<Cell>>,
    bytes: usize,
    group_bytes: usize,
    rows: u64,
}

impl<R> ParquetTable<R> {
    pub(super) fn new(columns: &'static [Column<R>], file: NewFile) -> Result<Self, ExportError> {
        let failed = file.failed();
        let writer = schema(columns)
            .and_then(|schema| {
                let properties = WriterProperties::builder()
                    .set_compression(Compression::ZSTD(ZstdLevel::default()))
                    .set_created_by(concat!("influence ", env!("CARGO_PKG_VERSION")).to_owned());
                SerializedFileWriter::new(file, schema, Arc::new(properties.build()))
            })
            .map_err(|error| failed(io::Error::other(error)))?;
        Ok(Self { columns, writer, cells: empty(columns), bytes: 0, group_bytes: GROUP_BYTES, rows: 0 })
    }

    fn write_group(&mut self) -> Result<(), ParquetError> {
        if self.cells.first().is_none_or(Vec::is_empty) {
            return Ok(());
        }
        let cells = std::mem::replace(&mut self.cells, empty(self.columns));
        self.bytes = 0;
        let mut group = self.writer.next_row_group()?;
        for (cells, column) in cells.into_iter().zip(self.columns) {
            let writer = group.next_column()?.ok_or_else(|| wrong(column.name))?;
            write_column(writer, column.name, column.kind, cells)?;
        }
        group.close().map(drop)
    }

    fn failed(&self) -> impl FnOnce(ParquetError) -> ExportError + use<R> {
        let failed = self.writer.inner().failed();
        |error| failed(io::Error::other(error))
    }
}

impl<R> Table<R> for ParquetTable<R> {
    fn add(&mut self, row: &R) -> Result<(), ExportError> {
        self.rows += 1;
        for (cells, column) in self.cells.iter_mut().zip(self.columns) {
            let cell = (column.cell)(row);
            self.bytes += size(&cell);
            cells.push(cell);
        }
        if self.bytes < self.group_bytes {
            return Ok(());
        }
        self.write_group().map_err(self.failed())
    }

    fn finish(mut self) -> Result<(PathBuf, u64), ExportError> {
        let failed = self.failed();
        self.write_group()
            .and_then(|()| self.writer.into_inner())
            .map_err(failed)?
            .finish()
            .map(|path| (path, self.rows))
    }
}

fn empty<R>(columns: &[Column<R>]) -> Vec<Vec<Cell>> {
    columns.iter().map(|_| Vec::new()).collect()
}

fn size(cell: &Cell) -> usize {
    size_of::<Cell>()
        + match cell {
            Cell::Text(text) => text.as_ref().map_or(0, String::len),
            Cell::Texts(texts) => texts.iter().map(|text| text.len() + size_of::<String>()).sum(),
            Cell::Numbers(numbers) => size_of_val(&**numbers),
            Cell::Integer(_) | Cell::Number(_) | Cell::Flag(_) => 0,
        }
}

fn schema<R>(columns: &[Column<R>]) -> Result<TypePtr, ParquetError> {
    let fields = columns.iter().map(|column| field(column.name, column.kind)).collect::<Result<_, _>>()?;
    Ok(Arc::new(Type::group_type_builder("schema").with_fields(fields).build()?))
}

/// Single cells may be missing; lists are in the three levels that the format asks for.
fn field(name: &str, kind: Kind) -> Result<TypePtr, ParquetError> {
    let plain = |name, physical, repetition| {
        let field = Type::primitive_type_builder(name, physical).with_repetition(repetition);
        let text = physical == Physical::BYTE_ARRAY;
        let field = if text { field.with_logical_type(Some(LogicalType::String)) } else { field };
        Ok::<_, ParquetError>(Arc::new(field.build()?))
    };
    let list = |physical| {
        let element = plain("element", physical, Repetition::REQUIRED)?;
        let items = Type::group_type_builder("list").with_repetition(Repetition::REPEATED).with_fields(vec![element]);
        let list = Type::group_type_builder(name)
            .with_repetition(Repetition::REQUIRED)
            .with_logical_type(Some(LogicalType::List))
            .with_converted_type(ConvertedType::LIST);
        Ok(Arc::new(list.with_fields(vec![Arc::new(items.build()?)]).build()?))
    };
    match kind {
        Kind::Text => plain(name, Physical::BYTE_ARRAY, Repetition::OPTIONAL),
        Kind::Integer => plain(name, Physical::INT64, Repetition::OPTIONAL),
        Kind::Number => plain(name, Physical::DOUBLE, Repetition::OPTIONAL),
        Kind::Flag => plain(name, Physical::BOOLEAN, Repetition::OPTIONAL),
        Kind::Texts => list(Physical::BYTE_ARRAY),
        Kind::Numbers => list(Physical::DOUBLE),
    }
}

fn write_column(
    writer: SerializedColumnWriter<'_>,
    name: &str,
    kind: Kind,
    cells: Vec<Cell>,
) -> Result<(), ParquetError> {
    let bytes = |text: String| ByteArray::from(text.into_bytes());
    let written = match kind {
        Kind::Text => singles::<ByteArrayType>(writer, cells, |cell| match cell {
            Cell::Text(text) => Some(text.map(bytes)),
            _ => None,
        }),
        Kind::Integer => singles::<Int64Type>(writer, cells, |cell| match cell {
            Cell::Integer(number) => Some(number),
            _ => None,
        }),
        Kind::Number => singles::<DoubleType>(writer, cells, |cell| match cell {
            Cell::Number(number) => Some(number),
            _ => None,
        }),
        Kind::Flag => singles::<BoolType>(writer, cells, |cell| match cell {
            Cell::Flag(flag) => Some(Some(flag)),
            _ => None,
        }),
        Kind::Texts => lists::<ByteArrayType>(writer, cells, |cell| match cell {
            Cell::Texts(texts) => Some(texts.into_iter().map(bytes).collect()),
            _ => None,
        }),
        Kind::Numbers => lists::<DoubleType>(writer, cells, |cell| match cell {
            Cell::Numbers(numbers) => Some(numbers),
            _ => None,
        }),
    }?;
    written.ok_or_else(|| wrong(name))
}

fn wrong(name: &str) -> ParquetError {
    ParquetError::General(format!("the column `{name}` does not hold what it says"))
}

/// One value or none for each row. None, if a cell is not of the column's kind.
fn singles<T: DataType>(
    mut writer: SerializedColumnWriter<'_>,
    cells: Vec<Cell>,
    of: impl Fn(Cell) -> Option<Option<T::T>>,
) -> Result<Option<()>, ParquetError> {
    let Some(cells) = cells.into_iter().map(of).collect::<Option<Vec<_>>>() else { return Ok(None) };
    let defined: Vec<i16> = cells.iter().map(|cell| cell.is_some().into()).collect();
    let values: Vec<T::T> = cells.into_iter().flatten().collect();
    writer.typed::<T>().write_batch(&values, Some(&defined), None)?;
    writer.close().map(Some)
}

/// A list for each row. The format's levels say of each value that there is one, and that it goes on with a list.
fn lists<T: DataType>(
    mut writer: SerializedColumnWriter<'_>,
    cells: Vec<Cell>,
    of: impl Fn(Cell) -> Option<Vec<T::T>>,
) -> Result<Option<()>, ParquetError> {
    let (mut values, mut defined, mut repeated) = (Vec::new(), Vec::new(), Vec::new());
    for cell in cells {
        let Some(list) = of(cell) else { return Ok(None) };
        defined.extend(std::iter::repeat_n(i16::from(!list.is_empty()), list.len().max(1)));
        repeated.push(0);
        repeated.extend(std::iter::repeat_n(1, list.len().saturating_sub(1)));
        values.extend(list);
    }
    writer.typed::<T>().write_batch(&values, Some(&defined), Some(&repeated))?;
    writer.close().map(Some)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use std::io::BufRead as _;

    use serde_json::{Value, json};

    use super::*;

    type Row = (Option<&'static str>, Option<i64>, &'static [&'static str], &'static [f64]);

    const fn column(name: &'static str, kind: Kind, cell: fn(&Row) -> Cell) -> Column<Row> {
        Column { name, kind, meaning: "", cell }
    }

    const COLUMNS: [Column<Row>; 4] = [
        column("text", Kind::Text, |row| row.0.into()),
        column("integer", Kind::Integer, |row| Cell::Integer(row.1)),
        column("texts", Kind::Texts, |row| row.2.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>().into()),
        column("numbers", Kind::Numbers, |row| row.3.to_vec().into()),
    ];
    const ROWS: [Row; 4] = [
        (Some("ä\0\n\u{1f642}"), Some(i64::MIN), &[], &[0.1]),
        (None, None, &["", "b"], &[]),
        (Some(""), Some(-1), &["c"], &[f64::MAX, 1e-300, 0.0]),
        (Some("d"), Some(0), &[], &[]),
    ];

    /// Protects: rows come back in order and exactly, however they were cut into groups: missing, empty, and several.
    #[test]
    fn rows_come_back_from_any_number_of_groups() {
        let folder = tempfile::tempdir().unwrap();
        for group_bytes in [1, 300, GROUP_BYTES] {
            let path = folder.path().join(format!("{group_bytes}.parquet"));
            let file = NewFile::create(path.clone(), false).unwrap();
            let mut table = ParquetTable { group_bytes, ..ParquetTable::new(&COLUMNS, file).unwrap() };
            ROWS.iter().for_each(|row| table.add(row).unwrap());
            assert_eq!(table.finish().unwrap(), (path.clone(), 4));
            let read = crate::dataset::json_lines(&path).unwrap().lines();
            let read: Vec<Value> = read.map(|line| serde_json::from_str(&line.unwrap()).unwrap()).collect();
            let wanted = ROWS.map(|row| json!({"text": row.0, "integer": row.1, "texts": row.2, "numbers": row.3}));
            assert_eq!(read, wanted, "groups of {group_bytes} bytes");
        }
    }

    #[test]
    fn a_column_that_lies_about_its_cells_is_refused() {
        const LIAR: [Column<Row>; 1] = [column("liar", Kind::Number, |row| row.0.into())];
        let folder = tempfile::tempdir().unwrap();
        let file = NewFile::create(folder.path().join("liar.parquet"), false).unwrap();
        let mut table = ParquetTable::new(&LIAR, file).unwrap();
        table.add(&ROWS[0]).unwrap();
        let error = table.finish().unwrap_err();
        assert!(std::error::Error::source(&error).unwrap().to_string().contains("the column `liar`"), "{error:?}");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "half a file is left");
    }
}
