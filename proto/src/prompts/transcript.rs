//! The conversation as a third person reads it.

use crate::{Message, Speaker};

/// The transcript that assessors see, followed by their `suffix`. A last message that no one said
/// is left out: it announces what comes, and the assessor judges what was. Tool and system messages
/// are left out altogether unless the role `sees_tools`.
pub(super) fn of(agent_name: &str, history: &[Message], sees_tools: bool, suffix: &str) -> String {
    let told = match history.split_last() {
        Some((last, before)) if last.speaker == Speaker::EnvironmentSystem => before,
        _ => history,
    };
    let mut text = String::from("The conversation history is:\n\n");
    for message in told {
        let tag = match message.speaker {
            Speaker::Agent => agent_name,
            Speaker::Environment => "user",
            Speaker::EnvironmentSystem if sees_tools => "system",
            Speaker::ToolCall if sees_tools => "tool_call",
            Speaker::ToolResponse if sees_tools => "tool_response",
            _ => continue,
        };
        text.push_str(&format!("<{tag}>: {}</{tag}>\n\n", message.content));
    }
    text.push_str(suffix);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(speaker: Speaker, content: &str) -> Message {
        Message { speaker, content: content.into() }
    }

    #[test]
    fn tags_speakers_and_hides_tools_and_a_last_note() {
        use Speaker::{Agent, Environment, EnvironmentSystem, ToolCall, ToolResponse};
        let history = [
            message(EnvironmentSystem, "Day 1"),
            message(Environment, "Hi"),
            message(ToolCall, "book()"),
            message(ToolResponse, "error"),
            message(Agent, "Hello"),
            message(EnvironmentSystem, "Day 2"),
        ];
        assert_eq!(
            of("Ada", &history, false, "Rate it."),
            "The conversation history is:\n\n<user>: Hi</user>\n\n<Ada>: Hello</Ada>\n\nRate it."
        );
        assert_eq!(
            of("Ada", &history, true, "Rate it."),
            "The conversation history is:\n\n<system>: Day 1</system>\n\n<user>: Hi</user>\n\n\
             <tool_call>: book()</tool_call>\n\n<tool_response>: error</tool_response>\n\n<Ada>: Hello</Ada>\n\nRate it."
        );
    }

    #[test]
    fn an_empty_history_leaves_the_suffix() {
        assert_eq!(of("Ada", &[], false, "Rate."), "The conversation history is:\n\nRate.");
    }
}
