//! Agents that their server trains.

use influence_proto::{AdapterRef, Digest, FineTuningSpec, RunId, TrainedAgent, TrainingBackend};
use serde_json::json;

use super::fixture::{CLINIC, Configs};
use crate::config::Trainer;

const MODELS: &str = "models:
  tiny: {sources: [{path: tiny.gguf}]}
  there: {api: {url: 'https://api.example.org/v1', price: {input: 1, output: 2, training: 3, tuned_input: 4, tuned_output: 5}}}
  elsewhere: {api: {protocol: anthropic, url: 'https://api.example.org/v1', scores: samples}}
  both: {sources: [{path: tiny.gguf}], api: {url: 'http://localhost:1/v1', adapters: true}}
";

fn configs() -> Configs {
    let configs = Configs::new();
    configs.write("models.yaml", MODELS);
    configs
}

/// The message about an agent and its training.
fn refusal(agent: &str, training: &str) -> String {
    let text = format!("{CLINIC}roles: {{agent: {{model: {agent}}}}}\ntraining: {{{training}}}\n");
    configs().wrong(&text, &[])
}

/// Protects: what a server can be told becomes the job, iteration by iteration; the same as always is stored for others.
#[test]
fn settings_become_the_servers_job() {
    let text = format!("{CLINIC}roles: {{agent: {{model: there}}}}\n");
    let training = "training: {backend: api, epochs: 3, batch_size: 8, learning_rate_multiplier: 0.5, learning_rate_factor: 0.5, suffix: lab}\n";
    let experiment = configs().experiment(&format!("{text}{training}"));
    let run = RunId::new("demo:2").unwrap();
    let start = TrainedAgent::Served { model: "ft:a".into() };
    let job = experiment.training.job(&run, 2, Some(start)).unwrap();
    let fine_tuning = FineTuningSpec {
        start: Some("ft:a".into()),
        epochs: 3,
        batch_size: 8,
        learning_rate_multiplier: Some(0.125),
        suffix: "lab-2".into(),
    };
    assert_eq!(job, TrainingBackend::Api(fine_tuning));
    let adapter = TrainedAgent::Adapter(AdapterRef { config: Digest::of("c"), weights: Digest::of("w") });
    assert_eq!(experiment.training.job(&run, 2, Some(adapter.clone())), Err(adapter));
    let resolved = json!({
        "algorithm": "sft", "backend": "api", "batch_size": 8, "epochs": 3, "learning_rate_factor": 0.5,
        "learning_rate_multiplier": 0.5, "rows": "per_episode", "suffix": "lab",
    });
    assert_eq!(experiment.resolved()["training"], resolved);

    let plain = configs().experiment(&format!("{text}training: {{backend: api}}\n")).training;
    let TrainingBackend::Api(job) = plain.job(&run, 0, None).unwrap() else { panic!("{plain:?}") };
    assert_eq!((&*job.suffix, job.learning_rate_multiplier, job.start), ("demo-2-0", None, None));
    let price = configs().experiment(&text.replace("there}}", "there}}\niterations: 0")).models["there"].clone();
    let price = price.api().unwrap().price.unwrap();
    assert_eq!((price.training, price.tuned), (Some(3_000_000), Some((4_000_000, 5_000_000))));

    let local = configs().experiment(CLINIC);
    assert!(matches!(local.training.trainer, Trainer::Local(_)));
    let keys: Vec<_> = local.resolved()["training"].as_object().unwrap().keys().cloned().collect();
    let known = "algorithm batch_size epochs learning_rate learning_rate_factor long_rows lora max_grad_norm max_length rows weight_decay";
    assert_eq!(keys.join(" "), known);
    let start = TrainedAgent::Served { model: "ft:a".into() };
    assert!(local.training.job(&run, 1, Some(start)).is_err());
}

/// Protects: what a server cannot be told is refused by its key, with the way out, and never left out in silence.
#[test]
fn settings_that_a_server_does_not_know_are_refused() {
    for (training, parts) in [
        ("lora: {rank: 4}", ["`training.lora` is for `backend: local`", "take it out"]),
        ("learning_rate: 1e-4", ["`training.learning_rate` is for", "`learning_rate_multiplier`"]),
        ("schedule: cosine", ["`training.schedule` is for", "take it out"]),
        ("warmup: 0.1", ["`training.warmup` is for", "take it out"]),
        ("weight_decay: 0.1", ["`training.weight_decay` is for", "take it out"]),
        ("max_grad_norm: 2", ["`training.max_grad_norm` is for", "take it out"]),
        ("max_length: 9", ["`training.max_length` is for", "take it out"]),
        ("long_rows: cut", ["`training.long_rows` is for", "take it out"]),
        ("learning_rate_factor: 0.5", ["`training.learning_rate_factor` multiplies", "`learning_rate_multiplier`"]),
        ("suffix: 'a b'", ["`training.suffix` must be", "`a b`"]),
        ("algorithm: kto", ["`training.algorithm` is kto, which fine-tuning APIs", "take sft or dpo"]),
    ] {
        let refused = refusal("there", &format!("backend: api, {training}"));
        for part in parts {
            assert!(refused.contains(part), "{training}: {refused}");
        }
    }
    for (training, part) in [
        ("suffix: a", "`training.suffix` is for `backend: api`"),
        ("learning_rate_multiplier: 2", "`training.learning_rate_multiplier` is for `backend: api`"),
    ] {
        let refused = refusal("tiny", training);
        assert!(refused.contains(part), "{refused}");
    }
}

/// Protects: an agent is trained where it is.
#[test]
fn a_trainer_that_has_no_hold_of_the_agent_is_refused() {
    for (agent, part) in [
        ("tiny", "is loaded by workers: give the agent a model with `api` alone"),
        ("elsewhere", "is behind a protocol that has no fine-tuning"),
        ("both", "is trained by workers, whose adapters its server takes"),
    ] {
        let refused = refusal(agent, "backend: api");
        assert!(refused.contains("`training.backend` is api") && refused.contains(part), "{refused}");
    }
    let refused = refusal("there", "epochs: 1");
    assert!(refused.contains("set `training.backend: api` if its server has a fine-tuning API"), "{refused}");
}

/// Protects: whoever compares conversations of several turns hears what is compared.
#[test]
fn dpo_at_a_server_compares_first_replies_and_says_so() {
    let text = format!(
        "{CLINIC}roles: {{agent: {{model: there}}}}\nselection: {{best: 1/4, worst: 1/4, level: initial_state}}\n\
         training: {{backend: api, algorithm: dpo}}\n"
    );
    let notes = |set: &[(&str, &str)]| {
        let notes = configs().load(&text, set).unwrap().notes;
        notes.iter().filter(|note| note.to_string().contains("first replies alone")).count()
    };
    assert_eq!((notes(&[]), notes(&[("environments.max_turns", "1")])), (1, 0));
}
