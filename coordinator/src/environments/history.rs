use influence_proto::{Message, Speaker};
use serde_json::Value;

use super::template::{Draw, Template, UsedIn, Variables};
use crate::config::document::{Document, Dotted, Section, Step, describe};

/// A message as a file has it.
#[derive(Debug, Clone)]
pub(super) struct RawMessage {
    pub(super) speaker: Speaker,
    pub(super) content: String,
    /// Where `content` stands.
    pub(super) path: Vec<Step>,
}

/// A message whose names are all known.
#[derive(Debug, Clone)]
pub(super) struct MessageTemplate {
    speaker: Speaker,
    content: Template,
}

impl MessageTemplate {
    /// Renders the messages in order; contents are trimmed.
    pub(super) fn render(messages: &[Self], draw: &Draw<'_>) -> Vec<Message> {
        let render = |m: &Self| Message { speaker: m.speaker, content: m.content.render(draw).trim().to_owned() };
        messages.iter().map(render).collect()
    }

    /// The variables that the messages show.
    pub(super) fn variables(messages: &[Self]) -> impl Iterator<Item = usize> {
        messages.iter().flat_map(|m| m.content.variables())
    }

    /// Whether any of the messages has a second rendering.
    pub(super) fn any_alternative(messages: &[Self]) -> bool {
        messages.iter().any(|m| m.content.shows_alternative())
    }

    /// The template of a message, or what is wrong with it.
    pub(super) fn parse(raw: &RawMessage, variables: &Variables, used_in: UsedIn) -> Result<Self, String> {
        let content = Template::parse(&raw.content, variables, used_in).map_err(|error| error.to_string())?;
        Ok(Self { speaker: raw.speaker, content })
    }
}

const ROLES: [(&str, Speaker); 5] = [
    ("agent", Speaker::Agent),
    ("environment", Speaker::Environment),
    ("environment_system", Speaker::EnvironmentSystem),
    ("tool_call", Speaker::ToolCall),
    ("tool_response", Speaker::ToolResponse),
];

/// Reads a list of `{role, content}`; what is wrong goes to the parent's list.
pub(super) fn read_messages(parent: &Section<'_>, path: &[Step], value: &Value) -> Vec<RawMessage> {
    let (document, problems): (&Document, _) = (parent.document(), parent.problems());
    let report = |path: &[Step], message: String| {
        let message = format!("`{}` {message}", Dotted(path));
        problems.borrow_mut().push(document.problem(path, message));
    };
    let Value::Array(items) = value else {
        report(path, format!("must be a list of messages, each {{role, content}}, but is {}", describe(value)));
        return Vec::new();
    };
    let mut messages = Vec::with_capacity(items.len());
    for (index, item) in items.iter().enumerate() {
        let mut at = path.to_vec();
        at.push(Step::Index(index));
        if item.is_null() {
            report(&at, "is empty; give `role` and `content`".into());
            continue;
        }
        let mut message = Section::at(document, problems, at, item);
        message.required_text("role", "environment");
        let speaker = message.choice("role", &ROLES, Speaker::Environment);
        let content = message.required_text("content", "TEXT");
        messages.push(RawMessage { speaker, content, path: message.path_of("content") });
        message.finish();
    }
    messages
}
