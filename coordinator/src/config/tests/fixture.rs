use std::path::PathBuf;

use tempfile::TempDir;

use crate::config::{Experiment, LocalTraining, Problems, Trainer, TrainingSettings};
use crate::environments::EnvironmentClass;

/// A `configs` folder of its own: a class `clinic` of three environments with eight initial states
/// each, and a model table.
pub(crate) struct Configs {
    folder: TempDir,
}

const MASTER: &str = r#"
state_config:
  initial_state:
    valid_transitions:
      'yes': {next_state: over}
      no: {next_state: initial_state}
      wait: {next_state: later}
    default_transition: 'no'
    terminal: false
    history: []
  later:
    valid_transitions:
      yes: {next_state: over}
      no: {next_state: later}
    default_transition: no
    terminal: false
    history:
      - {role: environment_system, content: " Later: {char_action} "}
  over:
    possible_state_vars:
    valid_transitions: null
    terminal: true
    default_transition: over
agent_config: {system_prompt: "You are {agent_name}. Talk about {topic}. ", max_tokens: 200, temperature: 0.5}
character_config: {system_prompt: " You ask {agent_name} about {topic}, {mood}. "}
preference_model_config:
  system_prompt: " Rate {agent_name}. "
  prompt_suffix: "On {topic}: 1 to 10? "
  valid_tokens: ['1', 2, 3, 4, 5, 6, 7, 8, 9, 10]
  perspective: Third_Person
transition_model_config: {system_prompt: "Is it over?", prompt_suffix: "yes or no?"}
influence_detector_model_config:
  system_prompt: Harmful?
  prompt_suffix: 0 or 1?
  valid_tokens: [0, 1]
  five_point_system_prompt: How harmful?
  five_point_prompt_suffix: 1 to 5?
possible_env_vars:
  agent_name: [Ada, Bo, Cy]
  mood: [calm, tired]
"#;

const MODELS: &str =
    "models:\n  tiny: {dtype: f32, sources: [{path: tiny.gguf}]}\n  large: {sources: [{hub: {repository: o/n}}]}\n";

pub(crate) const ENVIRONMENT_HEAD: &str = "topic: smoking\nchar_action1: better\nchar_action2: worse\n";

/// The settings of a worker's training.
pub(crate) fn local(training: &TrainingSettings) -> &LocalTraining {
    match &training.trainer {
        Trainer::Local(local) => local,
        Trainer::Api(api) => panic!("{api:?}"),
    }
}

impl Configs {
    pub(crate) fn new() -> Self {
        let configs = Self { folder: TempDir::new().unwrap() };
        configs.write("models.yaml", MODELS);
        configs.write("environments/clinic/_master_config.yaml", MASTER);
        for name in ["gameable_smoking", "ordinary_smoking"] {
            let histories: String = (1..=8)
                .map(|i| format!("  {i}:\n    - {{role: environment, content: \" State {i} of {{topic}} \"}}\n"))
                .collect();
            let text = format!("{ENVIRONMENT_HEAD}histories:\n{histories}");
            configs.write(&format!("environments/clinic/{name}.yaml"), &text);
        }
        let histories: Vec<String> = (1..=8)
            .map(|i| format!(r#""{i}": [{{"role": "environment", "content": "Debt {i} \ud83d\ude00"}}]"#))
            .collect();
        let json = format!(
            r#"{{"topic": "debt", "char_action1": "a", "char_action2": "b", "histories": {{{}}}}}"#,
            histories.join(", ")
        );
        configs.write("environments/clinic/ordinary_debt.json", &json);
        configs
    }

    pub(crate) fn path(&self, file: &str) -> PathBuf {
        self.folder.path().join(file)
    }

    pub(crate) fn write(&self, file: &str, text: &str) {
        let path = self.path(file);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    /// Changes a file; the text to replace must be there.
    pub(crate) fn edit(&self, file: &str, from: &str, to: &str) {
        let text = std::fs::read_to_string(self.path(file)).unwrap();
        assert!(text.contains(from), "{from:?} is not in {file}");
        self.write(file, &text.replacen(from, to, 1));
    }

    /// Loads an experiment: `rest` follows the keys that must be there.
    pub(crate) fn load(&self, rest: &str, set: &[(&str, &str)]) -> Result<Experiment, Problems> {
        self.load_text(&format!("name: test\nmodel: tiny\n{rest}"), set)
    }

    pub(crate) fn load_text(&self, text: &str, set: &[(&str, &str)]) -> Result<Experiment, Problems> {
        self.write("experiments/test.yaml", text);
        let set: Vec<(String, String)> = set.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect();
        Experiment::load(&self.path("experiments/test.yaml"), None, &set, None, None)
    }

    pub(crate) fn experiment(&self, rest: &str) -> Experiment {
        self.load(rest, &[]).unwrap_or_else(|problems| panic!("{problems}"))
    }

    /// What is wrong, with paths relative to the folder.
    pub(crate) fn wrong(&self, rest: &str, set: &[(&str, &str)]) -> String {
        self.relative(&self.load(rest, set).map(|_| ()).expect_err("it must be refused"))
    }

    /// What is wrong with the class `clinic`.
    pub(crate) fn wrong_class(&self) -> String {
        let class = EnvironmentClass::load(&self.path("environments/clinic"));
        self.relative(&class.map(|_| ()).expect_err("it must be refused"))
    }

    pub(crate) fn relative(&self, problems: &Problems) -> String {
        problems.to_string().replace(&format!("{}/", self.folder.path().display()), "")
    }
}

pub(crate) const CLINIC: &str = "environments: {class: clinic}\n";
