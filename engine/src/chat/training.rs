//! Text rows for training: ids, and which of them the loss is about.

use super::encode::Shield;
use super::template::SENTINEL;
use super::{ChatError, ChatFormat, ChatMessage, Parts, Role};

impl ChatFormat {
    /// The ids of a whole chat, and a mask that is true for every assistant message's text and the end of turn after it.
    ///
    /// Assistant messages are encoded apart from what precedes them, as they are when they are generated.
    ///
    /// # Errors
    /// [`ChatError::NotMaskable`] if the template changes, moves or does not close an assistant message; else as
    /// [`ChatFormat::prompt_text`].
    pub fn training_ids(&self, messages: &[ChatMessage]) -> Result<(Vec<u32>, Vec<bool>), ChatError> {
        self.training_ids_of(messages, |_| true)
    }

    /// As [`ChatFormat::training_ids`], but only of the assistant messages whose index `learns` accepts.
    ///
    /// # Errors
    /// As [`ChatFormat::training_ids`]; also if the template needs two messages merged of which one is to be learnt.
    pub fn training_ids_of(
        &self,
        messages: &[ChatMessage],
        learns: impl Fn(usize) -> bool,
    ) -> Result<(Vec<u32>, Vec<bool>), ChatError> {
        let parts = &self.parts;
        let arranged = parts.rules.arrange(messages)?;
        let (mut chat, sources): (Vec<_>, Vec<_>) = arranged.into_iter().unzip();
        let shield = parts.encoder.shield(&mut chat, "");
        let marked = parts.marked(&chat)?;
        let mut ids = Vec::new();
        let mut mask = Vec::new();
        let mut rest = marked.opening.as_str();
        let mut opened = false;
        for reply in &marked.replies {
            let source = &sources[reply.message];
            let learnt = source.iter().any(|index| learns(*index));
            if learnt != source.iter().all(|index| learns(*index)) {
                return Err(ChatError::NotMaskable {
                    message: source.first().copied().unwrap_or_default(),
                    reason: "it is merged with a neighbour whose weight differs".to_owned(),
                });
            }
            ids.extend(parts.around_replies(rest, opened, &shield)?);
            mask.resize(ids.len(), false);
            opened = true;
            ids.extend(parts.encoder.encode_onward(&shield.reveal(&reply.text))?);
            ids.push(reply.end);
            mask.resize(ids.len(), learnt);
            rest = &reply.after;
        }
        ids.extend(parts.around_replies(rest, opened, &shield)?);
        mask.resize(ids.len(), false);
        Ok((ids, mask))
    }
}

impl Parts {
    /// The ids of the text before a reply or after the last; `opened`: it follows the end of one.
    fn around_replies(&self, text: &str, opened: bool, shield: &Shield) -> Result<Vec<u32>, ChatError> {
        match (text.is_empty(), opened) {
            (true, _) => Ok(Vec::new()),
            (false, false) => self.encoder.encode(text, shield),
            (false, true) => self.encoder.encode_after_control(text, shield),
        }
    }
}

/// A rendered chat, cut at its assistant messages.
struct Marked {
    /// The text before the first one.
    opening: String,
    replies: Vec<MarkedReply>,
}

struct MarkedReply {
    /// Its index among the rendered messages.
    message: usize,
    /// Its text, as rendered.
    text: String,
    /// The control token that closes it.
    end: u32,
    /// The text between that token and the next assistant message.
    after: String,
}

impl Parts {
    /// Finds the assistant messages in the rendered chat by rendering it once more with sentinels in their place.
    fn marked(&self, chat: &[ChatMessage]) -> Result<Marked, ChatError> {
        let template = self.template()?;
        let rendered = template.render(chat, false)?;
        let mut blank = chat.to_vec();
        let is_reply = |message: &ChatMessage| message.role == Role::Assistant;
        for message in blank.iter_mut().filter(|message| is_reply(message)) {
            message.content = SENTINEL.to_owned();
        }
        let blank = template.render(&blank, false)?;
        let mut stretches: Vec<&str> = blank.split(SENTINEL).collect();
        let replies: Vec<(usize, &str)> = chat
            .iter()
            .enumerate()
            .filter(|(_, message)| is_reply(message))
            .map(|(index, message)| (index, message.content.as_str()))
            .collect();
        let first = replies.first().map_or(0, |(index, _)| *index);
        let refuse = |message: usize, reason: &str| ChatError::NotMaskable { message, reason: reason.to_owned() };
        if stretches.len() != replies.len() + 1 {
            return Err(refuse(first, "it is left out or repeated"));
        }
        // Templates that trim messages are common; any other change would train on text that was never written.
        let kept = |text: &str| text.to_owned();
        let trimmed = |text: &str| text.trim().to_owned();
        let mut texts = [kept as fn(&str) -> String, trimmed]
            .into_iter()
            .map(|change| replies.iter().map(|(_, text)| change(text)).collect::<Vec<_>>())
            .find(|texts| stitched(&stretches, texts) == rendered)
            .ok_or_else(|| refuse(first, "its text, or what is around it, changes with it"))?;
        if !self.prompts_end_in_space()? {
            // Then a space before a reply is the model's to write.
            for (text, stretch) in texts.iter_mut().zip(&mut stretches) {
                if let Some(without) = stretch.strip_suffix(' ') {
                    (*stretch, *text) = (without, format!(" {text}"));
                }
            }
        }
        let marked = replies.iter().zip(texts).zip(&stretches[1..]);
        let replies = marked.map(|(((message, _), text), after)| {
            let closed = self.encoder.leading_control(after.trim_start());
            let (end, after) = closed.ok_or_else(|| refuse(*message, "no end of turn follows it"))?;
            let (message, after) = (*message, after.to_owned());
            Ok(MarkedReply { message, text, end, after })
        });
        Ok(Marked { opening: stretches[0].to_owned(), replies: replies.collect::<Result<_, ChatError>>()? })
    }
}

impl Parts {
    fn prompts_end_in_space(&self) -> Result<bool, ChatError> {
        let prompt = self.template()?.render(&self.arranged(&[ChatMessage::user("probe")])?, true)?;
        Ok(prompt.ends_with(' '))
    }
}

fn stitched(stretches: &[&str], texts: &[String]) -> String {
    let mut whole = stretches[0].to_owned();
    for (text, stretch) in texts.iter().zip(&stretches[1..]) {
        whole.push_str(text);
        whole.push_str(stretch);
    }
    whole
}
