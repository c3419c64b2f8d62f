//! One real call for every role, with the prompts of one episode.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use influence_proto::{AssessorRole, EpisodeSpec, GeneratorRole, Role, Score, ScoreOutcome, prompts};
use influence_worker::backend::{Backend, GenerateRequest, Prompt, ScoreRequest};

use super::{Report, Verdict, with_tools};

/// Answers that hold less of the probability than this are read from what a model hardly says.
const LITTLE_MASS: f64 = 0.1;
/// Characters of a reply that are shown.
const SHOWN: usize = 60;

type Models = BTreeMap<String, Arc<dyn Backend>>;

/// Asks every role of `spec` once, in the order of a turn. What that costs, in nanodollars.
pub(super) async fn ask(report: &mut Report, spec: &EpisodeSpec, models: &Models) -> u64 {
    let mut cost = 0;
    let seen = prompts::agent(&spec.agent.system_prompt, &spec.opening);
    let tools = if with_tools(spec) { ", after messages of tools" } else { "" };
    let prompt = Prompt::Messages(seen);
    let reply = generate(report, (Role::Agent, &spec.agent), prompt, spec, models, tools).await;
    let mut history = spec.opening.to_vec();
    cost += reply.as_ref().map_or(0, |(_, nanodollars)| *nanodollars);
    history.push(prompts::reply_message(reply.as_ref().map_or("Yes.", |(text, _)| text)));
    let start = spec.machine.state(spec.machine.start());
    let transitions: Vec<String> = match &spec.transition.answers[..] {
        [] => start.iter().flat_map(|state| &state.transitions).map(|(answer, _)| answer.clone()).collect(),
        given => given.to_vec(),
    };
    let assessors = [
        (Role::Transition, Some(&spec.transition), transitions),
        (Role::Preference, Some(&spec.preference), spec.preference.answers.clone()),
        (
            Role::Influence,
            spec.influence.as_ref(),
            spec.influence.iter().flat_map(|role| role.answers.clone()).collect(),
        ),
    ];
    for (role, assessor, answers) in assessors {
        if let Some(assessor) = assessor.filter(|_| !answers.is_empty()) {
            let messages = prompts::assessor(assessor, &spec.agent_name, &history);
            let scoring = spec.scoring.clone();
            let request = ScoreRequest { role, messages, answers, scoring, seed: 0, variant: None, session: None };
            cost += score(report, role, assessor, request, models).await;
        }
    }
    let prompt = Prompt::Messages(prompts::environment(&spec.environment_role.system_prompt, &history));
    let answer = generate(report, (Role::Environment, &spec.environment_role), prompt, spec, models, "").await;
    cost + answer.map_or(0, |(_, nanodollars)| nanodollars)
}

async fn generate(
    report: &mut Report,
    (role, generator): (Role, &GeneratorRole),
    prompt: Prompt,
    spec: &EpisodeSpec,
    models: &Models,
    more: &str,
) -> Option<(String, u64)> {
    // A model that could not be opened has a finding of its own.
    let backend = models.get(&generator.model)?;
    let started = Instant::now();
    let sampling = generator.sampling.clone();
    let request = GenerateRequest { role, prompt, sampling, seed: spec.seed, variant: None, session: None };
    match backend.generate(request).await {
        Ok(reply) => {
            let text = reply.text.trim();
            let shown: String = text.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(SHOWN).collect();
            let uncounted = uncounted(reply.prompt.tokens);
            let verdict = if text.is_empty() || !uncounted.is_empty() { Verdict::Note } else { Verdict::Ok };
            let finding = format!(
                "{} replies{more}: \"{shown}\" ({} + {} tokens, {:.1} s){uncounted}",
                generator.model,
                reply.prompt.tokens,
                reply.generated_tokens,
                started.elapsed().as_secs_f64()
            );
            report.say(role.name(), verdict, finding);
            Some((text.to_owned(), reply.nanodollars))
        }
        Err(error) => {
            report.say(role.name(), Verdict::Bad, format!("{}: {error}", generator.model));
            None
        }
    }
}

/// No prompt has no tokens: a server that says so does not count them.
const fn uncounted(tokens: u32) -> &'static str {
    match tokens {
        0 => "; its server counts no tokens (`usage`): it costs nothing in the figures, and no budget ends by it",
        _ => "",
    }
}

async fn score(
    report: &mut Report,
    role: Role,
    assessor: &AssessorRole,
    request: ScoreRequest,
    models: &Models,
) -> u64 {
    let Some(backend) = models.get(&assessor.model) else { return 0 };
    let (started, min_mass) = (Instant::now(), request.scoring.min_mass);
    let read = match backend.score(request).await {
        Ok(read) => read,
        Err(error) => {
            report.say(role.name(), Verdict::Bad, format!("{}: {error}", assessor.model));
            return 0;
        }
    };
    let (tokens, method, cost) = (read.prompt.tokens, read.method, read.nanodollars);
    let score = Score::from_masses(read.masses, min_mass);
    let seconds = started.elapsed().as_secs_f64();
    let (verdict, said) = match score.outcome() {
        ScoreOutcome::Unscored(reason) => (Verdict::Bad, format!("unscored: {reason}")),
        ScoreOutcome::Scored(answers) => {
            let expected = score.expected().map(|expected| format!("expected answer {expected:.2}"));
            let likely = answers.iter().max_by(|a, b| a.1.total_cmp(&b.1));
            let said =
                expected.or_else(|| likely.map(|(answer, p)| format!("`{answer}` with {p:.2}"))).unwrap_or_default();
            let verdict = if score.mass < LITTLE_MASS { Verdict::Note } else { Verdict::Ok };
            (verdict, format!("{said}; the allowed answers hold {:.3} of the probability", score.mass))
        }
    };
    let uncounted = uncounted(tokens);
    let verdict = if verdict == Verdict::Ok && !uncounted.is_empty() { Verdict::Note } else { verdict };
    let finding = format!("{}: {said} (read: {method}; {tokens} tokens, {seconds:.1} s){uncounted}", assessor.model);
    report.say(role.name(), verdict, finding);
    cost
}
