use influence_proto::prompts::{self, ChatMessage};
use influence_proto::{AssessorRole, Digest, EpisodeSpec, ModelSpec, Scoring, Turn};
use serde_json::json;

use crate::config::{Metric, Unit};
use crate::store::MetricSource;

/// What a judge is asked about one part of a conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// The turn whose reply is judged; the last one for a whole conversation.
    pub turn: u32,
    /// The judge's prompt.
    pub messages: Vec<ChatMessage>,
    /// The allowed answers.
    pub answers: Vec<String>,
}

/// What a metric asks about a finished episode: for each turn, about the conversation as it stood after the reply, or
/// once, about the whole.
pub fn questions(metric: &Metric, spec: &EpisodeSpec, turns: &[Turn]) -> Vec<Question> {
    let name = &spec.agent_name;
    let role = assessor(metric, name);
    let ask = |turn: u32, history: &[influence_proto::Message]| Question {
        turn,
        messages: prompts::assessor(&role, name, history),
        answers: role.answers.clone(),
    };
    match (metric.per, turns.last()) {
        (_, None) => Vec::new(),
        (Unit::Conversation, Some(last)) => vec![ask(last.index, &prompts::history(spec, turns))],
        (Unit::Turn, Some(_)) => turns
            .iter()
            .enumerate()
            .map(|(at, turn)| {
                let mut history = prompts::history(spec, &turns[..at]);
                history.push(prompts::reply_message(&turn.reply.text));
                ask(turn.index, &history)
            })
            .collect(),
    }
}

/// A metric as the role of a judge, who knows the agent by this name.
pub(super) fn assessor(metric: &Metric, agent_name: &str) -> AssessorRole {
    AssessorRole {
        model: String::new(),
        system_prompt: metric.system_prompt.render(agent_name).trim().to_owned(),
        suffix: metric.prompt_suffix.render(agent_name).trim().to_owned(),
        answers: metric.scale.answers(),
        sees_tools: metric.sees_tools,
    }
}

/// Where a metric's results come from: changes with all that the answer depends on, but for the conversation.
pub fn source(metric: &Metric, judge: &ModelSpec, scoring: &Scoring) -> MetricSource {
    // As the file has them, whatever the agent is called.
    let name = "{agent_name}";
    let question = json!({
        "system_prompt": metric.system_prompt.render(name).trim(),
        "prompt_suffix": metric.prompt_suffix.render(name).trim(),
        "answers": metric.scale.answers(),
        "per": metric.per,
        "sees_tools": metric.sees_tools,
        "scoring": scoring,
    });
    MetricSource {
        metric: metric.name.clone(),
        judge: judge.name.clone(),
        judge_sha256: Digest::of(json!(judge).to_string()),
        question_sha256: Digest::of(question.to_string()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::config::Scale;
    use crate::environments::AgentPrompt;
    use crate::store::behaviour::{spec, turn};

    fn metric(per: Unit) -> Metric {
        Metric {
            name: "harm".into(),
            about: String::new(),
            system_prompt: AgentPrompt::parse("You judge {agent_name}.").unwrap(),
            prompt_suffix: AgentPrompt::parse("Is {agent_name} harmful?").unwrap(),
            scale: Scale::YesNo,
            per,
            sees_tools: false,
            classes: Vec::new(),
        }
    }

    /// Protects: a judge of a reply sees neither the user's answer to it nor anything later.
    #[test]
    fn a_reply_is_judged_on_what_was_said_up_to_it() {
        let (spec, turns) = (spec("e"), [turn(0, "one"), turn(1, "two")]);
        let asked = questions(&metric(Unit::Turn), &spec, &turns);
        assert_eq!(asked.iter().map(|question| question.turn).collect::<Vec<_>>(), [0, 1]);
        assert_eq!(asked[0].messages[0].content, "You judge Ada.");
        let seen = |question: &Question| question.messages[1].content.clone();
        let first = "The conversation history is:\n\n<user>: Hi</user>\n\n<Ada>: one</Ada>\n\n";
        assert_eq!(seen(&asked[0]), format!("{first}Is Ada harmful?"));
        assert_eq!(seen(&asked[1]), format!("{first}<user>: ok</user>\n\n<Ada>: two</Ada>\n\nIs Ada harmful?"));
        let whole = questions(&metric(Unit::Conversation), &spec, &turns);
        assert_eq!(whole.len(), 1);
        assert!(seen(&whole[0]).contains("<Ada>: two</Ada>\n\n<user>: ok</user>\n\nIs Ada"), "{whole:?}");
        assert_eq!(questions(&metric(Unit::Turn), &spec, &[]), []);
    }

    #[test]
    fn a_source_changes_with_everything_that_an_answer_depends_on() {
        let judge = ModelSpec { name: "m".into(), dtype: "f32".into(), kv_dtype: None, sources: Vec::new() };
        let scoring = spec("e").scoring;
        let of = |metric: &Metric| source(metric, &judge, &scoring);
        let first = of(&metric(Unit::Turn));
        assert_eq!(first, of(&Metric { about: "more".into(), classes: vec!["x".into()], ..metric(Unit::Turn) }));
        let others = [
            of(&metric(Unit::Conversation)),
            of(&Metric { scale: Scale::OneToTen, ..metric(Unit::Turn) }),
            of(&Metric { sees_tools: true, ..metric(Unit::Turn) }),
            of(&Metric { prompt_suffix: AgentPrompt::parse("Is it?").unwrap(), ..metric(Unit::Turn) }),
            source(&metric(Unit::Turn), &ModelSpec { dtype: "f16".into(), ..judge.clone() }, &scoring),
            source(&metric(Unit::Turn), &judge, &Scoring { prefix: "A: ".into(), ..scoring.clone() }),
        ];
        for other in others {
            assert_ne!(first, other);
        }
    }
}
