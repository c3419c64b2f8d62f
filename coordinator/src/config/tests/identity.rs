use super::fixture::{CLINIC, Configs};

#[test]
fn equal_experiments_have_equal_digests_however_they_are_written() {
    let configs = Configs::new();
    let plain = configs.experiment(CLINIC);
    let written_out = configs.experiment("seed: 1\n# a comment\nenvironments: {max_turns: 2, class: clinic}\n");
    assert_eq!(plain.digest(), written_out.digest());
    assert_eq!(plain.changed_keys(&written_out.resolved()), Vec::<String>::new());
    let large = |configs: &Configs| configs.load(CLINIC, &[("model", "large")]).unwrap().digest();
    assert_eq!(large(&configs), large(&Configs::new()), "the folder's place does not count, but for model files in it");
}

#[test]
fn whatever_changes_the_run_changes_the_digest_and_is_listed() {
    let configs = Configs::new();
    let before = configs.experiment(CLINIC);
    let after =
        configs.load(CLINIC, &[("training.lora.rank", "8"), ("seed", "2"), ("roles.preference.model", "large")]);
    let after = after.unwrap();
    assert_ne!(before.digest(), after.digest());
    assert_eq!(
        after.changed_keys(&before.resolved()),
        ["models.large", "roles.preference.model", "seed", "training.lora.rank"]
    );
    configs.edit("environments/clinic/gameable_smoking.yaml", "State 1", "Opening 1");
    assert_eq!(configs.experiment(CLINIC).changed_keys(&before.resolved()), ["environment_files.sha256"]);
}

#[test]
fn a_stored_experiment_survives_its_text() {
    let experiment = Configs::new().experiment(CLINIC);
    let stored = serde_json::from_str(&experiment.resolved().to_string()).unwrap();
    assert_eq!(experiment.changed_keys(&stored), Vec::<String>::new());
}
