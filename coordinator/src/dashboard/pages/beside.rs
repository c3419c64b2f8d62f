use std::time::Duration;

use askama::Template;
use axum::extract::{Query, State};
use influence_proto::prompts;
use serde::Deserialize;
use similar::{ChangeTag, TextDiff};

use super::conversation::{Said, facts, find, said, value};
use super::{Page, render, run_id};
use crate::dashboard::Pages;
use crate::dashboard::error::PageError;

/// For the comparison of two texts; what is longer is compared more roughly.
const PATIENCE: Duration = Duration::from_millis(100);

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(in crate::dashboard) struct Asked {
    /// As in `RUN/EPISODE`.
    a: String,
    b: String,
}

#[derive(Template)]
#[template(path = "beside.html")]
struct BesidePage {
    sides: [Side; 2],
    turns: Vec<Row>,
}

struct Side {
    link: String,
    title: String,
    facts: String,
}

/// A turn of both; number 0 is the opening.
struct Row {
    number: usize,
    ratings: [String; 2],
    /// Messages that stand in the same place.
    pairs: Vec<[Option<Bubble>; 2]>,
}

struct Bubble {
    role: &'static str,
    who: String,
    parts: Vec<Part>,
}

/// A piece of a text, and whether the other side lacks it.
#[derive(Debug, PartialEq, Eq)]
struct Part {
    differs: bool,
    text: String,
}

/// One conversation, turn by turn.
struct Whole {
    side: Side,
    turns: Vec<(String, Vec<Said>)>,
}

/// Two conversations side by side, with the words marked in which they differ.
pub(in crate::dashboard) async fn beside(State(pages): State<Pages>, Query(asked): Query<Asked>) -> Page {
    let (a, b) = (whole(&pages, &asked.a).await?, whole(&pages, &asked.b).await?);
    let (mut left, mut right) = (a.turns.into_iter(), b.turns.into_iter());
    let mut turns = Vec::new();
    for number in 0.. {
        let (one, other) = (left.next(), right.next());
        if one.is_none() && other.is_none() {
            break;
        }
        let ((a_rating, one), (b_rating, other)) = (one.unwrap_or_default(), other.unwrap_or_default());
        turns.push(Row { number, ratings: [a_rating, b_rating], pairs: pairs(one, other) });
    }
    render(&BesidePage { sides: [a.side, b.side], turns })
}

async fn whole(pages: &Pages, asked: &str) -> Result<Whole, PageError> {
    let (run, episode) = asked.split_once('/').ok_or_else(|| {
        PageError::not_found("Two conversations are named as in /beside?a=RUN/EPISODE&b=RUN/EPISODE.")
    })?;
    let run = pages.store.run(&run_id(run.to_owned())?).await?.id;
    let phases = pages.rows.of(&*pages.store, &run).await?;
    let (rows, index) = find(&phases, episode)?;
    let row = &rows[index];
    let spec = pages.store.spec(&run, &row.record.id).await?;
    let mut turns = vec![(String::new(), spec.opening.iter().map(|message| said(&spec, message)).collect::<Vec<_>>())];
    for turn in pages.store.journal(&run, &row.record.id).await? {
        let reply = prompts::reply_message(&turn.reply.text);
        let after = prompts::after_reply(&turn);
        let messages = std::iter::once(&reply).chain(&after).map(|message| said(&spec, message)).collect();
        turns.push((format!("rating {}", value(&turn.preference)), messages));
    }
    let side = Side {
        link: format!("/runs/{run}/episodes/{}", row.record.id),
        title: format!("{run}, {} {}", row.phase.name(), row.iteration),
        facts: format!("{}, {} · {}", row.record.environment, row.record.initial_state, facts(row)),
    };
    Ok(Whole { side, turns })
}

fn pairs(one: Vec<Said>, other: Vec<Said>) -> Vec<[Option<Bubble>; 2]> {
    let (mut one, mut other) = (one.into_iter(), other.into_iter());
    let mut pairs = Vec::new();
    loop {
        pairs.push(match (one.next(), other.next()) {
            (None, None) => return pairs,
            (Some(a), Some(b)) => {
                let (left, right) = differences(&a.text, &b.text);
                [Some(bubble(a, left)), Some(bubble(b, right))]
            }
            (a, b) => [a, b].map(|said| said.map(alone)),
        });
    }
}

fn bubble(said: Said, parts: Vec<Part>) -> Bubble {
    Bubble { role: said.role, who: said.who, parts }
}

fn alone(said: Said) -> Bubble {
    let text = said.text.clone();
    bubble(said, vec![Part { differs: false, text }])
}

/// Both texts, word by word.
fn differences(a: &str, b: &str) -> (Vec<Part>, Vec<Part>) {
    let (mut left, mut right) = (Vec::new(), Vec::new());
    for change in TextDiff::configure().timeout(PATIENCE).diff_words(a, b).iter_all_changes() {
        let differs = change.tag() != ChangeTag::Equal;
        if change.tag() != ChangeTag::Insert {
            add(&mut left, differs, change.value());
        }
        if change.tag() != ChangeTag::Delete {
            add(&mut right, differs, change.value());
        }
    }
    (joined(left), joined(right))
}

/// Marked words in a row as one: the white space between them is the same on both sides, and says nothing.
fn joined(parts: Vec<Part>) -> Vec<Part> {
    let is_gap = |at: usize| {
        let marked = |at: Option<usize>| at.and_then(|at| parts.get(at)).is_some_and(|part: &Part| part.differs);
        parts[at].text.trim().is_empty() && marked(at.checked_sub(1)) && marked(Some(at + 1))
    };
    let mut all = Vec::new();
    for (at, part) in parts.iter().enumerate() {
        add(&mut all, part.differs || is_gap(at), &part.text);
    }
    all
}

fn add(parts: &mut Vec<Part>, differs: bool, text: &str) {
    match parts.last_mut() {
        Some(last) if last.differs == differs => last.text.push_str(text),
        _ => parts.push(Part { differs, text: text.to_owned() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_that_one_side_lacks_are_marked_and_nothing_is_lost() {
        let (a, b) = ("You should stop smoking today", "You should never stop smoking");
        let (left, right) = differences(a, b);
        let of = |parts: &[Part], marked_only: bool| -> String {
            parts.iter().filter(|part| part.differs || !marked_only).map(|part| part.text.as_str()).collect()
        };
        assert_eq!((&*of(&left, false), &*of(&right, false)), (a, b));
        assert_eq!((of(&left, true).trim(), of(&right, true).trim()), ("today", "never"));
        let (left, _) = differences("all of this goes", "nothing stays");
        assert_eq!(left, [Part { differs: true, text: "all of this goes".to_owned() }], "in one piece");
        assert_eq!(differences("same", "same").0, [Part { differs: false, text: "same".to_owned() }]);
    }
}
