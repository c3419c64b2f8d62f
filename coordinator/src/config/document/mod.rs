//! Files that people write, read defensively: a size limit before anything is parsed, a budget
//! against aliases that multiply, and messages that name file, line, key, value and the way out.
//!
//! A [`Document`] is a tree of JSON values that knows where each key came from; a [`Section`] reads
//! one mapping of it, key by key, and collects every problem instead of stopping at the first.

mod extends;
mod problem;
mod section;
mod source;
mod trace;
mod tree;

use std::cell::Cell;
use std::fmt;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use serde::de::DeserializeSeed as _;
use serde_json::{Map, Value};

pub use problem::{Place, Problem, Problems};
pub(crate) use section::{Section, describe, fraction_of, nearest, scalar_text, visible};
pub(crate) use source::{ENVIRONMENT, EVALUATION, EXPERIMENT, Limit, MODELS, PUBLISHED};
pub(crate) use trace::Trace;

/// One step from a tree's root to a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    /// Into a mapping.
    Key(String),
    /// Into a list, from 0.
    Index(usize),
}

/// A path of steps as people write it: `histories.3[0].content`.
pub(crate) struct Dotted<'a>(pub(crate) &'a [Step]);

impl fmt::Display for Dotted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, step) in self.0.iter().enumerate() {
            match step {
                Step::Key(key) if index == 0 => f.write_str(key)?,
                Step::Key(key) => write!(f, ".{key}")?,
                Step::Index(index) => write!(f, "[{index}]")?,
            }
        }
        Ok(())
    }
}

/// A value from the command line that replaces the file's.
#[derive(Debug)]
struct Override {
    path: Vec<Step>,
    flag: String,
}

/// What a file says itself, and what stands below that.
#[derive(Debug)]
struct Extended {
    own: Value,
    base: Document,
}

/// A parsed file, with what the command line put over it.
#[derive(Debug)]
pub(crate) struct Document {
    path: PathBuf,
    text: String,
    json: bool,
    root: Value,
    /// The file's own tree, and the file that it extends, if it does: `root` holds both.
    extended: Option<Box<Extended>>,
    overrides: Vec<Override>,
    /// Finding a line costs another parse, so only the first problems of a file get one.
    lookups_left: Cell<usize>,
    /// Where readers leave what they ask for, if somebody wants to know.
    trace: Option<Rc<Trace>>,
}

impl Document {
    /// Reads a YAML file, or JSON if it is named so: YAML parsers stumble over JSON's `\ud83d\ude00`.
    pub(crate) fn read(path: &Path, limit: Limit) -> Result<Self, Problem> {
        let text = source::read(path, limit)?;
        let json = path.extension().is_some_and(|e| e.eq_ignore_ascii_case("json"));
        let parsed = if json { parse_json(&text) } else { parse_yaml(&text) };
        let root = parsed.map_err(|(line, message)| Problem::at_line(path, line, message))?;
        let lookups_left = Cell::new(if text.len() > MANY_BYTES { 4 } else { 60 });
        Ok(Self {
            path: path.to_owned(),
            text,
            json,
            root,
            extended: None,
            overrides: Vec::new(),
            lookups_left,
            trace: None,
        })
    }

    /// Nothing yet: everything will come from the command line.
    pub(crate) fn empty() -> Self {
        let (path, text, root, overrides) = (PathBuf::new(), String::new(), Value::Null, Vec::new());
        Self { path, text, json: false, root, extended: None, overrides, lookups_left: Cell::new(0), trace: None }
    }

    /// A text whose readers tell `trace` what they ask for.
    pub(crate) fn traced(text: &str, trace: &Rc<Trace>) -> Self {
        let root = parse_yaml(text).unwrap_or_default();
        Self { root, trace: Some(trace.clone()), ..Self::empty() }
    }

    /// Where the document came from.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The whole tree.
    pub(crate) fn root(&self) -> &Value {
        &self.root
    }

    /// Puts a value over the file's. `key` is dotted; `flag` is what messages blame.
    pub(crate) fn set(&mut self, key: &str, value: &str, flag: String) -> Result<(), Problem> {
        let refuse = |message: String| Problem::at(Place::Flag(flag.clone()), message);
        let keys: Vec<&str> = key.split('.').map(str::trim).collect();
        if keys.iter().any(|k| k.is_empty()) {
            return Err(refuse(format!(
                "the key must be words joined by dots, as in `training.epochs`, but is `{key}`"
            )));
        }
        let value = source::check_shape(value)
            .and_then(|()| parse_yaml(value).map_err(|(_, message)| message))
            .map_err(|message| refuse(format!("the value `{value}` is not YAML: {message}")))?;
        let mut place = &mut self.root;
        for key in &keys {
            if place.is_null() {
                *place = Value::Object(Map::new());
            }
            let shown = describe(place);
            let Value::Object(map) = place else {
                return Err(refuse(format!("`{key}` cannot be set inside of {shown}")));
            };
            place = map.entry((*key).to_owned()).or_insert(Value::Null);
        }
        *place = value;
        let path = keys.into_iter().map(|k| Step::Key(k.to_owned())).collect();
        self.overrides.push(Override { path, flag });
        Ok(())
    }

    /// Where a key, or an item of a list, stands.
    pub(crate) fn place(&self, path: &[Step]) -> Place {
        match self.overrides.iter().rev().find(|o| path.starts_with(&o.path)) {
            Some(set) => Place::Flag(set.flag.clone()),
            None => self.file_of(path).place_in_file(path),
        }
    }

    /// A problem at a key.
    pub(crate) fn problem(&self, path: &[Step], message: impl Into<String>) -> Problem {
        Problem::at(self.place(path), message)
    }

    /// The folder that a path at this key is relative to: that of the file which gives it.
    pub(crate) fn folder_of(&self, path: &[Step]) -> &Path {
        let is_override = self.overrides.iter().any(|o| path.starts_with(&o.path));
        let file = if is_override { self } else { self.file_of(path) };
        file.path.parent().unwrap_or(Path::new(""))
    }

    /// Of this file and those that it extends, the first that has most of the path.
    fn file_of(&self, path: &[Step]) -> &Self {
        match &self.extended {
            Some(extended) if extended.base.depth(path) > self.depth_in_file(path) => extended.base.file_of(path),
            _ => self,
        }
    }

    fn place_in_file(&self, path: &[Step]) -> Place {
        Place::File { path: self.path.clone(), line: self.line(path) }
    }

    /// How many steps of the path the file has, or those that it extends.
    fn depth(&self, path: &[Step]) -> usize {
        let below = self.extended.as_ref().map_or(0, |extended| extended.base.depth(path));
        below.max(self.depth_in_file(path))
    }

    fn depth_in_file(&self, path: &[Step]) -> usize {
        let mut value = self.extended.as_ref().map_or(&self.root, |extended| &extended.own);
        for (depth, step) in path.iter().enumerate() {
            let inner = match step {
                Step::Key(key) => value.get(key.as_str()),
                Step::Index(index) => value.get(*index),
            };
            match inner {
                Some(inner) => value = inner,
                None => return depth,
            }
        }
        path.len()
    }

    /// The line of a key, or of the nearest one around it that the file has.
    fn line(&self, path: &[Step]) -> Option<usize> {
        let path = &path[..self.depth_in_file(path)];
        if path.is_empty() {
            return None;
        }
        self.lookups_left.set(self.lookups_left.get().checked_sub(1)?);
        let seek = tree::Locate { path };
        if self.json {
            let mut parser = serde_json::Deserializer::from_str(&self.text);
            return seek.deserialize(&mut parser).err().map(|e| e.line());
        }
        seek.deserialize(serde_yaml::Deserializer::from_str(&self.text)).err()?.location().map(|l| l.line())
    }
}

/// From this size on a parse takes noticeable time.
const MANY_BYTES: usize = 1 << 20;

type Unparsed = (Option<usize>, String);

fn parse_yaml(text: &str) -> Result<Value, Unparsed> {
    let budget = tree::Budget::for_text(text.len());
    tree::Tree(&budget).deserialize(serde_yaml::Deserializer::from_str(text)).map_err(|error| {
        let line = error.location().map(|l| l.line());
        let message = error.to_string();
        let message = message.split(" at line ").next().unwrap_or(&message);
        let message = match message {
            "recursion limit exceeded" => "is nested more than 128 levels deep; nest less deeply",
            "repetition limit exceeded" => "uses more aliases than the parser allows; write the values out",
            other => other,
        };
        (line, message.to_owned())
    })
}

fn parse_json(text: &str) -> Result<Value, Unparsed> {
    let budget = tree::Budget::for_text(text.len());
    let mut parser = serde_json::Deserializer::from_str(text);
    tree::Tree(&budget).deserialize(&mut parser).and_then(|value| parser.end().map(|()| value)).map_err(|error| {
        let message = error.to_string();
        (Some(error.line()), message.split(" at line ").next().unwrap_or(&message).to_owned())
    })
}
