use influence_proto::prompts::{ChatMessage, ChatRole};
use serde_json::{Map, Value};

/// A JSON object of a file.
pub(super) struct Row(Map<String, Value>);

impl Row {
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        match serde_json::from_str(text) {
            Ok(Value::Object(row)) => Ok(Self(row)),
            Ok(_) => Err("is no object".to_owned()),
            Err(error) => Err(format!("is not JSON: {error}")),
        }
    }

    pub(super) fn has(&self, key: &str) -> bool {
        self.0.contains_key(key)
    }

    /// A part, by its keys.
    pub(super) fn at(&self, keys: &[&str]) -> Option<&Value> {
        let (first, rest) = keys.split_first()?;
        rest.iter().try_fold(self.0.get(*first)?, |value, key| value.get(*key))
    }

    /// A text, by its keys.
    pub(super) fn text(&self, keys: &[&str]) -> Result<&str, String> {
        let found = self.at(keys).and_then(Value::as_str);
        found.ok_or_else(|| format!("needs a text `{}`", keys.join(".")))
    }

    /// The chat in `prompt`, a list of `{type: human|ai|system, content}`, which ends with the user.
    pub(super) fn chat(&self) -> Result<Vec<ChatMessage>, String> {
        const SHAPE: &str = "`prompt` must be a list of {type: human|ai|system, content}, and end with `human`";
        let list = self.0.get("prompt").and_then(Value::as_array).ok_or(SHAPE)?;
        let message = |value: &Value| {
            let role = match value.get("type")?.as_str()? {
                "human" => ChatRole::User,
                "ai" => ChatRole::Assistant,
                "system" => ChatRole::System,
                _ => return None,
            };
            Some(ChatMessage::new(role, value.get("content")?.as_str()?))
        };
        let chat: Vec<ChatMessage> = list.iter().map(message).collect::<Option<_>>().ok_or(SHAPE)?;
        match chat.last() {
            Some(last) if last.role == ChatRole::User => Ok(chat),
            _ => Err(SHAPE.to_owned()),
        }
    }
}
