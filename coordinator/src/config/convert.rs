//! Experiments of the Python benchmark (arXiv 2411.02306), whose files are one flat mapping, to ours.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::document::{Document, EXPERIMENT, Problem, Problems, Step, nearest, scalar_text};
use super::models::ModelTable;
use influence_proto::ModelSource;

const PARENT: &str = "parent_config_to_override";

/// An experiment of ours, and what became of the keys of the other.
#[derive(Debug)]
pub struct Converted {
    /// The experiment as YAML.
    pub yaml: String,
    /// Key, value, and what became of it, in the file's order.
    pub became: Vec<(String, String, String)>,
}

/// Converts an experiment file and those that it overrides. `models` is our model table, where a model of theirs is looked
/// up by its repository.
///
/// # Errors
/// A file that cannot be read, that is no such experiment, or whose parent is not found.
pub fn convert(path: &Path, models: &ModelTable) -> Result<Converted, Problems> {
    let (document, flat) = read(path, 0)?;
    let unknown: Vec<Problem> = flat.keys().filter(|key| !is_known(key)).map(|key| unknown(&document, key)).collect();
    if !unknown.is_empty() {
        let mut problems = Problems::none();
        unknown.into_iter().for_each(|problem| problems.push(problem));
        return Err(problems);
    }
    let mut writer = Writer { flat, models, experiment: json!({}), became: Vec::new() };
    writer.all();
    let Writer { experiment, became, .. } = writer;
    let yaml = serde_yaml::to_string(&experiment)
        .map_err(|error| Problem::in_file(path, format!("cannot be written as YAML: {error}")))?;
    Ok(Converted { yaml, became })
}

/// The file's keys over its parent's.
fn read(path: &Path, depth: usize) -> Result<(Document, Map<String, Value>), Problem> {
    let document = Document::read(path, EXPERIMENT)?;
    let Value::Object(mut own) = document.root().clone() else {
        return Err(Problem::in_file(path, "is no experiment: it must be a mapping of keys"));
    };
    let Some(parent) = own.remove(PARENT) else {
        return Ok((document, own));
    };
    let name = scalar_text(&parent).unwrap_or_default();
    let found = find(path, &name).filter(|_| depth < 8).ok_or_else(|| {
        let message = format!("`{PARENT}` is `{name}`, but no such file is in this folder, nor in those around it");
        document.problem(&[Step::Key(PARENT.into())], message)
    })?;
    let (_, mut all) = read(&found, depth + 1)?;
    for (key, value) in own {
        all.insert(key, value);
    }
    Ok((document, all))
}

/// Parents are named without a folder: they are looked for beside the file, then in the folders around it.
fn find(path: &Path, name: &str) -> Option<PathBuf> {
    let folder = path.parent().unwrap_or(Path::new(""));
    let here = folder.join(name);
    if here.is_file() {
        return Some(here);
    }
    let above = folder.parent()?;
    let mut places = vec![above.to_owned()];
    places.extend(fs::read_dir(above).ok()?.flatten().map(|entry| entry.path()));
    places.into_iter().map(|place| place.join(name)).find(|file| file.is_file())
}

/// Keys that say how that program was to run, not what: and why they are not needed.
const IDLE: [(&str, &str); 26] = [
    ("devices", "workers say what they run on (`worker --device`)"),
    ("num_envs_per_device", "a worker says how many conversations it holds (`--slots`)"),
    ("separate_agent_env_devices", "workers hold all models of a run"),
    ("accelerate_config_type", "training runs on one worker"),
    ("accelerate_config", "training runs on one worker"),
    ("per_device_train_batch_size", "rows go through one at a time; `training.batch_size` is the effective size"),
    ("gradient_checkpointing", "always so here"),
    ("inference_quantization", "a model's files say in what it is kept"),
    ("log_to_wandb", "runs are kept in the store"),
    ("report_to", "runs are kept in the store"),
    ("logging_steps", "every step is kept"),
    ("optim", "AdamW"),
    ("max_prompt_length", "`training.max_length` bounds a row"),
    ("max_completion_length", "`training.max_length` bounds a row"),
    ("max_tokens_per_minute", "only of models behind an API"),
    ("max_requests_per_minute", "only of models behind an API"),
    ("override_initial_traj_path", "a run rolls out its own conversations"),
    ("default_config_path", "not used"),
    ("enable_probes", "there are no probes here"),
    ("truth_probe_dir", "there are no probes here"),
    ("truth_probe_layers", "there are no probes here"),
    ("deception_probe_dir", "there are no probes here"),
    ("deception_probe_layers", "there are no probes here"),
    ("sycophancy_probe_dir", "there are no probes here"),
    ("sycophancy_probe_layers", "there are no probes here"),
    ("training_arg_keys", "not used"),
];

/// Keys whose value stands as it is at another place.
const MOVED: [(&str, &str); 15] = [
    ("env_class", "environments.class"),
    ("n_subenvs_to_sample_per_env", "environments.initial_states"),
    ("n_trajs_to_sample_per_subenv", "environments.siblings"),
    ("subenv_choice_scheme", "environments.order"),
    ("max_turns", "environments.max_turns"),
    ("agent_max_tokens", "roles.agent.max_tokens"),
    ("allow_id_to_see_tool_calls", "roles.influence.sees_tools"),
    ("num_train_epochs", "training.epochs"),
    ("effective_batch_size", "training.batch_size"),
    ("learning_rate", "training.learning_rate"),
    ("across_iter_lr_mult_factor", "training.learning_rate_factor"),
    ("max_length", "training.max_length"),
    ("max_grad_norm", "training.max_grad_norm"),
    ("lora_r", "training.lora.rank"),
    ("lora_dropout", "training.lora.dropout"),
];

/// Keys that each have a rule of their own below.
const RULED: [&str; 22] = [
    "run_name",
    "seed",
    "iterations",
    "model_names",
    "env_fractions",
    "envs",
    "final_reward",
    "pm_length_penalty",
    "traj_selection_level",
    "frac_selected_trajs",
    "veto_level",
    "veto_prompt_type",
    "allow_negative_training_on_veto",
    "lora_alpha",
    "lr_scheduler_type",
    "beta",
    "target_ratio",
    "static_dataset_name",
    "frac_static_data_points",
    "batch_size",
    "n_train_epochs",
    "learning_rate_multiplier",
];

fn is_known(key: &str) -> bool {
    RULED.contains(&key) || MOVED.iter().chain(&IDLE).any(|(known, _)| *known == key)
}

fn unknown(document: &Document, key: &str) -> Problem {
    let all = RULED.into_iter().chain(MOVED.iter().chain(&IDLE).map(|(known, _)| *known));
    let near = nearest(key, all).map(|near| format!("; did you mean `{near}`?")).unwrap_or_default();
    document.problem(&[Step::Key(key.into())], format!("`{key}` is no key of such an experiment{near}"))
}

struct Writer<'a> {
    flat: Map<String, Value>,
    models: &'a ModelTable,
    experiment: Value,
    became: Vec<(String, String, String)>,
}

impl Writer<'_> {
    fn all(&mut self) {
        // The order of an experiment of ours.
        let name = self.text("run_name").unwrap_or_else(|| "converted".into());
        self.put("run_name", "name", name.to_lowercase().replace(|c: char| !c.is_ascii_alphanumeric(), "-").into());
        if !self.flat.get("seed").is_none_or(Value::is_null) {
            self.keep("seed", "seed");
        }
        self.keep("iterations", "iterations");
        self.models();
        self.environments();
        self.rewards();
        self.selection();
        self.training();
        for (key, reason) in IDLE {
            if self.flat.contains_key(key) {
                self.note(key, format!("has no meaning here: {reason}"));
            }
        }
        let order: Vec<String> = self.flat.keys().cloned().collect();
        for key in &order {
            if !self.became.iter().any(|(told, ..)| told == key) {
                self.note(key, "nothing: what it asks for is so by default here".to_owned());
            }
        }
        self.became.sort_by_key(|(key, ..)| order.iter().position(|other| other == key));
    }

    fn models(&mut self) {
        let names = self.flat.get("model_names").and_then(Value::as_object).cloned().unwrap_or_default();
        let of = |role: &str| names.get(role).and_then(Value::as_str);
        let roles = [
            ("environment", "env"),
            ("preference", "env-preference"),
            ("transition", "env-transition"),
            ("influence", "env-influence"),
        ];
        let agent = of("agent").unwrap_or_default().to_owned();
        let mut told = Vec::new();
        let model = self.model(&agent, &mut told);
        self.set("model", model.into());
        for (role, key) in roles {
            let repository = of(key).or(of("env")).unwrap_or(&agent).to_owned();
            if repository != agent {
                let model = self.model(&repository, &mut told);
                self.set(&format!("roles.{role}.model"), model.into());
            }
        }
        self.note("model_names", format!("model, roles.*.model: {}", told.join("; ")));
    }

    /// Our name of a model, by the repository that its weights are from.
    fn model(&self, repository: &str, told: &mut Vec<String>) -> String {
        let is_it =
            |source: &ModelSource| matches!(source, ModelSource::Hub { repository: other, .. } if other == repository);
        let known = self.models.iter().find(|(_, spec)| spec.sources.iter().any(is_it));
        let name = match known {
            Some((name, _)) => name.clone(),
            None => repository.rsplit('/').next().unwrap_or(repository).to_lowercase(),
        };
        let missing = if known.is_some() { "" } else { " (add it to models.yaml)" };
        let line = format!("{repository} is `{name}`{missing}");
        if !told.contains(&line) {
            told.push(line);
        }
        name
    }

    fn environments(&mut self) {
        for (key, place) in
            MOVED.iter().filter(|(_, place)| place.starts_with("environments") || place.starts_with("roles"))
        {
            if !self.flat.get(*key).is_none_or(Value::is_null) {
                self.keep(key, place);
            }
        }
        if self.flat.get("env_fractions").is_some_and(Value::is_object) {
            self.keep("env_fractions", "environments.fractions");
        }
        match self.flat.get("envs") {
            Some(Value::Null) | None => {}
            Some(_) => self.note("envs", "has no counterpart: keep only those files in the class's folder".into()),
        }
        // That program holds nothing out, and evaluates on what it trains on.
        self.set("environments.held_out", 0.into());
        self.set("evaluation.at", json!([]));
        self.set("roles.influence.enabled", true.into());
        if let Some(prompts) = self.text("veto_prompt_type").filter(|prompts| !prompts.is_empty()) {
            self.put("veto_prompt_type", "roles.influence.prompts", prompts.into());
        }
    }

    fn rewards(&mut self) {
        if let Some(last) = self.flat.get("final_reward").and_then(Value::as_bool) {
            self.put("final_reward", "reward.turns", if last { "final" } else { "mean" }.into());
        }
        match self.flat.get("pm_length_penalty") {
            Some(Value::Null) | None => {}
            Some(_) => self.keep("pm_length_penalty", "reward.length_penalty"),
        }
    }

    fn selection(&mut self) {
        if let Some(level) = self.text("traj_selection_level") {
            let ours = match level.as_str() {
                "subenv" => "initial_state",
                "env" => "environment",
                "envclass" => "environment_class",
                // For `validate` to refuse by name.
                other => other,
            };
            self.put("traj_selection_level", "selection.level", ours.into());
        }
        if let Some(share) = self.flat.get("frac_selected_trajs").cloned() {
            self.put("frac_selected_trajs", "selection.best", share.clone());
            if self.is_kto() {
                self.set("selection.worst", share);
                self.note("frac_selected_trajs", "selection.best and selection.worst".into());
            }
        }
        match self.flat.get("veto_level") {
            Some(Value::Null) | None => {}
            Some(_) => {
                self.keep("veto_level", "selection.veto.threshold");
                if self.flat.contains_key("allow_negative_training_on_veto") {
                    self.keep("allow_negative_training_on_veto", "selection.veto.negatives_on_vetoed");
                }
            }
        }
    }

    fn is_kto(&self) -> bool {
        self.flat.contains_key("beta")
    }

    fn training(&mut self) {
        if self.is_kto() {
            self.set("training.algorithm", "kto".into());
            self.keep("beta", "training.kto.beta");
            self.keep("target_ratio", "training.kto.target_ratio");
        } else {
            // That program trains the first reply of a conversation as often as it has turns.
            self.set("training.rows", "per_turn".into());
        }
        for (key, place) in MOVED.iter().filter(|(_, place)| place.starts_with("training")) {
            if self.flat.contains_key(*key) {
                self.keep(key, place);
            }
        }
        if self.flat.contains_key("lora_alpha") {
            self.keep("lora_alpha", "training.lora.alpha");
            self.set("training.lora.rank_stabilised", true.into());
        }
        if let Some(schedule) = self.text("lr_scheduler_type") {
            self.put("lr_scheduler_type", "training.schedule", schedule.into());
        }
        for key in ["batch_size", "n_train_epochs", "learning_rate_multiplier"] {
            if self.flat.contains_key(key) {
                self.note(key, "is for training behind an API, which there is not yet: set `training` by hand".into());
            }
        }
        if self.flat.get("frac_static_data_points").and_then(Value::as_f64).is_some_and(|share| share > 0.0) {
            let dataset = self.text("static_dataset_name").unwrap_or_else(|| "PKU-Alignment/PKU-SafeRLHF".into());
            let file = format!("{}.parquet", dataset.rsplit('/').next().unwrap_or_default().to_lowercase());
            self.put("static_dataset_name", "training.static.path", file.clone().into());
            self.note(
                "static_dataset_name",
                format!("training.static.path: put {dataset} beside the experiment as {file}"),
            );
            self.keep("frac_static_data_points", "training.static.fraction");
        }
    }

    fn text(&self, key: &str) -> Option<String> {
        self.flat.get(key).and_then(scalar_text)
    }

    /// Moves a value as it is.
    fn keep(&mut self, key: &str, place: &str) {
        if let Some(value) = self.flat.get(key).cloned() {
            self.put(key, place, value);
        }
    }

    fn put(&mut self, key: &str, place: &str, value: Value) {
        let shown =
            if value.is_object() { String::new() } else { format!(": {}", scalar_text(&value).unwrap_or_default()) };
        self.note(key, format!("{place}{shown}"));
        self.set(place, value);
    }

    fn note(&mut self, key: &str, what: String) {
        let shown = self
            .flat
            .get(key)
            .map_or_else(String::new, |value| scalar_text(value).unwrap_or_else(|| value.to_string()));
        self.became.retain(|(other, ..)| other != key);
        self.became.push((key.to_owned(), shown, what));
    }

    fn set(&mut self, place: &str, value: Value) {
        let mut at = &mut self.experiment;
        for key in place.split('.') {
            if !at.is_object() {
                *at = json!({});
            }
            at = &mut at[key];
        }
        *at = value;
    }
}
