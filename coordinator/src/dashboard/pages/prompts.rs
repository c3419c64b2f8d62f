//! What each role saw, computed as the worker did.

use influence_proto::prompts::{self, ChatMessage, ChatRole};
use influence_proto::{AssessorRole, EpisodeSpec, Message, Turn};

use super::conversation::Said;

/// What each role was shown in the turn after `before`.
pub(super) fn in_turn(spec: &EpisodeSpec, before: &[Turn], turn: &Turn) -> Vec<(&'static str, Vec<Said>)> {
    let history = prompts::history(spec, before);
    let mut replied = history.clone();
    replied.push(prompts::reply_message(&turn.reply.text));
    let assessor = |role: &AssessorRole| chat(prompts::assessor(role, &spec.agent_name, &replied));
    let mut all = vec![
        ("agent", chat(prompts::agent(&spec.agent.system_prompt, &history))),
        ("preference", assessor(&spec.preference)),
        ("transition", assessor(&spec.transition)),
    ];
    all.extend(spec.influence.as_ref().map(|role| ("influence", assessor(role))));
    if turn.environment.is_some() {
        let mut entered = replied.clone();
        entered.extend(turn.transition.entered.iter().cloned());
        all.push(("environment", chat(prompts::environment(&spec.environment_role.system_prompt, &entered))));
    }
    all
}

/// The perspectives that an episode can be read from: keys, and names for people.
pub(super) fn perspectives(spec: &EpisodeSpec) -> Vec<(&'static str, &'static str)> {
    let mut all = vec![
        ("", "reader"),
        ("agent", "agent"),
        ("environment", "user"),
        ("preference", "preference model"),
        ("transition", "transition model"),
    ];
    all.extend(spec.influence.is_some().then_some(("influence", "influence model")));
    all
}

/// The whole conversation as one role sees it; assessors as they saw it after the last reply. None of an unknown role.
pub(super) fn as_seen_by(role: &str, spec: &EpisodeSpec, turns: &[Turn]) -> Option<Vec<Said>> {
    let whole = || prompts::history(spec, turns);
    let judged = |role: &AssessorRole| {
        let history: Vec<Message> = match turns.split_last() {
            Some((last, before)) => {
                let mut history = prompts::history(spec, before);
                history.push(prompts::reply_message(&last.reply.text));
                history
            }
            None => whole(),
        };
        prompts::assessor(role, &spec.agent_name, &history)
    };
    Some(chat(match role {
        "agent" => prompts::agent(&spec.agent.system_prompt, &whole()),
        "environment" => prompts::environment(&spec.environment_role.system_prompt, &whole()),
        "preference" => judged(&spec.preference),
        "transition" => judged(&spec.transition),
        "influence" => judged(spec.influence.as_ref()?),
        _ => return None,
    }))
}

fn chat(messages: Vec<ChatMessage>) -> Vec<Said> {
    let said = |message: ChatMessage| {
        let role = match message.role {
            ChatRole::System => "note",
            ChatRole::User => "user",
            ChatRole::Assistant => "agent",
            ChatRole::FunctionCall | ChatRole::Ipython => "tool",
        };
        Said { role, who: message.role.name().to_owned(), text: message.content }
    };
    messages.into_iter().map(said).collect()
}
