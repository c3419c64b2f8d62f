use influence_proto::{EpisodeId, TokenRow, TrainingRow, Turn};

use crate::config::RowMode;

/// An episode's training rows: its token stream as it was sampled, never re-tokenised.
///
/// The targets are the sampled tokens, a sampled end-of-turn included. What closes a reply that was
/// cut off stands in the next turn's prompt, so it trains nothing; nor do prompts, openings, and the
/// messages of other roles. A turn whose stream restarts begins a new row, with its own reply as the
/// only target. Rows without a target are left out.
pub fn rows(episode: &EpisodeId, turns: &[Turn], mode: RowMode) -> Vec<TrainingRow> {
    let mut rows = Vec::new();
    let mut stream = Stream::default();
    for (index, turn) in turns.iter().enumerate() {
        if turn.reply.restarts {
            if index > 0 && mode == RowMode::PerEpisode {
                rows.extend(stream.row(episode));
            }
            stream = Stream::default();
        }
        stream.append(turn);
        if mode == RowMode::PerTurn {
            rows.extend(stream.row(episode));
        }
    }
    if mode == RowMode::PerEpisode {
        rows.extend(stream.row(episode));
    }
    rows
}

/// An episode's replies one by one, each after what the model saw, for KTO.
pub fn replies(episode: &EpisodeId, turns: &[Turn], label: bool) -> Vec<TrainingRow> {
    let mut rows = Vec::new();
    let mut stream = Stream::default();
    for turn in turns {
        if turn.reply.restarts {
            stream = Stream::default();
        }
        stream.append(turn);
        if let Some((from, to)) = stream.targets.last().filter(|_| !turn.reply.token_ids.is_empty()) {
            rows.push(TrainingRow::Reply {
                prompt_ids: stream.token_ids[..*from as usize].to_vec(),
                completion_ids: stream.token_ids[*from as usize..*to as usize].to_vec(),
                label,
                episode: Some(episode.clone()),
            });
        }
    }
    rows
}

/// The best siblings of an initial state beside its worst, one to one, for DPO: whole conversations, of which the replies
/// are compared. Each of the best gets the first of the worst that is left and that began with the same prompt. A
/// conversation whose stream restarts is no single sequence and makes no pair.
pub fn pairs(best: &[(EpisodeId, Vec<Turn>)], worst: &[(EpisodeId, Vec<Turn>)]) -> Vec<TrainingRow> {
    let side = |(episode, turns): &(EpisodeId, Vec<Turn>)| {
        let mut rows = rows(episode, turns, RowMode::PerEpisode);
        match (rows.pop(), rows.is_empty()) {
            (Some(TrainingRow::Tokens { token_ids, targets, episode }), true) => {
                Some(TokenRow { token_ids, targets, episode })
            }
            _ => None,
        }
    };
    let prompt = |row: &TokenRow| row.token_ids[..row.targets[0].0 as usize].to_vec();
    let mut left: Vec<TokenRow> = worst.iter().filter_map(side).collect();
    let mut pairs = Vec::new();
    for chosen in best.iter().filter_map(side) {
        if let Some(place) = left.iter().position(|rejected| prompt(rejected) == prompt(&chosen)) {
            pairs.push(TrainingRow::Pair { chosen, rejected: left.remove(place) });
        }
    }
    if pairs.len() < best.len().min(worst.len()) {
        let asked = best.len().min(worst.len());
        tracing::warn!(
            pairs = pairs.len(),
            asked,
            "siblings could not be compared: they began apart, or are no single sequence"
        );
    }
    pairs
}

#[derive(Debug, Clone, Default)]
struct Stream {
    token_ids: Vec<u32>,
    targets: Vec<(u32, u32)>,
}

impl Stream {
    fn append(&mut self, turn: &Turn) {
        self.token_ids.extend(&turn.reply.prompt_ids);
        let start = self.token_ids.len() as u32;
        self.token_ids.extend(&turn.reply.token_ids);
        let end = self.token_ids.len() as u32;
        if start < end {
            self.targets.push((start, end));
        }
    }

    fn row(&self, episode: &EpisodeId) -> Option<TrainingRow> {
        (!self.targets.is_empty()).then(|| TrainingRow::Tokens {
            token_ids: self.token_ids.clone(),
            targets: self.targets.clone(),
            episode: Some(episode.clone()),
        })
    }
}
