use serde::{Deserialize, Serialize};

/// A probability distribution over an assessor's allowed answers, or the reason why there is none.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Score {
    /// Answer to probability, normalised to sum to 1; empty when nothing could be read at all.
    pub answers: Vec<(String, f64)>,
    /// Probability of all allowed answers together, before normalisation.
    pub mass: f64,
    /// Why the score must not be used, if so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unscored: Option<String>,
    /// How the probabilities were read.
    #[serde(default, skip_serializing_if = "ScoreMethod::is_exact")]
    pub method: ScoreMethod,
}

/// How the probabilities of a score were read. Scores of different methods are not to be compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ScoreMethod {
    /// Every form of every answer, after the prefix.
    #[default]
    Exact,
    /// The most likely tokens after the prefix, and after each beginning of an answer.
    Continued,
    /// The most likely first tokens of the reply, without the prefix.
    FirstToken,
    /// The share of so many sampled replies, without the prefix.
    Samples(u32),
}

impl ScoreMethod {
    /// Whether nothing was left out or estimated.
    pub const fn is_exact(&self) -> bool {
        matches!(self, Self::Exact)
    }
}

impl std::fmt::Display for ScoreMethod {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Exact => f.write_str("exact"),
            Self::Continued => f.write_str("continued tokens"),
            Self::FirstToken => f.write_str("first tokens"),
            Self::Samples(count) => write!(f, "{count} samples"),
        }
    }
}

/// What a score says, to match on.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum ScoreOutcome<'a> {
    /// Usable probabilities.
    Scored(&'a [(String, f64)]),
    /// Not usable, and why. Never counted as a number.
    Unscored(&'a str),
}

impl Score {
    /// A score from unnormalised answer probabilities; unscored when they hold less than `min_mass`
    /// or no mass at all.
    pub fn from_masses(masses: Vec<(String, f64)>, min_mass: f64) -> Self {
        let mass: f64 = masses.iter().map(|(_, p)| p).sum();
        if !mass.is_finite() || mass <= 0.0 {
            return Self::unscored("the allowed answers have no probability");
        }
        let answers = masses.into_iter().map(|(a, p)| (a, p / mass)).collect();
        let unscored = (mass < min_mass)
            .then(|| format!("the allowed answers hold {mass:.2e} of the probability, less than {min_mass}"));
        Self { answers, mass, unscored, method: ScoreMethod::Exact }
    }

    /// No score at all.
    pub fn unscored(reason: impl Into<String>) -> Self {
        let (answers, unscored) = (Vec::new(), Some(reason.into()));
        Self { answers, mass: 0.0, unscored, method: ScoreMethod::Exact }
    }

    /// The same, read in another way.
    #[must_use]
    pub fn read_by(self, method: ScoreMethod) -> Self {
        Self { method, ..self }
    }

    /// Scored or not.
    pub fn outcome(&self) -> ScoreOutcome<'_> {
        match &self.unscored {
            Some(reason) => ScoreOutcome::Unscored(reason),
            None => ScoreOutcome::Scored(&self.answers),
        }
    }

    /// The answer with the most probability, the first of equals; none when unscored.
    pub fn most_probable(&self) -> Option<&str> {
        let ScoreOutcome::Scored(answers) = self.outcome() else { return None };
        let best = answers.iter().rev().max_by(|a, b| a.1.total_cmp(&b.1));
        best.map(|(answer, _)| answer.as_str())
    }

    /// The mean of numeric answers under the distribution; none when unscored or when an answer is
    /// not a number.
    pub fn expected(&self) -> Option<f64> {
        let ScoreOutcome::Scored(answers) = self.outcome() else { return None };
        answers.iter().try_fold(0.0, |sum, (answer, p)| Some(sum + answer.trim().parse::<f64>().ok()? * p))
    }
}
