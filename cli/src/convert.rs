//! `influence convert`: an experiment of the Python benchmark to one of ours.

use std::fs::File;
use std::io::Write as _;

use anyhow::Context;
use comfy_table::{Table, presets};
use influence_coordinator::config::{convert as convert_file, load_models};

use crate::args::ConvertArguments;
use crate::terminal::{harmless, print};

/// Prints the experiment, or writes it; what became of each key goes to stderr.
pub(crate) fn convert(arguments: &ConvertArguments) -> anyhow::Result<()> {
    let models = load_models(&arguments.configs.join("models.yaml"))
        .with_context(|| format!("the models of `--configs {}` cannot be used", arguments.configs.display()))?;
    let converted = convert_file(&arguments.experiment, &models)?;
    let mut table = Table::new();
    table.load_preset(presets::UTF8_FULL_CONDENSED).set_header(["key", "value", "here"]);
    for (key, value, here) in &converted.became {
        table.add_row([key, value, here].map(|text| harmless(text)));
    }
    eprintln!("{table}");
    match &arguments.output {
        None => print(&harmless(&converted.yaml)),
        Some(file) => {
            let mut new = File::create_new(file).with_context(|| format!("{} cannot be written", file.display()))?;
            new.write_all(converted.yaml.as_bytes())
                .with_context(|| format!("{} cannot be written", file.display()))?;
            print(&harmless(&format!("{}: `influence validate` checks it\n", file.display())))
        }
    }
}
