use influence_proto::{Message, Speaker};

use super::fixture::{Configs, ENVIRONMENT_HEAD};
use crate::environments::{EnvironmentClass, InfluencePrompts};

const SMOKING: &str = "environments/clinic/gameable_smoking.yaml";
const MASTER: &str = "environments/clinic/_master_config.yaml";

/// Changes one place of a good class and compares what is wrong with it then.
#[track_caller]
fn refuses(file: &str, from: &str, to: &str, message: &str) {
    let configs = Configs::new();
    configs.edit(file, from, to);
    assert_eq!(configs.wrong_class(), message, "after {from:?} -> {to:?}");
}

fn clinic(configs: &Configs) -> EnvironmentClass {
    EnvironmentClass::load(&configs.path("environments/clinic")).unwrap_or_else(|problems| panic!("{problems}"))
}

#[test]
fn a_scene_is_rendered_and_trimmed_as_the_benchmark_does() {
    let class = clinic(&Configs::new());
    assert_eq!(class.environments().collect::<Vec<_>>(), ["gameable_smoking", "ordinary_debt", "ordinary_smoking"]);
    let ids = class.initial_states("ordinary_debt").into_iter().map(|state| state.id);
    assert!(ids.eq(["1", "2", "3", "4", "5", "6", "7", "8"]));
    let scene = class.scene("gameable_smoking", "3", 1, Some(InfluencePrompts::FivePoint)).unwrap();
    let name = &scene.agent_name;
    assert!(["Ada", "Bo", "Cy"].contains(&name.as_str()));
    assert_eq!(scene.opening, [Message { speaker: Speaker::Environment, content: "State 3 of smoking".into() }]);
    assert_eq!(scene.agent, format!("You are {name}. Talk about smoking. "), "the agent's prompt is not trimmed");
    assert!(scene.character.starts_with(&format!("You ask {name} about smoking, ")) && scene.character.ends_with('.'));
    assert_eq!(scene.preference.system, format!("Rate {name}."));
    assert_eq!(scene.preference.suffix, "On smoking: 1 to 10? ", "suffixes are rendered, not trimmed");
    assert_eq!(scene.preference.answers, ["1", "2", "3", "4", "5", "6", "7", "8", "9", "10"]);
    assert!(scene.transition.answers.is_empty(), "the current state's answers");
    assert_eq!(scene.influence.unwrap().answers, ["1", "2", "3", "4", "5"]);
    assert!(class.scene("gameable_smoking", "9", 1, None).is_none());
}

#[test]
fn states_carry_both_renderings_of_what_they_append() {
    let class = clinic(&Configs::new());
    let machine = class.scene("gameable_smoking", "1", 1, None).unwrap().machine;
    let later = machine.state("later").unwrap();
    let note = |content: &str| [Message { speaker: Speaker::EnvironmentSystem, content: content.into() }];
    assert_eq!(later.entry, note("Later: better"));
    assert_eq!(later.alternative_entry, note("Later: worse"));
    let start = machine.state("initial_state").unwrap();
    assert!(start.entry.is_empty() && start.alternative_entry.is_empty());
    let answers: Vec<&str> = start.transitions.iter().map(|(answer, _)| answer.as_str()).collect();
    assert_eq!(answers, ["yes", "no", "wait"], "in the file's order");
    assert!(machine.state("over").unwrap().terminal);
}

#[test]
fn booleans_are_answers_and_json_escapes_are_text() {
    let configs = Configs::new();
    configs.edit(MASTER, "'yes': {next_state: over}\n      no:", "true: {next_state: over}\n      false:");
    configs.edit(MASTER, "default_transition: 'no'", "default_transition: false");
    let class = clinic(&configs);
    assert_eq!(class.machine().state("initial_state").unwrap().next("yes"), Some("over"));
    assert_eq!(class.machine().state("initial_state").unwrap().default_answer, "no");
    assert_eq!(class.scene("ordinary_debt", "2", 0, None).unwrap().opening[0].content, "Debt 2 😀");
}

#[test]
fn an_environment_overrides_the_class() {
    let configs = Configs::new();
    configs.edit(SMOKING, "topic: smoking", "topic: smoking\nagent_name: Zoe");
    let class = clinic(&configs);
    assert!((0..20).all(|seed| class.scene("gameable_smoking", "1", seed, None).unwrap().agent_name == "Zoe"));
    configs.edit(MASTER, "  agent_name: [Ada, Bo, Cy]\n", "");
    assert_eq!(clinic(&configs).scene("ordinary_debt", "1", 0, None).unwrap().agent_name, "the agent");
}

#[test]
fn a_class_that_never_ends_is_a_note() {
    let configs = Configs::new();
    assert!(clinic(&configs).notes().is_empty());
    configs.edit(MASTER, "terminal: true\n    default_transition: over", "terminal: false\n    default_transition: x");
    configs.edit(MASTER, "valid_transitions: null", "valid_transitions: {x: {next_state: over}}");
    let class = clinic(&configs);
    assert_eq!(class.notes()[0].message, "no state is terminal: conversations end at `max_turns` alone");
}

#[test]
fn histories_must_leave_the_agent_something_to_answer() {
    refuses(
        SMOKING,
        "role: environment",
        "role: agent",
        "environments/clinic/gameable_smoking.yaml:5: `histories.1` ends with the agent's own message, \
         `State 1 of {topic}`, so there is nothing for it to answer; end with another role",
    );
    refuses(
        SMOKING,
        "histories",
        "historys",
        "environments/clinic/gameable_smoking.yaml: `histories` is missing; rename `historys`",
    );
    refuses(
        SMOKING,
        "role: environment",
        "role: tool_use",
        "environments/clinic/gameable_smoking.yaml:6: `histories.1[0].role` must be one of `agent`, `environment`, \
         `environment_system`, `tool_call`, `tool_response`, but is the text `tool_use`",
    );
    for (histories, message) in [
        ("{}", "`histories` is empty; give at least one initial state"),
        ("{1: []}", "`histories.1` is empty; give at least one message, or remove it"),
        ("{1: hi}", "`histories.1` must be a list of messages, each {role, content}, but is the text `hi`"),
    ] {
        let configs = Configs::new();
        configs.write(SMOKING, &format!("{ENVIRONMENT_HEAD}histories: {histories}\n"));
        assert_eq!(configs.wrong_class(), format!("{SMOKING}:4: {message}"));
    }
}

#[test]
fn transitions_lead_to_states_that_exist() {
    refuses(
        MASTER,
        "next_state: later",
        "next_state: latr",
        "environments/clinic/_master_config.yaml:7: `state_config.initial_state.valid_transitions.wait` leads to the \
         state `latr`, which is not defined; did you mean `later`?",
    );
    refuses(
        MASTER,
        "default_transition: 'no'",
        "default_transition: perhaps",
        "environments/clinic/_master_config.yaml:8: `state_config.initial_state.default_transition` is `perhaps`, but \
         the state's answers are `yes`, `no`, `wait`",
    );
}

#[test]
fn prompts_name_variables_that_exist() {
    refuses(
        SMOKING,
        "{topic}",
        "{topc}",
        "environments/clinic/gameable_smoking.yaml:6: `histories.1[0].content` uses `{topc}`, but there is no such \
         variable; did you mean `topic`? there are `agent_name`, `char_action1`, `char_action2`, `mood`, `topic`",
    );
    refuses(
        MASTER,
        "about {topic}",
        "about {subject}",
        "environments/clinic/_master_config.yaml:24: `agent_config.system_prompt` uses `{subject}`, but there is no \
         such variable; there are `agent_name`, `char_action1`, `char_action2`, `mood`, `topic` (for the environment \
         `gameable_smoking`, `ordinary_debt`, `ordinary_smoking`)",
    );
    refuses(
        MASTER,
        "about {topic}",
        "about {topic:>3}",
        "environments/clinic/_master_config.yaml:24: `agent_config.system_prompt` has the placeholder `{topic:>3}`, but \
         attributes, indexes, conversions and formats are not supported; write `{topic}`",
    );
    refuses(
        SMOKING,
        "State 1",
        "State } 1",
        "environments/clinic/gameable_smoking.yaml:6: `histories.1[0].content` has a lone `}` before `1 of {topic} `; \
         write `}}` for a brace in the text",
    );
}

#[test]
fn the_class_file_has_no_other_keys_and_only_usable_answers() {
    for (from, to, message) in [
        (
            "possible_env_vars",
            "possible_env_var",
            ":38: unknown key `possible_env_var`; did you mean `possible_env_vars`?",
        ),
        (
            "terminal: false",
            "terminl: false",
            ":9: unknown key `state_config.initial_state.terminl`; did you mean `terminal`?",
        ),
        (
            "[0, 1]",
            "[zero, 1]",
            ":35: `influence_detector_model_config.valid_tokens` holds `zero`, but a rating is a number",
        ),
        ("[0, 1]", "[1, 1]", ":35: `influence_detector_model_config.valid_tokens` holds `1` twice; keep one"),
        (
            "Third_Person",
            "First_Person",
            ":30: `preference_model_config.perspective` must be one of `Third_Person`, but is the text `First_Person`",
        ),
        ("[calm, tired]", "[]", ":40: `possible_env_vars.mood` must list one or more words or numbers to draw from"),
    ] {
        refuses(MASTER, from, to, &format!("{MASTER}{message}"));
    }
}

#[test]
fn an_environment_has_one_file_and_its_class_a_shared_one() {
    let configs = Configs::new();
    configs.write("environments/clinic/ordinary_debt.yaml", "a: b");
    let wrong = configs.wrong_class();
    assert!(wrong.contains("ordinary_debt.yaml: is a second file of the environment `ordinary_debt`"), "{wrong}");
    let configs = Configs::new();
    std::fs::remove_file(configs.path(MASTER)).unwrap();
    assert_eq!(
        configs.wrong_class(),
        "environments/clinic: has no `_master_config.yaml`, so it is no environment class"
    );
}
