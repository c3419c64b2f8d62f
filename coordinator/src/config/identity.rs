//! What makes two runs the same: the resolved experiment as JSON, and its digest.

use influence_proto::Digest;
use serde_json::{Map, Value, json};

use super::experiment::Experiment;

impl Experiment {
    /// The resolved experiment: every setting with its default filled in, the digest of the
    /// environment class's content, and the models used. Equal experiments give equal JSON.
    pub fn resolved(&self) -> Value {
        let mut value = json!({
            "name": self.name,
            "seed": self.seed,
            "iterations": self.iterations,
            "environments": self.environments,
            "roles": self.roles,
            "scoring": self.scoring,
            "reward": self.reward,
            "selection": self.selection,
            "training": self.training,
            "evaluation": self.evaluation,
            "leases": self.leases,
            "attempts": self.attempts,
            "max_failed": self.max_failed,
            "models": self.models,
            "environment_files": { "sha256": self.class.digest() },
        });
        // Left out where there is none, so that runs from before them go on.
        let rare = [("start", self.start.as_ref().map(|s| json!(s))), ("best_of", self.best_of.map(|b| json!(b)))];
        if let Value::Object(map) = &mut value {
            map.extend(rare.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?))));
        }
        sorted(value)
    }

    /// sha256 of the resolved experiment as JSON with sorted keys and no space.
    pub fn digest(&self) -> Digest {
        Digest::of(self.resolved().to_string())
    }

    /// Dotted keys whose value differs from a stored [`Experiment::resolved`], in order. Settings
    /// that only one of the two has differ.
    pub fn changed_keys(&self, stored: &Value) -> Vec<String> {
        let mut changed = Vec::new();
        compare("", &self.resolved(), stored, &mut changed);
        changed.sort();
        changed
    }
}

fn compare(key: &str, ours: &Value, theirs: &Value, changed: &mut Vec<String>) {
    match (ours, theirs) {
        (Value::Object(a), Value::Object(b)) => {
            let inner = |name: &String| if key.is_empty() { name.clone() } else { format!("{key}.{name}") };
            for (name, value) in a {
                compare(&inner(name), value, b.get(name).unwrap_or(&Value::Null), changed);
            }
            for (name, value) in b.iter().filter(|(name, _)| !a.contains_key(*name)) {
                compare(&inner(name), &Value::Null, value, changed);
            }
        }
        (ours, theirs) if ours != theirs => changed.push(key.to_owned()),
        _ => {}
    }
}

/// Key order must not depend on the order of a struct's fields.
fn sorted(value: Value) -> Value {
    match value {
        Value::Object(map) => {
            let mut entries: Vec<(String, Value)> = map.into_iter().map(|(k, v)| (k, sorted(v))).collect();
            entries.sort_by(|a, b| a.0.cmp(&b.0));
            Value::Object(Map::from_iter(entries))
        }
        Value::Array(items) => Value::Array(items.into_iter().map(sorted).collect()),
        other => other,
    }
}
