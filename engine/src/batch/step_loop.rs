//! The loop that owns all rows and runs one forward pass after the other.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use tokio::sync::mpsc::{self, error::TryRecvError};

use super::admission::Admissible;
use super::counters::Counters;
use super::engine::Command;
use super::hand_out::{Finished, hand_out, hand_out_from_device};
use super::limits::{Limits, is_out_of_memory};
use super::memory::Memory;
use super::request::{EngineOptions, RequestError};
use super::row::{Outcome, Row, Work, salt};
use crate::lora::Adapter;
use crate::model::{LogitRows, Model, Segment};

pub(super) struct StepLoop {
    model: Arc<Model>,
    options: EngineOptions,
    inbox: mpsc::Receiver<Command>,
    counters: Arc<Counters>,
    stopping: Arc<AtomicBool>,
    adapters: BTreeMap<String, Arc<Adapter>>,
    memory: Memory,
    limits: Limits,
    /// Checked, but without room so far; the first waits longest.
    waiting: VecDeque<Waiting>,
    /// In order of admission.
    running: Vec<Row>,
}

/// A request that waits, with what its adapter's name meant when it came in.
struct Waiting {
    request: Admissible,
    since: Instant,
    adapter: Option<Arc<Adapter>>,
}

/// A row's share of a step.
#[derive(Debug, Clone, Copy)]
struct Share {
    row: usize,
    tokens: usize,
}

impl StepLoop {
    pub(super) fn new(
        model: Arc<Model>,
        options: EngineOptions,
        inbox: mpsc::Receiver<Command>,
        counters: Arc<Counters>,
        stopping: Arc<AtomicBool>,
    ) -> candle_core::Result<Self> {
        let memory = Memory::new(&model, options.kv_bytes, options.prefix_cache)?;
        Ok(Self {
            model,
            options,
            inbox,
            counters,
            stopping,
            adapters: BTreeMap::new(),
            memory,
            limits: Limits { rows: options.max_rows, prefill: options.prefill_chunk },
            waiting: VecDeque::new(),
            running: Vec::new(),
        })
    }

    /// Runs until it is stopped or every handle is gone.
    pub(super) fn run(mut self) {
        self.model.bind_thread();
        while self.receive() {
            self.forget_abandoned();
            self.memory.end_sessions();
            self.admit();
            let shares = self.plan();
            if !shares.is_empty() {
                self.step(&shares);
            }
            self.publish();
        }
        self.turn_away_all();
        self.publish();
    }

    /// Takes what has been sent; sleeps if there is nothing else to do. False when it is time to end.
    fn receive(&mut self) -> bool {
        if self.running.is_empty() && self.waiting.is_empty() {
            match self.inbox.blocking_recv() {
                Some(command) => self.obey(command),
                None => return false,
            }
        }
        // The queue stays bounded: what does not fit here waits in the channel, and beyond that at its sender.
        while self.waiting.len() < self.options.queue {
            match self.inbox.try_recv() {
                Ok(command) => self.obey(command),
                Err(TryRecvError::Empty) => break,
                // Nobody is left to hear an answer.
                Err(TryRecvError::Disconnected) => return false,
            }
        }
        !self.stopping.load(Ordering::Acquire)
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Admit(request) => self.queue(*request),
            Command::LoadAdapter { name, directory, reply } => {
                let loaded = match self.model.load_adapter(&directory) {
                    Ok(adapter) => {
                        self.adapters.insert(name, Arc::new(adapter));
                        Ok(())
                    }
                    Err(e) => Err(RequestError::Adapter { name, reason: e.to_string() }),
                };
                let _ = reply.send(loaded);
            }
            Command::DropAdapter { name, reply } => {
                let _ = reply.send(Ok(self.adapters.remove(&name).is_some()));
            }
            Command::ClearPrefixCache { reply } => {
                self.memory.clear_prefix_cache();
                self.publish();
                let _ = reply.send(Ok(()));
            }
            Command::Stop => {}
        }
    }

    fn queue(&mut self, request: Admissible) {
        let adapter = match &request.adapter {
            None => None,
            Some(name) => match self.adapters.get(name) {
                Some(adapter) => Some(adapter.clone()),
                None => {
                    let error = RequestError::UnknownAdapter { name: name.clone(), loaded: self.adapter_names() };
                    self.finish(request.work, Err(error));
                    return;
                }
            },
        };
        self.waiting.push_back(Waiting { request, since: Instant::now(), adapter });
    }

    fn adapter_names(&self) -> String {
        if self.adapters.is_empty() {
            return "none".to_owned();
        }
        let names: Vec<&str> = self.adapters.keys().map(String::as_str).collect();
        names.join(", ")
    }

    fn forget_abandoned(&mut self) {
        let before = self.running.len() + self.waiting.len();
        self.running.retain(|row| !row.work.is_abandoned());
        self.waiting.retain(|waiting| !waiting.request.work.is_abandoned());
        let gone = before - self.running.len() - self.waiting.len();
        Counters::add(&self.counters.cancelled, gone);
    }

    /// First come, first served: a large request is not overtaken by small ones for ever. Only those wait a little longer
    /// of whose prompts a running row is about to compute a part.
    fn admit(&mut self) {
        let mut next = 0;
        while self.running.len() < self.options.max_rows
            && let Some(waiting) = self.waiting.get(next)
        {
            let (salt, prompt) = (salt(waiting.adapter.as_ref()), waiting.request.prompt());
            let memory = &mut self.memory;
            let mut running = self.running.iter().filter(|row| row.is_prefilling() && row.salt() == salt);
            if running.any(|row| memory.is_worth_waiting_for(salt, prompt, row.prompt())) {
                next += 1;
                continue;
            }
            let promised = self.running.iter().map(|row| row.cache.missing_blocks()).sum();
            let Some(cache) = memory.claim(salt, prompt, waiting.request.positions(), promised) else { return };
            if let Some(Waiting { request, since, adapter }) = self.waiting.remove(next) {
                let reused = match &request.work {
                    Work::Generate(_) => &self.counters.generate_reused_tokens,
                    Work::Score(_) => &self.counters.score_reused_tokens,
                };
                Counters::add(reused, cache.len());
                self.counters.tally(request.label, |tally| {
                    tally.requests += 1;
                    tally.prompt_tokens += request.prompt().len() as u64;
                    tally.reused_tokens += cache.len() as u64;
                    tally.queued += since.elapsed();
                });
                self.running.push(request.into_row(adapter, cache));
            }
        }
    }

    /// Every row that needs one more token gets it; prompts share the chunk in order of admission. Rows of one adapter
    /// become neighbours. Where not all fit, the first go on to their ends.
    fn plan(&self) -> Vec<Share> {
        let mut left = self.limits.prefill;
        let mut shares = Vec::with_capacity(self.running.len());
        for (row, state) in self.running.iter().enumerate() {
            if shares.len() == self.limits.rows {
                break;
            }
            let tokens = match state.remaining() {
                1 => 1,
                many => {
                    let tokens = many.min(left);
                    left -= tokens;
                    tokens
                }
            };
            if tokens > 0 {
                shares.push(Share { row, tokens });
            }
        }
        shares.sort_by_key(|share| (self.running[share.row].salt(), share.row));
        shares
    }

    fn step(&mut self, shares: &[Share]) {
        self.count(shares);
        let finished = match rayon::scope(|_| self.forward(shares)) {
            Ok(finished) => finished,
            Err(error) if is_out_of_memory(&error) && self.shrink(shares) => return,
            Err(error) => {
                tracing::error!(%error, rows = shares.len(), "a forward pass failed");
                let failed = |share: &Share| (share.row, Err(RequestError::Compute(error.to_string())));
                shares.iter().map(failed).collect()
            }
        };
        for share in shares {
            let row = &mut self.running[share.row];
            if row.has_more_to_share() {
                self.memory.remember_part(row);
            }
        }
        self.retire(finished);
    }

    /// The rows of a step that ran out of memory stay as they were; the next steps are smaller.
    fn shrink(&mut self, shares: &[Share]) -> bool {
        let tokens = shares.iter().map(|share| share.tokens).sum();
        let shrunk = self.limits.shrink(shares.len(), tokens);
        if shrunk {
            tracing::warn!(limits = ?self.limits, "a step of {tokens} tokens ran out of memory; steps are smaller now");
        }
        shrunk
    }

    /// Runs the step's forward pass and hands every row that asked for logits its own. Call it on a thread of rayon's:
    /// from any other, each of a pass's hundreds of operations would put this thread to sleep and wake it again.
    fn forward(&mut self, shares: &[Share]) -> candle_core::Result<Vec<Finished>> {
        let mut rows: Vec<Option<&mut Row>> = self.running.iter_mut().map(Some).collect();
        let mut chosen: Vec<(Share, &mut Row)> =
            shares.iter().filter_map(|share| Some((*share, rows[share.row].take()?))).collect();
        let mut segments: Vec<Segment<'_>> = chosen
            .iter_mut()
            .map(|(share, row)| {
                let last = row.remaining() == share.tokens;
                let (tokens, cache, adapter) = row.next_tokens(share.tokens);
                let logits = if last { LogitRows::Last } else { LogitRows::None };
                Segment { tokens, cache, adapter, logits }
            })
            .collect();
        let logits = self.model.forward_in_place(&mut segments)?;
        drop(segments);
        for (share, row) in &mut chosen {
            row.ran(share.tokens);
        }
        let Some(logits) = logits else {
            return Ok(Vec::new());
        };
        let complete = chosen.into_iter().filter(|(_, row)| row.remaining() == 0);
        let complete: Vec<(usize, &mut Row)> = complete.map(|(share, row)| (share.row, row)).collect();
        let indices: Vec<usize> = complete.iter().map(|(index, _)| *index).collect();
        let finished = match self.model.placed_weights() {
            None => hand_out(&self.model, complete, &logits),
            Some(_) => hand_out_from_device(&self.model, complete, &logits),
        };
        // The pass itself is over and cannot be run again.
        Ok(finished.unwrap_or_else(|error| {
            tracing::error!(%error, rows = indices.len(), "a step's logits cannot be had");
            indices.into_iter().map(|index| (index, Err(RequestError::Compute(error.to_string())))).collect()
        }))
    }

    /// Takes finished rows out and answers their askers.
    fn retire(&mut self, finished: Vec<Finished>) {
        let mut results: BTreeMap<usize, Result<Outcome, RequestError>> = finished.into_iter().collect();
        // From the back, so that the indices in front stay right and the order of admission is kept.
        while let Some((index, result)) = results.pop_last() {
            let row = self.running.remove(index);
            self.memory.remember(&row);
            if let Ok(Outcome::Generation(reply)) = &result {
                self.counters.tally(row.label, |tally| tally.generated_tokens += reply.token_ids.len() as u64);
            }
            drop(row.span);
            self.finish(row.work, result);
        }
    }

    fn finish(&self, work: Work, result: Result<Outcome, RequestError>) {
        let counters = &self.counters;
        let counter = match &result {
            Ok(Outcome::Generation(_)) => &counters.generations,
            Ok(Outcome::Score(_)) => &counters.scores,
            Err(_) => &counters.failed,
        };
        Counters::add(counter, 1);
        work.answer(result);
    }

    /// Before the step, as it changes what is counted by: one that runs out of memory counts each time it is tried.
    fn count(&self, shares: &[Share]) {
        let counters = &self.counters;
        Counters::add(&counters.steps, 1);
        Counters::add(&counters.step_rows, shares.len());
        for share in shares {
            let row = &self.running[share.row];
            if matches!(row.work, Work::Generate(_)) && row.remaining() == share.tokens {
                Counters::add(&counters.generated_tokens, 1);
            }
            let counter = match (&row.work, row.is_prefilling()) {
                (Work::Generate(_), true) => &counters.generate_prompt_tokens,
                (Work::Score(_), true) => &counters.score_prompt_tokens,
                (Work::Score(_), false) => &counters.score_tokens,
                (Work::Generate(_), false) => continue,
            };
            Counters::add(counter, share.tokens);
        }
    }

    fn publish(&self) {
        let counters = &self.counters;
        let set = |gauge: &std::sync::atomic::AtomicU64, value: usize| {
            gauge.store(value as u64, Ordering::Relaxed);
        };
        set(&counters.running_rows, self.running.len());
        set(&counters.waiting_rows, self.waiting.len());
        set(&counters.kv_bytes, self.memory.bytes());
    }

    fn turn_away_all(&mut self) {
        self.inbox.close();
        while let Ok(command) = self.inbox.try_recv() {
            if let Command::Admit(request) = command {
                request.work.answer(Err(RequestError::Stopped));
            }
        }
        for row in self.running.drain(..) {
            row.work.answer(Err(RequestError::Stopped));
        }
        for waiting in self.waiting.drain(..) {
            waiting.request.work.answer(Err(RequestError::Stopped));
        }
    }
}
