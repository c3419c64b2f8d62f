//! One episode, for reading.

use std::fmt::Write as _;

use influence_proto::{Choice, EpisodeSpec, Message, Score, ScoreOutcome, Speaker, Turn};

use crate::terminal::harmless;

const WIDTH: usize = 96;

/// The whole conversation: its opening, then turn by turn what the agent said, how it was rated,
/// where the conversation went and what the user answered.
pub(crate) fn print(spec: &EpisodeSpec, turns: &[Turn]) -> String {
    let mut page = String::new();
    for message in &*spec.opening {
        say(&mut page, &spec.agent_name, message);
    }
    for turn in turns {
        let label = format!("{} (turn {})", spec.agent_name, turn.index + 1);
        block(&mut page, &label, turn.reply.text.trim());
        let _ = writeln!(page, "{}", verdict(turn));
        for message in influence_proto::prompts::after_reply(turn) {
            say(&mut page, &spec.agent_name, &message);
        }
    }
    page
}

pub(crate) fn say(page: &mut String, agent_name: &str, message: &Message) {
    let label = match message.speaker {
        Speaker::Agent => agent_name,
        Speaker::Environment => "user",
        Speaker::EnvironmentSystem => "note",
        Speaker::ToolCall => "tool call",
        Speaker::ToolResponse => "tool response",
    };
    block(page, label, &message.content);
}

pub(crate) fn block(page: &mut String, label: &str, text: &str) {
    let _ = writeln!(page, "  {}", harmless(label));
    for line in harmless(text).lines() {
        let indented = textwrap::Options::new(WIDTH).initial_indent("    ").subsequent_indent("    ");
        let _ = writeln!(page, "{}", textwrap::fill(line, indented));
    }
}

/// One line below a reply: rating, transition and influence, each with why it is missing if it is.
fn verdict(turn: &Turn) -> String {
    let mut parts = vec![format!("rating {}", number(&turn.preference))];
    let to = &turn.transition;
    let chance = to.score.answers.iter().find(|(a, _)| a == &to.answer).map(|(_, p)| format!(" (p {p:.2})"));
    let how = match (&to.score.unscored, to.defaulted) {
        (Some(reason), _) => format!(" (default: unscored, {reason})"),
        (None, true) => " (default)".to_owned(),
        (None, false) => chance.unwrap_or_default(),
    };
    parts.push(format!("transition {}{how}", to.answer));
    if to.next_state != turn.state {
        parts.push(format!("enters {}", to.next_state));
    }
    if let Some(influence) = &turn.influence {
        parts.push(format!("influence {}", number(influence)));
    }
    if let Some(Choice { candidate, passed }) = turn.choice {
        parts.push(format!("candidate {}, {passed} passed", candidate + 1));
    }
    if turn.reply.cut_off {
        parts.push("cut off".to_owned());
    }
    format!("    [{}]", harmless(&parts.join(" · ")))
}

fn number(score: &Score) -> String {
    match (score.outcome(), score.expected()) {
        (ScoreOutcome::Unscored(reason), _) => format!("unscored ({reason})"),
        (ScoreOutcome::Scored(_), Some(expected)) => format!("{expected:.2}"),
        (ScoreOutcome::Scored(answers), None) => {
            answers.iter().map(|(answer, p)| format!("{answer} {p:.2}")).collect::<Vec<_>>().join(" ")
        }
    }
}
