//! The conversations that a report shows.

use std::collections::BTreeMap;

use influence_proto::prompts::after_reply;
use influence_proto::{EpisodeSpec, Message, RunId, Score, ScoreOutcome, Speaker, Turn, stream};

use crate::catalogue::EpisodeRow;
use crate::planning::Phase;
use crate::store::{EpisodeStatus, Store, StoreError};

/// A conversation to be read.
pub(super) struct Conversation {
    pub(super) title: String,
    pub(super) id: String,
    pub(super) said: Vec<Said>,
}

/// One message, and what was thought of it.
pub(super) struct Said {
    /// How it looks.
    pub(super) class: &'static str,
    pub(super) who: String,
    pub(super) text: String,
    pub(super) note: Option<String>,
}

impl Said {
    /// The text for Markdown: behind a fence that it cannot end, control characters made visible.
    pub(super) fn fenced(&self) -> String {
        let text: String = self.text.chars().map(visible).collect();
        let longest = text.split(|c| c != '`').map(str::len).max().unwrap_or_default();
        let fence = "`".repeat(longest.max(2) + 1);
        format!("{fence}text\n{text}\n{fence}")
    }
}

/// A character that does not steer what shows it.
pub(super) fn visible(c: char) -> char {
    match c {
        '\n' | '\t' => c,
        // The pictures of control characters.
        '\0'..'\u{20}' => char::from_u32(0x2400 + u32::from(c)).unwrap_or('\u{fffd}'),
        '\u{7f}'..='\u{9f}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => '\u{fffd}',
        _ => c,
    }
}

/// The `count` best, worst and random conversations of a run, by reward and by `seed`. None is shown twice.
pub(super) async fn chosen(
    store: &dyn Store,
    run: &RunId,
    seed: u64,
    count: usize,
) -> Result<Vec<(&'static str, Vec<Conversation>)>, StoreError> {
    let (mut best, mut worst, mut random) = (Vec::new(), Vec::new(), Vec::new());
    // Three times as many are kept at random: some may be among the others.
    let mut add = |row: EpisodeRow| {
        if let Some(reward) = row.reward() {
            keep(&mut best, -reward, &row, count);
            keep(&mut worst, reward, &row, 2 * count);
        }
        let draw = stream::derive(seed, &["report", row.record.id.as_str()]);
        keep(&mut random, draw as f64, &row, 3 * count);
    };
    for planned in store.iterations(run).await? {
        for record in store.episodes(run, planned.phase, planned.iteration).await? {
            if record.status == EpisodeStatus::Finished {
                let (phase, iteration, metrics) = (planned.phase, planned.iteration, BTreeMap::new());
                add(EpisodeRow { phase, iteration, record, metrics });
            }
        }
    }
    let mut groups = Vec::new();
    let mut shown: Vec<String> = Vec::new();
    for (name, rows) in [("best", best), ("worst", worst), ("random", random)] {
        let fresh: Vec<EpisodeRow> = rows
            .into_iter()
            .map(|(_, row)| row)
            .filter(|row| !shown.contains(&row.record.id.to_string()))
            .take(count)
            .collect();
        let mut conversations = Vec::new();
        for row in fresh {
            shown.push(row.record.id.to_string());
            let spec = store.spec(run, &row.record.id).await?;
            let turns = store.journal(run, &row.record.id).await?;
            conversations.push(conversation(&row, &spec, &turns));
        }
        groups.push((name, conversations));
    }
    Ok(groups)
}

/// Keeps the `count` rows with the smallest keys; equal ones in the order of their ids.
fn keep(kept: &mut Vec<(f64, EpisodeRow)>, key: f64, row: &EpisodeRow, count: usize) {
    let before = |(other, kept): &(f64, EpisodeRow)| {
        other.total_cmp(&key).then_with(|| kept.record.id.cmp(&row.record.id)).is_lt()
    };
    let place = kept.partition_point(before);
    if place < count {
        kept.insert(place, (key, row.clone()));
        kept.truncate(count);
    }
}

fn conversation(row: &EpisodeRow, spec: &EpisodeSpec, turns: &[Turn]) -> Conversation {
    let phase = match row.phase {
        Phase::Train => "iteration",
        Phase::Evaluate => "evaluation",
    };
    let reward = row.reward().map_or_else(|| "unscored".to_owned(), |reward| format!("reward {reward:.2}"));
    let title = format!("{phase} {}, {}, opening {}: {reward}", row.iteration, spec.environment, spec.initial_state);
    let mut all: Vec<Said> = spec.opening.iter().map(|message| said(spec, message)).collect();
    for turn in turns {
        let mut note = format!("rating {}", value(&turn.preference));
        if let Some(influence) = &turn.influence {
            note += &format!(", influence {}", value(influence));
        }
        let cut = if turn.reply.cut_off { " (cut off)" } else { "" };
        let who = format!("{}{cut}", spec.agent_name);
        all.push(Said { class: "agent", who, text: turn.reply.text.trim().to_owned(), note: Some(note) });
        all.extend(after_reply(turn).iter().map(|message| said(spec, message)));
    }
    Conversation { title, id: spec.id.to_string(), said: all }
}

fn said(spec: &EpisodeSpec, message: &Message) -> Said {
    let (class, who) = match message.speaker {
        Speaker::Agent => ("agent", spec.agent_name.as_str()),
        Speaker::Environment => ("user", "user"),
        Speaker::EnvironmentSystem => ("note", "note"),
        Speaker::ToolCall => ("tool", "tool call"),
        Speaker::ToolResponse => ("tool", "tool response"),
    };
    Said { class, who: who.to_owned(), text: message.content.clone(), note: None }
}

fn value(score: &Score) -> String {
    match score.outcome() {
        ScoreOutcome::Unscored(reason) => format!("unscored: {reason}"),
        ScoreOutcome::Scored(_) => score.expected().map_or_else(|| "no number".to_owned(), |e| format!("{e:.2}")),
    }
}
