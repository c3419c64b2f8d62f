//! Exact probabilities of answers.
//!
//! The probability of an answer is the probability that the reply begins with one of its forms and not with a longer form
//! of another allowed answer. Forms are token sequences in a tree; the reply belongs to the longest form that it begins
//! with, so a form's own probability is that of its path minus that of the nearest forms below it.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokenizers::Tokenizer;

use super::distribution::{Distribution, NotANumber, Warp};

/// Answers that cannot be told apart, or cannot be written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AnswerError {
    /// There is nothing to choose from.
    #[error("a score needs at least one allowed answer")]
    None,
    /// An answer without letters.
    #[error("answer {index} is blank; every allowed answer needs some text")]
    Blank {
        /// Its index, from 0.
        index: usize,
    },
    /// Two answers share a form, so a reply could be either.
    #[error("the answers `{first}` and `{second}` share the form `{form}`: answers must differ in more than case")]
    Shared {
        /// One answer.
        first: String,
        /// The other.
        second: String,
        /// What both can look like.
        form: String,
    },
    /// An answer spells out a control token.
    #[error("the answer `{answer}` contains a control token of the model")]
    Control {
        /// The answer.
        answer: String,
    },
    /// The tokenizer failed.
    #[error("the answer `{answer}` cannot be encoded: {reason}")]
    Encode {
        /// The answer.
        answer: String,
        /// What the tokenizer said.
        reason: String,
    },
}

/// The forms of all allowed answers as a tree of tokens.
#[derive(Debug, PartialEq, Eq)]
pub struct AnswerTree {
    answers: Vec<String>,
    /// The root first; a child comes after its parent.
    nodes: Vec<Node>,
    /// Nodes with children, in the order in which they are visited: depth first.
    visits: Vec<usize>,
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Node {
    parent: usize,
    /// The token that leads here.
    token: u32,
    depth: usize,
    children: BTreeMap<u32, usize>,
    /// The answer of which a form ends here.
    owner: Option<usize>,
}

impl AnswerTree {
    /// Builds the tree. An answer's forms are the answer as written, in lower case, in upper case and capitalised, each with
    /// and without a leading space, each encoded alone. `tokenizer` must not
    /// put a space of its own before them.
    ///
    /// # Errors
    /// [`AnswerError`]: no answers, blank ones, or two that share a form.
    pub fn new(tokenizer: &Tokenizer, answers: &[String]) -> Result<Self, AnswerError> {
        let specials = tokenizer.get_added_tokens_decoder();
        let is_special = |id: &u32| specials.get(id).is_some_and(|token| token.special);
        let mut forms = Vec::new();
        for (owner, answer) in answers.iter().enumerate() {
            if answer.trim().is_empty() {
                return Err(AnswerError::Blank { index: owner });
            }
            for form in surface_forms(answer) {
                let encoding = tokenizer.encode_fast(form.as_str(), false);
                let encoding =
                    encoding.map_err(|e| AnswerError::Encode { answer: answer.clone(), reason: e.to_string() })?;
                let ids = encoding.get_ids().to_vec();
                if ids.is_empty() || ids.iter().any(is_special) {
                    return Err(AnswerError::Control { answer: answer.clone() });
                }
                forms.push((owner, form, ids));
            }
        }
        Self::from_forms(answers.to_vec(), forms)
    }

    /// From forms that are encoded already: (answer's index, text, ids).
    fn from_forms(answers: Vec<String>, forms: Vec<(usize, String, Vec<u32>)>) -> Result<Self, AnswerError> {
        if answers.is_empty() {
            return Err(AnswerError::None);
        }
        let mut nodes = vec![Node::default()];
        for (owner, form, ids) in forms {
            let end = insert(&mut nodes, &ids);
            match nodes[end].owner {
                Some(other) if other != owner => {
                    return Err(AnswerError::Shared {
                        first: answers[other].clone(),
                        second: answers[owner].clone(),
                        form,
                    });
                }
                _ => nodes[end].owner = Some(owner),
            }
        }
        let mut visits = Vec::new();
        let mut stack = vec![0];
        while let Some(node) = stack.pop() {
            let children = &nodes[node].children;
            if !children.is_empty() {
                visits.push(node);
                stack.extend(children.values().rev());
            }
        }
        Ok(Self { answers, nodes, visits })
    }

    /// The answers, in the order in which they were given.
    pub fn answers(&self) -> &[String] {
        &self.answers
    }

    /// The most tokens that are appended to the prompt while scoring.
    pub fn depth(&self) -> usize {
        self.visits.iter().map(|node| self.nodes[*node].depth).max().unwrap_or(0)
    }

    /// Forward passes that a score needs after the prompt's own.
    pub fn further_steps(&self) -> usize {
        self.visits.len().saturating_sub(1)
    }

    /// Each answer's probability, from the probability of reaching each node.
    fn probabilities(&self, reached: &[f64]) -> Vec<f64> {
        // What a terminal's nearest terminals below it take from it. Children come after their parents, so going backwards
        // hands every node's due upwards once.
        let mut below = vec![0f64; self.nodes.len()];
        let mut sums = vec![0f64; self.answers.len()];
        for (index, node) in self.nodes.iter().enumerate().rev() {
            let due = match node.owner {
                Some(owner) => {
                    sums[owner] += (reached[index] - below[index]).max(0.0);
                    reached[index]
                }
                None => below[index],
            };
            if index > 0 {
                below[node.parent] += due;
            }
        }
        sums
    }
}

fn insert(nodes: &mut Vec<Node>, ids: &[u32]) -> usize {
    let mut at = 0;
    for (depth, token) in ids.iter().enumerate() {
        at = match nodes[at].children.get(token) {
            Some(child) => *child,
            None => {
                let child = nodes.len();
                nodes[at].children.insert(*token, child);
                nodes.push(Node { parent: at, token: *token, depth: depth + 1, ..Node::default() });
                child
            }
        };
    }
    at
}

/// The texts that count as this answer, equal ones merged.
pub fn surface_forms(answer: &str) -> Vec<String> {
    let mut letters = answer.chars();
    let first: String = letters.by_ref().take(1).flat_map(char::to_uppercase).collect();
    let capitalised = first + &letters.as_str().to_lowercase();
    let cases = [answer.to_owned(), answer.to_lowercase(), answer.to_uppercase(), capitalised];
    let mut forms: Vec<String> = Vec::new();
    for case in cases {
        for form in [case.clone(), format!(" {case}")] {
            if !forms.contains(&form) {
                forms.push(form);
            }
        }
    }
    forms
}

/// The result of a score.
#[derive(Debug, Clone, PartialEq)]
pub struct AnswerDistribution {
    /// Each allowed answer with its probability given that the reply is one of them; they sum to 1, or are all 0 if the
    /// mass is 0.
    pub probabilities: Vec<(String, f64)>,
    /// The probability that the reply is an allowed answer at all. A score of little mass means little: the caller decides
    /// from where on it is unscored.
    pub mass: f64,
}

/// What a [`ScoreWalk`] wants next.
#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    /// Cut the sequence back to the prompt plus `kept` tokens, append `token`, and come back with the logits after it.
    Visit {
        /// Tokens after the prompt that stay.
        kept: usize,
        /// The token to append.
        token: u32,
    },
    /// The score is complete.
    Done(AnswerDistribution),
}

/// A score in the making: it is handed one distribution after the other.
#[derive(Debug)]
pub struct ScoreWalk {
    tree: Arc<AnswerTree>,
    warp: Warp,
    /// Probability of reaching each node.
    reached: Vec<f64>,
    visited: usize,
}

impl ScoreWalk {
    /// Begins at the end of the prompt. `warp` is the identity but for comparisons with other implementations' scores.
    pub fn new(tree: Arc<AnswerTree>, warp: Warp) -> Self {
        let mut reached = vec![0.0; tree.nodes.len()];
        reached[0] = 1.0;
        Self { tree, warp, reached, visited: 0 }
    }

    /// Takes the logits after the prompt (first call) or after the token that was asked for.
    ///
    /// # Errors
    /// Logits that are not numbers.
    pub fn accept(&mut self, logits: &[f32]) -> Result<Step, NotANumber> {
        let distribution = Distribution::new(logits, &self.warp)?;
        if let Some(here) = self.tree.visits.get(self.visited) {
            for (token, child) in &self.tree.nodes[*here].children {
                self.reached[*child] = self.reached[*here] * distribution.probability(*token);
            }
        }
        self.visited += 1;
        Ok(match self.tree.visits.get(self.visited) {
            Some(next) => {
                let node = &self.tree.nodes[*next];
                Step::Visit { kept: node.depth - 1, token: node.token }
            }
            None => Step::Done(self.finish()),
        })
    }

    fn finish(&self) -> AnswerDistribution {
        let raw = self.tree.probabilities(&self.reached);
        let mass: f64 = raw.iter().sum();
        let share = |p: f64| if mass > 0.0 { p / mass } else { 0.0 };
        AnswerDistribution {
            probabilities: self.tree.answers.iter().cloned().zip(raw.into_iter().map(share)).collect(),
            mass,
        }
    }
}

#[cfg(test)]
mod tests;
