//! What each iteration trained on, as text.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::PathBuf;

use influence_proto::{Algorithm, EpisodeId, RowMessage, TrainingBackend, TrainingRow, Turn};
use serde_json::{Value, json};

use super::{Export, ExportError};
use crate::dataset::{FineTuningRow, TextChat, pairs};
use crate::experiment::siblings;
use crate::planning::Phase;
use crate::store::{EpisodeRecord, Selected};

/// Rows in TRL's conversational columns: `prompt` and `completion` for SFT, with `label` for KTO; `prompt`, `chosen` and
/// `rejected` for DPO.
pub(super) async fn trl(export: &Export<'_>) -> Result<Vec<(PathBuf, u64)>, ExportError> {
    let mut written = Vec::new();
    for training in export.store.trainings(&export.run.id).await? {
        let mut rows = Rows::new(export, "trl", training.iteration)?;
        let (best, worst) = export.selected(training.iteration).await?;
        match training.spec.algorithm {
            Algorithm::Sft => {
                for episode in &best {
                    rows.replies(export.chat(episode).await?, None)?;
                }
            }
            Algorithm::Kto { .. } => {
                for (episodes, label) in [(&best, true), (&worst, false)] {
                    for episode in episodes {
                        rows.replies(export.chat(episode).await?, Some(label))?;
                    }
                }
            }
            Algorithm::Dpo { .. } => {
                for (best, worst) in siblings(&best.iter().collect::<Vec<_>>(), &worst.iter().collect::<Vec<_>>()) {
                    match training.spec.backend {
                        TrainingBackend::Local { .. } => export.pairs(&best, &worst, &mut rows).await?,
                        TrainingBackend::Api(_) => export.first_replies(&best, &worst, &mut rows).await?,
                    }
                }
            }
        }
        written.push(rows.finish()?);
    }
    Ok(written)
}

/// The best conversations with the weights that OpenAI's fine-tuning knows: of what stands in the assistant's role, only the
/// replies are trained on.
pub(super) async fn openai(export: &Export<'_>) -> Result<Vec<(PathBuf, u64)>, ExportError> {
    let mut written = Vec::new();
    for training in export.store.trainings(&export.run.id).await? {
        let mut rows = Rows::new(export, "openai", training.iteration)?;
        for episode in export.selected(training.iteration).await?.0 {
            if let Some(chat) = export.chat(&episode).await? {
                rows.add(&json!({ "messages": chat.messages }))?;
            }
        }
        written.push(rows.finish()?);
    }
    Ok(written)
}

impl Export<'_> {
    /// The best and the worst episodes of an iteration.
    async fn selected(&self, iteration: u32) -> Result<(Vec<EpisodeRecord>, Vec<EpisodeRecord>), ExportError> {
        let mut episodes = self.store.episodes(&self.run.id, Phase::Train, iteration).await?;
        let selected = |episode: &EpisodeRecord| episode.verdict.as_ref().and_then(|verdict| verdict.selected);
        episodes.retain(|episode| selected(episode).is_some());
        Ok(episodes.into_iter().partition(|episode| selected(episode) == Some(Selected::Best)))
    }

    async fn chat(&self, episode: &EpisodeRecord) -> Result<Option<TextChat>, ExportError> {
        let spec = self.store.spec(&self.run.id, &episode.id).await?;
        let turns = self.store.journal(&self.run.id, &episode.id).await?;
        Ok(TextChat::of(&spec, &turns))
    }

    /// The pairs that were trained on, of one initial state.
    async fn pairs(
        &self,
        best: &[&EpisodeRecord],
        worst: &[&EpisodeRecord],
        rows: &mut Rows,
    ) -> Result<(), ExportError> {
        let mut chats: BTreeMap<EpisodeId, TextChat> = BTreeMap::new();
        let mut sides: [Vec<(EpisodeId, Vec<Turn>)>; 2] = Default::default();
        for (side, episodes) in sides.iter_mut().zip([best, worst]) {
            for episode in episodes {
                chats.extend(self.chat(episode).await?.map(|chat| (episode.id.clone(), chat)));
                side.push((episode.id.clone(), self.store.journal(&self.run.id, &episode.id).await?));
            }
        }
        for pair in pairs(&sides[0], &sides[1]) {
            let TrainingRow::Pair { chosen, rejected } = pair else { continue };
            let chat = |row: &influence_proto::TokenRow| chats.get(row.episode.as_ref()?);
            let (Some(chosen), Some(rejected)) = (chat(&chosen), chat(&rejected)) else { continue };
            rows.add(&json!({
                "prompt": unweighted(&chosen.messages[..chosen.opening]),
                "chosen": unweighted(&chosen.messages[chosen.opening..]),
                "rejected": unweighted(&rejected.messages[rejected.opening..]),
            }))?;
        }
        Ok(())
    }
}

impl Export<'_> {
    /// The pairs that a server was trained on, of one initial state.
    async fn first_replies(
        &self,
        best: &[&EpisodeRecord],
        worst: &[&EpisodeRecord],
        rows: &mut Rows,
    ) -> Result<(), ExportError> {
        let mut sides: [Vec<TextChat>; 2] = Default::default();
        for (side, episodes) in sides.iter_mut().zip([best, worst]) {
            for episode in episodes {
                side.extend(self.chat(episode).await?);
            }
        }
        for row in FineTuningRow::of_siblings(&sides[0], &sides[1]) {
            let FineTuningRow::Preference { input, preferred_output, non_preferred_output } = row else { continue };
            let row = json!({ "prompt": input.messages, "chosen": preferred_output, "rejected": non_preferred_output });
            rows.add(&row)?;
        }
        Ok(())
    }
}

/// A file of rows.
struct Rows {
    file: super::file::NewFile,
    count: u64,
}

impl Rows {
    fn new(export: &Export<'_>, folder: &str, iteration: u32) -> Result<Self, ExportError> {
        Ok(Self { file: export.file(&format!("{folder}/iteration-{iteration}.jsonl"))?, count: 0 })
    }

    fn add(&mut self, row: &Value) -> Result<(), ExportError> {
        self.count += 1;
        writeln!(self.file, "{row}").map_err(self.file.failed())
    }

    /// A row for each reply, after what came before it.
    fn replies(&mut self, chat: Option<TextChat>, label: Option<bool>) -> Result<(), ExportError> {
        let Some(chat) = chat else { return Ok(()) };
        for reply in chat.replies {
            let (prompt, completion) = (&chat.messages[..reply], &chat.messages[reply..=reply]);
            let mut row = json!({ "prompt": unweighted(prompt), "completion": unweighted(completion) });
            if let Some(label) = label {
                row["label"] = label.into();
            }
            self.add(&row)?;
        }
        Ok(())
    }

    fn finish(self) -> Result<(PathBuf, u64), ExportError> {
        Ok((self.file.finish()?, self.count))
    }
}

/// TRL has columns instead of weights.
fn unweighted(messages: &[RowMessage]) -> Vec<RowMessage> {
    messages.iter().map(|message| RowMessage { weight: None, ..message.clone() }).collect()
}
