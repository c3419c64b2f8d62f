use serde_json::Value;

use crate::store::{RunRecord, RunStatus};

/// What stands above every page of a run.
pub(super) struct Head {
    pub(super) id: String,
    pub(super) status: &'static str,
    pub(super) error: Option<String>,
    pub(super) facts: String,
    pub(super) tab: &'static str,
    /// Names and addresses.
    pub(super) tabs: Vec<(&'static str, String)>,
}

impl Head {
    pub(super) fn new(run: &RunRecord, tab: &'static str) -> Self {
        let (status, error) = status(&run.status);
        let at = |key: &str| format!("/runs/{}{key}", run.id);
        let roles = ["agent", "environment", "preference", "transition", "influence"];
        let models: Vec<String> = roles
            .into_iter()
            .filter_map(|role| Some(format!("{role} {}", text(&run.experiment, &["roles", role, "model"])?)))
            .collect();
        let mut facts = vec![
            format!("class {}", class(run)),
            format!("seed {}", run.experiment.get("seed").map(Value::to_string).unwrap_or_default()),
        ];
        facts.push(models.join(", "));
        facts.push(age(run.created_ms));
        Self {
            id: run.id.to_string(),
            status,
            error,
            facts: facts.join(" · "),
            tab,
            tabs: vec![
                ("overview", at("")),
                ("conversations", at("/conversations")),
                ("data", at("/data")),
                ("metrics", at("/metrics")),
                ("training", at("/training")),
                ("review", at("/review")),
                ("playground", at("/play")),
                ("workers", at("/workers")),
                ("timeline", at("/timeline")),
                ("configuration", at("/config")),
            ],
        }
    }
}

pub(super) fn status(status: &RunStatus) -> (&'static str, Option<String>) {
    match status {
        RunStatus::Running => ("running", None),
        RunStatus::Finished => ("finished", None),
        RunStatus::Failed(error) => ("failed", Some(error.clone())),
    }
}

/// The run's environment class.
pub(super) fn class(run: &RunRecord) -> &str {
    text(&run.experiment, &["environments", "class"]).unwrap_or_default()
}

/// A text somewhere in the experiment.
pub(super) fn text<'v>(experiment: &'v Value, path: &[&str]) -> Option<&'v str> {
    path.iter().try_fold(experiment, |value, key| value.get(key))?.as_str()
}

/// How long ago that was, in its largest unit.
pub(super) fn age(created_ms: u64) -> String {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    let seconds = now.as_secs().saturating_sub(created_ms / 1000);
    match seconds {
        0..60 => "just now".to_owned(),
        60..3_600 => format!("{} min ago", seconds / 60),
        3_600..86_400 => format!("{} h ago", seconds / 3_600),
        _ => format!("{} days ago", seconds / 86_400),
    }
}
