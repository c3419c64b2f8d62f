//! Published sets of questions and prompts, from a local file, put to agents: what is asked, and what the answers come to.
//!
//! Rows about one question, text or prompt are an [`Item`], the cluster of every standard error. An item is asked in several
//! [forms](Form): without a view of the user, and with one. What is measured about a form is a number; [`figures`] makes of
//! these numbers how far a stated view moves them.

mod answers;
mod feedback;
mod figures;
mod prompts;
mod row;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::path::Path;

use influence_proto::Digest;
use influence_proto::prompts::ChatMessage;
use serde::Serialize;

use crate::dataset::{RowError, each_row, file_digest};

pub use answers::{Choice, by_letter, spellings};
pub use feedback::which_is_more_positive;
pub use figures::{FigureSummary, Values, compared, figures};
pub use prompts::about_reply;

use row::Row;

/// What a benchmark measures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Task {
    /// Whether answers to questions follow what the user believes: the probability of a choice, with a view and without.
    SycophancyAnswers,
    /// Whether comments on a text follow what the user feels about it: how often the comment is more positive than one on the
    /// text alone.
    SycophancyFeedback,
    /// What replies to prompts are like, by the questions of an evaluation file.
    Prompts,
}

impl Task {
    /// As commands and files name it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::SycophancyAnswers => "sycophancy-answers",
            Self::SycophancyFeedback => "sycophancy-feedback",
            Self::Prompts => "prompts",
        }
    }
}

/// A file of a benchmark, as it is put to agents.
#[derive(Debug, Clone, PartialEq)]
pub struct Benchmark {
    /// What it measures.
    pub task: Task,
    /// Of the file's bytes.
    pub sha256: Digest,
    /// In the order of the file. There is at least one.
    pub items: Vec<Item>,
}

/// A question, a text or a prompt.
#[derive(Debug, Clone, PartialEq)]
pub struct Item {
    /// How it is asked: at least one form, and one at most for each view and for none.
    pub forms: Vec<Form>,
}

/// One way to ask an item.
#[derive(Debug, Clone, PartialEq)]
pub struct Form {
    /// The line of its row, from 1.
    pub line: usize,
    /// What the user is for, if that is said.
    pub view: Option<View>,
    /// What the agent is given to reply to.
    pub messages: Vec<ChatMessage>,
    /// Of questions: what the agent chooses between, in each order of the choices.
    pub choices: Vec<Choice>,
}

/// A view of the user's, as a form states it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct View {
    /// What its figure is called.
    pub name: String,
    /// Whether it speaks for what is measured: an agent that follows it raises the number.
    pub favours: bool,
    /// It is part of the question, which nothing asks without it.
    pub inherent: bool,
}

impl Item {
    fn has(&self, view: Option<&View>) -> bool {
        self.forms.iter().any(|form| form.view.as_ref() == view)
    }
}

impl Benchmark {
    /// Reads a file of JSON lines (or Parquet): all of it, or its first `limit` items.
    ///
    /// # Errors
    /// When it cannot be read, when a row is not of a known shape of the task, and when a row with a view has no row without.
    pub fn read(path: &Path, task: Task, limit: Option<usize>) -> Result<Self, RowError> {
        let mut items: Vec<Item> = Vec::new();
        let mut known: HashMap<String, usize> = HashMap::new();
        each_row(path, |line, text| {
            let refuse = |problem| RowError::of(path, line, problem);
            let row = Row::parse(text).map_err(refuse)?;
            let read = match task {
                Task::SycophancyAnswers => answers::form(&row, line),
                Task::SycophancyFeedback => feedback::form(&row, line),
                Task::Prompts => prompts::form(&row, line),
            };
            let (key, form) = read.map_err(refuse)?;
            let free = |place: &usize| items.get(*place).is_none_or(|item| !item.has(form.view.as_ref()));
            // A row that says what an earlier one says begins the item anew.
            let place = known.get(&key).copied().filter(free).unwrap_or(items.len());
            known.insert(key, place);
            match items.get_mut(place) {
                Some(item) => item.forms.push(form),
                None if limit.is_none_or(|limit| place < limit) => items.push(Item { forms: vec![form] }),
                None => {}
            }
            Ok(())
        })?;
        if items.is_empty() {
            return Err(RowError::of(path, 1, "there is no row; a line is one JSON object".to_owned()));
        }
        let inherent = |form: &Form| form.view.as_ref().is_some_and(|view| view.inherent);
        let alone = |item: &&Item| !item.has(None) && !item.forms.iter().any(inherent);
        if let Some(item) = items.iter().find(alone) {
            let problem = "states a view, but no row asks the same without one".to_owned();
            return Err(RowError::of(path, item.forms[0].line, problem));
        }
        let sha256 = file_digest(path).map_err(|source| RowError::Io { path: path.to_owned(), source })?;
        Ok(Self { task, sha256, items })
    }
}
