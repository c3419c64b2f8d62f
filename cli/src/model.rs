//! `influence model`: list, fetch, push, generate, score.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use comfy_table::{Table, presets};
use indicatif::HumanBytes;
use influence_engine::batch::{Engine, EngineOptions, FinishReason, GenerateRequest, ScoreRequest};
use influence_engine::chat::ChatMessage;
use influence_engine::sample::{AnswerTree, SamplingOptions};
use influence_worker::models::{ModelCache, describe};
use influence_worker::{Push, push_model};
use serde_json::json;

use crate::args::{
    GenerateArguments, ModelCommand, ModelsFileArguments, PromptArguments, PushArguments, ScoreArguments,
};
use crate::credentials;
use crate::place::{self, DownloadBar};
use crate::terminal::{harmless, print};

/// More is no conversation for a model.
const MAX_MESSAGES_BYTES: u64 = 16 << 20;

pub(crate) async fn dispatch(command: ModelCommand) -> anyhow::Result<()> {
    match command {
        ModelCommand::List { place, json } => list(&place, json),
        ModelCommand::Fetch { name, place, print_path } => fetch(&name, &place, print_path).await,
        ModelCommand::Push(arguments) => push(arguments).await,
        ModelCommand::Generate(arguments) => generate(arguments).await,
        ModelCommand::Score(arguments) => score(arguments).await,
    }
}

fn list(place: &ModelsFileArguments, as_json: bool) -> anyhow::Result<()> {
    let cache = ModelCache::new(&place::cache_folder(place.cache.as_deref())?, Default::default());
    let models = place::models(place)?;
    if as_json {
        let rows: Vec<_> = models
            .values()
            .map(|spec| {
                let sources: Vec<_> = spec.sources.iter().map(describe).collect();
                json!({"name": spec.name, "dtype": spec.dtype, "kv_dtype": spec.kv_dtype, "sources": sources, "cached": cache.cached(spec)})
            })
            .collect();
        return print(&format!("{}\n", serde_json::to_string_pretty(&rows)?));
    }
    let mut table = Table::new();
    table.load_preset(presets::UTF8_BORDERS_ONLY).set_header(["model", "dtype", "sources, in order", "in the cache"]);
    for spec in models.values() {
        let sources: Vec<_> = spec.sources.iter().map(describe).collect();
        let here = cache.cached(spec).map_or_else(|| "no".to_owned(), |path| path.display().to_string());
        let (dtype, here) = match spec.api() {
            Some(_) => (String::new(), "behind an API".to_owned()),
            None => (spec.dtype.clone(), here),
        };
        table.add_row([spec.name.clone(), dtype, sources.join("\n"), here]);
    }
    print(&format!("{}\n", harmless(&table.to_string())))
}

async fn fetch(name: &str, place: &ModelsFileArguments, print_path: bool) -> anyhow::Result<()> {
    let path = place::model_path(name, place).await?;
    // Scripts change folders; what they are given must still be there.
    let path = path.canonicalize().with_context(|| format!("{} cannot be resolved", path.display()))?;
    print(&if print_path { format!("{}\n", path.display()) } else { format!("{name} is at {}\n", path.display()) })
}

async fn push(arguments: PushArguments) -> anyhow::Result<()> {
    let PushArguments { name, coordinator, credentials, model, place } = arguments;
    let path = match model {
        Some((of, path)) if of == name => path,
        Some((of, _)) => {
            anyhow::bail!("--model gives files of `{of}`, but `{name}` is to be pushed; name the same model twice")
        }
        None => place::fetch(place::named(&name, &place)?, &place).await?,
    };
    let bar = Arc::new(DownloadBar::new());
    let shown = bar.clone();
    let push = Push {
        coordinator,
        credentials: credentials::of_admin(&credentials)?,
        model: name.clone(),
        path,
        cache: ModelCache::new(&place::cache_folder(place.cache.as_deref())?, BTreeMap::new()),
        on_upload: Arc::new(move |progress| shown.show(&progress)),
    };
    let pushed = push_model(push).await;
    bar.end();
    let files = pushed?;
    let bytes: u64 = files.iter().map(|file| file.bytes).sum();
    print(&format!("{name} was pushed: {} files, {}\n", files.len(), HumanBytes(bytes)))
}

/// A model that is ready to answer one conversation.
struct Asked {
    engine: Engine,
    messages: Vec<ChatMessage>,
    adapter: Option<String>,
}

impl Asked {
    async fn new(prompt: &PromptArguments) -> anyhow::Result<Self> {
        // The conversation first: a typo in it must not cost the time of loading a model.
        let messages = read_messages(&prompt.messages)?;
        let model = place::load(&prompt.model, &prompt.place).await?;
        let engine = Engine::start(model, EngineOptions::default())?;
        let adapter = prompt.adapter.as_ref().map(|_| "adapter".to_owned());
        if let (Some(name), Some(folder)) = (&adapter, &prompt.adapter) {
            engine.load_adapter(name, folder).await?;
        }
        Ok(Self { engine, messages, adapter })
    }
}

async fn generate(arguments: GenerateArguments) -> anyhow::Result<()> {
    let asked = Asked::new(&arguments.prompt).await?;
    let sampling = SamplingOptions {
        temperature: arguments.temperature as f32,
        top_p: arguments.top_p as f32,
        top_k: (arguments.top_k > 0).then_some(arguments.top_k as usize),
        min_p: arguments.min_p as f32,
    };
    let request = GenerateRequest {
        prompt: asked.engine.model().chat.prompt(&asked.messages)?,
        max_tokens: arguments.max_tokens as usize,
        sampling,
        stop: arguments.stop.clone(),
        seed: arguments.seed,
        adapter: asked.adapter.clone(),
        label: "generate",
        session: None,
    };
    let reply = asked.engine.generate(request).await?;
    if !arguments.prompt.json {
        return print(&format!("{}\n", harmless(&reply.text)));
    }
    let object = json!({
        "text": reply.text,
        "token_ids": reply.token_ids,
        "logprobs": reply.logprobs,
        "prompt_tokens": reply.prompt_tokens,
        "finish_reason": match reply.finish {
            FinishReason::Stop | FinishReason::StopText => "stop",
            FinishReason::Length => "length",
        },
    });
    print(&format!("{object}\n"))
}

async fn score(arguments: ScoreArguments) -> anyhow::Result<()> {
    let asked = Asked::new(&arguments.prompt).await?;
    let model = asked.engine.model().clone();
    let request = ScoreRequest {
        prompt: model.chat.scored_prompt(&asked.messages, &arguments.prefix)?,
        answers: Arc::new(AnswerTree::new(model.chat.onward_tokenizer(), &arguments.answers)?),
        adapter: asked.adapter.clone(),
        temperature: 1.0,
        top_p: 1.0,
        label: "score",
        session: None,
    };
    let score = asked.engine.score(request).await?;
    let masses = score.probabilities.iter().map(|(answer, p)| (answer.clone(), p * score.mass)).collect();
    let expected = influence_proto::Score::from_masses(masses, 0.0).expected();
    if arguments.prompt.json {
        let answers: serde_json::Map<_, _> = score.probabilities.iter().map(|(a, p)| (a.clone(), json!(p))).collect();
        let tokens = score.prompt_tokens;
        let object = json!({"answers": answers, "mass": score.mass, "expected": expected, "prompt_tokens": tokens});
        return print(&format!("{object}\n"));
    }
    let mut text = String::new();
    for (answer, p) in &score.probabilities {
        text.push_str(&format!("{:>12}  {p:.4}\n", harmless(answer)));
    }
    text.push_str(&format!("        mass  {:.4}\n", score.mass));
    if let Some(expected) = expected {
        text.push_str(&format!("    expected  {expected:.4}\n"));
    }
    print(&text)
}

fn read_messages(file: &Path) -> anyhow::Result<Vec<ChatMessage>> {
    let named = if file == Path::new("-") { "standard input".to_owned() } else { file.display().to_string() };
    let mut text = String::new();
    let source: Box<dyn Read> = match file == Path::new("-") {
        true => Box::new(std::io::stdin()),
        false => Box::new(std::fs::File::open(file).with_context(|| format!("{named} cannot be read"))?),
    };
    let read = source.take(MAX_MESSAGES_BYTES + 1).read_to_string(&mut text);
    read.with_context(|| format!("{named} cannot be read as UTF-8 text"))?;
    anyhow::ensure!(text.len() as u64 <= MAX_MESSAGES_BYTES, "{named} is larger than {MAX_MESSAGES_BYTES} bytes");
    let messages: Vec<ChatMessage> = serde_json::from_str(&text).with_context(|| {
        format!("{named} must be a JSON list of {{\"role\": \"system|user|assistant\", \"content\": \"..\"}}")
    })?;
    anyhow::ensure!(!messages.is_empty(), "{named} holds no message");
    Ok(messages)
}
