//! What a worker measures of itself, for whoever collects it. Nothing decides by it.

use std::time::Duration;

use influence_engine::batch::{DeviceMemory, Engine};
use influence_proto::{Metric, Role};
use metrics::{counter, gauge, histogram};

/// Everything that is measured here.
pub const METRICS: &[Metric] = &[
    CONNECTED,
    SLOTS,
    FREE_SLOTS,
    LOST,
    CALL_SECONDS,
    CALLS_FAILED,
    UNSCORED,
    UNDELIVERED,
    ENGINE_TOKENS,
    ENGINE_STEPS,
    ENGINE_STEP_ROWS,
    ENGINE_ROWS,
    KV_BYTES,
    KV_LIMIT,
    DEVICE_MEMORY,
    TRAINING_STEPS,
    API_REQUESTS,
];

const CONNECTED: Metric =
    Metric::gauge("influence_worker_connected", "1 while the session with the coordinator is open, else 0");
const SLOTS: Metric = Metric::gauge("influence_worker_slots", "Episodes that this worker takes at once");
const FREE_SLOTS: Metric = Metric::gauge("influence_worker_slots_free", "Of these, free");
const LOST: Metric = Metric::counter("influence_worker_leases_lost_total", "Leases that the coordinator took back");
const CALL_SECONDS: Metric =
    Metric::histogram("influence_call_seconds", "Duration of model calls, waiting included, in seconds, by role");
const CALLS_FAILED: Metric = Metric::counter(
    "influence_calls_failed_total",
    "Model calls without an answer, by role and kind: too_long, refused, unavailable",
);
const UNSCORED: Metric =
    Metric::counter("influence_unscored_total", "Scores with too little probability on the allowed answers, by role");
const UNDELIVERED: Metric =
    Metric::counter("influence_worker_deliveries_repeated_total", "Turns and results that had to be sent again");
const ENGINE_TOKENS: Metric = Metric::counter(
    "influence_engine_tokens_total",
    "Tokens of the local engine, by model and kind: prefilled, reused from the prefix cache, generated, scored",
);
const ENGINE_STEPS: Metric = Metric::counter("influence_engine_steps_total", "Forward passes, by model");
const ENGINE_STEP_ROWS: Metric = Metric::counter(
    "influence_engine_step_rows_total",
    "Rows of all forward passes, by model; over the steps, the batch size",
);
const ENGINE_ROWS: Metric =
    Metric::gauge("influence_engine_rows", "Requests now, by model and state: running or waiting");
const KV_BYTES: Metric = Metric::gauge(
    "influence_engine_kv_bytes",
    "Keys and values that are held in host or GPU memory, in bytes, by model",
);
const KV_LIMIT: Metric = Metric::gauge("influence_engine_kv_limit_bytes", "What they may take, in bytes, by model");
const DEVICE_MEMORY: Metric = Metric::gauge(
    "influence_gpu_memory_bytes",
    "Memory of the NVIDIA GPU, in bytes, by state: used, by anybody, or free",
);
const TRAINING_STEPS: Metric = Metric::counter("influence_worker_training_steps_total", "Optimiser steps");
const API_REQUESTS: Metric = Metric::counter(
    "influence_api_requests_total",
    "Requests to models behind APIs, by outcome: answered, refused, overload, broken",
);

pub(crate) fn connected(yes: bool) {
    gauge!(CONNECTED.name).set(if yes { 1.0 } else { 0.0 });
}

pub(crate) fn slots(all: usize, free: usize) {
    gauge!(SLOTS.name).set(all as f64);
    gauge!(FREE_SLOTS.name).set(free as f64);
}

pub(crate) fn lease_lost() {
    counter!(LOST.name).increment(1);
}

pub(crate) fn call(role: Role, took: Duration) {
    histogram!(CALL_SECONDS.name, "role" => role.name()).record(took);
}

pub(crate) fn call_failed(role: Role, kind: &'static str) {
    counter!(CALLS_FAILED.name, "role" => role.name(), "kind" => kind).increment(1);
}

pub(crate) fn unscored(role: Role) {
    counter!(UNSCORED.name, "role" => role.name()).increment(1);
}

pub(crate) fn delivery_repeated() {
    counter!(UNDELIVERED.name).increment(1);
}

/// Reads the engine's own counters.
pub(crate) fn engine(model: &str, engine: &Engine) {
    let now = engine.counters();
    for (kind, tokens) in [
        ("prefilled", now.generate_prompt_tokens + now.score_prompt_tokens),
        ("reused", now.generate_reused_tokens + now.score_reused_tokens),
        ("generated", now.generated_tokens),
        ("scored", now.score_tokens),
    ] {
        counter!(ENGINE_TOKENS.name, "model" => model.to_owned(), "kind" => kind).absolute(tokens);
    }
    counter!(ENGINE_STEPS.name, "model" => model.to_owned()).absolute(now.steps);
    counter!(ENGINE_STEP_ROWS.name, "model" => model.to_owned()).absolute(now.step_rows);
    for (state, rows) in [("running", now.running_rows), ("waiting", now.waiting_rows)] {
        gauge!(ENGINE_ROWS.name, "model" => model.to_owned(), "state" => state).set(rows as f64);
    }
    gauge!(KV_BYTES.name, "model" => model.to_owned()).set(now.kv_bytes as f64);
    gauge!(KV_LIMIT.name, "model" => model.to_owned()).set(engine.options().kv_bytes as f64);
}

pub(crate) fn device_memory(DeviceMemory { free, total }: DeviceMemory) {
    for (state, bytes) in [("free", free), ("used", total.saturating_sub(free))] {
        gauge!(DEVICE_MEMORY.name, "state" => state).set(bytes as f64);
    }
}

pub(crate) fn training_step() {
    counter!(TRAINING_STEPS.name).increment(1);
}

pub(crate) fn api_request(outcome: &'static str) {
    counter!(API_REQUESTS.name, "outcome" => outcome).increment(1);
}
