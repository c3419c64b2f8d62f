//! Which prompts of a conversation continue one another.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use influence_engine::batch::Session;
use influence_proto::{EpisodeSpec, Role};

/// A session for each role, and for each of several replies.
#[derive(Debug, Default)]
pub(super) struct Sessions(Mutex<BTreeMap<(Role, u32), Session>>);

impl Sessions {
    /// The role's, to be asked about `candidate` in `turn`. It is given away where the role will not be asked again, so
    /// that it ends with the answer.
    pub(super) fn of(&self, role: Role, candidate: u32, turn: u32, spec: &EpisodeSpec) -> Session {
        let mut sessions = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Nobody answers the last reply.
        let asked_after = if role == Role::Environment { 2 } else { 1 };
        if turn + asked_after < spec.max_turns {
            sessions.entry((role, candidate)).or_default().clone()
        } else {
            sessions.remove(&(role, candidate)).unwrap_or_default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::episode::samples::spec;

    /// Protects: a role's prompts are one session up to and with its last, which keeps nothing alive; no two roles or
    /// candidates are one.
    #[test]
    fn a_role_has_one_session_which_ends_with_its_last_answer() {
        let (sessions, spec) = (Sessions::default(), spec("e", 1));
        assert_eq!(spec.max_turns, 3);
        let of = |role, candidate, turn| sessions.of(role, candidate, turn, &spec);
        for (role, turns) in [(Role::Agent, 3), (Role::Preference, 3), (Role::Environment, 2)] {
            let asked: Vec<Session> = (0..turns).map(|turn| of(role, 0, turn)).collect();
            assert!(asked.iter().all(|session| *session == asked[0]), "{role:?}");
            assert!(sessions.0.lock().is_ok_and(|kept| !kept.contains_key(&(role, 0))), "{role:?}");
        }
        let (one, other, third) = (of(Role::Agent, 0, 0), of(Role::Agent, 1, 0), of(Role::Transition, 0, 0));
        assert!(one != other && one != third && other != third);
    }
}
