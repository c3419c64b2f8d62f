use std::collections::BTreeSet;
use std::ops::Bound::{self, Excluded, Included};

use influence_proto::{Algorithm, LoraSpec, Schedule};

use super::MANY;
use crate::config::document::{Dotted, Problem, Section, nearest};
use crate::config::settings::{
    ApiTraining, LONGEST_SUFFIX, LocalTraining, LongRows, RowMode, SelectionLevel, SelectionSettings, StaticData,
    Trainer, TrainingSettings,
};
use crate::dataset::{count_preferences, file_digest};
use crate::selection::Fraction;

/// `selection`, if the rows come from one, has to give what the algorithm needs.
pub(in crate::config) fn training(mut section: Section<'_>, selection: Option<&SelectionSettings>) -> TrainingSettings {
    let by_api = section.choice("backend", &[("local", false), ("api", true)], false);
    let trainer = if by_api { api(&mut section) } else { local(&mut section) };
    let training = TrainingSettings {
        algorithm: algorithm(&mut section, selection, by_api),
        rows: section.choice(
            "rows",
            &[("per_episode", RowMode::PerEpisode), ("per_turn", RowMode::PerTurn)],
            RowMode::PerEpisode,
        ),
        learning_rate_factor: learning_rate_factor(&mut section, &trainer),
        batch_size: section.integer("batch_size", 1..=MANY, 16),
        epochs: section.integer("epochs", 1..=1000, 1),
        trainer,
        static_data: match selection {
            Some(_) => section.optional_section("static").and_then(static_data),
            None => None,
        },
    };
    if training.algorithm != Algorithm::Sft && section.value("rows").is_some() {
        section.report("rows", "is for `algorithm: sft` only; the others have rows of their own");
    }
    for key in ["rows", "learning_rate_factor", "backend"] {
        if selection.is_none() && section.value(key).is_some() {
            section.report(key, "is for experiments only: it is about rollouts and their iterations");
        }
    }
    if matches!(training.algorithm, Algorithm::Kto { .. }) && training.batch_size < 2 {
        section.report("batch_size", "is 1, but KTO compares the rows of a batch; give 2 or more");
    }
    section.finish();
    training
}

fn positive(high: f64) -> (Bound<f64>, Bound<f64>) {
    (Excluded(0.0), Included(high))
}

/// Keys that only workers know.
const LOCAL: [&str; 8] =
    ["lora", "learning_rate", "schedule", "warmup", "weight_decay", "max_grad_norm", "max_length", "long_rows"];

fn local(section: &mut Section<'_>) -> Trainer {
    for key in ["learning_rate_multiplier", "suffix"] {
        if section.value(key).is_some() {
            section.report(key, "is for `backend: api`, and that is `local`: take it out");
        }
    }
    let schedules = [("constant", Schedule::Constant), ("linear", Schedule::Linear), ("cosine", Schedule::Cosine)];
    Trainer::Local(LocalTraining {
        lora: lora(section.section("lora")),
        learning_rate: section.number("learning_rate", positive(10.0), 2e-5),
        schedule: section.choice("schedule", &schedules, Schedule::Constant),
        warmup: section.number("warmup", (Included(0.0), Excluded(1.0)), 0.0),
        weight_decay: section.number("weight_decay", 0.0..=10.0, 0.0),
        max_grad_norm: section.number("max_grad_norm", positive(1e9), 1.0),
        max_length: section.integer("max_length", 1..=MANY, 4096),
        long_rows: section.choice("long_rows", &[("drop", LongRows::Drop), ("cut", LongRows::Cut)], LongRows::Drop),
    })
}

fn api(section: &mut Section<'_>) -> Trainer {
    for key in LOCAL {
        if section.value(key).is_some() {
            let instead = if key == "learning_rate" { ", or give a `learning_rate_multiplier`" } else { "" };
            let message = format!(
                "is for `backend: local`: with `backend: api` the server decides it, and cannot be told; take it out{instead}"
            );
            section.report(key, message);
        }
    }
    let given = section.value("learning_rate_multiplier").is_some();
    let multiplier = section.number("learning_rate_multiplier", positive(1e3), 1.0);
    let suffix = section.text("suffix");
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_".contains(c);
    if let Some(text) = suffix.as_deref()
        && (text.is_empty() || text.len() > LONGEST_SUFFIX || !text.chars().all(plain))
    {
        let shown = text.escape_default();
        section.report(
            "suffix",
            format_args!("must be 1 to {LONGEST_SUFFIX} letters, digits, `-` and `_`, but is `{shown}`"),
        );
    }
    Trainer::Api(ApiTraining { backend: "api", learning_rate_multiplier: given.then_some(multiplier), suffix })
}

fn learning_rate_factor(section: &mut Section<'_>, trainer: &Trainer) -> f64 {
    let unknown = matches!(trainer, Trainer::Api(api) if api.learning_rate_multiplier.is_none());
    if unknown && section.value("learning_rate_factor").is_some() {
        let message = "multiplies a learning rate that the server chooses; give a `learning_rate_multiplier` too";
        section.report("learning_rate_factor", message);
    }
    section.number("learning_rate_factor", positive(10.0), if unknown { 1.0 } else { 0.9 })
}

/// The file's path is relative to the experiment's.
fn static_data(mut section: Section<'_>) -> Option<StaticData> {
    let path = section.required_text("path", "preferences.jsonl");
    let fraction = section.fraction("fraction", Fraction::ZERO);
    if fraction.is_zero() || fraction == Fraction::ONE {
        section.report("fraction", "must be a share above 0 and below 1 of an iteration's rows, as in `1/10`");
    }
    let given = section.path_of("path");
    let path = section.document().folder_of(&section.path_of("path")).join(path);
    if !path.exists() {
        let message = format!(
            "`{}`: there is no file {} yet; put published preferences there, or name another file",
            Dotted(&given),
            path.display()
        );
        let missing = Problem { missing_data: true, ..section.document().problem(&given, message) };
        section.problems().borrow_mut().push(missing);
        section.finish();
        return None;
    }
    let found = count_preferences(&path).map_err(|e| e.to_string()).and_then(|rows| {
        let sha256 = file_digest(&path).map_err(|e| format!("{}: {e}", path.display()))?;
        Ok(StaticData { path: path.clone(), sha256, rows, fraction })
    });
    let found = found.map_err(|problem| section.report("path", format_args!("cannot be used: {problem}"))).ok();
    section.finish();
    found
}

fn algorithm(section: &mut Section<'_>, selection: Option<&SelectionSettings>, by_api: bool) -> Algorithm {
    let positive = positive(1e6);
    let name = section.choice("algorithm", &[("sft", "sft"), ("kto", "kto"), ("dpo", "dpo")], "sft");
    if name != "sft" && selection.is_some_and(|selection| selection.worst.is_zero()) {
        section.report(
            "algorithm",
            format_args!("is {name}, which also learns from the worst; set `selection.worst` above 0"),
        );
    }
    if name == "kto" && by_api {
        let message = "is kto, which fine-tuning APIs do not have; take sft or dpo, or `backend: local`";
        section.report("algorithm", message);
    }
    if name == "dpo" && selection.is_some_and(|selection| selection.level != SelectionLevel::InitialState) {
        let message = "is dpo, which compares siblings; set `selection.level: initial_state`";
        section.report("algorithm", message);
    }
    for other in ["kto", "dpo"] {
        if other != name && section.value(other).is_some() {
            section.report(other, format_args!("is for `algorithm: {other}`, and that is {name}"));
        }
    }
    if name == "sft" {
        return Algorithm::Sft;
    }
    let mut own = section.section(name);
    let beta = own.number("beta", positive, 0.1);
    let algorithm = match name {
        "kto" => Algorithm::Kto {
            beta,
            desirable_weight: own.number("desirable_weight", positive, 1.0),
            target_ratio: own.number("target_ratio", positive, 1.0),
        },
        _ => Algorithm::Dpo { beta },
    };
    own.finish();
    algorithm
}

const TARGETS: [&str; 7] = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"];

fn lora(mut section: Section<'_>) -> LoraSpec {
    let targets = section.texts("targets").unwrap_or_else(|| TARGETS.map(str::to_owned).to_vec());
    for target in &targets {
        if !TARGETS.contains(&target.as_str()) {
            let hint = match nearest(target, TARGETS) {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("there are {}", TARGETS.map(|t| format!("`{t}`")).join(", ")),
            };
            section.report("targets", format_args!("holds `{target}`, which is no projection; {hint}"));
        }
    }
    if targets.is_empty() || targets.iter().collect::<BTreeSet<_>>().len() != targets.len() {
        section.report("targets", "must name one or more projections, each once");
    }
    let lora = LoraSpec {
        rank: section.integer("rank", 1..=4096, 16),
        alpha: section.number("alpha", (Excluded(0.0), Included(1e6)), 32.0),
        dropout: section.number("dropout", (Included(0.0), Excluded(1.0)), 0.1),
        rank_stabilised: section.flag("rank_stabilised", true),
        targets,
    };
    section.finish();
    lora
}
