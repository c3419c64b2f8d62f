//! Why messages cannot become tokens.

/// A chat that cannot be rendered or encoded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChatError {
    /// The model's files carry no template.
    #[error(
        "the model has no chat template: use an instruction-tuned model, or add `chat_template` to its tokenizer_config.json"
    )]
    NoTemplate,
    /// The template is not valid Jinja.
    #[error("the model's chat template does not parse: {0}")]
    Syntax(String),
    /// The template refused these messages.
    #[error("the model's chat template refuses this chat of {messages} messages: {reason}")]
    Render {
        /// How many messages there were.
        messages: usize,
        /// What the template raised.
        reason: String,
    },
    /// There is nothing to render.
    #[error("a chat needs at least one message")]
    Empty,
    /// The tokenizer failed.
    #[error("the tokenizer failed: {0}")]
    Encode(String),
    /// Assistant messages cannot be told apart from the rest of the rendered text.
    #[error(
        "the model's chat template cannot mark assistant message {message}: {reason}; train on token streams instead of text rows"
    )]
    NotMaskable {
        /// Its index among the messages, from 0.
        message: usize,
        /// What the template does to it.
        reason: String,
    },
}
