//! Episodes and turns as two tables.

use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::Arc;

use serde::ser::{SerializeMap as _, Serializer as _};

use super::cells::{Cell, Column};
use super::columns::{EPISODES, EpisodeLine, TURNS, TurnLine};
use super::file::NewFile;
use super::parquet::ParquetTable;
use super::{Export, ExportError};
use crate::experiment::agent_of;

/// Where rows go.
pub(super) trait Table<R> {
    fn add(&mut self, row: &R) -> Result<(), ExportError>;
    /// The file, and its number of rows.
    fn finish(self) -> Result<(PathBuf, u64), ExportError>;
}

pub(super) async fn jsonl(export: &Export<'_>) -> Result<Vec<(PathBuf, u64)>, ExportError> {
    let episodes = Lines { columns: &EPISODES, file: export.file("episodes.jsonl")?, rows: 0 };
    let turns = Lines { columns: &TURNS, file: export.file("turns.jsonl")?, rows: 0 };
    fill(export, episodes, turns).await
}

pub(super) async fn parquet(export: &Export<'_>) -> Result<Vec<(PathBuf, u64)>, ExportError> {
    let episodes = ParquetTable::new(&EPISODES, export.file("episodes.parquet")?)?;
    let turns = ParquetTable::new(&TURNS, export.file("turns.parquet")?)?;
    fill(export, episodes, turns).await
}

async fn fill(
    export: &Export<'_>,
    mut episodes: impl Table<EpisodeLine>,
    mut turns: impl Table<TurnLine>,
) -> Result<Vec<(PathBuf, u64)>, ExportError> {
    export
        .episodes(|sibling, view| {
            let agent = agent_of(export.run, view.iteration);
            let episode = Arc::new(EpisodeLine { run: export.run.id.clone(), agent, sibling, view });
            episodes.add(&episode)?;
            (0..episode.view.turns.len()).try_for_each(|at| turns.add(&TurnLine { episode: episode.clone(), at }))
        })
        .await?;
    Ok(vec![episodes.finish()?, turns.finish()?])
}

/// JSON lines.
struct Lines<R: 'static> {
    columns: &'static [Column<R>],
    file: NewFile,
    rows: u64,
}

impl<R> Table<R> for Lines<R> {
    fn add(&mut self, row: &R) -> Result<(), ExportError> {
        self.rows += 1;
        line(&mut self.file, self.columns.iter().map(|column| (column.name, (column.cell)(row))))
            .map_err(self.file.failed())
    }

    fn finish(self) -> Result<(PathBuf, u64), ExportError> {
        Ok((self.file.finish()?, self.rows))
    }
}

fn line(out: &mut impl Write, cells: impl Iterator<Item = (&'static str, Cell)>) -> io::Result<()> {
    let mut serializer = serde_json::Serializer::new(&mut *out);
    let mut object = serializer.serialize_map(None)?;
    for (name, cell) in cells {
        object.serialize_entry(name, &cell)?;
    }
    object.end()?;
    out.write_all(b"\n")
}
