//! Environments whose openings are templates.

use std::collections::{BTreeMap, BTreeSet};

use super::fixture::Configs;
use crate::environments::EnvironmentClass;
use crate::planning::{Phase, plan};

const FILE: &str = "environments/clinic/ordinary_debt.yaml";

/// A class with one more environment, of three templates.
fn configs() -> Configs {
    let configs = Configs::new();
    std::fs::remove_file(configs.path("environments/clinic/ordinary_debt.json")).unwrap();
    let list = |name: &str, count: usize| {
        format!("  {name}: [{}]\n", (0..count).map(|value| format!("{name}{value}")).collect::<Vec<_>>().join(", "))
    };
    let variables = list("who", 20) + &list("sum", 8) + &list("shop", 2);
    let templates = r#"
  card:
    - {role: environment_system, content: "{who} owes {sum}."}
    - {role: environment, content: "I owe {sum} to {shop}. {mood}"}
  loan:
    - {role: environment, content: "{who} lent me {sum}."}
  plain:
    - {role: environment, content: "No money."}
"#;
    let text = format!("topic: debt\nchar_action1: a\nchar_action2: b\nvariables:\n{variables}templates:{templates}");
    configs.write(FILE, &text);
    configs
}

fn class(configs: &Configs) -> EnvironmentClass {
    EnvironmentClass::load(&configs.path("environments/clinic")).unwrap_or_else(|problems| panic!("{problems}"))
}

/// Protects: templates give distinct openings, dealt in turn; an initial state's values are its own in every iteration, and the
/// class's variables are drawn anew.
#[test]
fn templates_are_expanded_to_distinct_openings() {
    let class = class(&configs());
    let states = class.initial_states("ordinary_debt");
    assert_eq!(states.len(), 20 * 8 * 2 + 20 * 8 + 1);
    let first: Vec<&str> = states.iter().take(5).map(|state| &*state.id).collect();
    assert_eq!(first, ["card.0", "loan.0", "plain.0", "card.1", "loan.1"]);
    let opening = |id: &str, seed: u64| {
        let scene = class.scene("ordinary_debt", id, seed, None).unwrap();
        scene.opening.iter().map(|message| message.content.clone()).collect::<Vec<_>>()
    };
    let stripped = |id: &str| opening(id, 1).join(" ").replace("calm", "").replace("tired", "");
    assert_eq!(states.iter().map(|state| stripped(&state.id)).collect::<BTreeSet<_>>().len(), states.len());
    let card = opening("card.7", 1);
    let sum = card[0].split(' ').nth(2).unwrap().trim_end_matches('.');
    assert!(card[1].starts_with(&format!("I owe {sum} to shop")), "one value in the whole opening: {card:?}");
    let moods: BTreeSet<_> = (0..20).map(|seed| opening("card.7", seed)).collect();
    assert!(moods.len() == 2 && moods.iter().all(|other| other[0] == card[0]), "{moods:?}");
    for id in ["card", "card.320", "card.-1", "card.x", "cart.0", "1"] {
        assert!(class.scene("ordinary_debt", id, 1, None).is_none(), "{id}");
    }
}

/// Protects: what is evaluated is no variant of what is trained on.
#[test]
fn whole_templates_are_held_out() {
    let experiment = configs().experiment(
        "environments: {class: clinic, fractions: {ordinary: 1}, held_out: 1/3, initial_states: 40}\n\
         evaluation: {initial_states: 30, siblings: 1, at: [first, last]}\n",
    );
    let run = influence_proto::RunId::new("r").unwrap();
    let templates = |phase| -> BTreeMap<String, usize> {
        let specs = plan(&experiment, &run, phase, 0, None).unwrap();
        let mut counts = BTreeMap::new();
        for spec in specs.iter().filter(|spec| spec.environment == "ordinary_debt") {
            *counts.entry(spec.initial_state.split('.').next().unwrap().to_owned()).or_insert(0) += 1;
        }
        counts
    };
    let (trained, evaluated) = (templates(Phase::Train), templates(Phase::Evaluate));
    assert_eq!((trained.len(), evaluated.len()), (2, 1), "{trained:?} {evaluated:?}");
    assert!(evaluated.keys().all(|template| !trained.contains_key(template)));
}

/// Protects: what an author gets wrong in templates is named with its place.
#[test]
fn wrong_templates_are_refused() {
    for (from, to, parts) in [
        ("templates:", "histories: {}\ntemplates:", &["`histories` cannot stand beside `templates`"][..]),
        ("who0, who1", "who0, who0", &["`variables.who`", "`who0` twice"]),
        ("{who} lent me", "{whom} lent me", &["`templates.loan[0].content`", "`{whom}`", "did you mean `who`?"]),
        ("topic: debt\n", "topic: debt\nwho: Ada\n", &["`variables.who`", "also stands beside"]),
        ("  shop: [shop0, shop1]", "  shop: a shop", &["`variables.shop`", "must be a list"]),
        ("role: environment, content: \"No money.\"", "role: agent, content: x", &["`templates.plain`", "agent's own"]),
    ] {
        let configs = configs();
        configs.edit(FILE, from, to);
        let wrong = configs.wrong_class();
        for part in parts {
            assert!(wrong.contains(part) && wrong.contains("ordinary_debt.yaml:"), "{part:?} is not in {wrong}");
        }
    }
}
