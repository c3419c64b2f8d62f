//! Calls that somebody waits for. They are stored nowhere: who loses the coordinator asks again.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};

use influence_proto::{Ask, ModelAnswer, ModelCall, Said, Work, WorkId};
use tokio::sync::oneshot;

use super::handle::DispatchError;

/// What comes back to whoever asked.
pub(super) type Reply = oneshot::Sender<Result<Vec<ModelAnswer>, DispatchError>>;

/// All calls that are waited for.
#[derive(Debug)]
pub(super) struct Calls {
    waiting: HashMap<WorkId, Waiting>,
    /// No other coordinator names its calls so: a worker's late answer to an earlier one's must fit none of ours.
    incarnation: u64,
    asked: u64,
}

#[derive(Debug)]
struct Waiting {
    calls: Vec<ModelCall>,
    /// From an attempt that the dispatcher has not heard of yet.
    answers: Vec<ModelAnswer>,
    reply: Reply,
}

impl Calls {
    pub(super) fn new() -> Self {
        let now = std::time::SystemTime::now();
        let incarnation = RandomState::new().hash_one((std::process::id(), now));
        Self { waiting: HashMap::new(), incarnation, asked: 0 }
    }

    /// Calls that are to be made, under the name that they get.
    pub(super) fn put(&mut self, calls: Vec<ModelCall>, reply: Reply) -> WorkId {
        self.asked += 1;
        let name = format!("calls-{:016x}-{}", self.incarnation, self.asked);
        #[expect(clippy::expect_used, reason = "letters, digits and `-`, made the line above")]
        let work = WorkId::new(name).expect("a plain name");
        self.waiting.insert(work.clone(), Waiting { calls, answers: Vec::new(), reply });
        work
    }

    /// What a worker is to do, if the work is one of these.
    pub(super) fn payload(&self, work: &WorkId) -> Option<Work> {
        self.waiting.get(work).map(|waiting| Work::Calls(waiting.calls.clone()))
    }

    /// A worker's answers; what is wrong with them. Nobody waits for those to unknown work.
    pub(super) fn answered(&mut self, work: &WorkId, answers: Vec<ModelAnswer>) -> Result<(), String> {
        let Some(waiting) = self.waiting.get_mut(work) else { return Ok(()) };
        let fits = |(call, answer): (&ModelCall, &ModelAnswer)| {
            matches!(
                (&call.ask, &answer.said),
                (Ask::Reply { .. }, Said::Reply { .. }) | (Ask::Score { .. }, Said::Score(_))
            )
        };
        let (asked, given) = (waiting.calls.len(), answers.len());
        if asked != given || !waiting.calls.iter().zip(&answers).all(fits) {
            return Err(format!("a worker gave {given} answers to {asked} calls, or answers of another kind"));
        }
        waiting.answers = answers;
        Ok(())
    }

    /// Ends the wait with the answers; whether there was one.
    pub(super) fn finished(&mut self, work: &WorkId) -> bool {
        self.end(work, Ok)
    }

    /// Ends the wait without any; whether there was one.
    pub(super) fn given_up(&mut self, work: &WorkId, error: &str) -> bool {
        self.end(work, |_| Err(DispatchError::Unanswered(error.to_owned())))
    }

    /// Forgets what nobody waits for any more, and names it.
    pub(super) fn abandoned(&mut self) -> Vec<WorkId> {
        self.waiting.extract_if(|_, waiting| waiting.reply.is_closed()).map(|(work, _)| work).collect()
    }

    fn end(
        &mut self,
        work: &WorkId,
        outcome: impl FnOnce(Vec<ModelAnswer>) -> Result<Vec<ModelAnswer>, DispatchError>,
    ) -> bool {
        let Some(Waiting { answers, reply, .. }) = self.waiting.remove(work) else { return false };
        // Who asked may have left.
        let _ = reply.send(outcome(answers));
        true
    }
}
