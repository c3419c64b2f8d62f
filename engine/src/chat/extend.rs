//! A stream of tokens that only grows: what follows a sampled reply.

use super::template::SENTINEL;
use super::{ChatError, ChatFormat, ChatMessage};

impl ChatFormat {
    /// The ids to append to (prompt ids + `reply_ids`) so that the whole is the next prompt: the end of turn if the reply
    /// was cut off (`closed` is false), what the template puts after it, `new_messages`, and the generation prompt.
    /// `messages_so_far` are those of the prompt that `reply_ids` answered. Sampled ids are never encoded again.
    ///
    /// `None` when the template would render the earlier text otherwise now that more follows: such a stream cannot grow.
    ///
    /// # Errors
    /// As [`ChatFormat::prompt_text`].
    pub fn extend(
        &self,
        messages_so_far: &[ChatMessage],
        reply_ids: &[u32],
        closed: bool,
        new_messages: &[ChatMessage],
    ) -> Result<Option<Vec<u32>>, ChatError> {
        let parts = &self.parts;
        let template = parts.template()?;
        let mut whole = messages_so_far.to_vec();
        whole.push(ChatMessage::assistant(SENTINEL));
        whole.extend_from_slice(new_messages);
        let mut whole = parts.arranged(&whole)?;
        let shield = parts.encoder.shield(&mut whole, "");
        let mut before = parts.arranged(messages_so_far)?;
        for message in &mut before {
            message.content = shield.hide(&message.content);
        }
        let before = template.render(&before, true)?;
        let whole = template.render(&whole, true)?;
        // A space before the reply, where the template puts one, is the model's to write.
        let reply = whole.strip_prefix(&before).map(|reply| reply.strip_prefix(' ').unwrap_or(reply));
        let rest = reply.and_then(|reply| reply.strip_prefix(SENTINEL));
        let Some(rest) = rest else {
            return Ok(None);
        };
        // White space before the end of turn is the template's own; the model was never shown it.
        let Some((end, rest)) = parts.encoder.leading_control(rest.trim_start()) else {
            return Ok(None);
        };
        let stopped = closed && reply_ids.last().is_some_and(|id| parts.stop_ids.contains(id));
        let mut ids = if stopped { Vec::new() } else { vec![end] };
        if !rest.is_empty() {
            ids.extend(parts.encoder.encode_after_control(rest, &shield)?);
        }
        Ok(Some(ids))
    }
}
