//! `influence doctor`: whether an experiment can run here, found out before it does.

mod machine;
mod roles;

use std::collections::BTreeMap;
use std::sync::Arc;

use comfy_table::{Table, presets};
use influence_coordinator::config::{Experiment, Trainer};
use influence_coordinator::planning::{Phase, plan};
use influence_proto::{EpisodeSpec, RunId, Speaker};
use influence_worker::backend::{ApiServers, Backend};
use serde_json::json;

use crate::args::DoctorArguments;
use crate::place;
use crate::terminal::{harmless, print};

/// How much a finding matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Ok,
    /// Worth knowing.
    Note,
    /// The run would fail, or be worth nothing.
    Bad,
}

impl Verdict {
    const fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Note => "note",
            Self::Bad => "BAD",
        }
    }
}

/// What was looked at, and what was found.
#[derive(Debug, Default)]
struct Report {
    findings: Vec<(String, Verdict, String)>,
}

impl Report {
    fn say(&mut self, about: impl Into<String>, verdict: Verdict, finding: impl Into<String>) {
        self.findings.push((about.into(), verdict, finding.into()));
    }

    /// Of a check that may fail.
    fn check(&mut self, about: &str, found: anyhow::Result<String>) {
        match found {
            Ok(finding) => self.say(about, Verdict::Ok, finding),
            Err(error) => self.say(about, Verdict::Bad, format!("{error:#}")),
        }
    }

    fn bad(&self) -> usize {
        self.findings.iter().filter(|(_, verdict, _)| *verdict == Verdict::Bad).count()
    }

    fn print(&self, as_json: bool) -> anyhow::Result<()> {
        if as_json {
            let entry = |(about, verdict, finding): &(String, Verdict, String)| json!({"about": about, "verdict": verdict.name().to_lowercase(), "finding": finding});
            let all: Vec<_> = self.findings.iter().map(entry).collect();
            return print(&format!("{:#}\n", serde_json::Value::from(all)));
        }
        let mut table = Table::new();
        table.load_preset(presets::UTF8_FULL_CONDENSED).set_header(["", "", "found"]);
        table.set_content_arrangement(comfy_table::ContentArrangement::Dynamic);
        for (about, verdict, finding) in &self.findings {
            table.add_row([harmless(about), verdict.name().to_owned(), harmless(finding)]);
        }
        print(&format!("{table}\n"))
    }
}

pub(crate) async fn doctor(arguments: DoctorArguments) -> anyhow::Result<()> {
    let DoctorArguments { experiment, set, configs, .. } = &arguments;
    let experiment = Experiment::load(experiment, configs.as_deref(), set, None, None)?;
    let specs = specs(&experiment)?;
    let mut report = Report::default();
    let counted = format!("{} iterations; {} episodes in the first phase", experiment.iterations, specs.len());
    report.say("experiment", Verdict::Ok, counted);
    for note in &experiment.notes {
        report.say("experiment", Verdict::Note, note.to_string());
    }
    machine::look(&mut report, &arguments).await;
    let servers = ApiServers::default();
    let models = models(&mut report, &experiment, &arguments, &servers).await;
    fine_tuning(&mut report, &experiment, &servers).await;
    if let Some(spec) = telling(&specs) {
        let turn = roles::ask(&mut report, spec, &models).await;
        if turn > 0 {
            let dollars = turn as f64 / 1e9;
            let most = dollars * f64::from(spec.max_turns) * specs.len() as f64;
            let finding = format!("${dollars:.5} for this first turn; about ${most:.2} or more for the first phase");
            report.say("cost", Verdict::Ok, finding);
        }
    }
    report.print(arguments.json)?;
    let bad = report.bad();
    anyhow::ensure!(bad == 0, "{bad} of {} findings are bad: mend them before the run", report.findings.len());
    Ok(())
}

/// Dollars.
fn per_million(microdollars: u64) -> f64 {
    microdollars as f64 / 1e6
}

/// Whether the agent's server lets this key see fine-tuning jobs. To begin one would cost something.
async fn fine_tuning(report: &mut Report, experiment: &Experiment, servers: &ApiServers) {
    let agent = experiment.models.get(&experiment.roles.agent.model).and_then(|model| model.api());
    let (Some(api), Trainer::Api(_)) = (agent, &experiment.training.trainer) else { return };
    // A server that cannot be opened has a finding of its own.
    let Ok(backend) = servers.open(api).await else { return };
    let server = backend.fine_tuning();
    let found = server.look().await.map(|()| format!("{} lists fine-tuning jobs; none was begun", server.url()));
    report.check("fine-tuning", found.map_err(Into::into));
    match api.price.map(|price| price.training) {
        Some(Some(price)) => {
            let finding = format!("${} per million tokens that a job bills", per_million(price));
            report.say("fine-tuning", Verdict::Ok, finding);
        }
        _ => report.say(
            "fine-tuning",
            Verdict::Note,
            "no price is given (`price.training`): jobs cost nothing in the figures",
        ),
    }
}

/// The episodes of the first phase that has some.
fn specs(experiment: &Experiment) -> anyhow::Result<Vec<EpisodeSpec>> {
    let run = RunId::new(experiment.name.clone())?;
    let phase = if experiment.iterations > 0 { Phase::Train } else { Phase::Evaluate };
    Ok(plan(experiment, &run, phase, 0, None)?)
}

/// An episode that shows most of what may go wrong: one with messages of tools, if there is one.
fn telling(specs: &[EpisodeSpec]) -> Option<&EpisodeSpec> {
    specs.iter().find(|spec| with_tools(spec)).or_else(|| specs.first())
}

fn with_tools(spec: &EpisodeSpec) -> bool {
    spec.opening.iter().any(|message| matches!(message.speaker, Speaker::ToolCall | Speaker::ToolResponse))
}

/// Every model that the experiment uses, each opened once.
async fn models(
    report: &mut Report,
    experiment: &Experiment,
    arguments: &DoctorArguments,
    servers: &ApiServers,
) -> BTreeMap<String, Arc<dyn Backend>> {
    let mut opened = BTreeMap::new();
    for (name, spec) in &experiment.models {
        let about = format!("model {name}");
        let where_from = match spec.api() {
            Some(api) => {
                let price = match api.price {
                    Some(price) => {
                        format!("${} and ${} per million tokens", per_million(price.input), per_million(price.output))
                    }
                    None => "no price is given".to_owned(),
                };
                format!("{} answers for `{}`; {price}", api.url, api.model)
            }
            None => "loaded here".to_owned(),
        };
        match place::backend(spec.clone(), arguments.cache.as_deref(), &arguments.models, servers).await {
            Ok(backend) => {
                report.say(about, Verdict::Ok, where_from);
                opened.insert(name.clone(), backend);
            }
            Err(error) => report.say(about, Verdict::Bad, format!("{error:#}")),
        }
    }
    opened
}
