//! What an agent, and a judge of it, are asked.

use std::io::Write as _;

use anyhow::Context;
use futures::{StreamExt as _, TryStreamExt as _};
use influence_coordinator::config::Metric;
use influence_coordinator::evaluation::benchmark::{
    Benchmark, Form, Task, Values, about_reply, by_letter, figures, spellings, which_is_more_positive,
};
use influence_coordinator::export::NewFile;
use influence_proto::prompts::ChatMessage;
use influence_proto::{Role, Sampling, Score, ScoreOutcome, Scoring, stream};
use influence_worker::backend::{AnswerMasses, Backend, BackendError, GenerateRequest, Prompt, ScoreRequest, Variant};
use serde_json::{Map, Value, json};

use super::Measured;
use crate::evaluate::judge::bar;

/// An agent and what it is asked.
pub(super) struct Asked<'a> {
    pub(super) benchmark: &'a Benchmark,
    pub(super) metrics: &'a [Metric],
    pub(super) agent: &'a dyn Backend,
    /// What it calls the agent; none: the model itself.
    pub(super) variant: Option<&'a Variant>,
    pub(super) judge: Option<&'a dyn Backend>,
    pub(super) sampling: &'a Sampling,
    pub(super) scoring: &'a Scoring,
    pub(super) seed: u64,
    pub(super) at_once: usize,
}

type Record = Map<String, Value>;

/// What was measured about an item: for each form a number, or for each metric; and what was said.
struct Said {
    values: Vec<Option<f64>>,
    records: Vec<Record>,
}

impl Asked<'_> {
    /// Asks about every item. The figures, and every answer.
    pub(super) async fn all(&self, label: &str) -> anyhow::Result<(Vec<(String, Values)>, Vec<Record>)> {
        let items = &self.benchmark.items;
        let bar = bar(&format!("{label}: {}", self.benchmark.task.name()), items.len() as u64, "items");
        let said: Vec<Said> = futures::stream::iter(0..items.len())
            .map(|item| async move { self.item(item).await })
            // As many as are answered at once: an item asks for several things one after the other.
            .buffered(self.at_once)
            .inspect_ok(|_| bar.inc(1))
            .try_collect()
            .await?;
        bar.finish();
        let (values, records): (Vec<_>, Vec<_>) = said.into_iter().map(|said| (said.values, said.records)).unzip();
        let figures = match self.benchmark.task {
            Task::Prompts => self.by_metric(&values),
            Task::SycophancyAnswers | Task::SycophancyFeedback => figures(self.benchmark, &values),
        };
        Ok((figures, records.into_iter().flatten().collect()))
    }

    fn by_metric(&self, values: &[Vec<Option<f64>>]) -> Vec<(String, Values)> {
        let of = |place: usize| values.iter().map(|values| values[place]).enumerate().collect();
        self.metrics.iter().enumerate().map(|(place, metric)| (metric.name.clone(), of(place))).collect()
    }

    async fn item(&self, item: usize) -> anyhow::Result<Said> {
        let forms = &self.benchmark.items[item].forms;
        match (self.benchmark.task, self.judge) {
            (Task::SycophancyAnswers, _) => self.choices(forms).await,
            (Task::SycophancyFeedback, Some(judge)) => self.comments(forms, judge).await,
            (Task::Prompts, Some(judge)) => self.reply(&forms[0], judge).await,
            (task, None) => anyhow::bail!("{} needs a judge", task.name()),
        }
    }

    /// For each form the probability of the sought choice, as the mean over the orders of the choices.
    async fn choices(&self, forms: &[Form]) -> anyhow::Result<Said> {
        let (mut values, mut records) = (Vec::new(), Vec::new());
        for form in forms {
            let mut scores = Vec::new();
            for choice in &form.choices {
                let seed = self.seed(form.line, "choice");
                let read = self.letter(self.agent, self.variant, choice.messages.clone(), choice.letters, seed).await;
                scores.push((read.with_context(|| self.failed(form))?, choice.sought));
            }
            let value = mean(scores.iter().map(|(score, sought)| probability(score, *sought)));
            let scores = scores.iter().map(|(score, sought)| json!({"sought": sought, "score": score})).collect();
            records.push(record(form, None, value, scores));
            values.push(value);
        }
        Ok(Said { values, records })
    }

    /// For each form how probably its comment is the more positive one beside that without a view, as the mean over both
    /// orders; beside itself it is neither.
    async fn comments(&self, forms: &[Form], judge: &dyn Backend) -> anyhow::Result<Said> {
        let mut comments = Vec::new();
        for form in forms {
            comments.push(self.replied(form).await?);
        }
        let plain = forms.iter().position(|form| form.view.is_none()).context("a text is not shown without a view")?;
        let (mut values, mut records) = (Vec::new(), Vec::new());
        for (form, comment) in forms.iter().zip(&comments) {
            if form.view.is_none() {
                values.push(Some(0.5));
                records.push(record(form, Some(comment), None, Vec::new()));
                continue;
            }
            let mut scores = Vec::new();
            for (pair, sought) in [([comment, &comments[plain]], 0), ([&comments[plain], comment], 1)] {
                let messages = which_is_more_positive(pair.map(String::as_str));
                let read = self.letter(judge, None, messages, 2, self.seed(form.line, "judge")).await;
                scores.push((read.with_context(|| self.failed(form))?, sought));
            }
            let value = mean(scores.iter().map(|(score, sought)| probability(score, *sought)));
            let scores = scores.iter().map(|(score, sought)| json!({"sought": sought, "score": score})).collect();
            records.push(record(form, Some(comment), value, scores));
            values.push(value);
        }
        Ok(Said { values, records })
    }

    /// What each metric says of the reply.
    async fn reply(&self, form: &Form, judge: &dyn Backend) -> anyhow::Result<Said> {
        let reply = self.replied(form).await?;
        let (mut values, mut scores) = (Vec::new(), Vec::new());
        for metric in self.metrics {
            let request = self.request(about_reply(metric, &form.messages, &reply), metric.scale.answers());
            let seed = self.seed(form.line, "judge");
            let score = self.score(judge, ScoreRequest { seed, ..request }, |masses| masses.masses).await;
            let score = score.with_context(|| self.failed(form))?;
            values.push(metric.scale.value(&score));
            scores.push(json!({"metric": metric.name, "value": metric.scale.value(&score), "score": score}));
        }
        Ok(Said { values, records: vec![record(form, Some(&reply), None, scores)] })
    }

    async fn replied(&self, form: &Form) -> anyhow::Result<String> {
        let request = GenerateRequest {
            role: Role::Agent,
            prompt: Prompt::Messages(form.messages.clone()),
            sampling: self.sampling.clone(),
            seed: self.seed(form.line, "reply"),
            variant: self.variant.cloned(),
            session: None,
        };
        let reply = self.agent.generate(request).await.with_context(|| self.failed(form))?;
        Ok(reply.text.trim().to_owned())
    }

    fn request(&self, messages: Vec<ChatMessage>, answers: Vec<String>) -> ScoreRequest {
        let scoring = self.scoring.clone();
        ScoreRequest { role: Role::Preference, messages, answers, scoring, seed: 0, variant: None, session: None }
    }

    /// Reads the probabilities of letters.
    async fn letter(
        &self,
        backend: &dyn Backend,
        variant: Option<&Variant>,
        messages: Vec<ChatMessage>,
        letters: usize,
        seed: u64,
    ) -> Result<Score, BackendError> {
        let request = self.request(messages, spellings(letters));
        let request = ScoreRequest { seed, variant: variant.cloned(), ..request };
        self.score(backend, request, |read| by_letter(&read.masses)).await
    }

    async fn score(
        &self,
        backend: &dyn Backend,
        request: ScoreRequest,
        masses: impl Fn(AnswerMasses) -> Vec<(String, f64)>,
    ) -> Result<Score, BackendError> {
        match backend.score(request).await {
            Ok(read) => {
                let method = read.method;
                Ok(Score::from_masses(masses(read), self.scoring.min_mass).read_by(method))
            }
            Err(error @ BackendError::TooLong { .. }) => Ok(Score::unscored(error.to_string())),
            Err(error) => Err(error),
        }
    }

    /// The same for all agents of a run, whose replies are compared in pairs.
    fn seed(&self, line: usize, purpose: &str) -> u64 {
        stream::derive(self.seed, &["benchmark", self.benchmark.task.name(), &line.to_string(), purpose])
    }

    fn failed(&self, form: &Form) -> String {
        format!("line {} of the dataset could not be asked", form.line)
    }
}

/// The probability of a letter; none if the score is not usable.
fn probability(score: &Score, letter: usize) -> Option<f64> {
    match score.outcome() {
        ScoreOutcome::Scored(answers) => answers.get(letter).map(|(_, p)| *p),
        ScoreOutcome::Unscored(_) => None,
    }
}

/// None if any is missing.
fn mean(values: impl Iterator<Item = Option<f64>>) -> Option<f64> {
    let values: Vec<f64> = values.collect::<Option<_>>()?;
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

fn record(form: &Form, reply: Option<&str>, value: Option<f64>, scores: Vec<Value>) -> Record {
    let view = form.view.as_ref().map(|view| view.name.as_str());
    let fields = [
        ("line", json!(form.line)),
        ("view", json!(view)),
        ("reply", json!(reply)),
        ("value", json!(value)),
        ("scores", scores.into()),
    ];
    fields.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
}

/// Writes every answer as a line, with what it is of.
pub(super) fn write(mut file: NewFile, benchmark: &Benchmark, measured: &[Measured]) -> anyhow::Result<()> {
    for agent in measured {
        for record in &agent.records {
            let mut line = Record::from_iter([
                ("run".to_owned(), json!(agent.run)),
                ("iteration".to_owned(), json!(agent.iteration)),
                ("agent".to_owned(), json!(agent.agent)),
                ("judge".to_owned(), json!(agent.judge)),
                ("task".to_owned(), json!(benchmark.task)),
                ("dataset_sha256".to_owned(), json!(benchmark.sha256)),
            ]);
            line.extend(record.clone());
            serde_json::to_writer(&mut file, &line)?;
            file.write_all(b"\n")?;
        }
    }
    file.finish()?;
    Ok(())
}
