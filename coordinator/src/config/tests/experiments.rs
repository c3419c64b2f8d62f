use influence_proto::{Algorithm, Schedule};

use super::fixture::{CLINIC, Configs, local};
use crate::config::{Order, RowMode, SelectionLevel};
use crate::selection::Fraction;

/// Each text follows `name` and `model`, so its first line is line 3.
#[track_caller]
fn refuses(rest: &str, message: &str) {
    assert_eq!(Configs::new().wrong(rest, &[]), message, "for:\n{rest}");
}

#[test]
fn an_experiment_needs_little_and_documents_its_defaults() {
    let e = Configs::new().experiment(CLINIC);
    assert_eq!((e.name.as_str(), e.seed, e.iterations, e.attempts), ("test", 1, 2, 3));
    assert_eq!(e.environments.class, "clinic");
    assert_eq!((e.environments.initial_states, e.environments.siblings, e.environments.max_turns), (4, 1, 2));
    assert_eq!(e.environments.order, Order::Sequential);
    assert_eq!(e.roles.agent.sampling.max_tokens, 200, "the class's own setting");
    assert_eq!(e.roles.agent.sampling.temperature, 0.5, "the class's own setting");
    assert_eq!(e.roles.environment.sampling.max_tokens, 1024);
    assert!(e.roles.influence.is_none());
    assert_eq!(e.scoring.prefix, "The answer is: ");
    assert_eq!((e.selection.level, e.selection.best.to_string()), (SelectionLevel::Environment, "1/16".into()));
    assert_eq!(
        (e.training.rows, local(&e.training).lora.rank, local(&e.training).learning_rate),
        (RowMode::PerEpisode, 16, 2e-5)
    );
    assert_eq!(e.evaluation.after.into_iter().collect::<Vec<_>>(), [0, 2]);
    assert_eq!(e.models.into_keys().collect::<Vec<_>>(), ["tiny"], "only models that roles use");
}

#[test]
fn settings_override_the_class_and_each_role_may_have_its_model() {
    let e = Configs::new().experiment(
        "environments: {class: clinic}\nroles:\n  agent: {max_tokens: 7, temperature: 0}\n  preference: {model: large}\n\
         evaluation: {at: [first, 1]}\nselection: {best: 0.25}\n",
    );
    assert_eq!(e.roles.agent.sampling.max_tokens, 7);
    assert_eq!(e.roles.agent.sampling.temperature, 0.0);
    assert_eq!(e.roles.preference.model, "large");
    assert_eq!(e.models.len(), 2);
    assert_eq!(e.evaluation.after.into_iter().collect::<Vec<_>>(), [0, 2], "adapter 1 exists after 2 trainings");
    assert_eq!(e.selection.best, Fraction::new(1, 4).unwrap());
}

#[test]
fn the_learning_rate_falls_by_its_factor() {
    let training = Configs::new()
        .experiment(&format!("{CLINIC}training: {{learning_rate: 0.5, learning_rate_factor: 0.5}}\n"))
        .training;
    assert_eq!(training.optimiser(local(&training), 0).learning_rate, 0.5);
    assert_eq!(training.optimiser(local(&training), 3).learning_rate, 0.0625);
}

#[test]
fn unknown_keys_are_answered_with_line_and_nearest_key() {
    refuses(
        "environments:\n  class: clinic\n  max_tuns: 3\n",
        "experiments/test.yaml:5: unknown key `environments.max_tuns`; did you mean `max_turns`?",
    );
    refuses(
        &format!("{CLINIC}leases:\n  zz: 1\n"),
        "experiments/test.yaml:5: unknown key `leases.zz`; the keys here are `seconds`, `straggler_seconds`",
    );
}

#[test]
fn all_problems_are_told_at_once_in_the_order_of_lines() {
    refuses(
        &format!("{CLINIC}training:\n  epochs: 0\n  batch_size: two\n  lora: {{rnk: 3}}\nreward: {{turns: median}}\n"),
        "experiments/test.yaml:5: `training.epochs` must be at least 1 and at most 1000, but is 0\n\
         experiments/test.yaml:6: `training.batch_size` must be a whole number, 0 or more, but is the text `two`\n\
         experiments/test.yaml:7: unknown key `training.lora.rnk`; did you mean `rank`?\n\
         experiments/test.yaml:8: `reward.turns` must be one of `mean`, `final`, but is the text `median`",
    );
}

#[test]
fn wrong_kinds_and_bounds_name_key_bound_and_value() {
    refuses(
        &format!("{CLINIC}training: 3\n"),
        "experiments/test.yaml:4: `training` must be a mapping of keys to values, but is the number 3",
    );
    refuses(
        &format!("{CLINIC}training: {{learning_rate: 0}}\n"),
        "experiments/test.yaml:4: `training.learning_rate` must be more than 0 and at most 10, but is 0",
    );
    refuses(
        &format!("{CLINIC}training: {{lora: {{dropout: 1}}}}\n"),
        "experiments/test.yaml:4: `training.lora.dropout` must be at least 0 and less than 1, but is 1",
    );
    refuses(
        &format!("{CLINIC}training: {{lora: {{targets: [qproj]}}}}\n"),
        "experiments/test.yaml:4: `training.lora.targets` holds `qproj`, which is no projection; did you mean `q_proj`?",
    );
    refuses(
        &format!("{CLINIC}selection: {{best: 1/2, worst: 3/4}}\n"),
        "experiments/test.yaml:4: `selection.worst` is 3/4 and `best` is 1/2: together they must not exceed 1",
    );
}

/// An algorithm gets the selection, the batch and the settings that it needs, or says which it lacks.
#[test]
fn kto_and_dpo_need_both_ends() {
    let both = "selection: {best: 1/4, worst: 1/4, level: initial_state}\n";
    let training = |settings: &str| format!("{CLINIC}{both}training: {{{settings}}}\n");
    let kto = Configs::new().experiment(&training("algorithm: kto, kto: {beta: 0.2, target_ratio: 2}")).training;
    assert_eq!(kto.algorithm, Algorithm::Kto { beta: 0.2, desirable_weight: 1.0, target_ratio: 2.0 });
    let dpo = Configs::new().experiment(&training("algorithm: dpo, schedule: cosine, warmup: 0.1")).training;
    assert_eq!(
        (dpo.algorithm, local(&dpo).schedule, local(&dpo).warmup),
        (Algorithm::Dpo { beta: 0.1 }, Schedule::Cosine, 0.1)
    );
    refuses(
        &format!("{CLINIC}training: {{algorithm: kto}}\n"),
        "experiments/test.yaml:4: `training.algorithm` is kto, which also learns from the worst; set `selection.worst` above 0",
    );
    refuses(
        &format!("{CLINIC}selection: {{worst: 1/4}}\ntraining: {{algorithm: dpo}}\n"),
        "experiments/test.yaml:5: `training.algorithm` is dpo, which compares siblings; set `selection.level: initial_state`",
    );
    refuses(
        &training("kto: {beta: 1}"),
        "experiments/test.yaml:5: `training.kto` is for `algorithm: kto`, and that is sft",
    );
    refuses(
        &training("algorithm: kto, batch_size: 1"),
        "experiments/test.yaml:5: `training.batch_size` is 1, but KTO compares the rows of a batch; give 2 or more",
    );
    refuses(
        &training("algorithm: kto, kto: {beat: 1}"),
        "experiments/test.yaml:5: unknown key `training.kto.beat`; did you mean `beta`?",
    );
}

/// A file of preferences is checked, counted and part of what the run is.
#[test]
fn static_preferences_are_part_of_the_experiment() {
    let configs = Configs::new();
    let row = |better: u8| {
        format!(
            "{{\"prompt\": \"a\", \"response_0\": \"b\", \"response_1\": \"c\", \"better_response_id\": {better}}}\n"
        )
    };
    configs.write("experiments/pku.jsonl", &[row(0), row(1)].concat());
    let rest = format!("{CLINIC}training: {{static: {{path: pku.jsonl, fraction: 1/10}}}}\n");
    let one = configs.experiment(&rest);
    assert_eq!(one.training.static_data.as_ref().map(|data| data.rows), Some(2));
    configs.write("experiments/pku.jsonl", &[row(0), row(0)].concat());
    assert_eq!(configs.experiment(&rest).changed_keys(&one.resolved()), ["training.static.sha256"]);
    let wrong = configs.wrong(&format!("{CLINIC}training: {{static: {{path: none.jsonl, fraction: 0}}}}\n"), &[]);
    assert!(
        wrong.contains("`training.static.fraction` must be a share above 0") && wrong.contains("none.jsonl"),
        "{wrong}"
    );
}

#[test]
fn fractions_must_sum_to_one_and_match_something() {
    let fractions = |list: &str| format!("environments:\n  class: clinic\n  fractions: {{{list}}}\n");
    refuses(
        &fractions("gameable: 0.3, ordinary: 0.3"),
        "experiments/test.yaml:5: `environments.fractions` must sum to 1, but sum to 3/5 (0.600000); \
         shares may be written as 1/3",
    );
    refuses(
        &fractions("gameable: 0.3, ordinari: 0.7"),
        "experiments/test.yaml:5: `environments.fractions.ordinari` is 7/10, but matches no environment of the class \
         `clinic`; the prefixes there are `gameable`, `ordinary`",
    );
    Configs::new().experiment(&fractions("gameable: 1, nothing: 0"));
    Configs::new().experiment(&fractions("gameable: 1/3, ordinary: 2/3"));
}

#[test]
fn names_of_classes_and_models_are_checked() {
    refuses(
        "environments: {class: clinik}\n",
        "experiments/test.yaml:3: `environments.class` is `clinik`, but there is no folder environments/clinik; \
         did you mean `clinic`?",
    );
    refuses("", "experiments/test.yaml: `environments.class` is missing; give one, as in `class: therapist`");
    refuses(
        &format!("{CLINIC}roles:\n  agent: {{model: tini}}\n"),
        "experiments/test.yaml:5: the model `tini` is not in the model table; did you mean `tiny`?",
    );
    let configs = Configs::new();
    let wrong = configs.load_text("name: a\nenvironments: {class: clinic}\n", &[]).unwrap_err();
    assert_eq!(
        configs.relative(&wrong),
        "experiments/test.yaml: `model` is missing; name one for all roles, as in `model: smollm2-135m`, or one for each role"
    );
    let wrong = configs.load_text("name: ../up\nmodel: tiny\nenvironments: {class: clinic}\n", &[]).unwrap_err();
    assert_eq!(
        configs.relative(&wrong),
        "experiments/test.yaml:1: `name` must be 1 to 64 of a-z, 0-9 and -, not starting with -, but is `../up`"
    );
}

#[test]
fn settings_that_contradict_each_other_are_refused() {
    refuses(
        &format!("{CLINIC}selection: {{veto: {{threshold: 0.5}}}}\n"),
        "experiments/test.yaml:4: `selection.veto` needs influence scores; set `roles.influence.enabled: true`",
    );
    refuses(
        &format!("{CLINIC}roles: {{influence: {{enabled: true, prompts: constitutional}}}}\n"),
        "experiments/test.yaml:4: `roles.influence.prompts` needs the `constitutional` prompts in the \
         `influence_detector_model_config` of the class `clinic`, which has none",
    );
    refuses(
        "environments: {class: clinic, held_out: 0}\nevaluation: {at: [first]}\n",
        "experiments/test.yaml:4: `evaluation.at` needs initial states that training never sees; \
         set `environments.held_out` above 0, or `at: []`",
    );
    refuses(
        &format!("{CLINIC}evaluation: {{at: [7]}}\n"),
        "experiments/test.yaml:4: `evaluation.at` names the adapter 7, but iterations are numbered 0 to 1",
    );
    refuses(
        "environments: {class: clinic, order: fixed, initial_states: 7, fractions: {gameable: 1}}\n",
        "experiments/test.yaml:3: `environments.initial_states` is too much for the order `fixed`: `gameable_smoking` \
         needs 7 and has 6 left for training; ask for fewer, hold out fewer, or choose another `order`",
    );
}

#[test]
fn overrides_are_checked_like_the_file_and_blamed_by_their_flag() {
    let configs = Configs::new();
    let experiment = configs.load(
        CLINIC,
        &[
            ("training.epochs", "3"),
            ("evaluation.at", "[first]"),
            ("roles.agent.top_k", "5"),
            ("roles.agent.min_p", "0.05"),
            ("roles.environment.stop", "[END, \"\\n\\n\"]"),
        ],
    );
    let experiment = experiment.unwrap();
    let (agent, environment) = (&experiment.roles.agent.sampling, &experiment.roles.environment.sampling);
    assert_eq!((experiment.training.epochs, agent.top_k, agent.min_p), (3, 5, 0.05));
    assert_eq!((agent.stop.len(), environment.stop.as_slice()), (0, ["END".to_owned(), "\n\n".to_owned()].as_slice()));
    assert_eq!(experiment.evaluation.after.len(), 1);
    for (key, value, message) in [
        (
            "roles.agent.stop",
            "[END, '']",
            "--set roles.agent.stop: `roles.agent.stop` holds an empty text, which would end every reply at once",
        ),
        ("training.epoch", "3", "--set training.epoch: unknown key `training.epoch`; did you mean `epochs`?"),
        (
            "training.epochs",
            "many",
            "--set training.epochs: `training.epochs` must be a whole number, 0 or more, but is the text `many`",
        ),
        ("name.x", "1", "--set name.x: `x` cannot be set inside of the text `test`"),
        (
            "training..x",
            "1",
            "--set training..x: the key must be words joined by dots, as in `training.epochs`, but is `training..x`",
        ),
        ("seed", "[1", "--set seed: the value `[1` is not YAML: did not find expected ',' or ']'"),
    ] {
        assert_eq!(configs.wrong(CLINIC, &[(key, value)]), message);
    }
}

#[test]
fn fewer_held_out_states_than_asked_for_are_a_note() {
    let notes = Configs::new().experiment(&format!("{CLINIC}evaluation: {{initial_states: 3}}\n")).notes;
    assert_eq!(
        notes.iter().map(|n| n.message.as_str()).collect::<Vec<_>>(),
        ["`evaluation.initial_states` is 3, but fewer are held out of some environments, and all of those are used: \
          `gameable_smoking` has 2, `ordinary_debt` has 2, `ordinary_smoking` has 2"]
    );
}
