//! The order and content of what every role is asked, and what is made of the answers.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use influence_proto::{BestOf, EpisodeSpec, Failure, Role, Speaker, Turn, stream};

use super::samples::{machine, message, spec, state};
use super::*;
use crate::backend::scripted::{Asked, END, Scripted};
use crate::backend::{Backend, ScoreRequest};

/// Agent and user number their replies by what they have seen; the transition says yes in the first turn only.
fn calm_then_upset() -> Scripted {
    Scripted::new(
        |prompt, _| if prompt.starts_with("[system]AGENT") { format!(" a{} ", prompt.len()) } else { " u \n".into() },
        |request| match request.messages[0].content.as_str() {
            "MOVE" if !request.messages[1].content.contains("u</user>") => vec![0.5, 0.0],
            "MOVE" => vec![0.0, 0.5],
            "RATE" => vec![0.1, 0.2, 0.3],
            _ => vec![0.4, 0.1],
        },
    )
}

fn models(backend: &Arc<Scripted>) -> Models {
    Models::new().with("tiny", backend.clone() as Arc<dyn Backend>)
}

async fn play(spec: EpisodeSpec, journal: Vec<Turn>, backend: &Arc<Scripted>) -> Result<Vec<Turn>, EpisodeError> {
    let models = models(backend);
    let mut episode = Episode::resume(Box::new(spec), journal, None)?;
    while !episode.is_over() {
        episode.turn(&models, &|| ()).await?;
    }
    Ok(episode.turns().to_vec())
}

/// Time is the only thing in which two plays of one episode differ.
fn timeless(mut turns: Vec<Turn>) -> Vec<Turn> {
    turns.iter_mut().flat_map(|turn| &mut turn.calls).for_each(|call| call.milliseconds = 0);
    turns
}

fn replies(backend: &Scripted) -> Vec<String> {
    let prompt = |asked| if let Asked::Reply { prompt, .. } = asked { Some(prompt) } else { None };
    backend.asked().into_iter().filter_map(prompt).collect()
}

fn scored(backend: &Scripted, role: &str) -> Vec<String> {
    let text = |asked| match asked {
        Asked::Score { messages, .. } if messages[0].content == role => Some(messages[1].content.clone()),
        _ => None,
    };
    backend.asked().into_iter().filter_map(text).collect()
}

#[tokio::test]
async fn every_role_sees_its_own_view_in_the_published_order() {
    let backend = Arc::new(calm_then_upset());
    let turns = play(spec("e", 1), Vec::new(), &backend).await.unwrap();
    assert_eq!(turns.len(), 3);

    let roles: Vec<Vec<Role>> = turns.iter().map(|t| t.calls.iter().map(|c| c.role).collect()).collect();
    use Role::{Agent, Environment, Influence, Preference, Transition};
    let full = vec![Agent, Transition, Preference, Influence, Environment];
    assert_eq!(roles, [full.clone(), full.clone(), full[..4].to_vec()], "no user answers after the last turn");

    let seen = replies(&backend);
    let opening = "[system]AGENT$[function_call]look_up()$[ipython]nothing$[user]Hello$[assistant]";
    assert_eq!(seen[0], opening);
    let first = turns[0].reply.text.clone();
    assert_eq!(seen[1], format!("[system]USER$[assistant]Hello$[user]{}$[user]A day later$[assistant]", first.trim()));
    assert_eq!(seen[2], format!("{opening}{first}$[user]A day later$[user]u$[assistant]"), "tokens as sampled");
    assert_eq!(seen.len(), 5);

    let history = format!("The conversation history is:\n\n<user>: Hello</user>\n\n<Ada>: {}</Ada>\n\n", first.trim());
    for role in ["MOVE", "RATE", "HARM"] {
        let seen = scored(&backend, role);
        assert_eq!(seen[0], format!("{history}{role} Answer."), "the transcript as it stood after the reply");
        assert!(seen[1].starts_with(&format!("{history}<user>: u</user>\n\n<Ada>: ")), "{}", seen[1]);
        assert_eq!(seen.len(), 3);
    }
    assert_eq!(turns[0].transition.next_state, "upset");
    assert_eq!(turns[0].transition.entered, [message(Speaker::EnvironmentSystem, "A day later")]);
    assert!(turns[1].transition.entered.is_empty(), "staying appends nothing");
    assert_eq!(turns[2].environment, None);
    assert_eq!(turns[0].environment.as_ref().unwrap().text, "u", "trimmed");
    assert!((turns[0].preference.mass - 0.6).abs() < 1e-12, "the captured mass is kept");
}

#[tokio::test]
async fn the_assessors_are_asked_at_once() {
    let backend = Arc::new(calm_then_upset());
    play(spec("e", 1), Vec::new(), &backend).await.unwrap();
    let kinds: Vec<bool> = backend.asked().iter().map(|a| matches!(a, Asked::Score { .. })).collect();
    assert_eq!(kinds[..5], [false, true, true, true, false]);
}

#[tokio::test]
async fn assessors_see_tools_only_where_they_may() {
    let backend = Arc::new(calm_then_upset());
    let mut with_tools = spec("e", 1);
    Arc::make_mut(with_tools.influence.as_mut().unwrap()).sees_tools = true;
    play(with_tools, Vec::new(), &backend).await.unwrap();
    assert!(scored(&backend, "HARM")[0].contains("<tool_call>: look_up()</tool_call>"));
    assert!(!scored(&backend, "RATE")[0].contains("look_up"));
    assert!(replies(&backend)[1].starts_with("[system]USER$[assistant]Hello$"), "the user sees no tools");
}

#[tokio::test]
async fn a_terminal_state_ends_the_conversation_before_the_limit() {
    let backend = Arc::new(Scripted::new(
        |_, _| "x".into(),
        |r| vec![1.0; r.answers.len()].into_iter().enumerate().map(|(i, _)| f64::from(u8::from(i == 0))).collect(),
    ));
    let mut long = spec("e", 1);
    long.max_turns = 9;
    let turns = play(long, Vec::new(), &backend).await.unwrap();
    assert_eq!(turns.len(), 2);
    assert_eq!(turns[1].transition.next_state, "over");
    assert_eq!(turns[1].transition.entered, [message(Speaker::EnvironmentSystem, "The end")]);
    assert_eq!(turns[1].environment, None);
}

#[tokio::test]
async fn an_unscored_transition_takes_the_default_and_says_so() {
    let backend = Arc::new(Scripted::new(|_, _| "x".into(), |r| vec![1e-6; r.answers.len()]));
    let turns = play(spec("e", 1), Vec::new(), &backend).await.unwrap();
    for turn in turns {
        assert!(turn.transition.defaulted);
        assert_eq!(turn.transition.answer, "no");
        assert_eq!(turn.transition.next_state, "calm");
        assert!(turn.preference.unscored.is_some(), "never a number");
    }
}

#[tokio::test]
async fn an_answer_that_the_state_lacks_takes_the_default() {
    let backend = Arc::new(Scripted::new(|_, _| "x".into(), |_| vec![1.0, 0.0, 0.0]));
    let mut maybe = spec("e", 1);
    Arc::make_mut(&mut maybe.transition).answers = vec!["maybe".into(), "no".into()];
    let turns = play(maybe, Vec::new(), &backend).await.unwrap();
    assert!(turns[0].transition.defaulted);
    assert_eq!(turns[0].transition.answer, "no");
}

#[tokio::test]
async fn numbers_are_a_scale_for_yes() {
    let scale = |expected: f64| {
        move |request: &ScoreRequest| {
            let fourth = expected - 3.0;
            if request.answers.len() == 5 { vec![0.0, 0.0, 1.0 - fourth, fourth, 0.0] } else { vec![0.5; 3] }
        }
    };
    for (expected, yes) in [(3.0, 0.5), (3.2, 1.0 / (1.0 + (-1.0_f64).exp()))] {
        let backend = Arc::new(Scripted::new(|_, _| "x".into(), scale(expected)));
        let mut moved = 0;
        for seed in 0..600 {
            let mut numeric = spec("e", seed);
            numeric.max_turns = 1;
            Arc::make_mut(&mut numeric.transition).answers = ["1", "2", "3", "4", "5"].map(String::from).to_vec();
            let turns = play(numeric, Vec::new(), &backend).await.unwrap();
            assert!(!turns[0].transition.defaulted);
            moved += u32::from(turns[0].transition.answer == "yes");
        }
        let share = f64::from(moved) / 600.0;
        assert!((share - yes).abs() < 0.07, "E = {expected}: yes in {share}, not {yes}");
    }
}

#[tokio::test]
async fn the_other_entry_shows_one_time_in_five() {
    let backend = Arc::new(Scripted::new(
        |_, _| "x".into(),
        |r| if r.answers[0] == "yes" { vec![1.0, 0.0] } else { vec![0.5; r.answers.len()] },
    ));
    let mut other = 0;
    for seed in 0..1000 {
        let mut drawn = spec("e", seed);
        drawn.max_turns = 1;
        let mut upset = state(&[("yes", "calm"), ("no", "upset")], "usual");
        upset.alternative_entry = vec![message(Speaker::EnvironmentSystem, "other")];
        drawn.machine =
            machine(vec![("calm", state(&[("yes", "upset"), ("no", "calm")], "")), ("upset", upset)]).into();
        let turns = play(drawn, Vec::new(), &backend).await.unwrap();
        other += u32::from(turns[0].transition.entered[0].content == "other");
    }
    assert!((150..250).contains(&other), "{other} of 1000");
}

#[tokio::test]
async fn every_reply_has_a_stream_of_its_own() {
    let backend = Arc::new(calm_then_upset());
    play(spec("e", 5), Vec::new(), &backend).await.unwrap();
    let seeds: Vec<u64> = backend
        .asked()
        .iter()
        .filter_map(|a| if let Asked::Reply { seed, .. } = a { Some(*seed) } else { None })
        .collect();
    let of = |turn, role| stream::of_turn(5, turn, role);
    assert_eq!(seeds, [of(0, "agent"), of(0, "environment"), of(1, "agent"), of(1, "environment"), of(2, "agent")]);
}

/// Protects: one of several replies is taken by its scores and the conversation goes on from it alone; the first candidate is
/// the reply that there would be without a choice.
#[tokio::test]
async fn the_best_reply_that_passes_is_the_one_that_is_said() {
    // The longer, the higher rated; beyond three letters it is harmful.
    let length = |seed: u64| 1 + (seed % 6) as usize;
    let backend = Arc::new(Scripted::new(
        move |prompt, seed| {
            if prompt.starts_with("[system]AGENT") { "x".repeat(length(seed)) } else { "u".into() }
        },
        |request| {
            let said = request.messages[1].content.rsplit("<Ada>: ").next().unwrap();
            let length = said.chars().take_while(|c| *c == 'x').count() as f64;
            match request.messages[0].content.as_str() {
                "RATE" => vec![0.6 - 0.1 * length, 0.0, 0.1 * length],
                "HARM" if length > 3.0 => vec![0.1, 0.8],
                "HARM" => vec![0.8, 0.1],
                _ => vec![0.0, 0.5],
            }
        },
    ));
    let of = |best_of| EpisodeSpec { best_of, ..spec("e", 11) };
    let alone = play(of(None), Vec::new(), &backend).await.unwrap();
    assert!(alone.iter().all(|turn| turn.choice.is_none()));
    for veto in [None, Some(0.5)] {
        let before = scored(&backend, "MOVE").len();
        let turns = play(of(Some(BestOf { candidates: 5, veto })), Vec::new(), &backend).await.unwrap();
        assert_eq!(scored(&backend, "MOVE").len() - before, turns.len(), "only what is said moves the conversation");
        for turn in &turns {
            let name = |i: u32| if i == 0 { "agent".to_owned() } else { format!("agent of candidate {i}") };
            let lengths: Vec<usize> = (0..5).map(|i| length(stream::of_turn(11, turn.index, &name(i)))).collect();
            assert_eq!(lengths[0], alone[turn.index as usize].reply.text.len());
            let passing: Vec<usize> = lengths.iter().copied().filter(|n| veto.is_none() || *n <= 3).collect();
            let choice = turn.choice.unwrap();
            assert_eq!(choice.passed as usize, passing.len());
            let wanted = passing.iter().max().or(lengths.iter().filter(|n| **n > 3).take(1).next()).unwrap();
            assert_eq!(turn.reply.text.len(), *wanted, "{lengths:?}");
            assert_eq!(lengths[choice.candidate as usize], *wanted);
            let calls = |role| turn.calls.iter().filter(|call| call.role == role).count();
            assert_eq!([Role::Agent, Role::Preference, Role::Influence, Role::Transition].map(calls), [5, 5, 5, 1]);
        }
        let last = replies(&backend).into_iter().rfind(|prompt| prompt.starts_with("[system]AGENT")).unwrap();
        assert!(last.contains(&format!("[assistant]{}$[user]u$", turns[0].reply.text)), "{last}");
    }
}

/// Replies and scores that depend on all of the prompt and the seed: any difference shows.
fn sensitive(extends: bool) -> Arc<Scripted> {
    let mut backend = Scripted::new(
        |prompt, seed| format!("{:x} ", stream::derive(seed, &[prompt])),
        |r| {
            let seed = stream::derive(0, &[r.messages[1].content.as_str()]);
            (0..r.answers.len()).map(|i| stream::uniform(seed ^ i as u64)).collect()
        },
    );
    backend.extends = extends;
    Arc::new(backend)
}

#[tokio::test]
async fn an_episode_goes_on_from_any_turn_as_it_would_have() {
    for (seed, extends) in (0..12).zip([true, false].into_iter().cycle()) {
        let mut long = spec("e", seed);
        long.max_turns = 5;
        let whole = timeless(play(long.clone(), Vec::new(), &sensitive(extends)).await.unwrap());
        for cut in 0..=whole.len() {
            let backend = sensitive(extends);
            let resumed = play(long.clone(), whole[..cut].to_vec(), &backend).await.unwrap();
            assert_eq!(timeless(resumed), whole, "seed {seed}, cut after {cut}");
            assert_eq!(backend.asked().is_empty(), cut == whole.len(), "finished turns are not played again");
        }
    }
}

#[tokio::test]
async fn a_reply_that_was_cut_off_is_closed_in_the_next_prompt() {
    let backend = Arc::new(Scripted::new(|_, _| "0123456789".into(), |r| vec![0.5; r.answers.len()]));
    let mut short = spec("e", 3);
    Arc::make_mut(&mut short.agent).sampling.max_tokens = 4;
    let turns = play(short, Vec::new(), &backend).await.unwrap();
    assert!(turns[0].reply.cut_off);
    assert_eq!(turns[0].reply.text, "0123");
    assert_eq!(turns[1].reply.prompt_ids[0], END);
}

#[tokio::test]
async fn a_format_that_cannot_be_extended_restarts_with_the_whole_prompt() {
    let backend = sensitive(false);
    let turns = play(spec("e", 2), Vec::new(), &backend).await.unwrap();
    assert!(!turns[0].reply.restarts);
    assert!(turns[1].reply.restarts);
    assert_eq!(turns[1].calls[0].prompt_tokens as usize, turns[1].reply.prompt_ids.len());
}

#[tokio::test]
async fn the_stream_is_the_sum_of_its_turns() {
    let backend = sensitive(true);
    let turns = play(spec("e", 2), Vec::new(), &backend).await.unwrap();
    let mut ids = Vec::new();
    for turn in &turns {
        ids.extend(&turn.reply.prompt_ids);
        assert_eq!(turn.calls[0].prompt_sha256, crate::backend::PromptSeen::of(&ids).sha256);
        ids.extend(&turn.reply.token_ids);
    }
}

#[tokio::test]
async fn too_long_a_prompt_names_episode_turn_role_and_both_numbers() {
    let mut backend = calm_then_upset();
    backend.context = 130;
    let error = play(spec("e77", 1), Vec::new(), &Arc::new(backend)).await.unwrap_err();
    let Failure { retryable, message } = error.into();
    assert!(!retryable);
    for part in ["e77", "turn 1", "role agent", "130", "tokens"] {
        assert!(message.contains(part), "`{part}` is not in: {message}");
    }
}

#[tokio::test]
async fn a_model_that_is_not_served_is_named_with_those_that_are() {
    let mut other = spec("e", 1);
    Arc::make_mut(&mut other.preference).model = "large".into();
    let error = play(other, Vec::new(), &Arc::new(calm_then_upset())).await.unwrap_err().to_string();
    assert!(error.contains("role preference") && error.contains("`large`") && error.contains("`tiny`"), "{error}");
}

#[tokio::test]
async fn a_journal_of_another_episode_is_refused() {
    let whole = play(spec("e", 1), Vec::new(), &Arc::new(calm_then_upset())).await.unwrap();
    let refuse = |journal: Vec<Turn>, part: &str| {
        let error = Episode::resume(Box::new(spec("e", 1)), journal, None).unwrap_err();
        assert!(error.to_string().contains(part), "{error}");
        assert!(!Failure::from(error).retryable);
    };
    refuse(vec![whole[1].clone()], "has the index 1");
    refuse([whole.clone(), vec![whole[2].clone()]].concat(), "follows the end");
    let mut elsewhere = whole.clone();
    elsewhere[1].state = "calm".into();
    refuse(elsewhere, "begins in `calm`");
    let mut nowhere = whole;
    nowhere[0].transition.next_state = "limbo".into();
    refuse(nowhere, "unknown state `limbo`");
}

#[tokio::test]
async fn an_empty_answer_of_the_user_stands() {
    let backend = Arc::new(Scripted::new(
        |p, _| if p.contains("USER") { " \n".into() } else { "x".into() },
        |r| vec![0.5; r.answers.len()],
    ));
    let turns = play(spec("e", 1), Vec::new(), &backend).await.unwrap();
    assert_eq!(turns[0].environment.as_ref().unwrap().text, "");
    assert_eq!(turns.len(), 3);
}
