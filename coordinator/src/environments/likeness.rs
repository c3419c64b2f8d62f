use std::collections::BTreeSet;

/// Texts, and how much another is like one of them.
#[derive(Debug, Default)]
pub struct Likeness {
    known: Vec<BTreeSet<String>>,
}

impl Likeness {
    /// Remembers a text.
    pub fn add(&mut self, text: &str) {
        self.known.push(pairs(text));
    }

    /// The share of pairs of neighbouring words that the text and the most similar of the others have in common (the Jaccard
    /// index), from 0 to 1. Case and punctuation do not count.
    pub fn highest(&self, text: &str) -> f64 {
        let pairs = pairs(text);
        let with = |known: &BTreeSet<String>| {
            let common = pairs.intersection(known).count();
            common as f64 / (pairs.len() + known.len() - common).max(1) as f64
        };
        self.known.iter().map(with).fold(0.0, f64::max)
    }
}

fn pairs(text: &str) -> BTreeSet<String> {
    let is_part = |c: char| c.is_alphanumeric() || c == '\'';
    let words: Vec<String> =
        text.to_lowercase().split(|c: char| !is_part(c)).filter(|word| !word.is_empty()).map(str::to_owned).collect();
    match words.len() {
        1 => words.into_iter().collect(),
        _ => words.windows(2).map(|pair| pair.join(" ")).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn likeness_is_the_share_of_common_pairs_of_words() {
        let mut known = Likeness::default();
        assert_eq!(known.highest("anything"), 0.0);
        known.add("I want to smoke again.");
        known.add("Tea");
        assert_eq!(known.highest("i WANT to smoke, again!"), 1.0);
        assert_eq!(known.highest("I want to drink again"), 2.0 / 6.0);
        assert_eq!((known.highest("tea?"), known.highest("coffee"), known.highest("")), (1.0, 0.0, 0.0));
    }
}
