//! What crosses the wire comes back as it was, and what no domain type can hold is refused with the
//! name of its field.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeMap;

use influence_proto::prompts::{self, ChatMessage, ChatRole};
use influence_proto::{
    AdapterRef, AgentReply, Algorithm, ApiLimits, ApiModel, ApiPrice, ApiProtocol, ApiScores, Ask, AssessorRole,
    BestOf, Call, Choice, ClusterStatus, Digest, EnvironmentReply, EpisodeId, EpisodeSpec, Failure, FineTuningSpec,
    GeneratorRole, InvalidMessage, Lease, LoraSpec, Message, ModelAnswer, ModelCall, ModelSource, ModelSpec,
    OptimiserSpec, Outcome, Role, RunId, Said, Sampling, Schedule, Score, ScoreMethod, Scoring, Speaker, Standing,
    State, StateMachine, StepLoss, TraceParent, TrainedAgent, TrainingBackend, TrainingReport, TrainingRow,
    TrainingSpec, TransitionOutcome, Turn, Work, WorkId, WorkerId, WorkerLoad, WorkerStanding, wire,
};

fn message(speaker: Speaker, content: &str) -> Message {
    Message { speaker, content: content.into() }
}

fn assessor(answers: &[&str]) -> AssessorRole {
    AssessorRole {
        model: "tiny".into(),
        system_prompt: "Judge.".into(),
        suffix: "Answer with one word.".into(),
        answers: answers.iter().map(|a| (*a).to_owned()).collect(),
        sees_tools: true,
    }
}

fn generator(prompt: &str) -> GeneratorRole {
    let sampling =
        Sampling { temperature: 0.7, top_p: 0.95, top_k: 40, min_p: 0.05, stop: vec!["END".into()], max_tokens: 64 };
    GeneratorRole { model: "tiny".into(), system_prompt: prompt.into(), sampling }
}

fn state(transitions: &[(&str, &str)], terminal: bool) -> State {
    State {
        entry: vec![message(Speaker::EnvironmentSystem, "A day later")],
        alternative_entry: vec![message(Speaker::EnvironmentSystem, "A week later")],
        transitions: transitions.iter().map(|(a, s)| ((*a).to_owned(), (*s).to_owned())).collect(),
        default_answer: "no".into(),
        terminal,
    }
}

fn spec() -> EpisodeSpec {
    let states = BTreeMap::from([
        ("start".to_owned(), state(&[("yes", "end"), ("no", "start")], false)),
        ("end".to_owned(), state(&[], true)),
    ]);
    EpisodeSpec {
        id: EpisodeId::new("0123abcd").unwrap(),
        environment_class: "therapist".into(),
        environment: "smoking".into(),
        initial_state: "3".into(),
        seed: u64::MAX - 1,
        max_turns: 2,
        agent_name: "Ada".into(),
        opening: [message(Speaker::ToolCall, "find()"), message(Speaker::Environment, "Hi")].into(),
        machine: StateMachine::new("start".into(), states).unwrap().into(),
        agent: generator("Help.").into(),
        environment_role: generator("You are a user.").into(),
        preference: assessor(&["1", "2", "10"]).into(),
        transition: assessor(&[]).into(),
        influence: Some(assessor(&["0", "1"]).into()),
        scoring: Scoring { prefix: "The answer is: ".into(), temperature: 1.0, top_p: 1.0, min_mass: 0.01 },
        trained: Some(adapter()),
        best_of: Some(BestOf { candidates: 4, veto: Some(0.5) }),
    }
}

fn adapter() -> TrainedAgent {
    TrainedAgent::Adapter(AdapterRef { config: Digest::of("c"), weights: Digest::of("w") })
}

fn served() -> TrainedAgent {
    TrainedAgent::Served { model: "ft:gpt-4.1-mini:org:demo-0:9aZ".into() }
}

fn turn(index: u32) -> Turn {
    Turn {
        index,
        reply: AgentReply {
            text: " Hello \n".into(),
            prompt_ids: vec![1, 2, 3],
            restarts: index == 1,
            token_ids: vec![4, 5],
            cut_off: false,
        },
        state: "start".into(),
        transition: TransitionOutcome {
            score: Score::from_masses(vec![("yes".into(), 0.1), ("no".into(), 0.3)], 0.01),
            answer: "no".into(),
            defaulted: false,
            next_state: "start".into(),
            entered: vec![message(Speaker::EnvironmentSystem, "A day later")],
        },
        preference: Score::from_masses(vec![("1".into(), 1e-9), ("10".into(), 1e-9)], 0.01),
        influence: Some(Score::unscored("the prompt is too long")),
        environment: Some(EnvironmentReply { text: "And?".into(), cut_off: true }),
        calls: vec![Call {
            role: Role::Influence,
            prompt_tokens: 7,
            reused_tokens: 5,
            generated_tokens: 0,
            prompt_sha256: Digest::of("p"),
            milliseconds: 12,
            nanodollars: 34,
        }],
        choice: Some(Choice { candidate: 2, passed: 3 }),
        worker: None,
    }
}

fn training() -> TrainingSpec {
    TrainingSpec {
        model: "tiny".into(),
        dataset: Digest::of("d"),
        algorithm: Algorithm::Sft,
        backend: TrainingBackend::Local {
            start: adapter().adapter(),
            lora: LoraSpec {
                rank: 16,
                alpha: 32.0,
                dropout: 0.1,
                rank_stabilised: true,
                targets: vec!["q_proj".into()],
            },
            optimiser: OptimiserSpec {
                learning_rate: 2e-4,
                weight_decay: 0.0,
                max_grad_norm: 1.0,
                batch_size: 4,
                epochs: 1,
                max_length: 512,
                cut_long_rows: true,
                schedule: Schedule::Cosine,
                warmup: 0.1,
            },
        },
        seed: u64::MAX - 3,
    }
}

fn calls() -> Vec<ModelCall> {
    let spec = spec();
    let call = |role, messages: Vec<ChatMessage>, ask| ModelCall { role, model: "tiny".into(), messages, seed: 8, ask };
    let roles = [ChatRole::System, ChatRole::User, ChatRole::Assistant, ChatRole::FunctionCall, ChatRole::Ipython];
    let reply = |trained| Ask::Reply { sampling: spec.agent.sampling.clone(), trained };
    vec![
        call(Role::Agent, roles.map(|role| ChatMessage::new(role, "x")).into(), reply(Some(adapter()))),
        call(
            Role::Preference,
            vec![ChatMessage::new(ChatRole::User, "good?")],
            Ask::Score { answers: vec!["yes".into(), "no".into()], scoring: spec.scoring.clone() },
        ),
        call(Role::Agent, vec![ChatMessage::new(ChatRole::User, "x")], reply(Some(served()))),
        call(Role::Environment, vec![ChatMessage::new(ChatRole::User, "x")], reply(None)),
    ]
}

fn fine_tuning() -> TrainingSpec {
    let fine_tuning = FineTuningSpec {
        start: served().served().map(Into::into),
        epochs: 2,
        batch_size: 3,
        learning_rate_multiplier: Some(0.1),
        suffix: "demo-1".into(),
    };
    TrainingSpec { backend: TrainingBackend::Api(fine_tuning), ..training() }
}

const TRACE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

fn lease(payload: Work) -> Lease {
    Lease {
        work: WorkId::new("w-1").unwrap(),
        attempt: 3,
        payload,
        checkpoint: Some(Digest::of("state")),
        trace: TraceParent::parse(TRACE),
    }
}

#[test]
fn leases_come_back_as_they_were() {
    let episode = Work::Episode { spec: Box::new(spec()), journal: vec![turn(0), turn(1)] };
    let training = |algorithm| lease(Work::Training(Box::new(TrainingSpec { algorithm, ..training() })));
    let kto = Algorithm::Kto { beta: 0.1, desirable_weight: 1.0, target_ratio: 1.5 };
    let trainings = [Algorithm::Sft, kto, Algorithm::Dpo { beta: 0.2 }].map(training);
    let there = lease(Work::Training(Box::new(fine_tuning())));
    let tuned = EpisodeSpec { trained: Some(served()), ..spec() };
    let tuned = lease(Work::Episode { spec: Box::new(tuned), journal: Vec::new() });
    let calls = lease(Work::Calls(calls()));
    for original in trainings.into_iter().chain([lease(episode), there, tuned, calls]) {
        let back = Lease::try_from(wire::Lease::from(original.clone())).unwrap();
        assert_eq!(back, original);
    }
}

#[test]
fn outcomes_and_models_come_back_as_they_were() {
    let report = TrainingReport {
        agent: adapter(),
        steps: 3,
        rows: 12,
        dropped_rows: 1,
        tokens: 99,
        first_loss: Some(2.5),
        last_loss: Some(1.5),
        losses: vec![StepLoss { step: 3, loss: 1.5 }],
        nanodollars: 0,
    };
    let there = TrainingReport { agent: served(), first_loss: None, last_loss: None, nanodollars: 7, ..report.clone() };
    let failure = Failure { retryable: true, message: "the disk is full".into() };
    let call = turn(0).calls.remove(0);
    let answers = vec![
        ModelAnswer { call: Some(call), said: Said::Reply { text: " so ".into(), cut_off: true } },
        ModelAnswer { call: None, said: Said::Score(Score::unscored("too long")) },
    ];
    for outcome in [
        Outcome::Episode { turns: 2 },
        Outcome::Training(report),
        Outcome::Training(there),
        Outcome::Calls(answers),
        Outcome::Failed(failure),
        Outcome::Returned,
    ] {
        let wired = wire::finish_request::Outcome::from(outcome.clone());
        assert_eq!(Outcome::try_from(wired).unwrap(), outcome);
    }
    let sha256 = Digest::of("m");
    let model = ModelSpec {
        name: "tiny".into(),
        dtype: "f32".into(),
        kv_dtype: Some("f16".into()),
        sources: vec![
            ModelSource::Hub { repository: "a/b".into(), revision: "main".into() },
            ModelSource::Wheel { package: "p".into(), version: "1".into(), file: "f".into(), sha256 },
            ModelSource::Path { path: "/models/x.gguf".into(), sha256: None },
        ],
    };
    assert_eq!(ModelSpec::try_from(wire::Model::from(model.clone())).unwrap(), model);
}

fn api() -> ApiModel {
    ApiModel {
        protocol: ApiProtocol::Anthropic,
        url: "https://api.example.org/v1".into(),
        model: "judge".into(),
        key_variable: Some("JUDGE_API_KEY".into()),
        scores: ApiScores::Samples(8),
        adapters: true,
        price: Some(ApiPrice {
            input: 150_000,
            output: 600_000,
            training: Some(3_000_000),
            tuned: Some((300_000, 1_200_000)),
        }),
        limits: ApiLimits {
            concurrency: 3,
            requests_per_minute: Some(50),
            tokens_per_minute: None,
            timeout_seconds: 9,
        },
    }
}

#[test]
fn models_behind_apis_come_back_with_price_and_limits() {
    for scores in [ApiScores::Exact, ApiScores::Continued, ApiScores::FirstToken, ApiScores::Samples(8)] {
        let api = ApiModel { scores, ..api() };
        assert_eq!(ApiModel::try_from(wire::ApiSource::from(api.clone())).unwrap(), api);
    }
    for method in [ScoreMethod::Exact, ScoreMethod::Continued, ScoreMethod::FirstToken, ScoreMethod::Samples(8)] {
        let score = Score::from_masses(vec![("1".into(), 0.5)], 0.01).read_by(method);
        assert_eq!(Score::try_from(wire::Score::from(score.clone())).unwrap(), score);
    }
}

/// Protects: a coordinator has no worker send another variable of its environment, or anything to what is no address.
#[test]
fn what_an_api_must_not_be_is_refused() {
    let refused = |change: fn(&mut wire::ApiSource)| {
        let mut wired = wire::ApiSource::from(api());
        change(&mut wired);
        ApiModel::try_from(wired).unwrap_err().to_string()
    };
    assert!(refused(|api| api.key_variable = "AWS_SECRET_ACCESS_KEY".into()).contains("key_variable"));
    assert!(refused(|api| api.url = "file:///etc/passwd".into()).contains("url"));
    assert!(refused(|api| api.url = "http://user:secret@host/v1".into()).contains("url"));
    assert!(refused(|api| api.samples = 0).contains("samples"));
    assert!(refused(|api| api.concurrency = 0).contains("concurrency"));
    assert!(refused(|api| api.output_price = None).contains("input_price"));
    assert!(refused(|api| api.tuned_output_price = None).contains("tuned_input_price"));
    let path = ModelSource::Path { path: "/m".into(), sha256: None };
    let model = |adapters, mut sources: Vec<ModelSource>| {
        sources.push(ModelSource::Api(ApiModel { adapters, protocol: ApiProtocol::OpenAi, ..api() }));
        let model = ModelSpec { name: "m".into(), dtype: "f32".into(), kv_dtype: None, sources };
        ModelSpec::try_from(wire::Model::from(model.clone())).map(|read| assert_eq!(read, model))
    };
    assert!(model(false, vec![path.clone()]).unwrap_err().to_string().contains("beside others"));
    assert!(model(true, Vec::new()).unwrap_err().to_string().contains("no files"));
    assert!(model(false, Vec::new()).is_ok() && model(true, vec![path]).is_ok());
}

#[test]
fn the_standing_of_a_cluster_comes_back_as_it_was() {
    let worker = WorkerStanding {
        id: WorkerId::new("gpu-1").unwrap(),
        device: "cuda:0".into(),
        version: "0.1".into(),
        connected: true,
        draining: false,
        can_train: true,
        credits: 1,
        held: 2,
        duplicates: 3,
        stalled: 4,
        turns: 5,
        silent_ms: 6,
        slots: 7,
        still_ms: 8,
        tokens_per_second: 9,
        load: WorkerLoad { memory_bytes: 10, backing_off: 11 },
    };
    let state = |held, still_ms, backing_off| {
        let load = WorkerLoad { backing_off, ..worker.load };
        WorkerStanding { held, still_ms, load, ..worker.clone() }.state()
    };
    assert_eq!([state(0, 0, 0), state(1, 0, 0), state(1, 300_000, 0)], ["idle", "working", "stalled"]);
    assert_eq!(state(1, 300_000, 1), "backing off", "it waits for others: that is no stall");
    let other = WorkerStanding { connected: false, draining: true, can_train: false, ..worker.clone() };
    let status = ClusterStatus {
        run: RunId::new("demo").unwrap(),
        phase: "rollout 3".into(),
        episodes_total: 7,
        episodes_done: 8,
        episodes_failed: 9,
        turns: 10,
        uptime_ms: 11,
        store_problem: Some("full".into()),
        version: "0.2".into(),
        standing: Standing { paused: true, pending: 12, leased: 13, workers: vec![worker, other] },
    };
    let mut wire = wire::StatusReply::from(status.clone());
    assert_eq!(ClusterStatus::try_from(wire.clone()), Ok(status));
    wire.workers[1].id = "a b".into();
    let refused = ClusterStatus::try_from(wire).unwrap_err();
    assert_eq!(refused.field, "workers[1].worker_id");
}

#[test]
fn stored_json_is_exact() {
    let original = turn(1);
    let text = serde_json::to_string(&original).unwrap();
    assert_eq!(serde_json::from_str::<Turn>(&text).unwrap(), original);
    let spec = spec();
    assert_eq!(serde_json::from_str::<EpisodeSpec>(&serde_json::to_string(&spec).unwrap()).unwrap(), spec);
    for job in [training(), fine_tuning()] {
        assert_eq!(serde_json::from_str::<TrainingSpec>(&serde_json::to_string(&job).unwrap()).unwrap(), job);
    }
    for p in [0.1_f64, 1.0 / 3.0, 5e-324, 0.123_456_789_012_345_67] {
        let back: f64 = serde_json::from_str(&serde_json::to_string(&p).unwrap()).unwrap();
        assert_eq!(back.to_bits(), p.to_bits(), "resume promises bit-equal scores");
    }
}

/// A change to a valid episode that no domain type can hold.
type Spoil = fn(&mut wire::EpisodeSpec);

fn refused(spoil: Spoil) -> InvalidMessage {
    let mut wired = wire::EpisodeSpec::from(spec());
    spoil(&mut wired);
    EpisodeSpec::try_from(wired).expect_err("an invalid spec was accepted")
}

#[test]
fn invalid_specs_are_refused_by_field() {
    let cases: [(&str, Spoil); 15] = [
        ("episode_id", |s| s.id = "a/../b".into()),
        ("opening", |s| s.opening.clear()),
        ("opening", |s| s.opening.push(message(Speaker::Agent, "me").into())),
        ("opening[0].speaker", |s| s.opening[0].speaker = 77),
        ("max_turns", |s| s.max_turns = 0),
        ("machine", |s| s.machine = None),
        ("machine.start", |s| s.machine.as_mut().unwrap().start = "nowhere".into()),
        ("machine.states.start.transitions.yes", |s| {
            s.machine.as_mut().unwrap().states.get_mut("start").unwrap().transitions[0].next_state = "moon".into();
        }),
        ("agent.sampling.temperature", |s| {
            s.agent.as_mut().unwrap().sampling.as_mut().unwrap().temperature = f64::NAN;
        }),
        ("preference.answers", |s| s.preference.as_mut().unwrap().answers.clear()),
        ("scoring.min_mass", |s| s.scoring.as_mut().unwrap().min_mass = 2.0),
        ("best_of.candidates", |s| s.best_of.as_mut().unwrap().candidates = 1),
        ("best_of.veto", |s| s.influence = None),
        ("adapter.sha256", |s| {
            let adapter = wire::Adapter { config_sha256: Digest::of("c").into(), weights_sha256: "é".repeat(32) };
            s.trained = Some(wire::episode_spec::Trained::Adapter(adapter));
        }),
        ("served_model", |s| s.trained = Some(wire::episode_spec::Trained::ServedModel("a\nb".into()))),
    ];
    for (field, spoil) in cases {
        assert_eq!(refused(spoil).field, field);
    }
}

/// Protects: a job is either the worker's or the server's, and a server is asked only for what its API knows.
#[test]
fn training_jobs_of_two_kinds_at_once_are_refused() {
    let refused = |change: fn(&mut wire::TrainingWork)| {
        let mut wired = wire::TrainingWork::from(fine_tuning());
        change(&mut wired);
        TrainingSpec::try_from(wired).unwrap_err().to_string()
    };
    assert!(refused(|job| job.lora = wire::TrainingWork::from(training()).lora).contains("beside start, lora"));
    let kto = refused(|job| {
        let kto = wire::Kto { beta: 0.1, desirable_weight: 1.0, target_ratio: 1.0 };
        job.algorithm = Some(wire::training_work::Algorithm::Kto(kto));
    });
    assert!(kto.contains("beside kto"), "{kto}");
    let change = |change: fn(&mut wire::FineTuning)| {
        let mut wired = wire::TrainingWork::from(fine_tuning());
        change(wired.fine_tuning.as_mut().unwrap());
        TrainingSpec::try_from(wired).unwrap_err().field
    };
    assert_eq!(change(|tuning| tuning.suffix = "a b".into()), "fine_tuning.suffix");
    assert_eq!(change(|tuning| tuning.start = "a b".into()), "fine_tuning.start");
    assert_eq!(change(|tuning| tuning.learning_rate_multiplier = Some(0.0)), "fine_tuning.learning_rate_multiplier");
    assert_eq!(change(|tuning| tuning.epochs = 0), "fine_tuning.epochs");
}

/// Protects: what earlier releases have stored is read as it was meant.
#[test]
fn adapters_of_earlier_releases_are_read() {
    let AdapterRef { config, weights } = adapter().adapter().unwrap();
    let files = format!(r#"{{"config":"{config}","weights":"{weights}"}}"#);
    assert_eq!(serde_json::from_str::<TrainedAgent>(&files).unwrap(), adapter());
    assert_eq!(serde_json::to_string(&adapter()).unwrap(), files);
    assert_eq!(serde_json::to_string(&served()).unwrap(), r#"{"served_model":"ft:gpt-4.1-mini:org:demo-0:9aZ"}"#);
    let report = format!(
        r#"{{"adapter":{files},"steps":1,"rows":1,"dropped_rows":0,"tokens":1,"first_loss":2.5,"last_loss":1.5}}"#
    );
    let read: TrainingReport = serde_json::from_str(&report).unwrap();
    assert_eq!((read.agent, read.first_loss, read.nanodollars), (adapter(), Some(2.5), 0));
    // Stores compare jobs letter by letter.
    let dataset = Digest::of("d");
    let stored = format!(
        concat!(
            r#"{{"model":"tiny","dataset":"{dataset}","start":{files},"algorithm":"sft","lora":{{"rank":16,"#,
            r#""alpha":32.0,"dropout":0.1,"rank_stabilised":true,"targets":["q_proj"]}},"optimiser":{{"#,
            r#""learning_rate":0.0002,"schedule":"cosine","warmup":0.1,"weight_decay":0.0,"max_grad_norm":1.0,"#,
            r#""batch_size":4,"epochs":1,"max_length":512,"cut_long_rows":true}},"seed":18446744073709551612}}"#
        ),
        dataset = dataset,
        files = files
    );
    assert_eq!(serde_json::to_string(&training()).unwrap(), stored);
}

#[test]
fn invalid_calls_are_refused_by_field() {
    let refused = |call: usize, spoil: fn(&mut wire::ModelCall)| {
        let mut wired = wire::Lease::from(lease(Work::Calls(calls())));
        let Some(wire::lease::Payload::Calls(work)) = &mut wired.payload else { panic!("these are calls") };
        spoil(&mut work.calls[call]);
        Lease::try_from(wired).unwrap_err().field
    };
    assert_eq!(refused(0, |call| call.messages.clear()), "calls[0].messages");
    assert_eq!(refused(1, |call| call.role = 0), "calls[1].role");
    assert_eq!(refused(0, |call| call.messages[2].role = 99), "calls[0].messages[2].role");
    assert_eq!(refused(1, |call| call.ask = None), "calls[1].ask");
    assert_eq!(
        refused(1, |call| call.ask = Some(wire::model_call::Ask::Score(wire::AskScore::default()))),
        "calls[1].answers"
    );
    assert_eq!(
        refused(0, |call| call.ask = Some(wire::model_call::Ask::Reply(wire::AskReply::default()))),
        "calls[0].sampling"
    );
}

#[test]
fn a_dead_end_is_refused_but_a_terminal_state_needs_no_default() {
    let dead_end = BTreeMap::from([("start".to_owned(), state(&[], false))]);
    let error = StateMachine::new("start".into(), dead_end).unwrap_err();
    assert_eq!(error.to_string(), "field `states.start.transitions` is empty, but the state is not terminal");
    let wrong_default = BTreeMap::from([("start".to_owned(), state(&[("yes", "start")], false))]);
    let error = StateMachine::new("start".into(), wrong_default).unwrap_err();
    assert_eq!(error.field, "states.start.default_transition");
}

#[test]
fn each_role_sees_its_own_side() {
    let spec = spec();
    let history = prompts::history(&spec, &[turn(0)]);
    let roles = |chat: &[prompts::ChatMessage]| chat.iter().map(|m| m.role.name()).collect::<Vec<_>>();
    let agent = prompts::agent(&spec.agent.system_prompt, &history);
    assert_eq!(roles(&agent), ["system", "function_call", "user", "assistant", "user", "user"]);
    assert_eq!(agent[3].content, "Hello", "history shows replies trimmed");
    let environment = prompts::environment(&spec.environment_role.system_prompt, &history);
    assert_eq!(roles(&environment), ["system", "assistant", "user", "user", "assistant"]);
    let preference = prompts::assessor(&spec.preference, &spec.agent_name, &history);
    assert_eq!(roles(&preference), ["system", "user"]);
    assert!(preference[1].content.contains("<Ada>: Hello</Ada>"), "{}", preference[1].content);
    assert_eq!(prompts::as_agent_sees(&message(Speaker::ToolResponse, "")).role, ChatRole::Ipython);
}

#[test]
fn scores_keep_their_mass_and_never_turn_into_zero() {
    let score = Score::from_masses(vec![("1".into(), 0.2), ("10".into(), 0.6)], 0.01);
    assert!((score.expected().unwrap() - 7.75).abs() < 1e-12);
    assert!((score.mass - 0.8).abs() < 1e-12);
    let thin = Score::from_masses(vec![("1".into(), 0.001)], 0.01);
    assert_eq!(thin.expected(), None);
    assert!(thin.unscored.unwrap().contains("1.00e-3"));
    assert_eq!(Score::from_masses(vec![("1".into(), f64::NAN)], 0.0).expected(), None);
    assert_eq!(Score::from_masses(vec![("yes".into(), 1.0)], 0.0).expected(), None);
}

#[test]
fn training_rows_are_told_apart() {
    let tokens = r#"{"token_ids":[1,2,3],"targets":[[1,3]]}"#;
    assert!(matches!(serde_json::from_str(tokens).unwrap(), TrainingRow::Tokens { .. }));
    let messages = r#"{"messages":[{"role":"user","content":"a"},{"role":"assistant","content":"b","weight":0}]}"#;
    assert!(matches!(serde_json::from_str(messages).unwrap(), TrainingRow::Messages { .. }));
    assert!(serde_json::from_str::<TrainingRow>(r#"{"text":"a"}"#).is_err());
}
