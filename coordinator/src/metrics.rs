//! What a coordinator measures of itself, for whoever collects it. Nothing decides by it.

use std::time::Duration;

use influence_proto::{Call, Metric, Standing};
use metrics::{counter, gauge, histogram};

use crate::planning::Phase;
use crate::progress::{RunPhase, TrainingNow};

/// Everything that is measured here.
pub const METRICS: &[Metric] = &[
    LEADS,
    PHASE,
    TURNS,
    TOKENS,
    COST,
    FINISHED,
    FAILED,
    REWARD,
    VETOED,
    TRAINING_STEP,
    TRAINING_LOSS,
    WORKERS,
    FREE_SLOTS,
    QUEUED,
    LEASED,
    GRANTED,
    RETRIED,
    DUPLICATED,
    REVOKED,
    STORE_SECONDS,
    STORE_AWAY,
];

const LEADS: Metric =
    Metric::gauge("influence_leads", "1 while this coordinator carries the run on, 0 while it stands by");
const PHASE: Metric = Metric::gauge(
    "influence_iteration",
    "Iteration of what is being done, by phase: rollout, evaluation or training; the others are absent or old",
);
const TURNS: Metric = Metric::counter("influence_turns_total", "Turns of conversations that were stored");
const TOKENS: Metric = Metric::counter(
    "influence_tokens_total",
    "Tokens of the stored turns' calls, by role and kind: prompt, as models count it, or generated",
);
const COST: Metric = Metric::gauge(
    "influence_cost_dollars",
    "What calls cost since this process began, by the price table, in dollars, by role",
);
const FINISHED: Metric =
    Metric::counter("influence_work_finished_total", "Episodes, trainings and bundles of calls that were finished");
const FAILED: Metric =
    Metric::counter("influence_work_failed_total", "Episodes, trainings and bundles of calls that were given up");
const REWARD: Metric = Metric::gauge(
    "influence_reward",
    "Mean reward of the last iteration that was judged, by phase: train or evaluate; of its scored episodes, on the scale of ratings",
);
const VETOED: Metric = Metric::gauge("influence_vetoed_share", "Share of vetoed episodes in that iteration, by phase");
const TRAINING_STEP: Metric =
    Metric::gauge("influence_training_step", "Optimiser step that the current training has done");
const TRAINING_LOSS: Metric = Metric::gauge("influence_training_loss", "Loss of that step");
const WORKERS: Metric = Metric::gauge(
    "influence_workers",
    "Workers, by state: connected, away, draining, stalled; the first that is true of the last three",
);
const FREE_SLOTS: Metric = Metric::gauge("influence_slots_free", "Episodes that connected workers could take at once");
const QUEUED: Metric =
    Metric::gauge("influence_work_queued", "Episodes, trainings and bundles of calls that wait for a worker");
const LEASED: Metric =
    Metric::gauge("influence_work_leased", "Episodes, trainings and bundles of calls that workers hold");
const GRANTED: Metric = Metric::counter("influence_leases_granted_total", "Leases granted, first and later ones");
const RETRIED: Metric = Metric::counter(
    "influence_leases_retried_total",
    "Leases granted because an earlier attempt ended without a result",
);
const DUPLICATED: Metric = Metric::counter("influence_leases_duplicated_total", "Leases granted beside a straggler's");
const REVOKED: Metric =
    Metric::counter("influence_leases_revoked_total", "Leases taken back: expired, stalled, or no longer needed");
const STORE_SECONDS: Metric = Metric::histogram("influence_store_seconds", "Duration of the store's calls, in seconds");
const STORE_AWAY: Metric =
    Metric::gauge("influence_store_away", "1 while the store refuses or does not answer, else 0");

/// Whether this process carries the run on.
pub(crate) fn leads(yes: bool) {
    gauge!(LEADS.name).set(if yes { 1.0 } else { 0.0 });
}

pub(crate) fn phase(phase: RunPhase) {
    let (name, iteration) = match phase {
        RunPhase::Rollout(iteration) => ("rollout", iteration),
        RunPhase::Evaluation(iteration) => ("evaluation", iteration),
        RunPhase::Training(iteration) => ("training", iteration),
        RunPhase::Starting | RunPhase::Answering | RunPhase::Done => return,
    };
    gauge!(PHASE.name, "phase" => name).set(iteration);
}

/// A turn was stored.
pub(crate) fn turn(calls: &[Call]) {
    counter!(TURNS.name).increment(1);
    for call in calls {
        let role = call.role.name();
        if call.nanodollars > 0 {
            gauge!(COST.name, "role" => role).increment(call.nanodollars as f64 / 1e9);
        }
        counter!(TOKENS.name, "role" => role, "kind" => "prompt").increment(call.prompt_tokens.into());
        counter!(TOKENS.name, "role" => role, "kind" => "generated").increment(call.generated_tokens.into());
    }
}

pub(crate) fn finished() {
    counter!(FINISHED.name).increment(1);
}

pub(crate) fn failed() {
    counter!(FAILED.name).increment(1);
}

/// `share` of vetoed episodes; no reward where nothing was scored.
pub(crate) fn judged(phase: Phase, reward: Option<f64>, share: Option<f64>) {
    let name = phase.name();
    if let Some(reward) = reward {
        gauge!(REWARD.name, "phase" => name).set(reward);
    }
    if let Some(share) = share {
        gauge!(VETOED.name, "phase" => name).set(share);
    }
}

pub(crate) fn training(now: TrainingNow) {
    gauge!(TRAINING_STEP.name).set(now.step);
    gauge!(TRAINING_LOSS.name).set(now.loss);
}

pub(crate) fn standing(standing: &Standing) {
    let (mut connected, mut away, mut draining, mut stalled, mut free) = (0, 0, 0, 0, 0);
    for worker in &standing.workers {
        if !worker.connected {
            away += 1;
        } else if worker.draining {
            draining += 1;
        } else if worker.stalled > 0 {
            stalled += 1;
        } else {
            connected += 1;
        }
        if worker.connected {
            free += worker.credits;
        }
    }
    for (state, count) in [("connected", connected), ("away", away), ("draining", draining), ("stalled", stalled)] {
        gauge!(WORKERS.name, "state" => state).set(count);
    }
    gauge!(FREE_SLOTS.name).set(free);
    gauge!(QUEUED.name).set(standing.pending);
    gauge!(LEASED.name).set(standing.leased);
}

/// A lease was granted; `attempt` counts from 1, `beside` another that is alive.
pub(crate) fn granted(attempt: u32, beside: bool) {
    counter!(GRANTED.name).increment(1);
    match (attempt, beside) {
        (_, true) => counter!(DUPLICATED.name).increment(1),
        (1, false) => {}
        (_, false) => counter!(RETRIED.name).increment(1),
    }
}

pub(crate) fn revoked() {
    counter!(REVOKED.name).increment(1);
}

pub(crate) fn store_call(took: Duration) {
    histogram!(STORE_SECONDS.name).record(took);
}

pub(crate) fn store_away(away: bool) {
    gauge!(STORE_AWAY.name).set(if away { 1.0 } else { 0.0 });
}
