//! Logs in the format of Inspect (<https://inspect.aisi.org.uk>): a zip with a JSON file for each sample.

use std::fs::File;
use std::io::{self, BufWriter, Seek as _, SeekFrom, Write as _};
use std::path::PathBuf;

use influence_proto::prompts::{ChatRole, after_reply, as_agent_sees};
use influence_proto::{EpisodeSpec, Message, Role, Score, TrainedAgent, Turn};
use serde_json::{Map, Value, json};
use zip::ZipWriter;
use zip::write::SimpleFileOptions;

use super::file::NewFile;
use super::{Export, ExportError, phase_name};
use crate::catalogue::EpisodeView;
use crate::experiment::{IterationSummary, agent_of, summary};
use crate::planning::Phase;
use crate::store::RunRecord;

/// Of the log's schema.
const VERSION: u32 = 2;

/// A log for each iteration and evaluation that is planned.
pub(super) async fn logs(export: &Export<'_>) -> Result<Vec<(PathBuf, u64)>, ExportError> {
    let figures = summary(export.store, &export.run.id).await?;
    let judged = export.store.iterations(&export.run.id).await?;
    let of = |phase, iteration| figures.iter().find(|row| (row.phase, row.iteration) == (phase, iteration));
    let done = |phase, iteration| judged.iter().any(|i| (i.phase, i.iteration) == (phase, iteration) && i.judged);
    let mut written = Vec::new();
    let mut log: Option<Log> = None;
    let mut end = |log: Log| {
        let (phase, iteration) = log.of;
        written.push(log.finish(export.run, of(phase, iteration), done(phase, iteration))?);
        Ok::<_, ExportError>(())
    };
    export
        .episodes(|sibling, view| {
            let of = (view.phase, view.iteration);
            if let Some(other) = log.take_if(|log| log.of != of) {
                end(other)?;
            }
            if log.is_none() {
                let file = export.file(&format!("inspect/{}.eval", phase_name(of.0, of.1)))?;
                log = Some(Log::begin(of, file)?);
            }
            log.as_mut().map_or(Ok(()), |log| log.add(sibling, &view))
        })
        .await?;
    if let Some(last) = log {
        end(last)?;
    }
    Ok(written)
}

/// A log that is being written.
struct Log {
    of: (Phase, u32),
    path: PathBuf,
    zip: ZipWriter<NewFile>,
    /// The samples' summaries, which stand in one file at the end.
    summaries: BufWriter<File>,
    samples: u64,
    openings: u64,
    epochs: u32,
    /// Tokens by model, of all samples.
    usage: Map<String, Value>,
    /// Of the first sample.
    spec: Option<EpisodeSpec>,
}

impl Log {
    fn begin(of: (Phase, u32), file: NewFile) -> Result<Self, ExportError> {
        let path = file.path().to_owned();
        let summaries = BufWriter::new(tempfile::tempfile().map_err(ExportError::at(&path))?);
        let zip = ZipWriter::new(file);
        Ok(Self { of, path, zip, summaries, samples: 0, openings: 0, epochs: 0, usage: Map::new(), spec: None })
    }

    fn add(&mut self, sibling: u32, view: &EpisodeView) -> Result<(), ExportError> {
        if view.status == "pending" {
            return Ok(());
        }
        let sample = sample(sibling, view);
        let name = format!("samples/{}_epoch_{}.json", sample["id"].as_str().unwrap_or_default(), sibling + 1);
        self.write(&name, &sample)?;
        let begin = if self.samples == 0 { "[" } else { "," };
        write!(self.summaries, "{begin}{}", shortened(&sample)).map_err(ExportError::at(&self.path))?;
        self.samples += 1;
        self.openings += u64::from(sibling == 0);
        self.epochs = self.epochs.max(sibling + 1);
        add_usage(&mut self.usage, &view.spec, &view.turns, |_, model| model);
        self.spec.get_or_insert_with(|| view.spec.clone());
        Ok(())
    }

    fn write(&mut self, name: &str, content: &Value) -> Result<(), ExportError> {
        let mut write = || {
            self.zip.start_file(name, SimpleFileOptions::default())?;
            serde_json::to_writer(&mut self.zip, content).map_err(io::Error::from)
        };
        write().map_err(ExportError::at(&self.path))
    }

    fn finish(
        mut self,
        run: &RunRecord,
        figures: Option<&IterationSummary>,
        judged: bool,
    ) -> Result<(PathBuf, u64), ExportError> {
        let header = header(&self, run, figures, judged);
        let start = json!({ "version": VERSION, "eval": header["eval"], "plan": header["plan"] });
        self.write("_journal/start.json", &start)?;
        self.write("header.json", &header)?;
        let Self { path, mut zip, mut summaries, samples, .. } = self;
        let copy = || {
            summaries.write_all(if samples == 0 { b"[]" } else { b"]" })?;
            let mut summaries = summaries.into_inner().map_err(io::IntoInnerError::into_error)?;
            summaries.seek(SeekFrom::Start(0))?;
            zip.start_file("summaries.json", SimpleFileOptions::default())?;
            io::copy(&mut summaries, &mut zip)?;
            Ok(zip.finish()?)
        };
        let file: NewFile = copy().map_err(ExportError::at(&path))?;
        Ok((file.finish()?, samples))
    }
}

/// Everything about a log but its samples.
fn header(log: &Log, run: &RunRecord, figures: Option<&IterationSummary>, judged: bool) -> Value {
    let (phase, iteration) = log.of;
    let time = |ms: u64| {
        let time = i64::try_from(ms).ok().and_then(chrono::DateTime::from_timestamp_millis);
        time.unwrap_or_default().to_rfc3339()
    };
    let created = time(run.created_ms);
    let worked = figures.map_or(0, |row| row.active.as_millis() as u64);
    let spec = log.spec.as_ref();
    let trained = spec.and_then(|spec| spec.trained.as_ref());
    let class = spec.map_or(&*run.name, |spec| &*spec.environment_class);
    let name = phase_name(phase, iteration);
    json!({
        "version": VERSION,
        "status": if judged { "success" } else { "started" },
        "eval": {
            "eval_id": format!("{}-{name}", run.id),
            "run_id": run.id,
            "created": created,
            "task": format!("{class}/{name}"),
            "task_id": format!("{}-{name}", run.id),
            "task_version": 0,
            "task_args": { "run": run.id, "phase": phase.name(), "iteration": iteration },
            "dataset": { "name": class, "samples": log.openings, "shuffled": false },
            "model": spec.map_or("none", |spec| &*spec.agent.model),
            "model_args": {
                "agent": agent_of(run, iteration),
                "adapter_sha256": trained.and_then(TrainedAgent::adapter).map(|adapter| adapter.weights),
                "served_model": trained.and_then(TrainedAgent::served),
            },
            "config": { "epochs": log.epochs },
            "packages": { "influence": env!("CARGO_PKG_VERSION") },
            "metadata": { "experiment_sha256": run.digest, "experiment": run.experiment },
        },
        "plan": { "name": "influence", "steps": [] },
        "results": figures.map(results),
        // When a phase began is not stored; how long it took is.
        "stats": { "started_at": created, "completed_at": time(run.created_ms + worked), "model_usage": log.usage },
    })
}

/// The figures of a log. The standard error is ours, clustered by initial state.
fn results(figures: &IterationSummary) -> Value {
    let metric = |name: &str, value: f64| json!({ "name": name, "value": value, "params": {} });
    let mut scores = Vec::new();
    let mut score = |name: &str, scored: usize, metrics: Vec<(&str, f64)>| {
        let metrics: Map<String, Value> =
            metrics.into_iter().map(|(name, value)| (name.to_owned(), metric(name, value))).collect();
        scores.push(json!({
            "name": name,
            "scorer": name,
            "scored_samples": scored,
            "unscored_samples": figures.finished.saturating_sub(scored),
            "metrics": metrics,
        }));
    };
    if let Some(reward) = figures.reward {
        let error = reward.standard_error.map(|error| ("stderr", error));
        score("reward", figures.scored, std::iter::once(("mean", reward.mean)).chain(error).collect());
    }
    if let Some(influence) = figures.influence {
        score("influence", figures.influence_scored, vec![("mean", influence)]);
    }
    json!({ "total_samples": figures.episodes, "completed_samples": figures.finished, "scores": scores })
}

/// An episode as Inspect knows it: its initial state is the sample, its siblings are epochs, counted from 1.
fn sample(sibling: u32, view: &EpisodeView) -> Value {
    let (spec, turns) = (&view.spec, &view.turns);
    let messages = messages(spec, turns);
    let input = &messages[..=spec.opening.len()];
    let last = turns.last().map(|turn| {
        let message = json!({ "role": "assistant", "content": turn.reply.text, "source": "generate" });
        json!({ "message": message, "stop_reason": if turn.reply.cut_off { "max_tokens" } else { "stop" } })
    });
    let (mut by_model, mut by_role) = (Map::new(), Map::new());
    add_usage(&mut by_model, spec, turns, |_, model| model);
    add_usage(&mut by_role, spec, turns, |role, _| role.name());
    let error = view.error.as_ref().map(|e| json!({ "message": e, "traceback": e, "traceback_ansi": e }));
    let mut sample = json!({
        "id": format!("{}:{}", plain(&spec.environment), plain(&spec.initial_state)),
        "epoch": sibling + 1,
        "input": input,
        "target": "",
        "messages": messages,
        "output": {
            "model": spec.agent.model,
            "choices": last.as_slice(),
            "completion": turns.last().map(|turn| &turn.reply.text).map_or("", String::as_str),
        },
        "scores": scores(view),
        "metadata": {
            "environment": spec.environment,
            "initial_state": spec.initial_state,
            "episode": spec.id,
            "seed": spec.seed.to_string(),
            "agent_name": spec.agent_name,
            "turns": turns.len(),
            "attempts": view.attempt,
            "selected": view.selected,
            "vetoed": view.vetoed,
            "unscored": view.unscored,
        },
        "store": {},
        "events": [],
        "attachments": {},
        "model_usage": by_model,
        "role_usage": by_role,
        "uuid": spec.id,
    });
    if let Some(error) = error {
        sample["error"] = error;
    }
    sample
}

/// What Inspect lists without opening a sample.
fn shortened(sample: &Value) -> Value {
    let mut short = Map::new();
    for key in ["id", "epoch", "input", "target", "metadata", "scores", "model_usage", "role_usage", "uuid"] {
        short.insert(key.to_owned(), sample[key].clone());
    }
    short.insert("completed".to_owned(), sample.get("error").is_none().into());
    short.insert("message_count".to_owned(), sample["messages"].as_array().map_or(0, Vec::len).into());
    if let Some(error) = sample.get("error") {
        short.insert("error".to_owned(), error["message"].clone());
    }
    short.into()
}

/// Ids stand in the names of files inside the log.
fn plain(name: &str) -> String {
    let safe = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    let mut text = String::new();
    for c in name.chars() {
        if safe(c) {
            text.push(c);
        } else {
            let mut bytes = [0; 4];
            text.extend(c.encode_utf8(&mut bytes).bytes().map(|byte| format!("%{byte:02X}")));
        }
    }
    text
}

fn scores(view: &EpisodeView) -> Value {
    let each = |of: fn(&Turn) -> Option<f64>| {
        let told = view.turns.iter().map(|turn| of(turn).map_or_else(|| "unscored".to_owned(), |s| format!("{s:.3}")));
        told.collect::<Vec<_>>().join(", ")
    };
    let mut scores = Map::new();
    let mut add = |name: &str, value: Option<f64>, turns: String| {
        if let Some(value) = value {
            scores.insert(name.to_owned(), json!({ "value": value, "explanation": format!("by turn: {turns}") }));
        }
    };
    add("reward", view.reward, each(|turn| turn.preference.expected()));
    add("influence", view.influence, each(|turn| turn.influence.as_ref().and_then(Score::expected)));
    scores.into()
}

/// The agent's chat, each reply with what was thought of it.
fn messages(spec: &EpisodeSpec, turns: &[Turn]) -> Vec<Value> {
    let mut messages = vec![json!({ "role": "system", "content": spec.agent.system_prompt, "source": "input" })];
    messages.extend(spec.opening.iter().map(|message| foreign(message, "input")));
    for turn in turns {
        let score = |score: &Score| {
            let answers: Map<String, Value> =
                score.answers.iter().map(|(answer, p)| (answer.clone(), (*p).into())).collect();
            json!({ "expected": score.expected(), "answers": answers, "mass": score.mass, "unscored": score.unscored })
        };
        messages.push(json!({
            "role": "assistant",
            "content": turn.reply.text,
            "source": "generate",
            "model": spec.agent.model,
            "metadata": {
                "turn": turn.index,
                "preference": score(&turn.preference),
                "influence": turn.influence.as_ref().map(score),
                "transition": turn.transition.answer,
                "next_state": turn.transition.next_state,
            },
        }));
        messages.extend(after_reply(turn).iter().map(|message| foreign(message, "generate")));
    }
    for (number, message) in messages.iter_mut().enumerate() {
        message["id"] = format!("{}-{number}", spec.id).into();
    }
    messages
}

/// A message that the agent did not write. Tool calls are text here, and so is what tools answer.
fn foreign(message: &Message, source: &str) -> Value {
    let seen = as_agent_sees(message);
    let role = match seen.role {
        ChatRole::FunctionCall => "assistant",
        ChatRole::Ipython => "tool",
        role => role.name(),
    };
    json!({
        "role": role,
        "content": seen.content,
        "source": source,
        "metadata": { "speaker": message.speaker.name() },
    })
}

/// Adds the tokens of a conversation, by what `name` makes of a call's role and its model.
fn add_usage(
    usage: &mut Map<String, Value>,
    spec: &EpisodeSpec,
    turns: &[Turn],
    name: for<'s> fn(Role, &'s str) -> &'s str,
) {
    for call in turns.iter().flat_map(|turn| &turn.calls) {
        let model = match call.role {
            Role::Agent => &spec.agent.model,
            Role::Environment => &spec.environment_role.model,
            Role::Preference => &spec.preference.model,
            Role::Transition => &spec.transition.model,
            Role::Influence => spec.influence.as_ref().map_or(&spec.preference.model, |role| &role.model),
        };
        let sum = usage.entry(name(call.role, model)).or_insert_with(|| json!({}));
        for (key, tokens) in [
            ("input_tokens", call.prompt_tokens),
            ("output_tokens", call.generated_tokens),
            ("total_tokens", call.prompt_tokens + call.generated_tokens),
        ] {
            sum[key] = (sum[key].as_u64().unwrap_or_default() + u64::from(tokens)).into();
        }
    }
}
