//! A world around the machine: workers that say anything in any order, and a store that accepts what
//! the real one would. It knows the machine by its effects alone, and says which promise was broken.

use std::collections::VecDeque;

use super::*;
use crate::dispatch::rules::Rule;

/// Quick to expire and to duplicate, so that short histories reach everything.
const HASTY: Limits = Limits {
    lease_ms: 1000,
    grace_ms: 500,
    stall_ms: 1500,
    reclaim_ms: 0,
    retry_ms: 10,
    straggler_ms: 300,
    attempts: 3,
};

/// Those that act at random. One more comes at the end and does all that is left.
pub(super) const WORKERS: usize = 4;

/// How often something happened that a history is about.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) duplicates: usize,
    pub(super) won_by_second: usize,
    pub(super) both_lost: usize,
    pub(super) revived: usize,
    pub(super) exhausted: usize,
    pub(super) stalled: usize,
}

/// What an observer knows of one piece of work.
#[derive(Debug, Default)]
struct Known {
    /// Holders and attempts, from grants until something ends them.
    live: Vec<(usize, u32)>,
    highest: u32,
    /// Attempts whose holder was heard of.
    begun: Vec<u32>,
    /// Attempts that their holders ended.
    over: Vec<u32>,
    ended: bool,
    /// The attempts that the store accepts.
    accepted: Vec<u32>,
    stored: bool,
    /// A grant was not written down, so that the machine's idea of `accepted` may be another.
    doubtful: bool,
}

#[derive(Debug, Clone, Default)]
struct Station {
    credits: u32,
    connected: bool,
    draining: bool,
}

#[derive(Debug)]
pub(super) struct World {
    pub(super) d: Dispatch,
    pub(super) now: u64,
    pub(super) seen: Seen,
    works: Vec<Known>,
    stations: Vec<Station>,
    paused: bool,
    /// The store writes nothing.
    pub(super) away: bool,
}

type Verdict = Result<(), String>;

fn must(holds: bool, promise: &str) -> Verdict {
    if holds { Ok(()) } else { Err(promise.to_owned()) }
}

/// The number at the end of an id.
fn number(id: &str) -> usize {
    id.trim_start_matches(|c: char| !c.is_ascii_digit()).parse().unwrap()
}

impl World {
    pub(super) fn new(without: Option<Rule>) -> Result<Self, String> {
        let mut d = Dispatch::new(HASTY);
        d.without = without;
        let stations = vec![Station::default(); WORKERS + 1];
        let (works, seen) = (Vec::new(), Seen::default());
        let mut world = Self { d, now: 0, seen, works, stations, paused: false, away: false };
        for w in 0..WORKERS {
            world.connect(w)?;
            world.credits(w, 1)?;
        }
        Ok(world)
    }

    pub(super) fn submit(&mut self) -> Verdict {
        let i = self.works.len();
        self.works.push(Known::default());
        self.tell(episode(i, ["a", "b"][i % 2], ["0", "1", "2"][i / 2 % 3]))
    }

    pub(super) fn connect(&mut self, w: usize) -> Verdict {
        self.stations[w].connected = true;
        if !self.d.knows(&worker(w)) {
            self.stations[w] = Station { connected: true, ..Station::default() };
        }
        self.tell(joined(w, false))?;
        self.tell(Event::Connected(worker(w)))
    }

    pub(super) fn disconnect(&mut self, w: usize) -> Verdict {
        self.stations[w].connected = false;
        self.stations[w].credits = 0;
        self.tell(Event::Disconnected(worker(w)))
    }

    pub(super) fn credits(&mut self, w: usize, n: u32) -> Verdict {
        self.stations[w].credits = n;
        self.tell(Event::Credits(worker(w), n))
    }

    pub(super) fn drain(&mut self, w: usize) -> Verdict {
        self.stations[w].draining = true;
        self.tell(Event::Draining(worker(w)))
    }

    pub(super) fn pause(&mut self, paused: bool) -> Verdict {
        self.paused = paused;
        self.tell(Event::Paused(paused))
    }

    /// A worker renews what it holds.
    pub(super) fn renew(&mut self, w: usize, progress: u64) -> Verdict {
        let live = self.works.iter().enumerate();
        let mine = live.flat_map(|(i, known)| known.live.iter().map(move |(holder, attempt)| (i, *holder, *attempt)));
        let mine = mine.filter(|(_, holder, _)| *holder == w);
        let held = mine.map(|(i, _, attempt)| held(i, attempt, progress)).collect();
        self.tell(Event::Renewed(worker(w), held))
    }

    /// A worker claims an attempt, whatever became of it.
    pub(super) fn claim(&mut self, w: usize, i: usize, back: u32) -> Verdict {
        let Some(attempt) = self.attempt(i, back) else { return Ok(()) };
        self.tell(renewed(w, i, attempt, self.now))
    }

    pub(super) fn turn(&mut self, i: usize, back: u32) -> Verdict {
        let Some(attempt) = self.attempt(i, back) else { return Ok(()) };
        let Some((holder, _)) = self.works[i].live.iter().find(|l| l.1 == attempt) else { return Ok(()) };
        self.tell(Event::TurnRecorded { worker: worker(*holder), work: work(i), attempt })
    }

    /// An attempt's result arrives. What the store refuses must not count, should the machine hear of
    /// it all the same.
    pub(super) fn result(&mut self, i: usize, back: u32) -> Verdict {
        let Some(attempt) = self.attempt(i, back) else { return Ok(()) };
        let known = &mut self.works[i];
        let (before, doubtful) = (known.ended, known.doubtful);
        let accepted = known.accepted.contains(&attempt);
        if accepted && !before && !known.stored {
            known.stored = true;
            known.accepted = vec![attempt];
            self.seen.won_by_second += usize::from(known.live.len() == 2 && attempt == known.highest);
        }
        self.tell(finished(i, attempt))?;
        must(doubtful || accepted || self.works[i].ended == before, "a result of a fenced attempt counted")?;
        must(doubtful || !accepted || self.works[i].ended, "an accepted result did not count")
    }

    pub(super) fn fail(&mut self, i: usize, back: u32, retryable: bool) -> Verdict {
        let Some(attempt) = self.attempt(i, back) else { return Ok(()) };
        let known = &mut self.works[i];
        if attempt == known.highest || known.live.iter().any(|l| l.1 == attempt) {
            known.begin(attempt);
        }
        self.tell(failed(i, attempt, retryable))
    }

    pub(super) fn give_back(&mut self, i: usize, back: u32) -> Verdict {
        let Some(attempt) = self.attempt(i, back) else { return Ok(()) };
        self.tell(Event::Returned { work: work(i), attempt })
    }

    pub(super) fn lose_grant(&mut self, i: usize, back: u32) -> Verdict {
        let Some(attempt) = self.attempt(i, back) else { return Ok(()) };
        self.tell(Event::GrantLost { work: work(i), attempt, stored: attempt })
    }

    pub(super) fn wait(&mut self, ms: u64) -> Verdict {
        self.now += ms;
        self.tell(Event::Tick)
    }

    /// The attempt that many before the last of a piece of work, if there were so many.
    fn attempt(&self, i: usize, back: u32) -> Option<u32> {
        self.works.get(i)?.highest.checked_sub(back).filter(|attempt| *attempt > 0)
    }

    fn tell(&mut self, event: Event) -> Verdict {
        let mut told = VecDeque::from([event]);
        while let Some(event) = told.pop_front() {
            self.before(&event);
            let effects = self.d.handle(event.clone(), self.now);
            if let Event::Renewed(from, held) = &event {
                self.answered(number(from.as_str()), held, &effects)?;
            }
            for effect in effects {
                self.carry_out(effect, &mut told)?;
            }
        }
        self.check()
    }

    /// What is known already when the machine hears of it.
    fn before(&mut self, event: &Event) {
        match event {
            Event::Failed { work, attempt, .. }
            | Event::Returned { work, attempt }
            | Event::GrantLost { work, attempt, .. } => {
                let known = &mut self.works[number(work.as_str())];
                known.live.retain(|l| l.1 != *attempt);
                known.over.push(*attempt);
            }
            Event::Finished { work, attempt } => {
                self.works[number(work.as_str())].live.retain(|l| l.1 != *attempt);
            }
            Event::TurnRecorded { work, attempt, .. } => self.works[number(work.as_str())].begin(*attempt),
            _ => {}
        }
    }

    /// Which of the leases that a worker wants to renew it has from now on.
    fn answered(&mut self, w: usize, wanted: &[HeldLease], effects: &[Effect]) -> Verdict {
        for HeldLease { work, attempt, .. } in wanted {
            let lost = effects
                .iter()
                .any(|e| matches!(e, Effect::Revoke { work: of, attempt: a, .. } if of == work && a == attempt));
            if lost {
                continue;
            }
            let known = &mut self.works[number(work.as_str())];
            must(self.d.knows(&worker(w)) || !known.live.contains(&(w, *attempt)), "a lease of a forgotten worker")?;
            if !self.d.knows(&worker(w)) {
                continue;
            }
            must(!known.ended, "ended work was renewed")?;
            must(known.doubtful || known.accepted.contains(attempt), "a fenced attempt was renewed")?;
            if !known.live.contains(&(w, *attempt)) {
                known.live.push((w, *attempt));
                self.seen.revived += 1;
            }
            known.begin(*attempt);
        }
        Ok(())
    }

    fn carry_out(&mut self, effect: Effect, told: &mut VecDeque<Event>) -> Verdict {
        match effect {
            Effect::Grant { worker, work, attempt, beside } => {
                self.granted(number(worker.as_str()), &work, attempt, beside, told)
            }
            Effect::Revoke { worker, work, attempt, reason } => {
                let (w, known) = (number(worker.as_str()), &mut self.works[number(work.as_str())]);
                self.seen.both_lost += usize::from(known.live.len() == 2 && reason.contains("ran out"));
                self.seen.stalled += usize::from(reason.contains("no progress"));
                known.live.retain(|l| *l != (w, attempt));
                Ok(())
            }
            Effect::Finished(work) => self.works[number(work.as_str())].end(),
            Effect::Exhausted { work, .. } => {
                self.seen.exhausted += 1;
                self.works[number(work.as_str())].end()
            }
        }
    }

    fn granted(
        &mut self,
        w: usize,
        work: &WorkId,
        attempt: u32,
        beside: Option<u32>,
        told: &mut VecDeque<Event>,
    ) -> Verdict {
        let station = &mut self.stations[w];
        must(!self.paused, "granted while paused")?;
        must(station.connected && !station.draining, "granted to a worker that is away or draining")?;
        must(station.credits > 0, "more leases than credits")?;
        station.credits -= 1;
        let known = &mut self.works[number(work.as_str())];
        must(!known.ended, "ended work was granted")?;
        must(attempt > known.highest, "an attempt's number did not grow")?;
        known.highest = attempt;
        must(known.live.iter().all(|l| l.0 != w), "two attempts on one worker")?;
        let live: Vec<u32> = known.live.iter().map(|l| l.1).collect();
        must(live == beside.iter().copied().collect::<Vec<_>>(), "live attempts but for the one that it runs beside")?;
        self.seen.duplicates += usize::from(beside.is_some());
        known.live.push((w, attempt));
        if known.stored {
            told.push_back(Event::AlreadyFinished(work.clone()));
        } else if self.away {
            known.doubtful = true;
            told.push_back(Event::GrantLost { work: work.clone(), attempt, stored: attempt });
        } else {
            let live = beside.iter().all(|other| known.accepted.contains(other));
            must(known.doubtful || live, "a duplicate beside what the store has fenced off")?;
            known.accepted = beside.into_iter().chain([attempt]).collect();
        }
        Ok(())
    }

    /// What must hold whatever has happened.
    fn check(&self) -> Verdict {
        for item in self.d.items.values() {
            let known = &self.works[number(item.work.as_str())];
            must(
                item.losses as usize <= known.begun.len(),
                "an attempt that had not started, or one twice, was counted",
            )?;
            must(item.leases.len() <= 2, "three live attempts")?;
            must(item.leases.len() == known.live.len(), "a lease that nobody was told of")?;
            for lease in &item.leases {
                must(!known.over.contains(&lease.attempt), "an attempt that its holder ended lives")?;
                let holder = self.d.workers.get(&lease.seat).map(|w| number(w.id.as_str()));
                let listed = known.live.iter().any(|l| Some(l.0) == holder && l.1 == lease.attempt);
                must(listed, "a lease that nobody was told of")?;
            }
            if let [a, b] = &item.leases[..] {
                must(a.seat != b.seat, "two attempts on one worker")?;
            }
        }
        Ok(())
    }

    /// Everyone goes home but for one worker that does all that is left: everything must end, and
    /// nothing be remembered of it.
    pub(super) fn settle(&mut self) -> Verdict {
        self.away = false;
        self.pause(false)?;
        for w in 0..WORKERS {
            self.disconnect(w)?;
        }
        self.connect(WORKERS)?;
        for _ in 0..30 {
            self.wait(300)?;
            self.credits(WORKERS, 8)?;
            for i in 0..self.works.len() {
                let mine = self.works[i].live.iter().find(|l| l.0 == WORKERS).map(|l| l.1);
                if let Some(attempt) = mine {
                    self.result(i, self.works[i].highest - attempt)?;
                }
            }
            if self.d.items.is_empty() {
                break;
            }
        }
        must(self.works.iter().all(|known| known.ended), "submitted work did not end")?;
        must(empty(&self.d), "something is remembered of work that has ended")
    }
}

impl Known {
    fn begin(&mut self, attempt: u32) {
        if !self.begun.contains(&attempt) {
            self.begun.push(attempt);
        }
    }

    fn end(&mut self) -> Verdict {
        must(!self.ended, "work ended twice")?;
        must(self.live.is_empty(), "work ended and a holder was not told")?;
        self.ended = true;
        Ok(())
    }
}
