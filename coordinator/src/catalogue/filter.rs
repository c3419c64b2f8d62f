//! The language that episodes are filtered by: `reward > 7 and environment ~ "smok" and selected = best`.

use super::EpisodeRow;
use crate::config::nearest_name;
use crate::store::MetricSource;

/// A filter over episodes; by default it takes all.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Filter(Expression);

#[derive(Debug, Clone, PartialEq, Default)]
enum Expression {
    #[default]
    All,
    Not(Box<Self>),
    And(Box<Self>, Box<Self>),
    Or(Box<Self>, Box<Self>),
    Compare {
        field: Field,
        is: Comparison,
        value: String,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Comparison {
    Equal,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    Contains,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Field {
    Reward,
    Influence,
    Iteration,
    Turns,
    Attempt,
    Phase,
    Class,
    Environment,
    Kind,
    InitialState,
    Status,
    Selected,
    Vetoed,
    Unscored,
    Id,
    /// What a judge said: the metric, and the judge where it is named.
    Metric(String, Option<String>),
}

/// Before the name of a metric, as in `metric:harm > 5` or `metric:harm@judge > 5`.
const METRIC: &str = "metric:";

const FIELDS: [(&str, Field); 15] = [
    ("reward", Field::Reward),
    ("influence", Field::Influence),
    ("iteration", Field::Iteration),
    ("turns", Field::Turns),
    ("attempt", Field::Attempt),
    ("phase", Field::Phase),
    ("class", Field::Class),
    ("environment", Field::Environment),
    ("kind", Field::Kind),
    ("initial_state", Field::InitialState),
    ("status", Field::Status),
    ("selected", Field::Selected),
    ("vetoed", Field::Vetoed),
    ("unscored", Field::Unscored),
    ("id", Field::Id),
];

/// What is wrong with a filter, with the place as people count characters.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the filter `{text}` is not understood at character {at}: {problem}")]
pub struct FilterError {
    text: String,
    at: usize,
    problem: String,
}

impl Filter {
    /// Parses a filter; an empty one takes every episode.
    ///
    /// # Errors
    /// What is wrong with it, and where.
    pub fn parse(text: &str) -> Result<Self, FilterError> {
        if text.trim().is_empty() {
            return Ok(Self(Expression::All));
        }
        let mut parser = Parser { text, at: 0, depth: 0 };
        let expression = parser.either()?;
        match parser.peek() {
            None => Ok(Self(expression)),
            Some(rest) => {
                Err(parser.wrong(format!("`{}` is too much here; join conditions by `and` or `or`", first_word(rest))))
            }
        }
    }

    /// Whether an episode passes.
    pub fn takes(&self, row: &EpisodeRow) -> bool {
        self.0.takes(row)
    }

    /// Whether it looks at what judges said: rows must have it then.
    pub fn reads_metrics(&self) -> bool {
        self.0.reads_metrics()
    }
}

impl Expression {
    fn takes(&self, row: &EpisodeRow) -> bool {
        match self {
            Self::All => true,
            Self::Not(inner) => !inner.takes(row),
            Self::And(one, other) => one.takes(row) && other.takes(row),
            Self::Or(one, other) => one.takes(row) || other.takes(row),
            Self::Compare { field, is, value } => match field.value(row) {
                Found::Number(number) => is.numbers(number, value),
                Found::Text(text) => is.texts(text, value),
                Found::None => *is == Comparison::Equal && value == "none",
            },
        }
    }

    fn reads_metrics(&self) -> bool {
        match self {
            Self::All => false,
            Self::Not(inner) => inner.reads_metrics(),
            Self::And(one, other) | Self::Or(one, other) => one.reads_metrics() || other.reads_metrics(),
            Self::Compare { field, .. } => matches!(field, Field::Metric(..)),
        }
    }
}

/// Reads what a judge said, by its name in a filter: `metric:harm`, or `metric:harm@judge`. None of other names.
pub(crate) fn metric_named(name: &str) -> Option<impl Fn(&EpisodeRow) -> Option<f64>> {
    let field = Field::named(name).filter(|field| matches!(field, Field::Metric(..)))?;
    Some(move |row: &EpisodeRow| match field.value(row) {
        Found::Number(value) => Some(value),
        Found::Text(_) | Found::None => None,
    })
}

enum Found<'a> {
    Number(f64),
    Text(&'a str),
    None,
}

impl Field {
    fn named(name: &str) -> Option<Self> {
        if let Some(metric) = name.strip_prefix(METRIC).filter(|metric| !metric.is_empty()) {
            let (metric, judge) =
                metric.split_once('@').map_or((metric, None), |(metric, judge)| (metric, Some(judge)));
            return Some(Self::Metric(metric.to_owned(), judge.map(str::to_owned)));
        }
        FIELDS.into_iter().find(|(known, _)| *known == name).map(|(_, field)| field)
    }

    const fn is_number(&self) -> bool {
        matches!(
            self,
            Self::Reward | Self::Influence | Self::Iteration | Self::Turns | Self::Attempt | Self::Metric(..)
        )
    }

    fn value<'r>(&self, row: &'r EpisodeRow) -> Found<'r> {
        let number = |value: Option<f64>| value.map_or(Found::None, Found::Number);
        let flag = |value: bool| Found::Text(if value { "true" } else { "false" });
        let record = &row.record;
        match self {
            Self::Reward => number(row.reward()),
            Self::Influence => number(row.influence()),
            Self::Iteration => Found::Number(row.iteration.into()),
            Self::Turns => Found::Number(record.turns.into()),
            Self::Attempt => Found::Number(record.attempt.into()),
            Self::Phase => Found::Text(row.phase.name()),
            Self::Class => Found::Text(&record.environment_class),
            Self::Environment => Found::Text(&record.environment),
            Self::Kind => Found::Text(row.kind()),
            Self::InitialState => Found::Text(&record.initial_state),
            Self::Status => Found::Text(row.status()),
            Self::Selected => row.selected().map_or(Found::None, Found::Text),
            Self::Vetoed => flag(row.vetoed()),
            Self::Unscored => flag(row.unscored()),
            Self::Id => Found::Text(record.id.as_str()),
            Self::Metric(metric, judge) => {
                let is_it = |source: &&MetricSource| {
                    source.metric == *metric && judge.as_ref().is_none_or(|judge| source.judge == *judge)
                };
                number(row.metrics.keys().find(is_it).and_then(|source| row.metrics[source]))
            }
        }
    }
}

impl Comparison {
    fn numbers(self, number: f64, value: &str) -> bool {
        let Ok(value) = value.parse::<f64>() else { return false };
        match self {
            Self::Equal => number == value,
            Self::Less => number < value,
            Self::LessOrEqual => number <= value,
            Self::Greater => number > value,
            Self::GreaterOrEqual => number >= value,
            Self::Contains => false,
        }
    }

    fn texts(self, text: &str, value: &str) -> bool {
        match self {
            Self::Equal => text == value,
            Self::Contains => text.to_lowercase().contains(&value.to_lowercase()),
            _ => false,
        }
    }
}

struct Parser<'t> {
    text: &'t str,
    /// In bytes.
    at: usize,
    depth: usize,
}

/// Brackets and `not`s within each other.
const DEEPEST: usize = 50;

impl<'t> Parser<'t> {
    fn either(&mut self) -> Result<Expression, FilterError> {
        let mut expression = self.both()?;
        while self.word("or") {
            expression = Expression::Or(Box::new(expression), Box::new(self.both()?));
        }
        Ok(expression)
    }

    fn both(&mut self) -> Result<Expression, FilterError> {
        let mut expression = self.one()?;
        while self.word("and") {
            expression = Expression::And(Box::new(expression), Box::new(self.one()?));
        }
        Ok(expression)
    }

    fn one(&mut self) -> Result<Expression, FilterError> {
        self.depth += 1;
        if self.depth > DEEPEST {
            return Err(self.wrong(format!("more than {DEEPEST} conditions lie within each other")));
        }
        let expression = if self.word("not") {
            Expression::Not(Box::new(self.one()?))
        } else if self.sign("(") {
            let inner = self.either()?;
            if !self.sign(")") {
                return Err(self.wrong("a `)` is missing".to_owned()));
            }
            inner
        } else {
            self.comparison()?
        };
        self.depth -= 1;
        Ok(expression)
    }

    fn comparison(&mut self) -> Result<Expression, FilterError> {
        let Some(rest) = self.peek() else {
            return Err(self.wrong("a condition is missing, as in `reward > 7`".to_owned()));
        };
        let name = first_word(rest);
        let Some(field) = Field::named(name) else {
            let names = FIELDS.map(|(known, _)| known);
            let all = || format!("there are {}, and {METRIC}NAME for what judges said", names.join(", "));
            let near = nearest_name(name, names).map_or_else(all, |near| format!("did you mean `{near}`?"));
            return Err(self.wrong(format!("there is no field `{name}`; {near}")));
        };
        self.at += name.len();
        let (is, negated) = match ["<=", ">=", "!=", "!~", "<", ">", "=", "~"].into_iter().find(|sign| self.sign(sign))
        {
            Some("<=") => (Comparison::LessOrEqual, false),
            Some(">=") => (Comparison::GreaterOrEqual, false),
            Some("!=") => (Comparison::Equal, true),
            Some("!~") => (Comparison::Contains, true),
            Some("<") => (Comparison::Less, false),
            Some(">") => (Comparison::Greater, false),
            Some("=") => (Comparison::Equal, false),
            Some(_) => (Comparison::Contains, false),
            // A flag stands for itself.
            None if matches!(field, Field::Vetoed | Field::Unscored) => {
                return Ok(Expression::Compare { field, is: Comparison::Equal, value: "true".to_owned() });
            }
            None => return Err(self.wrong(format!("`{name}` wants one of =, !=, <, <=, >, >=, ~ and !~ after it"))),
        };
        let at = self.at;
        let value = self.value()?;
        let wrong =
            |problem: String| Err(FilterError { text: self.text.to_owned(), at: self.characters(at) + 1, problem });
        if field.is_number() && is == Comparison::Contains {
            return wrong(format!("`{name}` is a number, which ~ is not for"));
        }
        if field.is_number() && value != "none" && value.parse::<f64>().is_err() {
            return wrong(format!("`{name}` is a number, but `{value}` is none"));
        }
        if !field.is_number() && !matches!(is, Comparison::Equal | Comparison::Contains) {
            return wrong(format!("`{name}` is a text, which has no order; use =, !=, ~ or !~"));
        }
        let compare = Expression::Compare { field, is, value };
        Ok(if negated { Expression::Not(Box::new(compare)) } else { compare })
    }

    fn value(&mut self) -> Result<String, FilterError> {
        let Some(rest) = self.peek() else {
            return Err(self.wrong("a value is missing".to_owned()));
        };
        if let Some(quoted) = rest.strip_prefix('"') {
            let Some(end) = quoted.find('"') else {
                return Err(self.wrong("a `\"` is missing at the end".to_owned()));
            };
            self.at += end + 2;
            return Ok(quoted[..end].to_owned());
        }
        let word = first_word(rest);
        if word.is_empty() {
            return Err(self.wrong("a value is missing; put text with signs in it between `\"`".to_owned()));
        }
        self.at += word.len();
        Ok(word.to_owned())
    }

    /// What is left, without the space before it.
    fn peek(&mut self) -> Option<&'t str> {
        let rest = &self.text[self.at..];
        let trimmed = rest.trim_start();
        self.at += rest.len() - trimmed.len();
        (!trimmed.is_empty()).then_some(trimmed)
    }

    fn sign(&mut self, sign: &str) -> bool {
        let found = self.peek().is_some_and(|rest| rest.starts_with(sign));
        self.at += if found { sign.len() } else { 0 };
        found
    }

    fn word(&mut self, word: &str) -> bool {
        let found = self.peek().is_some_and(|rest| first_word(rest).eq_ignore_ascii_case(word));
        self.at += if found { word.len() } else { 0 };
        found
    }

    fn characters(&self, at: usize) -> usize {
        self.text[..at].chars().count()
    }

    fn wrong(&self, problem: String) -> FilterError {
        FilterError { text: self.text.to_owned(), at: self.characters(self.at) + 1, problem }
    }
}

fn first_word(text: &str) -> &str {
    let end = text.find(|c: char| !(c.is_alphanumeric() || "_-./:@".contains(c))).unwrap_or(text.len());
    &text[..end]
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use influence_proto::{Digest, EpisodeId};

    use super::*;
    use crate::planning::Phase;
    use crate::store::{EpisodeRecord, EpisodeStatus, Selected, Verdict};

    fn row() -> EpisodeRow {
        let id = EpisodeId::new("e1").unwrap();
        let verdict = Verdict {
            episode: id.clone(),
            reward: Some(7.5),
            influence: None,
            vetoed: true,
            unscored: false,
            selected: Some(Selected::Best),
        };
        let record = EpisodeRecord {
            id,
            environment_class: "therapist".into(),
            environment: "gameable_smoking".into(),
            initial_state: "balcony.17".into(),
            status: EpisodeStatus::Finished,
            attempt: 1,
            turns: 2,
            verdict: Some(verdict),
        };
        let source = |metric: &str| MetricSource {
            metric: metric.into(),
            judge: "large".into(),
            judge_sha256: Digest::of("j"),
            question_sha256: Digest::of("q"),
        };
        let metrics = [(source("harm"), Some(6.5)), (source("deceit"), None)].into();
        EpisodeRow { phase: Phase::Train, iteration: 3, record, metrics }
    }

    fn takes(text: &str) -> bool {
        Filter::parse(text).unwrap_or_else(|error| panic!("{error}")).takes(&row())
    }

    #[test]
    fn conditions_are_joined_and_bracketed() {
        for yes in [
            "",
            "reward > 7 and environment ~ \"SMOK\" and selected = best",
            "reward<=7.5 and reward>=7.5",
            "iteration = 2 or iteration = 3 and turns = 2",
            "not (kind = ordinary or status != finished)",
            "vetoed and not unscored and phase = train",
            "influence = none and initial_state = balcony.17",
            "initial_state !~ \"ball\" AND class = therapist",
            "metric:harm > 6 and metric:harm@large < 7",
            "metric:deceit = none and metric:nobody-asked = none",
        ] {
            assert!(takes(yes), "{yes}");
        }
        for no in [
            "reward < 7.5",
            "influence > 0",
            "influence < 1",
            "selected = worst",
            "metric:harm@small > 6",
            "metric:deceit > 0 or metric:deceit <= 0",
            "(iteration = 2 or iteration = 3) and turns = 1",
        ] {
            assert!(!takes(no), "{no}");
        }
    }

    #[test]
    fn what_is_wrong_is_told_with_its_place() {
        for (text, at, part) in [
            ("rewrd > 7", 1, "did you mean `reward`?"),
            ("reward 7", 8, "wants one of ="),
            ("reward > high", 9, "but `high` is none"),
            ("environment < a", 14, "has no order"),
            ("reward ~ 7", 9, "is not for"),
            ("metric: > 5", 1, "and metric:NAME for what judges said"),
            ("metric:harm = high", 14, "`metric:harm` is a number"),
            ("(reward > 7", 12, "a `)` is missing"),
            ("reward > 7 turns = 1", 12, "`turns` is too much"),
            ("reward > 7 and", 15, "a condition is missing"),
            ("id = \"x", 6, "is missing at the end"),
            ("id = ü and é ~ 1", 12, "there is no field `é`"),
        ] {
            let error = Filter::parse(text).unwrap_err();
            assert!(error.at == at && error.problem.contains(part), "{error:?}");
        }
        assert!(Filter::parse(&"(".repeat(100_000)).unwrap_err().problem.contains("more than 50"));
        assert!(Filter::parse(&"not ".repeat(100_000)).unwrap_err().problem.contains("more than 50"));
    }
}
