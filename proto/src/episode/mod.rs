//! An episode: what it is made from, and the turns it is made of.

mod machine;
mod score;
mod spec;
mod turn;

pub use machine::{ALTERNATIVE_ENTRY, State, StateMachine};
pub use score::{Score, ScoreMethod, ScoreOutcome};
pub use spec::{AssessorRole, BestOf, EpisodeSpec, GeneratorRole, Message, Sampling, Scoring, Speaker};
pub use turn::{AgentReply, Call, Choice, EnvironmentReply, Role, TransitionOutcome, Turn};
