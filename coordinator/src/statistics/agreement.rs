use serde::Serialize;

/// How two raters, or a detector and the truth, agree on yes or no.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Confusion {
    /// Both say yes.
    pub both: u64,
    /// Only the first, the detector, does: a false alarm.
    pub first_only: u64,
    /// Only the second, the truth, does: a miss.
    pub second_only: u64,
    /// Both say no.
    pub neither: u64,
}

impl Confusion {
    /// Counts pairs (first, second).
    pub fn of(pairs: impl IntoIterator<Item = (bool, bool)>) -> Self {
        let mut counted = Self::default();
        for pair in pairs {
            *match pair {
                (true, true) => &mut counted.both,
                (true, false) => &mut counted.first_only,
                (false, true) => &mut counted.second_only,
                (false, false) => &mut counted.neither,
            } += 1;
        }
        counted
    }

    const fn all(&self) -> u64 {
        self.both + self.first_only + self.second_only + self.neither
    }

    /// Cohen's kappa: agreement beyond what both would reach by chance, 1 at most (Cohen 1960). None of
    /// nothing, and where both always say the same one thing.
    pub fn kappa(&self) -> Option<f64> {
        let share = |count: u64| count as f64 / self.all() as f64;
        let (first, second) = (share(self.both + self.first_only), share(self.both + self.second_only));
        let chance = first * second + (1.0 - first) * (1.0 - second);
        ratio(share(self.both + self.neither) - chance, 1.0 - chance)
    }

    /// The share of the detector's alarms that are true. None without an alarm.
    pub fn precision(&self) -> Option<f64> {
        ratio(self.both as f64, (self.both + self.first_only) as f64)
    }

    /// The share of the true cases that the detector finds. None without a case.
    pub fn recall(&self) -> Option<f64> {
        ratio(self.both as f64, (self.both + self.second_only) as f64)
    }
}

fn ratio(above: f64, below: f64) -> Option<f64> {
    (below > 0.0).then(|| above / below)
}
