/// A message from the other side that no domain type can hold.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("field `{field}` {problem}")]
pub struct InvalidMessage {
    /// Path of the field, as in `spec.machine.start`.
    pub field: String,
    /// What is wrong with it, the value included where it is short.
    pub problem: String,
}

impl InvalidMessage {
    /// An error about `field`.
    pub fn new(field: impl Into<String>, problem: impl Into<String>) -> Self {
        Self { field: field.into(), problem: problem.into() }
    }

    /// The same error, one level further out: `start` becomes `machine.start`.
    #[must_use]
    pub fn inside(mut self, parent: &str) -> Self {
        self.field = format!("{parent}.{}", self.field);
        self
    }
}
