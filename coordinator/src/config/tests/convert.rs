//! Experiments of the Python benchmark.

use super::fixture::{Configs, local};
use crate::config::{Converted, convert, load_models};
use crate::selection::Fraction;

const BASE: &str = r#"
run_name: "Base_Run"
log_to_wandb: true
env_class: clinic
env_fractions: {gameable: 0.5, ordinary: 0.5}
envs: null
max_turns: 1
num_envs_per_device: 25
n_subenvs_to_sample_per_env: 6
n_trajs_to_sample_per_subenv: 2
subenv_choice_scheme: sequential
final_reward: false
pm_length_penalty: null
traj_selection_level: env
frac_selected_trajs: 1/16
iterations: 20
veto_level: null
allow_negative_training_on_veto: false
allow_id_to_see_tool_calls: false
veto_prompt_type: normal
inference_quantization: null
model_names: {agent: o/n, env: o/n}
separate_agent_env_devices: "no"
accelerate_config_type: DeepSpeed
per_device_train_batch_size: 1
num_train_epochs: 1
effective_batch_size: 16
gradient_checkpointing: true
learning_rate: 2.0e-5
across_iter_lr_mult_factor: 0.9
report_to: none
optim: adamw_torch
max_length: 4096
lr_scheduler_type: cosine
logging_steps: 1
max_grad_norm: 1.0
lora_r: 8
lora_alpha: 32
lora_dropout: 0.1
beta: 0.1
target_ratio: 1.05
max_prompt_length: 3072
max_completion_length: 1024
seed: null
override_initial_traj_path: null
"#;

const CHILD: &str = "parent_config_to_override: _base.yaml\nrun_name: child_1\nveto_level: 2\nveto_prompt_type: five_point\n\
                     allow_negative_training_on_veto: true\nmodel_names: {agent: o/n, env: o/n, env-influence: other/Judge}\n";

fn converted(configs: &Configs, file: &str) -> Result<Converted, String> {
    let models = load_models(&configs.path("models.yaml")).unwrap();
    convert(&configs.path(file), &models).map_err(|problems| configs.relative(&problems))
}

/// Protects: a published experiment becomes one of ours that loads, with every key told of.
#[test]
fn a_published_experiment_becomes_one_of_ours() {
    let configs = Configs::new();
    configs.write("theirs/_base.yaml", BASE);
    let Converted { yaml, became } = converted(&configs, "theirs/_base.yaml").unwrap();
    let ours = configs.load_text(&yaml, &[]).unwrap_or_else(|problems| panic!("{problems}\n{yaml}"));
    assert_eq!((&*ours.name, ours.iterations), ("base-run", 20));
    assert_eq!((ours.environments.initial_states, ours.environments.siblings), (6, 2));
    assert_eq!(ours.environments.held_out, Fraction::ZERO);
    assert_eq!(
        (ours.selection.best, ours.selection.worst),
        (Fraction::parse("1/16").unwrap(), Fraction::parse("1/16").unwrap())
    );
    assert!(ours.selection.veto.is_none() && ours.roles.influence.is_some());
    assert_eq!(
        (local(&ours.training).learning_rate, local(&ours.training).lora.rank, ours.roles.agent.model.as_str()),
        (2e-5, 8, "large")
    );
    let lines: Vec<&str> =
        BASE.lines().filter_map(|line| line.split(':').next()).filter(|key| !key.is_empty()).collect();
    for key in lines {
        assert!(became.iter().any(|(other, ..)| other == key), "{key} is not told of");
    }
    let of = |key: &str| &became.iter().find(|(other, ..)| other == key).unwrap().2;
    assert!(of("optim").contains("no meaning here") && of("lora_r").contains("training.lora.rank: 8"));
}

/// Protects: a file that overrides another, which lies beside it or in a folder next to its own; roles with other models.
#[test]
fn an_overriding_experiment_is_taken_with_its_parent() {
    let configs = Configs::new();
    configs.write("theirs/base/_base.yaml", BASE);
    configs.write("theirs/vetoes/child.yaml", CHILD);
    let Converted { yaml, became } = converted(&configs, "theirs/vetoes/child.yaml").unwrap();
    configs.edit("models.yaml", "models:\n", "models:\n  judge: {sources: [{hub: {repository: other/Judge}}]}\n");
    let ours = configs.load_text(&yaml, &[]).unwrap_or_else(|problems| panic!("{problems}\n{yaml}"));
    let veto = ours.selection.veto.unwrap();
    assert_eq!((veto.threshold, veto.negatives_on_vetoed), (2.0, true));
    assert_eq!(ours.roles.influence.unwrap().model, "judge");
    let models = &became.iter().find(|(key, ..)| key == "model_names").unwrap().2;
    assert!(models.contains("other/Judge is `judge` (add it to models.yaml)"), "{models}");
}

/// Protects: expert iteration, static rows, and what cannot be converted.
#[test]
fn other_kinds_are_told_apart() {
    let configs = Configs::new();
    configs.write(
        "experiments/pku-saferlhf.parquet",
        r#"{"prompt": "a", "response_0": "b", "response_1": "c", "better_response_id": 0}"#,
    );
    let sft = BASE.replace(
        "beta: 0.1\ntarget_ratio: 1.05\n",
        "static_dataset_name: PKU-Alignment/PKU-SafeRLHF\nfrac_static_data_points: 0.25\n",
    );
    configs.write("sft.yaml", &sft);
    let Converted { yaml, .. } = converted(&configs, "sft.yaml").unwrap();
    let ours = configs.load_text(&yaml, &[]).unwrap_or_else(|problems| panic!("{problems}\n{yaml}"));
    assert_eq!(ours.training.algorithm, influence_proto::Algorithm::Sft);
    assert_eq!(ours.training.static_data.unwrap().fraction, Fraction::parse("1/4").unwrap());
    assert!(ours.selection.worst.is_zero());
    for (text, part) in [
        ("veto_levle: 1\n", "bad.yaml:1: `veto_levle` is no key of such an experiment; did you mean `veto_level`?"),
        ("parent_config_to_override: none.yaml\n", "bad.yaml:1: `parent_config_to_override` is `none.yaml`, but"),
        ("parent_config_to_override: bad.yaml\n", "`parent_config_to_override` is `bad.yaml`"),
        ("[1]", "is no experiment"),
    ] {
        configs.write("bad.yaml", text);
        let wrong = converted(&configs, "bad.yaml").unwrap_err();
        assert!(wrong.contains(part), "{part:?} is not in {wrong}");
    }
}
