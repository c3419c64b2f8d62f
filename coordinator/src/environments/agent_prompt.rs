use super::template::{Template, UsedIn, Variables};

const NAME: &str = "agent_name";

/// A prompt of whatever class, which can name the agent and nothing else.
#[derive(Debug, Clone)]
pub struct AgentPrompt(String);

impl AgentPrompt {
    /// Parses a Python format string.
    ///
    /// # Errors
    /// What is wrong with it, going on from the name of its key.
    pub fn parse(text: &str) -> Result<Self, String> {
        template(text, "").map(|_| Self(text.to_owned())).map_err(|error| error.to_string())
    }

    /// The text, for an agent of this name.
    pub fn render(&self, agent_name: &str) -> String {
        template(&self.0, agent_name)
            .map(|(template, variables)| template.render(&variables.draw(0)))
            .unwrap_or_default()
    }
}

fn template(text: &str, agent_name: &str) -> Result<(Template, Variables), super::template::TemplateError> {
    let mut variables = Variables::default();
    variables.set(NAME, vec![agent_name.to_owned()]);
    Ok((Template::parse(text, &variables, UsedIn::Prompt)?, variables))
}
