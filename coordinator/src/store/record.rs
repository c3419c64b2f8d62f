use std::collections::BTreeSet;
use std::time::Duration;

use influence_proto::{Digest, EpisodeId, RunId, Score, ScoreOutcome, TrainingReport, TrainingSpec, WorkId};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::config::{Scale, Unit};
use crate::planning::Phase;

/// A run to be written down.
#[derive(Debug, Clone, PartialEq)]
pub struct NewRun {
    /// The id, as in `quickstart-2`.
    pub id: RunId,
    /// The experiment's name, as in `quickstart`.
    pub name: String,
    /// Of the resolved experiment, its environments and models.
    pub digest: String,
    /// The resolved experiment.
    pub experiment: Value,
}

/// A run as stored.
#[derive(Debug, Clone, PartialEq)]
pub struct RunRecord {
    /// The id.
    pub id: RunId,
    /// The experiment's name.
    pub name: String,
    /// Of the resolved experiment, its environments and models.
    pub digest: String,
    /// The resolved experiment.
    pub experiment: Value,
    /// How it stands.
    pub status: RunStatus,
    /// When it was created, in milliseconds since 1970.
    pub created_ms: u64,
}

/// How a run stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RunStatus {
    /// Not finished. Whether a process is at it, the run's lock tells.
    Running,
    /// All iterations are done.
    Finished,
    /// It stopped with this error; the same command tries again.
    Failed(String),
}

/// An iteration's phase as stored.
#[derive(Debug, Clone, PartialEq)]
pub struct IterationRecord {
    /// Training or evaluation.
    pub phase: Phase,
    /// 0 rolls out the untrained agent.
    pub iteration: u32,
    /// Rewards and selection are written down.
    pub judged: bool,
    /// What people should know about the selection.
    pub notes: Vec<String>,
    /// Time that processes have spent on it.
    pub active: Duration,
}

/// An episode as stored, without its spec and its turns: a large iteration's records fit into memory.
#[derive(Debug, Clone, PartialEq)]
pub struct EpisodeRecord {
    /// Its id.
    pub id: EpisodeId,
    /// Its class's name.
    pub environment_class: String,
    /// Its environment's name.
    pub environment: String,
    /// Its initial state's id.
    pub initial_state: String,
    /// How it stands.
    pub status: EpisodeStatus,
    /// The highest attempt so far; 0 before the first. Once it is finished, the one that finished it.
    pub attempt: u32,
    /// Turns in its journal.
    pub turns: u32,
    /// Its reward and selection, once the phase is judged.
    pub verdict: Option<Verdict>,
}

/// How an episode stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EpisodeStatus {
    /// Planned or under way.
    Pending,
    /// Complete.
    Finished,
    /// Given up, with the last attempt's error.
    Failed(String),
}

/// What selection says about one episode.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    /// Which.
    pub episode: EpisodeId,
    /// None if it is unscored.
    pub reward: Option<f64>,
    /// Mean influence score; none if not configured or unscored.
    pub influence: Option<f64>,
    /// Its influence reaches the threshold, or could not be read though a veto is configured.
    pub vetoed: bool,
    /// A turn that the reward needs has no score.
    pub unscored: bool,
    /// Chosen for training.
    pub selected: Option<Selected>,
}

/// Which end of its group an episode stands at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Selected {
    /// Among the best.
    Best,
    /// Among the worst.
    Worst,
}

/// What a person says of a conversation, or of one of its turns.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// Which conversation.
    pub episode: EpisodeId,
    /// Which of its turns, from 0; none for the whole.
    pub turn: Option<u32>,
    /// In a word or two, as in `harmful`.
    pub label: String,
    /// More, where there is more to say.
    pub note: String,
    /// When it was said, in milliseconds since 1970.
    pub at_ms: u64,
}

/// A training job as stored.
#[derive(Debug, Clone, PartialEq)]
pub struct TrainingRecord {
    /// The iteration that it ends.
    pub iteration: u32,
    /// Its name as work.
    pub work: WorkId,
    /// What is trained.
    pub spec: TrainingSpec,
    /// The current attempt; 0 before the first.
    pub attempt: u32,
    /// The result, once there is one.
    pub report: Option<TrainingReport>,
    /// The last attempt's error, if it was given up.
    pub error: Option<String>,
}

/// Who said it, and to what: results of different sources are never mixed into one figure.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct MetricSource {
    /// The metric's name.
    pub metric: String,
    /// The judge's name in the model table.
    pub judge: String,
    /// Of all that the model table says of the judge.
    pub judge_sha256: Digest,
    /// Of the prompts, the allowed answers and how they are read.
    pub question_sha256: Digest,
}

impl MetricSource {
    /// A name that tells it apart from all others: the metric's alone as long as one judge was asked one question, else
    /// `METRIC@JUDGE`, else with the beginnings of both digests.
    pub fn name_among(&self, all: &BTreeSet<&Self>) -> String {
        let Self { metric, judge, judge_sha256, question_sha256 } = self;
        let alike = || all.iter().filter(|other| other.metric == *metric);
        let beginning = |digest: &Digest| digest.to_string().chars().take(8).collect::<String>();
        if alike().count() <= 1 {
            metric.clone()
        } else if alike().filter(|other| other.judge == *judge).count() == 1 {
            format!("{metric}@{judge}")
        } else {
            format!("{metric}@{judge}#{}-{}", beginning(judge_sha256), beginning(question_sha256))
        }
    }
}

/// What a judge said about an episode.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MetricResult {
    /// Who said it, and to what.
    #[serde(flatten)]
    pub source: MetricSource,
    /// How it could answer.
    pub scale: Scale,
    /// What it judged.
    pub per: Unit,
    /// One for each turn, or one for the whole conversation.
    pub scores: Vec<Score>,
    /// When, in milliseconds since 1970.
    pub at_ms: u64,
    /// What it cost, where the judge has a price.
    #[serde(default)]
    pub nanodollars: u64,
}

/// What a judge's answers about an episode come to.
#[derive(Debug, Clone, PartialEq)]
pub struct MetricValue {
    /// The episode.
    pub episode: EpisodeId,
    /// Who said it, and to what.
    pub source: MetricSource,
    /// None if it is unscored.
    pub value: Option<f64>,
    /// What it cost.
    pub nanodollars: u64,
}

impl MetricResult {
    /// The mean over what was judged; none if any of it is unscored.
    pub fn value(&self) -> Option<f64> {
        let sum = self.scores.iter().try_fold(0.0, |sum, score| Some(sum + self.scale.value(score)?))?;
        (!self.scores.is_empty()).then(|| sum / self.scores.len() as f64)
    }

    /// The first reason why there is no value.
    pub fn unscored(&self) -> Option<&str> {
        self.scores.iter().find_map(|score| match score.outcome() {
            ScoreOutcome::Unscored(reason) => Some(reason),
            ScoreOutcome::Scored(_) => None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_says_no_more_than_is_needed_to_tell_sources_apart() {
        let source = |metric: &str, judge: &str, question: &str| MetricSource {
            metric: metric.into(),
            judge: judge.into(),
            judge_sha256: Digest::of(judge),
            question_sha256: Digest::of(question),
        };
        let all = [source("a", "m", "1"), source("b", "m", "1"), source("b", "n", "1"), source("c", "m", "1")];
        let again = source("c", "m", "2");
        let all: BTreeSet<&MetricSource> = all.iter().chain([&again]).collect();
        let names: Vec<String> = all.iter().map(|source| source.name_among(&all)).collect();
        assert_eq!(names[..3], ["a", "b@m", "b@n"]);
        assert!(names[3].starts_with("c@m#") && names[3] != names[4], "{names:?}");
    }

    /// Protects: a judge that could not be read on one turn is no 0 on it.
    #[test]
    fn a_value_needs_every_score() {
        let score = |yes: f64| Score::from_masses(vec![("yes".into(), yes), ("no".into(), 1.0 - yes)], 0.01);
        let source = MetricSource {
            metric: "harm".into(),
            judge: "m".into(),
            judge_sha256: Digest::of("m"),
            question_sha256: Digest::of("q"),
        };
        let result = |scores| MetricResult {
            source: source.clone(),
            scale: Scale::YesNo,
            per: Unit::Turn,
            scores,
            at_ms: 0,
            nanodollars: 0,
        };
        assert_eq!(result(vec![score(0.25), score(0.75)]).value(), Some(0.5));
        let unread = result(vec![score(0.25), Score::unscored("too long")]);
        assert_eq!((unread.value(), unread.unscored()), (None, Some("too long")));
        assert_eq!(result(Vec::new()).value(), None);
        let numbers = vec![("1".into(), 0.5), ("10".into(), 0.5)];
        let result = MetricResult { scale: Scale::OneToTen, ..result(vec![Score::from_masses(numbers, 0.01)]) };
        assert_eq!(result.value(), Some(5.5));
    }
}
