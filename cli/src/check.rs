//! `influence validate` and `influence schema`.

use std::path::{Path, PathBuf};

use anyhow::Context;
use influence_coordinator::config::{SchemaOf, schema as schema_of, validate as check};
use influence_coordinator::environments::is_class;

use crate::args::{SchemaName, ValidateArguments};
use crate::terminal::{harmless, print};

/// Checks every file and reports all problems before failing. Of a folder that is no environment class, all that is in it.
pub(crate) fn validate(arguments: &ValidateArguments) -> anyhow::Result<()> {
    let files = arguments.files.iter().map(|file| below(file)).collect::<anyhow::Result<Vec<_>>>()?.concat();
    let mut wrong = 0;
    for file in &files {
        match check(file, arguments.configs.as_deref()) {
            Ok(valid) => {
                print(&harmless(&format!("{}: {}\n", file.display(), valid.what)))?;
                for note in valid.notes {
                    print(&harmless(&format!("  note: {note}\n")))?;
                }
            }
            Err(problems) => {
                wrong += 1;
                eprintln!("{}", harmless(&format!("{problems}")));
            }
        }
    }
    anyhow::ensure!(!files.is_empty(), "there is no file to check in {}", arguments.files[0].display());
    anyhow::ensure!(wrong == 0, "{wrong} of {} are not valid", files.len());
    if files.len() > arguments.files.len() {
        print(&format!("{} are valid\n", files.len()))?;
    }
    Ok(())
}

/// The path, or in the place of a folder that is no class the classes and YAML files in it.
fn below(path: &Path) -> anyhow::Result<Vec<PathBuf>> {
    if !path.is_dir() || is_class(path) {
        return Ok(vec![path.to_owned()]);
    }
    let entries = std::fs::read_dir(path).with_context(|| format!("{} cannot be listed", path.display()))?;
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    let is_ours = |path: &PathBuf| path.is_dir() || path.extension().is_some_and(|e| e == "yaml" || e == "yml");
    Ok(paths.iter().filter(|path| is_ours(path)).map(|path| below(path)).collect::<anyhow::Result<Vec<_>>>()?.concat())
}

/// Prints a JSON Schema.
pub(crate) fn schema(of: SchemaName) -> anyhow::Result<()> {
    let of = match of {
        SchemaName::Experiment => SchemaOf::Experiment,
        SchemaName::Environment => SchemaOf::Environment,
        SchemaName::Evaluation => SchemaOf::Evaluation,
    };
    print(&format!("{:#}\n", schema_of(of)))
}
