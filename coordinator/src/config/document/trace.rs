//! What a file's readers ask for, written down as a JSON Schema: so the schema is what the program reads.

use std::cell::RefCell;

use serde_json::{Map, Value, json};

use super::Step;

/// A schema that grows with every key that is read.
#[derive(Debug)]
pub(crate) struct Trace(RefCell<Value>);

impl Default for Trace {
    fn default() -> Self {
        Self(RefCell::new(json!({"type": "object"})))
    }
}

impl Trace {
    /// The key at `path` was asked for, and may hold what `schema` says. What is known of it already stays.
    pub(super) fn asked(&self, path: &[Step], schema: Value) {
        let mut root = self.0.borrow_mut();
        let node = node(&mut root, path);
        let (Value::Object(node), Value::Object(schema)) = (node, schema) else { return };
        for (key, value) in schema {
            node.entry(key).or_insert(value);
        }
    }

    /// The key at `path` must be there.
    pub(super) fn required(&self, path: &[Step]) {
        let Some((Step::Key(key), parent)) = path.split_last() else { return };
        let mut root = self.0.borrow_mut();
        let list = &mut node(&mut root, parent)["required"];
        match list {
            Value::Array(keys) if keys.contains(&json!(key)) => {}
            Value::Array(keys) => keys.push(json!(key)),
            other => *other = json!([key]),
        }
    }

    /// The mapping at `path` has no other keys.
    pub(super) fn closed(&self, path: &[Step]) {
        self.asked(path, json!({"additionalProperties": false}));
    }

    /// The schema.
    pub(crate) fn into_schema(self) -> Value {
        self.0.into_inner()
    }
}

fn node<'v>(root: &'v mut Value, path: &[Step]) -> &'v mut Value {
    path.iter().fold(root, |node, step| {
        let inner = match step {
            Step::Key(key) => &mut properties(node)[key.as_str()],
            Step::Index(_) => &mut node["items"],
        };
        if inner.is_null() {
            *inner = json!({});
        }
        inner
    })
}

fn properties(node: &mut Value) -> &mut Value {
    if node["properties"].is_null() {
        node["properties"] = Value::Object(Map::new());
    }
    &mut node["properties"]
}
