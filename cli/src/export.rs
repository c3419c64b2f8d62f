//! `influence export`: a run as files for other tools.

use clap::ValueEnum as _;
use influence_coordinator::export::{Export, Exported, Format};
use influence_proto::RunId;
use serde_json::json;

use crate::args::{ExportArguments, FormatName};
use crate::stored::{artifacts, existing};
use crate::terminal::{harmless, print};

pub(crate) async fn export(arguments: ExportArguments) -> anyhow::Result<()> {
    let store = existing(&arguments.data).await?;
    let run = store.run(&RunId::new(arguments.run)?).await?;
    let folder = arguments.out.unwrap_or_else(|| arguments.data.data.join(run.id.as_str()).join("export"));
    let artifacts = if arguments.formats.contains(&FormatName::Adapters) {
        Some(artifacts(&arguments.data, arguments.artifacts.as_ref(), &run.id).await?)
    } else {
        None
    };
    let overwrite = arguments.overwrite;
    let export = Export { store: &*store, artifacts: artifacts.as_ref(), run: &run, folder: &folder, overwrite };
    let mut written = Vec::new();
    let mut formats = arguments.formats;
    formats.sort_unstable();
    formats.dedup();
    for format in formats {
        let files = export.write(format.into()).await?;
        if files.is_empty() {
            let name = format.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default();
            eprintln!("{name}: run `{}` has nothing of this kind yet", run.id);
        }
        if !arguments.json {
            print(&files.iter().map(line).collect::<String>())?;
        }
        written.extend(files);
    }
    if arguments.json {
        return print(&format!("{:#}\n", json!({ "run": run.id, "files": written })));
    }
    Ok(())
}

fn line(file: &Exported) -> String {
    let what = match file.format {
        Format::Jsonl | Format::Parquet | Format::Trl | Format::Openai | Format::Csv => "rows",
        Format::Inspect => "samples",
        Format::Tensorboard => "points",
        Format::Adapters => "files",
    };
    harmless(&format!("{}  {} {what}\n", file.path.display(), file.rows))
}
