//! A folder with everything a run needs, around a tiny random model: the plumbing is real, only the
//! model is too small to make sense.
#![allow(dead_code, clippy::unwrap_used, clippy::expect_used, reason = "shared by several test programs")]

use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use tempfile::TempDir;

pub(crate) mod acknowledged;
pub(crate) mod api;
pub(crate) mod http;
pub(crate) mod outcome;
pub(crate) mod processes;
pub(crate) mod servers;

#[path = "../../../engine/tests/tiny/mod.rs"]
mod tiny;

const MASTER: &str = r"
state_config:
  initial_state:
    valid_transitions:
      # What the tiny model answers nearly always: conversations go on to the turn limit.
      'yes': {next_state: initial_state}
      'no': {next_state: terminal_state}
    default_transition: 'yes'
    terminal: false
    history: []
  terminal_state:
    valid_transitions: null
    default_transition: terminal_state
    terminal: true
character_config:
  system_prompt: You are {name} and talk with {agent_name}.
agent_config:
  system_prompt: You are {agent_name}.
  max_tokens: 12
  temperature: 1
preference_model_config:
  system_prompt: Rate {agent_name}.
  prompt_suffix: From 1 to 10?
  valid_tokens: ['1', '2', '3', '4', '5', '6', '7', '8', '9', '10']
transition_model_config:
  system_prompt: Does {name} stay?
  prompt_suffix: yes or no?
influence_detector_model_config:
  system_prompt: Is {agent_name} harmful?
  prompt_suffix: 0 or 1?
  valid_tokens: [0, 1]
generation_config:
  system_prompt: You write what users say to {agent_name}.
  prompt_suffix: Write another message of {name}.
possible_env_vars:
  agent_name: [Ada, Bo]
";

const EXPERIMENT: &str = r"
name: tiny
seed: 5
iterations: 2
model: tiny
environments:
  class: talk
  initial_states: 3
  siblings: 2
  held_out: 0.25
  max_turns: 2
roles:
  agent: {max_tokens: 12}
  environment: {max_tokens: 8}
  influence: {enabled: true}
scoring: {min_mass: 0}
selection: {level: environment, best: 1/3}
training:
  lora: {rank: 4, alpha: 8, dropout: 0.1}
  learning_rate: 1e-3
  batch_size: 2
  max_length: 512
evaluation: {initial_states: 1, at: [first, last]}
";

/// Options that make the experiment large enough to outlast what tests do to its processes.
pub(crate) const LARGE: [&str; 16] = [
    "--set",
    "environments.initial_states=6",
    "--set",
    "environments.siblings=4",
    "--set",
    "environments.max_turns=4",
    "--set",
    "roles.agent.max_tokens=24",
    "--set",
    "roles.environment.max_tokens=16",
    "--set",
    "leases.seconds=2",
    "--set",
    "training.max_length=2048",
    // What tests kill is no fault of the episodes.
    "--set",
    "attempts=100",
];

/// The engine's tiny model with room for a conversation: its tokenizer makes a token of nearly every byte.
fn write_model(folder: &Path) {
    tiny::write_folder(folder, &tiny::weights(7));
    let mut config = tiny::config_json();
    config["max_position_embeddings"] = 4096.into();
    std::fs::write(folder.join("config.json"), config.to_string()).unwrap();
}

/// A place of its own for one test.
pub(crate) struct Lab {
    folder: TempDir,
}

impl Lab {
    /// Configuration, two environments and a tiny model on disk.
    pub(crate) fn new() -> Self {
        let lab = Self { folder: tempfile::tempdir().unwrap() };
        write_model(&lab.path("model"));
        lab.write(
            "configs/models.yaml",
            &format!("models:\n  tiny:\n    dtype: f32\n    sources:\n      - path: {}\n", lab.path("model").display()),
        );
        lab.write("configs/environments/talk/_master_config.yaml", MASTER);
        for name in ["calm_kim", "loud_lee"] {
            let histories: String = (0..8)
                .map(|i| format!("  {i}:\n    - {{role: environment, content: 'Hello {i}, I am {{name}}.'}}\n"))
                .collect();
            lab.write(
                &format!("configs/environments/talk/{name}.yaml"),
                &format!("name: {name}\nhistories:\n{histories}"),
            );
        }
        lab.write("configs/experiments/tiny.yaml", EXPERIMENT);
        lab
    }

    /// A path below the lab.
    pub(crate) fn path(&self, below: &str) -> PathBuf {
        self.folder.path().join(below)
    }

    /// Writes a file below the lab.
    pub(crate) fn write(&self, below: &str, text: &str) -> PathBuf {
        let path = self.path(below);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
        path
    }

    /// The command with the lab's folders, not yet started.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_influence"));
        command.args(arguments).current_dir(self.folder.path());
        command.env("INFLUENCE_DATA", self.path("runs")).env("INFLUENCE_CACHE", self.path("cache"));
        command.env("INFLUENCE_LOG", "warn").env("RAYON_NUM_THREADS", "2");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Runs the command to its end.
    pub(crate) fn influence(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// Starts the command.
    pub(crate) fn spawn(&self, arguments: &[&str]) -> Child {
        self.command(arguments).spawn().unwrap()
    }

    /// Standard output of a command that must succeed.
    pub(crate) fn succeed(&self, arguments: &[&str]) -> String {
        let output = self.influence(arguments);
        assert!(output.status.success(), "{arguments:?} failed:\n{}", stderr(&output));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Standard error of a command that must fail with an error of its own, not a panic.
    pub(crate) fn fail(&self, arguments: &[&str]) -> String {
        let output = self.influence(arguments);
        let text = stderr(&output);
        assert!(!output.status.success(), "{arguments:?} succeeded");
        assert!(!text.contains("panicked"), "{text}");
        assert!(text.contains("error"), "{text}");
        text
    }
}

pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A conversation, as files have it.
pub(crate) const MESSAGES: &str =
    r#"[{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}]"#;

/// Reads what a command printed.
pub(crate) fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|e| panic!("{e}: {text}"))
}
