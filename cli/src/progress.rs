//! Progress bars, and the same as plain lines where stderr is no terminal.

use std::io::IsTerminal;
use std::time::Instant;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use influence_coordinator::{Progress, RunPhase};
use tokio::sync::watch;

use crate::telemetry::say;
use crate::terminal::harmless;

/// Shows a run's progress until it ends or its owner goes away.
pub(crate) async fn show(mut progress: watch::Receiver<Progress>) {
    let mut bar: Option<StepBar> = None;
    loop {
        let snapshot = progress.borrow_and_update().clone();
        if bar.as_ref().is_none_or(|bar| bar.phase != snapshot.phase) {
            if let Some(ended) = bar.take() {
                ended.end();
            }
            // Rates are counted from here: what was done before this process must be known first.
            let known = snapshot.episodes_total > 0 || matches!(snapshot.phase, RunPhase::Training(_));
            bar = known.then(|| StepBar::new(&snapshot)).flatten();
        }
        if let Some(bar) = &bar {
            bar.show(&snapshot);
        }
        if snapshot.phase == RunPhase::Done || progress.changed().await.is_err() {
            break;
        }
    }
    if let Some(bar) = bar {
        bar.end();
    }
}

/// The bar of one step of a run.
struct StepBar {
    phase: RunPhase,
    bar: ProgressBar,
    started: Instant,
    /// Counters when the step began: rates are of the step alone.
    before: Progress,
}

impl StepBar {
    fn new(snapshot: &Progress) -> Option<Self> {
        let label = label(snapshot.phase)?;
        if !std::io::stderr().is_terminal() {
            say(&label);
        }
        let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr_with_hz(5));
        if let Ok(style) = ProgressStyle::with_template("{prefix:22} {bar:24} {pos}/{len} {msg}") {
            bar.set_style(style);
        }
        bar.set_prefix(label);
        Some(Self { phase: snapshot.phase, bar, started: Instant::now(), before: snapshot.clone() })
    }

    fn show(&self, now: &Progress) {
        if let RunPhase::Training(_) = now.phase {
            let Some(training) = now.training else {
                self.bar.set_message("preparing");
                return;
            };
            self.bar.set_length(u64::from(training.steps));
            self.bar.set_position(u64::from(training.step));
            self.bar.set_message(format!("loss {:.3}", training.loss));
            return;
        }
        let ended = now.episodes_done + now.episodes_failed;
        self.bar.set_length(u64::from(now.episodes_total));
        self.bar.set_position(u64::from(ended));
        self.bar.set_message(self.rates(now, ended));
    }

    /// Turns and tokens a second, and how long it will take if it goes on so.
    fn rates(&self, now: &Progress, ended: u32) -> String {
        let seconds = self.started.elapsed().as_secs_f64().max(1e-3);
        let turns = now.turns - self.before.turns;
        let tokens =
            (now.prompt_tokens + now.generated_tokens) - (self.before.prompt_tokens + self.before.generated_tokens);
        let mut text = format!("{:.2} turns/s  {:.0} tokens/s", turns as f64 / seconds, tokens as f64 / seconds);
        let here = ended.saturating_sub(self.before.episodes_done);
        if here > 0 && ended < now.episodes_total {
            let left = f64::from(now.episodes_total - ended) * seconds / f64::from(here);
            text.push_str(&format!("  ETA {}", indicatif::HumanDuration(std::time::Duration::from_secs_f64(left))));
        }
        if now.episodes_failed > 0 {
            text.push_str(&format!("  {} failed", now.episodes_failed));
        }
        if let Some(message) = &now.message {
            text.push_str(&format!("  {}", harmless(message)));
        }
        if now.workers == 0 {
            text.push_str("  no worker is connected");
        }
        text
    }

    fn end(self) {
        self.bar.finish();
    }
}

fn label(phase: RunPhase) -> Option<String> {
    match phase {
        RunPhase::Starting | RunPhase::Answering | RunPhase::Done => None,
        RunPhase::Evaluation(k) => Some(format!("evaluation of {}", agent(k))),
        RunPhase::Rollout(k) => Some(format!("iteration {k}: rollout")),
        RunPhase::Training(k) => Some(format!("iteration {k}: training")),
    }
}

fn agent(iteration: u32) -> String {
    iteration.checked_sub(1).map_or_else(|| "base".to_owned(), |k| format!("adapter {k}"))
}
