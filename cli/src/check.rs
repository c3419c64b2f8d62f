//! `influence validate` and `influence schema`.

use influence_coordinator::config::{SchemaOf, schema as schema_of, validate as check};

use crate::args::{SchemaName, ValidateArguments};
use crate::terminal::{harmless, print};

/// Checks every file and reports all problems before failing.
pub(crate) fn validate(arguments: &ValidateArguments) -> anyhow::Result<()> {
    let mut wrong = 0;
    for file in &arguments.files {
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
    anyhow::ensure!(wrong == 0, "{wrong} of {} are not valid", arguments.files.len());
    Ok(())
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
