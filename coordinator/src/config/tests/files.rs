use std::time::{Duration, Instant};

use super::fixture::{CLINIC, Configs, ENVIRONMENT_HEAD};
use crate::config::Experiment;

/// Hostile files must be refused fast: this leaves room for a loaded machine.
const SOON: Duration = Duration::from_secs(5);

fn refused(rest: &str) -> String {
    let start = Instant::now();
    let wrong = Configs::new().wrong(rest, &[]);
    assert!(start.elapsed() < SOON, "took {:?}", start.elapsed());
    wrong
}

#[test]
fn a_missing_file_says_what_to_do() {
    let configs = Configs::new();
    let missing = Experiment::load(&configs.path("experiments/none.yaml"), None, &[], None, None).unwrap_err();
    assert_eq!(
        configs.relative(&missing),
        "experiments/none.yaml: there is no such file; check the path, or run from the folder that it is relative to"
    );
}

#[test]
fn files_over_the_limit_are_refused_before_they_are_parsed() {
    let large = format!("{CLINIC}# {}", "x".repeat(1 << 20));
    assert_eq!(
        refused(&large),
        "experiments/test.yaml: is larger than 1 MiB, the limit of an experiment file; nothing of it was read"
    );
    let configs = Configs::new();
    let file = std::fs::File::create(configs.path("environments/clinic/gameable_smoking.yaml")).unwrap();
    file.set_len((64 << 20) + 1).unwrap();
    assert_eq!(
        configs.wrong_class(),
        "environments/clinic/gameable_smoking.yaml: is larger than 64 MiB, the limit of an environment file; \
         nothing of it was read"
    );
}

#[test]
fn aliases_that_multiply_are_refused() {
    let lists = |i: usize| format!("a{i}: &a{i} [{}]\n", vec![format!("*a{}", i - 1); 10].join(","));
    let laughs = format!("a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n{}", (1..9).map(lists).collect::<String>());
    assert!(refused(&laughs).ends_with("aliases expand to more than 4 times the file; write the values out"));
    let long_text = format!("a: &a {}\nb: [{}]\n", "x".repeat(200_000), "*a,".repeat(100_000));
    assert_eq!(
        refused(&long_text),
        "experiments/test.yaml:3: b[9]: aliases expand to more than 4 times the file; write the values out"
    );
}

#[test]
fn deep_nesting_neither_overflows_the_stack_nor_hangs() {
    assert_eq!(
        refused(&format!("a: {}", "[".repeat(100_000))),
        "experiments/test.yaml: has more than 512 brackets open at once; close them, or nest less deeply"
    );
    assert_eq!(
        refused(&format!("a: {}{}", "[".repeat(200), "]".repeat(200))),
        "experiments/test.yaml:3: is nested more than 128 levels deep; nest less deeply"
    );
    refused(&"- ".repeat(100_000));
    refused(&"? ".repeat(100_000));
    refused(&"{a: ".repeat(100_000));
    // As many brackets as may be open, and a long tail: the parser's time is their product.
    refused(&format!("{}{}", "{a: ".repeat(500), "[],".repeat(100_000)));
    let configs = Configs::new();
    configs.write("environments/clinic/ordinary_debt.json", &"[".repeat(400));
    assert_eq!(configs.wrong_class(), "environments/clinic/ordinary_debt.json:1: recursion limit exceeded");
}

#[test]
fn files_of_millions_of_items_are_refused() {
    let configs = Configs::new();
    let many = format!("{ENVIRONMENT_HEAD}list: [{}]", ",".repeat(5 << 20));
    configs.write("environments/clinic/gameable_smoking.yaml", &many);
    let start = Instant::now();
    assert_eq!(
        configs.wrong_class(),
        "environments/clinic/gameable_smoking.yaml: has more than 4194304 items; split the file"
    );
    assert!(start.elapsed() < SOON);
}

#[test]
fn text_that_is_not_utf8_is_refused_at_its_line() {
    let configs = Configs::new();
    let path = configs.path("environments/clinic/gameable_smoking.yaml");
    std::fs::write(path, b"topic: x\nother: \xff\n").unwrap();
    assert_eq!(
        configs.wrong_class(),
        "environments/clinic/gameable_smoking.yaml:2: is not UTF-8 from byte 16 on; save the file as UTF-8"
    );
}

#[test]
fn broken_yaml_is_refused_at_its_line() {
    for (rest, message) in [
        ("environments: {class: clinic\nfoo: bar\n", "experiments/test.yaml:4: did not find expected ',' or '}'"),
        ("environments: *x\n", "experiments/test.yaml:3: unknown anchor"),
        (
            "environments:\n  class: clinic\n  class: clinic\n",
            "experiments/test.yaml:5: environments: the key `class` stands here twice; keep one",
        ),
        (
            "environments: !x {class: clinic}\n",
            "experiments/test.yaml:3: environments: invalid type: enum, expected plain YAML without tags",
        ),
        ("training: {epochs: .nan}\n", "experiments/test.yaml:3: training.epochs: NaN is not a finite number"),
        (
            "environments: {class: \"a\\0b\"}\n",
            "experiments/test.yaml:3: `environments.class` is `a\\u{0}b`, but there is no folder \
             environments/a\\u{0}b; give the name of a folder there, or a path",
        ),
    ] {
        assert_eq!(refused(rest), message);
    }
}

#[test]
fn an_empty_file_lists_what_is_missing() {
    let configs = Configs::new();
    let wrong = configs.load_text("", &[]).unwrap_err();
    assert_eq!(
        configs.relative(&wrong).lines().map(|l| l.split(';').next().unwrap()).collect::<Vec<_>>(),
        [
            "experiments/test.yaml: `name` is missing",
            "experiments/test.yaml: `environments.class` is missing",
            "experiments/test.yaml: `model` is missing"
        ]
    );
}
