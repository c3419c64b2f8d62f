use super::template::{Template, UsedIn, Variables};

/// A prompt of whatever class, which can name the agent and nothing else.
#[derive(Debug, Clone)]
pub struct AgentPrompt(Template);

impl AgentPrompt {
    /// Parses a Python format string.
    ///
    /// # Errors
    /// What is wrong with it, going on from the name of its key.
    pub fn parse(text: &str) -> Result<Self, String> {
        Template::parse(text, &named(""), UsedIn::Prompt).map(Self).map_err(|error| error.to_string())
    }

    /// The text, for an agent of this name.
    pub fn render(&self, agent_name: &str) -> String {
        self.0.render(&named(agent_name).draw(0))
    }
}

fn named(agent_name: &str) -> Variables {
    let mut variables = Variables::default();
    variables.set("agent_name", vec![agent_name.to_owned()]);
    variables
}
