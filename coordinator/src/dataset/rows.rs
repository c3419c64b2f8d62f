use influence_proto::{EpisodeId, TrainingRow, Turn};

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
