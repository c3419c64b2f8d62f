//! JSON Schemas of the files that people write, for editors. They come from the readers themselves: each file's reader is run
//! on a text that has every section, and what it asks for is written down. Descriptions are those of `docs/configuration.md`.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::Path;
use std::rc::Rc;

use serde_json::{Value, json};

use super::document::{Document, Problems, Trace};
use super::evaluation::read_metrics;
use super::experiment::read_all;
use crate::environments::read_everything;

/// What a schema is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SchemaOf {
    /// `configs/experiments/*.yaml`.
    Experiment,
    /// A class's `_master_config.yaml`, and the environments beside it.
    Environment,
    /// `configs/evaluations/*.yaml`.
    Evaluation,
}

/// The JSON Schema (draft 2020-12) of a kind of file.
pub fn schema(of: SchemaOf) -> Value {
    let (title, mut body) = match of {
        SchemaOf::Experiment => ("An experiment of Influence Benchmark", experiment()),
        SchemaOf::Environment => ("An environment class, or an environment, of Influence Benchmark", environment()),
        SchemaOf::Evaluation => ("An evaluation of Influence Benchmark", evaluation()),
    };
    let mut schema = json!({"$schema": "https://json-schema.org/draft/2020-12/schema", "title": title});
    if let (Value::Object(schema), Value::Object(body)) = (&mut schema, &mut body) {
        schema.append(body);
    }
    schema
}

fn traced(texts: &[&str], read: impl Fn(Document)) -> Value {
    let trace = Rc::new(Trace::default());
    for text in texts {
        read(Document::traced(text, &trace));
    }
    Rc::try_unwrap(trace).map(Trace::into_schema).unwrap_or_default()
}

fn experiment() -> Value {
    // Between them they have every section: each algorithm has one of its own, and each trainer has keys of its own.
    let rest = "roles: {influence: {enabled: true}}\nselection: {veto: {}}\n";
    let texts = [("sft", "local"), ("sft", "api"), ("dpo", "local"), ("kto", "local")]
        .map(|(name, backend)| format!("training: {{algorithm: {name}, backend: {backend}, static: {{}}}}\n{rest}"));
    let mut schema = traced(&texts.each_ref().map(String::as_str), |document| {
        let _ = read_all(&document, Path::new(""), &RefCell::new(Problems::none()));
    });
    schema["properties"]["extends"] = json!({"type": "string"});
    schema["properties"]["environments"]["properties"]["fractions"] =
        json!({"type": "object", "additionalProperties": {"type": ["number", "string"]}});
    forget_required(&mut schema);
    describe(&mut schema);
    schema
}

/// In a file that extends another, any key may stand in that one.
fn forget_required(schema: &mut Value) {
    if let Some(node) = schema.as_object_mut() {
        node.remove("required");
        node.get_mut("properties")
            .and_then(Value::as_object_mut)
            .into_iter()
            .flatten()
            .for_each(|(_, inner)| forget_required(inner));
    }
}

const CLASS: &str = "
state_config: {any: {valid_transitions: {any: {}}, terminal: true, history: [{}]}}
agent_config: {max_tokens: 1, temperature: 1}
influence_detector_model_config: {constitutional_system_prompt: '', five_point_system_prompt: ''}
generation_config: {}
";

fn environment() -> Value {
    let mut class = traced(&[CLASS], read_everything);
    let mut state = class["properties"]["state_config"]["properties"]["any"].take();
    let answer = state["properties"]["valid_transitions"]["properties"]["any"].take();
    let message = state["properties"]["history"]["items"].take();
    state["properties"]["valid_transitions"] = json!({"type": ["object", "null"], "additionalProperties": answer});
    let messages = json!({"type": "array", "items": message});
    state["properties"]["history"] = messages.clone();
    class["properties"]["state_config"] = json!({
        "type": "object", "additionalProperties": state, "required": ["initial_state"],
    });
    let values = json!({"type": "array", "minItems": 1, "items": {"type": ["string", "number", "boolean"]}});
    let lists = json!({"type": "object", "additionalProperties": values});
    class["properties"]["possible_env_vars"] = lists.clone();
    class["required"] = json!([
        "state_config",
        "agent_config",
        "character_config",
        "preference_model_config",
        "transition_model_config"
    ]);
    let openings = json!({"type": "object", "minProperties": 1, "additionalProperties": messages});
    let environment = json!({
        "type": "object",
        "properties": {"histories": openings, "templates": openings, "variables": lists},
        "oneOf": [{"required": ["histories"]}, {"required": ["templates"]}],
        "additionalProperties": {"type": ["string", "number", "boolean"]},
    });
    json!({"if": {"required": ["state_config"]}, "then": class, "else": environment})
}

fn evaluation() -> Value {
    let mut schema = traced(&["metrics: {any: {}}"], |document| {
        let _ = read_metrics(&document);
    });
    let metric = schema["properties"]["metrics"]["properties"]["any"].take();
    schema["properties"]["metrics"] = json!({"type": "object", "minProperties": 1, "additionalProperties": metric});
    schema["required"] = json!(["metrics"]);
    schema
}

/// Adds what `docs/configuration.md` says of each key.
fn describe(schema: &mut Value) {
    for (path, meaning) in meanings(include_str!("../../../docs/configuration.md")) {
        let found = path.split('.').try_fold(&mut *schema, |node, key| node.get_mut("properties")?.get_mut(key));
        if let Some(node) = found.filter(|_| !meaning.is_empty()) {
            node["description"] = json!(meaning);
        }
    }
}

/// Of the tables under `## Experiments`: dotted keys and the last cell of their row. A heading of one word is a section.
fn meanings(page: &str) -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    let mut section = None;
    for line in
        page.lines().skip_while(|line| *line != "## Experiments").skip(1).take_while(|line| !line.starts_with("## "))
    {
        if let Some(heading) = line.strip_prefix("### ") {
            section = Some(heading).filter(|heading| !heading.contains(' '));
        }
        let cells: Vec<&str> = line.trim_matches('|').split(" | ").map(str::trim).collect();
        let ([keys, .., meaning], true) = (&cells[..], line.starts_with("| `")) else { continue };
        for key in keys.split('`').skip(1).step_by(2) {
            let path = section.map_or_else(|| key.to_owned(), |section| format!("{section}.{key}"));
            all.insert(path, meaning.replace('`', ""));
        }
    }
    all
}
