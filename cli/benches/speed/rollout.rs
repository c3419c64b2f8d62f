//! Episodes, as a worker rolls them out.

use std::sync::Arc;
use std::time::Instant;

use futures::StreamExt;
use influence_coordinator::config::Experiment;
use influence_coordinator::planning::{Phase, plan};
use influence_engine::batch::{Engine, EngineOptions, kv_budget};
use influence_engine::model::{Model, Placement};
use influence_proto::{EpisodeSpec, RunId, StateMachine, Turn};
use influence_worker::backend::{LocalBackend, Models};
use influence_worker::episode::Episode;
use serde_json::json;

use crate::calls::{Recorder, lockstep};
use crate::{RolloutArgs, process};

/// As in a worker: roles of one episode that may ask at once.
const ROWS_PER_EPISODE: usize = 3;

pub(crate) fn run(args: &RolloutArgs) {
    let specs = specs(args);
    let placement = Placement::new("cpu", &args.dtype, Some(&args.kv_dtype)).unwrap_or_else(|e| panic!("{e}"));
    let model = Arc::new(Model::load_for(&args.model, &placement).expect("the model loads"));
    let max_rows = args.at_once * ROWS_PER_EPISODE;
    let kv_bytes = args.kv_mib.map_or_else(|| kv_budget(&placement), |mib| mib << 20);
    let options = EngineOptions { max_rows, kv_bytes, ..EngineOptions::default() };
    let engine = Engine::start(model.clone(), options).expect("the engine starts");
    let recorder = Arc::new(Recorder::new(LocalBackend::new(engine.clone())));
    let name = specs[0].agent.model.clone();
    let models = Models::new().with(name, recorder.clone());

    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    let started = Instant::now();
    let turns = runtime.block_on(roll_out(specs, args.at_once, &models));
    let seconds = started.elapsed().as_secs_f64();

    let counters = engine.counters();
    let config = &model.config;
    let figures = json!({
        "seconds": seconds,
        "episodes": turns.len(),
        "turns": turns.iter().map(Vec::len).sum::<usize>(),
        "peak_mib": process::peak_mib(),
        "prompt_tokens_run": counters.generate_prompt_tokens + counters.score_prompt_tokens,
        "prompt_tokens_reused": counters.generate_reused_tokens + counters.score_reused_tokens,
        "generated_tokens": counters.generated_tokens,
        "score_tokens": counters.score_tokens,
        "steps": counters.steps,
        "model": {
            "layers": config.layers, "hidden": config.hidden_size, "intermediate": config.intermediate_size,
            "query_width": config.query_width(), "kv_width": config.kv_width(), "vocabulary": config.vocab_size,
        },
        "calls": lockstep(&turns, &mut recorder.calls()),
    });
    std::fs::write(&args.out, figures.to_string()).expect("the file is written");
}

fn specs(args: &RolloutArgs) -> Vec<EpisodeSpec> {
    let experiment = Experiment::load(&args.experiment, Some(&args.configs), &[], None, None);
    let experiment = experiment.unwrap_or_else(|problems| panic!("the experiment is wrong: {problems:?}"));
    let run = RunId::new("bench").expect("a valid id");
    let mut specs = plan(&experiment, &run, Phase::Train, 0, None).expect("a loaded experiment has a plan");
    specs.truncate(args.episodes);
    assert_eq!(specs.len(), args.episodes, "the experiment plans enough episodes");
    for spec in &mut specs {
        spec.machine = endless(&spec.machine).into();
    }
    specs
}

/// The start alone, and every answer leads back to it: each episode plays all its turns, whatever a random answer says.
fn endless(machine: &StateMachine) -> StateMachine {
    let name = machine.start().to_owned();
    let mut start = machine.state(&name).expect("the start exists").clone();
    for (_, next) in &mut start.transitions {
        next.clone_from(&name);
    }
    StateMachine::new(name.clone(), [(name, start)].into()).expect("it is closed")
}

async fn roll_out(specs: Vec<EpisodeSpec>, at_once: usize, models: &Models) -> Vec<Vec<Turn>> {
    let episodes = specs.into_iter().enumerate().map(|(index, spec)| async move {
        let mut episode = Episode::resume(Box::new(spec), Vec::new(), None).expect("it begins");
        while !episode.is_over() {
            episode.turn(models, &|| ()).await.expect("the model answers");
        }
        (index, episode.turns().to_vec())
    });
    let mut ended: Vec<_> = futures::stream::iter(episodes).buffer_unordered(at_once).collect().await;
    ended.sort_by_key(|(index, _)| *index);
    ended.into_iter().map(|(_, turns)| turns).collect()
}
