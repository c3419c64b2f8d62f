//! Which of the allowed answers a text is.

use influence_engine::sample::surface_forms;

/// The forms of the allowed answers: as written, in lower case, in upper case and capitalised, with and without a space
/// before.
#[derive(Debug)]
pub(super) struct Forms {
    /// A form, and the answer's place in the request.
    all: Vec<(String, usize)>,
}

impl Forms {
    /// Of the answers, in order.
    pub(super) fn new(answers: &[String]) -> Self {
        let forms =
            |(owner, answer): (usize, &String)| surface_forms(answer).into_iter().map(move |form| (form, owner));
        Self { all: answers.iter().enumerate().flat_map(forms).collect() }
    }

    /// The answer that a text begins with: the one of its longest form, if no word or number goes on behind it. So `10` is
    /// not `1`, and neither is `12`; `7/10` is `7`.
    pub(super) fn begun_by(&self, text: &str) -> Option<usize> {
        let fits = |form: &&(String, usize)| {
            text.strip_prefix(form.0.as_str()).is_some_and(|rest| !rest.starts_with(char::is_alphanumeric))
        };
        self.all.iter().filter(fits).max_by_key(|(form, _)| form.len()).map(|(_, owner)| *owner)
    }

    /// The answers that have a form of which a text is a beginning, and no more.
    pub(super) fn may_become(&self, text: &str) -> Vec<usize> {
        let longer = |form: &&(String, usize)| form.0.len() > text.len() && form.0.starts_with(text);
        let mut owners: Vec<usize> = self.all.iter().filter(longer).map(|(_, owner)| *owner).collect();
        owners.sort_unstable();
        owners.dedup();
        owners
    }

    /// The length of the longest form, in characters.
    pub(super) fn longest(&self) -> usize {
        self.all.iter().map(|(form, _)| form.chars().count()).max().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn forms(answers: &[&str]) -> Forms {
        Forms::new(&answers.iter().map(|answer| (*answer).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn a_text_is_the_answer_of_its_longest_form() {
        let ratings = forms(&["1", "2", "10"]);
        for (text, owner) in
            [("1", Some(0)), (" 10", Some(2)), ("10/10", Some(2)), ("12", None), ("2.", Some(1)), ("I say 2", None)]
        {
            assert_eq!(ratings.begun_by(text), owner, "{text}");
        }
        let words = forms(&["yes", "no"]);
        for (text, owner) in [("YES!", Some(0)), ("Nothing", None), ("\u{a0}no", None), ("", None)] {
            assert_eq!(words.begun_by(text), owner, "{text}");
        }
    }

    #[test]
    fn a_beginning_may_become_several() {
        let ratings = forms(&["1", "2", "10"]);
        assert_eq!(ratings.may_become("1"), [2]);
        assert_eq!(ratings.may_become(" "), [0, 1, 2]);
        assert!(ratings.may_become("10").is_empty());
        assert_eq!(forms(&["maybe", "may"]).may_become("Ma"), [0, 1]);
    }
}
