//! `influence generate-states`: openings by a model, for people to look through.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};

use anyhow::Context;
use futures::future::join_all;
use influence_coordinator::environments::{EnvironmentClass, Likeness};
use influence_proto::prompts::{ChatMessage, ChatRole};
use influence_proto::{Role, Sampling, Speaker, stream};
use influence_worker::backend::{ApiServers, Backend, GenerateRequest, Prompt};

use crate::args::GenerateStatesArguments;
use crate::environments::find;
use crate::interrupt;
use crate::place;
use crate::terminal::{harmless, print};

/// Asked at once.
const TOGETHER: u64 = 16;
/// Attempts for each opening that is wanted, before it ends with fewer.
const ATTEMPTS: u64 = 8;
/// A text that has so much in common with another is that one, nearly.
const ALIKE: f64 = 0.5;
const EXAMPLES: usize = 4;

pub(crate) async fn generate(arguments: GenerateStatesArguments) -> anyhow::Result<()> {
    let (class, environment) = find(&arguments.of, &arguments.place.configs)?;
    let environment = environment.context("name an environment too, as in therapy-talk/gameable_smoking")?;
    let output = arguments.output.clone().unwrap_or_else(|| PathBuf::from(format!("{environment}-generated.yaml")));
    anyhow::ensure!(!output.exists(), "{} exists already; look it through, or give another --output", output.display());
    anyhow::ensure!(
        class.generation_prompt(&environment, 0).is_some(),
        "the class `{}` has no `generation_config` with `system_prompt` and `prompt_suffix`; add one to its `_master_config.yaml`",
        class.name()
    );
    let cancel = interrupt::token()?;
    let known = known_openings(&class, &environment);
    let model = place::named_or_path(&arguments.model, &arguments.place)?;
    let backend = place::backend(model, arguments.place.cache.as_deref(), &[], &ApiServers::default()).await?;
    let mut search = Search {
        arguments: &arguments,
        class: &class,
        environment: &environment,
        backend: &*backend,
        found: Vec::new(),
        likeness: Likeness::default(),
        thrown: [0; 3],
        known,
    };
    search.known.iter().for_each(|text| search.likeness.add(text));
    let wanted = arguments.count as usize;
    let last = u64::from(arguments.count) * ATTEMPTS;
    let mut attempt = 0;
    while search.found.len() < wanted && attempt < last && !cancel.is_cancelled() {
        search.round(attempt..(attempt + TOGETHER).min(last)).await?;
        attempt += TOGETHER;
        if std::io::stderr().is_terminal() {
            eprintln!("{} of {wanted} openings", search.found.len().min(wanted));
        }
    }
    search.found.truncate(wanted);
    let Search { found, thrown: [alike, cut, empty], .. } = search;
    anyhow::ensure!(
        !found.is_empty(),
        "the model wrote no opening that could be used: {alike} too similar to others, {cut} cut off, {empty} empty"
    );
    write(&output, &page(&arguments, &class, &environment, &found))?;
    print(&harmless(&format!(
        "{}: {} openings for review; left out: {alike} too similar to others, {cut} cut off, {empty} empty\n",
        output.display(),
        found.len()
    )))?;
    anyhow::ensure!(
        found.len() == wanted,
        "only {} of {wanted} were found; try a higher --temperature, or another model",
        found.len()
    );
    Ok(())
}

/// The user's words in one opening of each template.
fn known_openings(class: &EnvironmentClass, environment: &str) -> Vec<String> {
    let mut seen = std::collections::BTreeSet::new();
    let states = class.initial_states(environment);
    let first = states.iter().filter(|state| seen.insert(state.place));
    let scenes = first.filter_map(|state| class.scene(environment, &state.id, 0, None));
    let said = |scene: influence_coordinator::environments::Scene| {
        scene
            .opening
            .into_iter()
            .rfind(|message| message.speaker == Speaker::Environment)
            .map(|message| message.content)
    };
    scenes.filter_map(said).collect()
}

struct Search<'a> {
    arguments: &'a GenerateStatesArguments,
    class: &'a EnvironmentClass,
    environment: &'a str,
    backend: &'a dyn Backend,
    known: Vec<String>,
    found: Vec<String>,
    likeness: Likeness,
    /// Too similar, cut off, empty.
    thrown: [usize; 3],
}

impl Search<'_> {
    async fn round(&mut self, attempts: std::ops::Range<u64>) -> anyhow::Result<()> {
        for reply in join_all(attempts.map(|attempt| self.backend.generate(self.request(attempt)))).await {
            let reply = reply?;
            let text = plain(&reply.text);
            if reply.cut_off {
                self.thrown[1] += 1;
            } else if text.is_empty() {
                self.thrown[2] += 1;
            } else if self.likeness.highest(&text) >= ALIKE {
                self.thrown[0] += 1;
            } else {
                self.likeness.add(&text);
                self.found.push(text);
            }
        }
        Ok(())
    }

    fn request(&self, attempt: u64) -> GenerateRequest {
        let GenerateStatesArguments { seed, temperature, top_p, max_tokens, .. } = *self.arguments;
        let seed = stream::derive(seed, &["generate-states", self.environment, &attempt.to_string()]);
        let order = stream::permutation(seed, self.known.len());
        let [system, request] = self.class.generation_prompt(self.environment, seed).unwrap_or_default();
        let mut chat = vec![ChatMessage::new(ChatRole::System, system)];
        // As if the model had been asked before, and had written these: it goes on in their manner.
        for index in order.into_iter().take(EXAMPLES) {
            chat.push(ChatMessage::new(ChatRole::User, &request));
            chat.push(ChatMessage::new(ChatRole::Assistant, &self.known[index]));
        }
        chat.push(ChatMessage::new(ChatRole::User, request));
        let sampling = Sampling { temperature, top_p, top_k: 0, min_p: 0.0, stop: Vec::new(), max_tokens };
        // What it writes are the words of users.
        GenerateRequest {
            role: Role::Environment,
            prompt: Prompt::Messages(chat),
            sampling,
            seed,
            variant: None,
            session: None,
        }
    }
}

/// A reply as an opening, without quotation marks around it. YAML takes no control characters.
fn plain(reply: &str) -> String {
    let said = reply.trim().trim_matches('"');
    let has_no_place = |c: char| (c.is_control() && c != '\n') || ['\u{feff}', '\u{fffe}', '\u{ffff}'].contains(&c);
    said.replace(has_no_place, " ").trim().to_owned()
}

/// Openings as an environment file has them. Braces are doubled: they are Python format strings there.
fn page(arguments: &GenerateStatesArguments, class: &EnvironmentClass, environment: &str, found: &[String]) -> String {
    let mut text = format!(
        "# Openings for {}/{environment}, written by {} with the seed {}. They are part of nothing yet: look them through, and\n\
         # copy what is good to `histories` (or to `templates`) of the environment's file.\nhistories:\n",
        class.name(),
        harmless(&arguments.model),
        arguments.seed
    );
    for (index, opening) in found.iter().enumerate() {
        let content = serde_json::Value::from(opening.replace('{', "{{").replace('}', "}}"));
        let _ = writeln!(text, "  generated-{}:\n    - {{role: environment, content: {content}}}", index + 1);
    }
    text
}

fn write(file: &Path, text: &str) -> anyhow::Result<()> {
    let mut new = File::create_new(file).with_context(|| format!("{} cannot be written", file.display()))?;
    new.write_all(text.as_bytes()).with_context(|| format!("{} cannot be written", file.display()))
}
