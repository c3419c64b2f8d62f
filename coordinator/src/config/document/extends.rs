//! `extends: FILE`: a file that says only in what it differs from another.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::{Document, Extended, Limit, Problem, Step, describe};

const EXTENDS: &str = "extends";

/// Files that may extend each other in a row.
const MOST: usize = 8;

impl Document {
    /// Reads a file and those that it extends. Mappings are merged key by key, anything else replaces what the extended file
    /// has, and `null` takes a key away.
    pub(crate) fn read_extending(path: &Path, limit: Limit) -> Result<Self, Problem> {
        Self::read_below(path, limit, &mut Vec::new())
    }

    fn read_below(path: &Path, limit: Limit, above: &mut Vec<PathBuf>) -> Result<Self, Problem> {
        let mut document = Self::read(path, limit)?;
        let Some(given) = document.root.get(EXTENDS) else {
            return Ok(document);
        };
        let problem = |message: String| document.problem(&[Step::Key(EXTENDS.into())], message);
        let Value::String(base) = given else {
            return Err(problem(format!("`{EXTENDS}` must be the path of a file, but is {}", describe(given))));
        };
        let base = path.parent().unwrap_or(Path::new("")).join(base);
        above.push(std::path::absolute(path).unwrap_or_else(|_| path.to_owned()));
        let same = |file: &PathBuf| same_file(file, &base);
        if above.iter().any(same) || above.len() > MOST {
            return Err(problem(format!(
                "`{EXTENDS}` leads to {}, which extends this file, or too many follow each other (at most {MOST})",
                base.display()
            )));
        }
        if !base.is_file() {
            return Err(problem(format!(
                "`{EXTENDS}` is {}, but there is no such file; check the path",
                base.display()
            )));
        }
        let base = Self::read_below(&base, limit, above)?;
        let Value::Object(mut own) = std::mem::take(&mut document.root) else {
            return Ok(document);
        };
        own.remove(EXTENDS);
        let mut root = base.root.clone();
        merge(&mut root, &own);
        document.root = root;
        document.extended = Some(Box::new(Extended { own: Value::Object(own), base }));
        Ok(document)
    }
}

fn same_file(one: &Path, other: &Path) -> bool {
    match (one.canonicalize(), other.canonicalize()) {
        (Ok(one), Ok(other)) => one == other,
        _ => one == other,
    }
}

fn merge(below: &mut Value, above: &Map<String, Value>) {
    if !below.is_object() {
        *below = Value::Object(Map::new());
    }
    let Value::Object(below) = below else { return };
    for (key, value) in above {
        match value {
            Value::Null => {
                below.remove(key);
            }
            Value::Object(inner) if below.get(key).is_some_and(Value::is_object) => {
                below.entry(key.clone()).and_modify(|value| merge(value, inner));
            }
            other => {
                below.insert(key.clone(), other.clone());
            }
        }
    }
}
