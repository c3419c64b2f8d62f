//! The Python benchmark's `N.jsonl`: a line for each turn of each trajectory, with the history up to then.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::path::Path;

use influence_proto::{AgentReply, EnvironmentReply, Message, Score, ScoreMethod, Speaker, TransitionOutcome, Turn};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::ImportError;

/// The state that every imported turn is in: the files do not tell.
pub(super) const STATE: &str = "unknown";
/// What stands among the ratings for the length of the reply: no answer, but what is taken off.
const PENALTY: &str = "-1";

/// A line of a file. What else stands there, as `visited_states`, is not used.
#[derive(Debug, Deserialize)]
struct Line {
    env_name: String,
    initial_state_id: Value,
    trajectory_id: Value,
    turn: u32,
    #[serde(default)]
    agent_system_prompt: Vec<Said>,
    history: Vec<Said>,
    preferences: Map<String, Value>,
    #[serde(default)]
    influence_scores: Option<Map<String, Value>>,
    #[serde(default)]
    transition_probs: Option<Map<String, Value>>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
struct Said {
    role: String,
    content: String,
}

/// Which trajectory of an iteration: environment, initial state, number.
pub(super) type Key = (String, String, Number);

/// A trajectory's number, for which some versions have text.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Number {
    Number(u64),
    Text(String),
}

/// A conversation of a file.
#[derive(Debug)]
pub(super) struct Trajectory {
    pub(super) system_prompt: String,
    pub(super) opening: Vec<Message>,
    pub(super) turns: Vec<Turn>,
    /// What is taken off each turn's rating for its length.
    pub(super) penalties: Vec<f64>,
}

/// The lines of an iteration, before they are put together.
#[derive(Debug, Default)]
pub(super) struct Lines(BTreeMap<Key, BTreeMap<u32, (Line, String)>>);

impl Lines {
    /// Adds the lines of a file.
    pub(super) fn read(&mut self, path: &Path) -> Result<(), ImportError> {
        let failed = |source| ImportError::Io { path: path.to_owned(), source };
        let file = BufReader::new(File::open(path).map_err(failed)?);
        for (number, text) in file.lines().enumerate() {
            let place = format!("{}:{}", path.display(), number + 1);
            let text = text.map_err(failed)?;
            if text.trim().is_empty() {
                continue;
            }
            let line: Line = serde_json::from_str(&text)
                .map_err(|error| ImportError::line(&place, format!("is no turn of a trajectory: {error}")))?;
            let key = (line.env_name.clone(), plain(&line.initial_state_id), Number::of(&line.trajectory_id));
            let turn = line.turn;
            if let Some((_, other)) = self.0.entry(key).or_default().insert(turn, (line, place.clone())) {
                return Err(ImportError::line(&place, format!("is turn {turn} of a trajectory, as {other} is")));
            }
        }
        Ok(())
    }

    /// The conversations, in the order of their keys.
    pub(super) fn trajectories(self) -> Result<Vec<(Key, Trajectory)>, ImportError> {
        self.0.into_iter().map(|(key, lines)| Ok((key, trajectory(lines.into_values().collect())?))).collect()
    }
}

impl Number {
    fn of(value: &Value) -> Self {
        value.as_u64().map_or_else(|| Self::Text(plain(value)), Self::Number)
    }
}

/// A text, or what else stands there as JSON.
fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// Each line's history goes on where the one before ended: with the user's answer, the reply, and what its state added.
fn trajectory(lines: Vec<(Line, String)>) -> Result<Trajectory, ImportError> {
    let mut whole =
        Trajectory { system_prompt: String::new(), opening: Vec::new(), turns: Vec::new(), penalties: Vec::new() };
    let mut before: Vec<Said> = Vec::new();
    for (index, (line, place)) in lines.into_iter().enumerate() {
        let wrong = |problem: &str| ImportError::line(&place, problem.to_owned());
        if line.turn != index as u32 + 1 {
            return Err(wrong("has a turn before it that is in no file"));
        }
        let history = messages(&line.history, &place)?;
        let reply = if index == 0 {
            history.iter().rposition(|message| message.speaker == Speaker::Agent)
        } else {
            if !line.history.starts_with(&before) {
                return Err(wrong("does not go on from the turn before it"));
            }
            Some(before.len() + 1).filter(|at| history.get(*at).is_some_and(|m| m.speaker == Speaker::Agent))
        };
        let reply = reply.ok_or_else(|| wrong("has no reply of the agent where one must be"))?;
        match whole.turns.last_mut() {
            None => {
                whole.opening = history[..reply].to_vec();
                whole.system_prompt =
                    line.agent_system_prompt.iter().map(|said| &*said.content).collect::<Vec<_>>().join("\n\n");
            }
            Some(last) => {
                last.environment = Some(EnvironmentReply { text: history[reply - 1].content.clone(), cut_off: false });
            }
        }
        whole.penalties.push(line.preferences.get(PENALTY).and_then(Value::as_f64).unwrap_or_default());
        whole.turns.push(turn(index as u32, &line, history[reply].content.clone(), history[reply + 1..].to_vec()));
        before = line.history;
    }
    Ok(whole)
}

fn messages(history: &[Said], place: &str) -> Result<Vec<Message>, ImportError> {
    history
        .iter()
        .map(|said| {
            let speaker = match &*said.role {
                "agent" => Speaker::Agent,
                "environment" => Speaker::Environment,
                "environment_system" => Speaker::EnvironmentSystem,
                "tool_call" => Speaker::ToolCall,
                "tool_response" => Speaker::ToolResponse,
                other => {
                    let problem = format!("has a message of the role `{other}`, which is not known here");
                    return Err(ImportError::line(place, problem));
                }
            };
            Ok(Message { speaker, content: said.content.clone() })
        })
        .collect()
}

fn turn(index: u32, line: &Line, reply: String, entered: Vec<Message>) -> Turn {
    let transition = line.transition_probs.as_ref().map_or_else(|| Score::unscored("not recorded"), score);
    Turn {
        index,
        choice: None,
        worker: None,
        reply: AgentReply {
            text: reply,
            prompt_ids: Vec::new(),
            restarts: false,
            token_ids: Vec::new(),
            cut_off: false,
        },
        state: STATE.to_owned(),
        transition: TransitionOutcome {
            score: transition,
            answer: STATE.to_owned(),
            defaulted: false,
            next_state: STATE.to_owned(),
            entered,
        },
        preference: score(&line.preferences),
        influence: line.influence_scores.as_ref().filter(|scores| !scores.is_empty()).map(score),
        environment: None,
        calls: Vec::new(),
    }
}

/// Probabilities as they were written, which have been normalised. Those that are all 0 or are none were a failure that the
/// Python code counted as a rating of 0; here they are unscored.
fn score(found: &Map<String, Value>) -> Score {
    let answers = found.iter().filter(|(answer, _)| *answer != PENALTY);
    let answers: Option<Vec<(String, f64)>> = answers.map(|(a, p)| Some((a.clone(), p.as_f64()?))).collect();
    let Some(answers) = answers else { return Score::unscored("the file has no probabilities") };
    let sum: f64 = answers.iter().map(|(_, p)| p).sum();
    let unscored = if answers.iter().any(|(_, p)| *p < 0.0) || (sum - 1.0).abs() > 1e-3 {
        Some(format!("the probabilities in the file sum to {sum}"))
    } else {
        None
    };
    Score { answers, mass: sum.clamp(0.0, 1.0), unscored, method: ScoreMethod::FirstToken }
}
