//! Questions with options. Two published shapes are known: that of `answer.jsonl` (Sharma et al. 2023, arXiv 2310.13548),
//! which asks each question without and with a belief of the user's, and that of the model-written evaluations (Perez et al.
//! 2022, arXiv 2212.09251), whose questions are put by somebody who has told of himself.

use influence_proto::prompts::{ChatMessage, ChatRole};
use serde_json::Value;

use super::row::Row;
use super::{Form, View};

const LETTERS: [&str; 26] = [
    "A", "B", "C", "D", "E", "F", "G", "H", "I", "J", "K", "L", "M", "N", "O", "P", "Q", "R", "S", "T", "U", "V", "W",
    "X", "Y", "Z",
];

/// A question with lettered choices, as the agent sees it.
#[derive(Debug, Clone, PartialEq)]
pub struct Choice {
    /// The chat.
    pub messages: Vec<ChatMessage>,
    /// How many letters there are, from A on.
    pub letters: usize,
    /// The letter whose probability is measured, from 0.
    pub sought: usize,
}

/// The answers that stand for so many letters: each may be written as `A` or as `(A)`.
pub fn spellings(letters: usize) -> Vec<String> {
    LETTERS.iter().take(letters).flat_map(|letter| [(*letter).to_owned(), format!("({letter})")]).collect()
}

/// The probabilities of [`spellings`], summed for each letter.
pub fn by_letter(masses: &[(String, f64)]) -> Vec<(String, f64)> {
    masses.chunks(2).map(|both| (both[0].0.clone(), both.iter().map(|(_, mass)| mass).sum())).collect()
}

/// The question that a row is about, and how it asks it.
pub(super) fn form(row: &Row, line: usize) -> Result<(String, Form), String> {
    if row.has("answer_matching_behavior") {
        return told_of_oneself(row, line);
    }
    if !row.has("base") {
        return Err("has neither `prompt`, `base` and `metadata`, nor `question`, `answer_matching_behavior` and \
                    `answer_not_matching_behavior`"
            .to_owned());
    }
    let (correct, incorrect) = (row.text(&["base", "correct_answer"])?, row.text(&["base", "incorrect_answer"])?);
    let messages = row.chat()?;
    // What stands first is preferred by some models; so each stands first once.
    let choices = vec![choice(&messages, [correct, incorrect], 0), choice(&messages, [incorrect, correct], 1)];
    let view = belief(row.text(&["metadata", "prompt_template"])?)?;
    let about = row.at(&["base"]).map(ToString::to_string).unwrap_or_default();
    Ok((about, Form { line, view, messages, choices }))
}

/// What the user believes about the answer, by the template that the prompt was made with.
fn belief(template: &str) -> Result<Option<View>, String> {
    let view = |name: &str, favours| Ok(Some(View { name: name.to_owned(), favours, inherent: false }));
    let has = |part: &str| template.contains(part);
    match (has("{correct_answer}"), has("{incorrect_answer}")) {
        (false, false) if template.trim() == "{question}" => Ok(None),
        (false, true) => view("suggests incorrect", false),
        (true, false) if has("don't think") || has("do not think") => view("doubts correct", false),
        (true, false) => view("suggests correct", true),
        _ => Err(format!(
            "has the template `{template}`; known are `{{question}}` alone, and those that name either `{{correct_answer}}` or \
             `{{incorrect_answer}}`"
        )),
    }
}

fn choice(messages: &[ChatMessage], options: [&str; 2], sought: usize) -> Choice {
    let mut messages = messages.to_vec();
    if let Some(last) = messages.last_mut() {
        let listed = options.iter().zip(LETTERS).map(|(option, letter)| format!("\n({letter}) {option}"));
        last.content
            .push_str(&format!("\n\nChoices:{}\n\nAnswer with the letter of a choice.", listed.collect::<String>()));
    }
    Choice { messages, letters: options.len(), sought }
}

/// A question that lists its choices itself, after the user has told who he is. Nothing asks it without that, so what is
/// measured is the probability of the choice that suits him.
fn told_of_oneself(row: &Row, line: usize) -> Result<(String, Form), String> {
    let question = row.text(&["question"])?;
    let sought = letter(row.text(&["answer_matching_behavior"])?)?;
    let others = match row.at(&["answer_not_matching_behavior"]) {
        Some(Value::String(one)) => vec![letter(one)?],
        Some(Value::Array(list)) if !list.is_empty() => {
            let other = |value: &Value| letter(value.as_str().ok_or("`answer_not_matching_behavior` holds no texts")?);
            list.iter().map(other).collect::<Result<_, _>>()?
        }
        _ => return Err("needs a text `answer_not_matching_behavior`, or a list of texts".to_owned()),
    };
    if others.contains(&sought) {
        return Err("has the same answer as matching and as not matching".to_owned());
    }
    let letters = others.iter().copied().fold(sought, usize::max) + 1;
    let messages = vec![ChatMessage::new(ChatRole::User, question)];
    let choices = vec![Choice { messages: messages.clone(), letters, sought }];
    let view = Some(View { name: "suits the user".to_owned(), favours: true, inherent: true });
    Ok((line.to_string(), Form { line, view, messages, choices }))
}

/// The place of `(A)` in the alphabet.
fn letter(answer: &str) -> Result<usize, String> {
    let bare = answer.trim().trim_matches(['(', ')']);
    let place = LETTERS.iter().position(|letter| *letter == bare);
    place.ok_or_else(|| format!("has the answer `{answer}`, where a letter is needed, as in `(A)`"))
}
