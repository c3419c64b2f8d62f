//! The model's own template, run by minijinja the way Hugging Face runs it.

use minijinja::{Environment, ErrorKind, Value, context};

use super::{ChatError, ChatMessage, functions};

/// What a model's files say about its chat format.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ChatSource {
    /// The Jinja template.
    pub template: Option<String>,
    /// The text of the token that begins a text, for `{{ bos_token }}`.
    pub bos: Option<String>,
    /// The text of the token that ends a text, for `{{ eos_token }}`.
    pub eos: Option<String>,
}

/// Stands in for a message's text where its place in the rendered text is looked for. No letter of it is white space,
/// ASCII, or likely in a template.
pub(super) const SENTINEL: &str = "\u{F8F0}\u{F8F1}\u{F8F2}";

const NAME: &str = "chat_template";

/// A compiled template with its constants.
#[derive(Debug)]
pub(super) struct Template {
    environment: Environment<'static>,
    bos: String,
    eos: String,
}

impl Template {
    pub(super) fn compile(source: ChatSource) -> Result<Option<Self>, ChatError> {
        let Some(text) = source.template else {
            return Ok(None);
        };
        let mut environment = Environment::new();
        environment.set_trim_blocks(true);
        environment.set_lstrip_blocks(true);
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        functions::register(&mut environment);
        environment
            .add_template_owned(NAME, without_generation_marks(&text))
            .map_err(|e| ChatError::Syntax(reason(&e)))?;
        Ok(Some(Self { environment, bos: source.bos.unwrap_or_default(), eos: source.eos.unwrap_or_default() }))
    }

    pub(super) fn render(&self, messages: &[ChatMessage], add_generation_prompt: bool) -> Result<String, ChatError> {
        let failed = |e: minijinja::Error| ChatError::Render { messages: messages.len(), reason: reason(&e) };
        let values: Vec<Value> = messages
            .iter()
            .map(|message| {
                context! { role => message.role.name(), content => message.content.as_str() }
            })
            .collect();
        self.environment
            .get_template(NAME)
            .and_then(|template| {
                template.render(context! {
                    messages => values,
                    add_generation_prompt,
                    bos_token => self.bos.as_str(),
                    eos_token => self.eos.as_str(),
                })
            })
            .map_err(failed)
    }
}

/// `{% generation %}` marks the assistant's tokens for Hugging Face's trainers and renders to nothing; Jinja knows no such
/// tag. The block becomes one that always runs.
fn without_generation_marks(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find("{%") {
        let Some(length) = rest[start..].find("%}") else {
            break;
        };
        let tag = &rest[start + 2..start + length];
        let inner = tag.trim_matches(['-', '+']).trim();
        out.push_str(&rest[..start]);
        let replaced = match inner {
            "generation" => Some("if true"),
            "endgeneration" => Some("endif"),
            _ => None,
        };
        out.push_str("{%");
        match replaced {
            Some(statement) => out.push_str(&tag.replace(inner, statement)),
            None => out.push_str(tag),
        }
        out.push_str("%}");
        rest = &rest[start + length + 2..];
    }
    out + rest
}

fn reason(error: &minijinja::Error) -> String {
    let detail = error.detail().unwrap_or_default();
    match (error.kind(), error.line()) {
        (ErrorKind::InvalidOperation, _) if !detail.is_empty() => detail.to_owned(),
        (kind, Some(line)) => format!("{kind}: {detail} (template line {line})"),
        (kind, None) => format!("{kind}: {detail}"),
    }
}
