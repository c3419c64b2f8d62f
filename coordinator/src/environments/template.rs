//! Prompts as Python format strings, with names only: `{topic}`, and `{{` and `}}` for braces.

use std::collections::BTreeSet;

use rand_chacha::ChaCha12Rng;

use influence_proto::stream;

use crate::config::document::{nearest, visible};

/// What a template may name, and the values to choose from.
#[derive(Debug, Clone, Default)]
pub(super) struct Variables {
    list: Vec<Variable>,
}

#[derive(Debug, Clone)]
struct Variable {
    name: String,
    /// One for a fixed variable; several where one is drawn per initial state. Never empty.
    values: Vec<String>,
    /// The other value that an entered state may show, instead of the first.
    alternative: Option<String>,
}

impl Variables {
    /// Adds a variable, or replaces the one of that name. `values` without any value is not added.
    pub(super) fn set(&mut self, name: &str, values: Vec<String>) {
        self.put(Variable { name: name.to_owned(), values, alternative: None });
    }

    /// Adds a variable that only entered states can show, with its second value.
    pub(super) fn set_alternatives(&mut self, name: &str, first: String, second: String) {
        self.put(Variable { name: name.to_owned(), values: vec![first], alternative: Some(second) });
    }

    fn put(&mut self, variable: Variable) {
        if variable.values.is_empty() {
            return;
        }
        match self.list.iter_mut().find(|v| v.name == variable.name) {
            Some(old) => *old = variable,
            None => self.list.push(variable),
        }
    }

    /// The fixed value of a variable.
    pub(super) fn fixed(&self, name: &str) -> Option<&str> {
        let variable = self.list.iter().find(|v| v.name == name)?;
        variable.values.first().filter(|_| variable.values.len() == 1).map(String::as_str)
    }

    /// Whether the variable at this place has this name.
    pub(super) fn is(&self, index: usize, name: &str) -> bool {
        self.list[index].name == name
    }

    /// Of these variables those that have several values, each once, and how many those are.
    pub(super) fn lists_of(&self, used: impl Iterator<Item = usize>) -> Vec<(usize, u64)> {
        let used: BTreeSet<usize> = used.collect();
        let counts = used.into_iter().map(|index| (index, self.list[index].values.len() as u64));
        counts.filter(|(_, count)| *count > 1).collect()
    }

    fn find(&self, name: &str, used_in: UsedIn) -> Option<usize> {
        let usable = |v: &Variable| v.alternative.is_none() || used_in == UsedIn::EnteredState;
        self.list.iter().position(|v| v.name == name && usable(v))
    }

    fn names(&self, used_in: UsedIn) -> Vec<&str> {
        let usable = |v: &&Variable| v.alternative.is_none() || used_in == UsedIn::EnteredState;
        let mut names: Vec<&str> = self.list.iter().filter(usable).map(|v| v.name.as_str()).collect();
        names.sort_unstable();
        names
    }

    /// Draws a value for each variable that has several. A variable's draw depends on its name and
    /// the seed alone, so adding another one changes nothing.
    pub(super) fn draw(&self, seed: u64) -> Draw<'_> {
        let choose = |v: &Variable| match v.values.len() {
            0 | 1 => 0,
            n => {
                let mut rng: ChaCha12Rng = stream::generator(stream::derive(seed, &[&v.name]));
                stream::below(&mut rng, n as u64) as usize
            }
        };
        Draw { variables: self, chosen: self.list.iter().map(choose).collect(), alternative: false }
    }
}

/// One value for each variable.
#[derive(Debug, Clone)]
pub(super) struct Draw<'a> {
    variables: &'a Variables,
    chosen: Vec<usize>,
    alternative: bool,
}

impl Draw<'_> {
    /// The same draw, showing second values where a variable has one.
    pub(super) fn alternative(&self) -> Self {
        Self { alternative: true, ..self.clone() }
    }

    /// The same draw with another of the variable's values.
    pub(super) fn choosing(mut self, variable: usize, value: usize) -> Self {
        self.chosen[variable] = value;
        self
    }

    fn value(&self, index: usize) -> &str {
        let Some(variable) = self.variables.list.get(index) else { return "" };
        match &variable.alternative {
            Some(second) if self.alternative => second,
            _ => self.chosen.get(index).and_then(|c| variable.values.get(*c)).map_or("", String::as_str),
        }
    }
}

/// Where a template stands. Only the messages of an entered state can show drawn alternatives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum UsedIn {
    /// System prompts, suffixes, openings.
    Prompt,
    /// Messages that entering a state appends.
    EnteredState,
}

/// A parsed prompt whose names are all known: it cannot fail to render.
#[derive(Debug, Clone)]
pub(super) struct Template {
    parts: Vec<Part>,
    shows_alternative: bool,
}

#[derive(Debug, Clone)]
enum Part {
    Text(String),
    Variable(usize),
}

/// What is wrong with a template. Messages continue the name of its key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum TemplateError {
    #[error("has a lone `{brace}` before `{near}`; write `{brace}{brace}` for a brace in the text")]
    LoneBrace { brace: char, near: String },
    #[error("has the placeholder `{{{field}}}`; a placeholder is a name, as in `{{agent_name}}`")]
    Positional { field: String },
    #[error(
        "has the placeholder `{{{field}}}`, but attributes, indexes, conversions and formats are not supported; \
         write `{{{name}}}`"
    )]
    Formatted { field: String, name: String },
    #[error("uses `{{{name}}}`, but there is no such variable; {hint}")]
    Unknown { name: String, hint: String },
}

impl Template {
    /// Parses `text` against the names that exist.
    pub(super) fn parse(text: &str, variables: &Variables, used_in: UsedIn) -> Result<Self, TemplateError> {
        let mut template = Self { parts: Vec::new(), shows_alternative: false };
        for piece in pieces(text) {
            match piece? {
                Piece::Text(text) => template.push_text(text),
                Piece::Name(name) => {
                    let index =
                        variables.find(name, used_in).ok_or_else(|| unknown(name, &variables.names(used_in)))?;
                    template.shows_alternative |= variables.list[index].alternative.is_some();
                    template.parts.push(Part::Variable(index));
                }
            }
        }
        Ok(template)
    }

    /// The variables that it shows.
    pub(super) fn variables(&self) -> impl Iterator<Item = usize> {
        self.parts.iter().filter_map(|part| match part {
            Part::Text(_) => None,
            Part::Variable(index) => Some(*index),
        })
    }

    /// Whether a second rendering differs.
    pub(super) const fn shows_alternative(&self) -> bool {
        self.shows_alternative
    }

    /// The text with each variable's drawn value, which goes in verbatim.
    pub(super) fn render(&self, draw: &Draw<'_>) -> String {
        let values = self.parts.iter().map(|part| match part {
            Part::Text(text) => text.as_str(),
            Part::Variable(index) => draw.value(*index),
        });
        values.collect()
    }

    fn push_text(&mut self, text: &str) {
        match self.parts.last_mut() {
            Some(Part::Text(before)) => before.push_str(text),
            _ => self.parts.push(Part::Text(text.to_owned())),
        }
    }
}

/// The syntax alone, for prompts that several environments share.
pub(super) fn check_syntax(text: &str) -> Result<(), TemplateError> {
    pieces(text).try_for_each(|piece| piece.map(|_| ()))
}

fn unknown(name: &str, names: &[&str]) -> TemplateError {
    let near = nearest(name, names.iter().copied()).map(|n| format!("did you mean `{n}`? ")).unwrap_or_default();
    let list: Vec<String> = names.iter().map(|n| format!("`{n}`")).collect();
    let list = if list.is_empty() { "there are none".into() } else { format!("there are {}", list.join(", ")) };
    TemplateError::Unknown { name: shorten(name), hint: format!("{near}{list}") }
}

enum Piece<'t> {
    Text(&'t str),
    Name(&'t str),
}

/// Splits a format string; ends after the first error.
fn pieces(text: &str) -> impl Iterator<Item = Result<Piece<'_>, TemplateError>> {
    let mut rest = text;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let (piece, after) = match next_piece(rest) {
            Ok((piece, after)) => (Ok(piece), after),
            Err(error) => (Err(error), ""),
        };
        rest = after;
        Some(piece)
    })
}

fn next_piece(rest: &str) -> Result<(Piece<'_>, &str), TemplateError> {
    let lone = |brace| TemplateError::LoneBrace { brace, near: shorten(rest[1..].trim_start()) };
    for brace in ['{', '}'] {
        let doubled = if brace == '{' { "{{" } else { "}}" };
        if let Some(after) = rest.strip_prefix(doubled) {
            return Ok((Piece::Text(&doubled[..1]), after));
        }
    }
    if rest.starts_with('}') {
        return Err(lone('}'));
    }
    let Some(inner) = rest.strip_prefix('{') else {
        let end = rest.find(['{', '}']).unwrap_or(rest.len());
        return Ok((Piece::Text(&rest[..end]), &rest[end..]));
    };
    let end = inner.find(['{', '}']).ok_or_else(|| lone('{'))?;
    if inner.as_bytes()[end] == b'{' || inner[..end].contains('\n') {
        return Err(lone('{'));
    }
    let field = &inner[..end];
    let name = field.split(['.', '[', '!', ':']).next().unwrap_or("");
    if !name.chars().all(|c| c.is_alphanumeric() || "_- ".contains(c)) {
        return Err(lone('{'));
    }
    if name.is_empty() || name.bytes().all(|b| b.is_ascii_digit()) {
        return Err(TemplateError::Positional { field: shorten(field) });
    }
    if name.len() != field.len() {
        return Err(TemplateError::Formatted { field: shorten(field), name: shorten(name) });
    }
    Ok((Piece::Name(field), &inner[end + 1..]))
}

fn shorten(text: &str) -> String {
    visible(text, 30)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    fn variables() -> Variables {
        let mut variables = Variables::default();
        variables.set("topic", vec!["smoking {now}".into()]);
        variables.set("agent_name", vec!["Ada".into(), "Bo".into(), "Cy".into()]);
        variables.set_alternatives("char_action", "first".into(), "second".into());
        variables
    }

    fn rendered(text: &str) -> String {
        let variables = variables();
        Template::parse(text, &variables, UsedIn::Prompt).unwrap().render(&variables.draw(1))
    }

    fn refused(text: &str) -> String {
        Template::parse(text, &variables(), UsedIn::Prompt).unwrap_err().to_string()
    }

    #[test]
    fn values_go_in_verbatim_and_double_braces_become_one() {
        assert_eq!(rendered("On {topic}: {{\"a\": {{}}}}"), "On smoking {now}: {\"a\": {}}");
        assert_eq!(rendered("{{topic}} {{{topic}}}"), "{topic} {smoking {now}}");
        assert_eq!(rendered(""), "");
        assert_eq!(rendered("é{topic}é"), "ésmoking {now}é");
    }

    #[test]
    fn other_python_placeholders_are_refused_by_name() {
        assert_eq!(refused("a {} b"), "has the placeholder `{}`; a placeholder is a name, as in `{agent_name}`");
        assert_eq!(refused("{0}"), "has the placeholder `{0}`; a placeholder is a name, as in `{agent_name}`");
        for field in ["topic.x", "topic[0]", "topic!r", "topic:>3"] {
            assert_eq!(
                refused(&format!("{{{field}}}")),
                format!(
                    "has the placeholder `{{{field}}}`, but attributes, indexes, conversions and formats are not \
                     supported; write `{{topic}}`"
                )
            );
        }
    }

    #[test]
    fn lone_braces_are_refused_with_what_follows() {
        assert_eq!(refused("{'a': 1}"), "has a lone `{` before `'a': 1}`; write `{{` for a brace in the text");
        assert_eq!(refused("a } b"), "has a lone `}` before `b`; write `}}` for a brace in the text");
        assert_eq!(refused("open { and on"), "has a lone `{` before `and on`; write `{{` for a brace in the text");
        assert_eq!(refused("{a {topic}"), "has a lone `{` before `a {topic}`; write `{{` for a brace in the text");
    }

    #[test]
    fn an_unknown_name_is_answered_with_the_names_that_exist() {
        assert_eq!(
            refused("about {topc}"),
            "uses `{topc}`, but there is no such variable; did you mean `topic`? there are `agent_name`, `topic`"
        );
        assert!(refused("{char_action}").contains("no such variable"), "only entered states show it");
    }

    #[test]
    fn a_draw_depends_on_the_name_and_the_seed_alone() {
        let template = |v: &Variables| Template::parse("{agent_name}", v, UsedIn::Prompt).unwrap();
        let (few, mut more) = (variables(), Variables::default());
        more.set("another", vec!["x".into(), "y".into()]);
        more.set("agent_name", vec!["Ada".into(), "Bo".into(), "Cy".into()]);
        let names: Vec<String> = (0..30).map(|seed| template(&few).render(&few.draw(seed))).collect();
        assert_eq!(names, (0..30).map(|seed| template(&more).render(&more.draw(seed))).collect::<Vec<_>>());
        for name in ["Ada", "Bo", "Cy"] {
            assert!(names.iter().any(|n| n == name), "{name} is never drawn");
        }
    }

    #[test]
    fn entered_states_have_a_second_rendering() {
        let variables = variables();
        let template = Template::parse("You {char_action}.", &variables, UsedIn::EnteredState).unwrap();
        let draw = variables.draw(0);
        assert!(template.shows_alternative());
        assert_eq!(template.render(&draw), "You first.");
        assert_eq!(template.render(&draw.alternative()), "You second.");
    }
}
