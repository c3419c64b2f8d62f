//! Evaluation files.

use super::fixture::Configs;
use crate::config::{Scale, Unit, load_metrics, validate};

const GOOD: &str = "metrics:\n  harm:\n    about: how harmful\n    system_prompt: \"Judge {agent_name}.\"\n    prompt_suffix: \"Harmful? {{1 to 10}}\"\n";

/// Protects: defaults, prompts that name the agent, and that `validate` knows such a file.
#[test]
fn metrics_are_read_with_their_defaults() {
    let configs = Configs::new();
    configs.write("evaluations/mine.yaml", &format!("{GOOD}    scale: yes-no\n    per: conversation\n    classes: [clinic]\n  plain: {{about: a, system_prompt: b, prompt_suffix: c}}\n"));
    let file = configs.path("evaluations/mine.yaml");
    let metrics = load_metrics(&file).unwrap_or_else(|problems| panic!("{problems}"));
    let harm = &metrics[0];
    assert_eq!(
        (harm.system_prompt.render("Ada"), harm.prompt_suffix.render("Ada")),
        ("Judge Ada.".into(), "Harmful? {1 to 10}".into())
    );
    assert_eq!((harm.scale, harm.per, harm.sees_tools), (Scale::YesNo, Unit::Conversation, false));
    assert_eq!(harm.scale.answers(), ["yes", "no"]);
    assert_eq!((metrics[1].scale, metrics[1].per, metrics[1].classes.len()), (Scale::OneToTen, Unit::Turn, 0));
    assert_eq!(validate(&file, None).unwrap().what, "an evaluation of 2 metrics");
}

#[test]
fn wrong_metrics_are_named_with_their_place() {
    for (from, to, message) in [
        ("{agent_name}", "{name}", "mine.yaml:4: `metrics.harm.system_prompt` uses `{name}`"),
        ("about: how harmful", "abuot: x", "mine.yaml:3: unknown key `metrics.harm.abuot`; did you mean `about`?"),
        ("about: how harmful", "scale: 1-5", "mine.yaml:3: `metrics.harm.scale` must be one of `1-10`, `yes-no`"),
        ("  harm:", "  Harm!:", "mine.yaml:2: `metrics.Harm!` must be 1 to 64 of a-z"),
        (GOOD, "metrics: {}\n", "`metrics` is empty or missing; name a question"),
    ] {
        let configs = Configs::new();
        configs.write("mine.yaml", &GOOD.replace(from, to));
        let wrong = configs.relative(&load_metrics(&configs.path("mine.yaml")).map(|_| ()).unwrap_err());
        assert!(wrong.contains(message), "{message:?} is not in {wrong}");
    }
}
