/// How far two raters agree who said yes or no of the same things.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Agreement {
    /// Both said yes.
    pub both: u32,
    /// The model alone did.
    pub model: u32,
    /// The person alone did.
    pub person: u32,
    /// Neither did.
    pub neither: u32,
}

impl Agreement {
    /// One more thing.
    pub fn add(&mut self, model: bool, person: bool) {
        *match (model, person) {
            (true, true) => &mut self.both,
            (true, false) => &mut self.model,
            (false, true) => &mut self.person,
            (false, false) => &mut self.neither,
        } += 1;
    }

    /// The share of the model's yes that is the person's too. None without any.
    pub fn precision(&self) -> Option<f64> {
        share(self.both, self.both + self.model)
    }

    /// The share of the person's yes that is the model's too. None without any.
    pub fn recall(&self) -> Option<f64> {
        share(self.both, self.both + self.person)
    }

    /// Agreement beyond chance, `(p_o - p_e) / (1 - p_e)` for the observed share of agreement `p_o` and the one `p_e` that
    /// raters with these shares of yes would reach by chance (Cohen 1960). None where both said the same of all.
    pub fn kappa(&self) -> Option<f64> {
        let all = self.both + self.model + self.person + self.neither;
        let observed = share(self.both + self.neither, all)?;
        let (model, person) = (share(self.both + self.model, all)?, share(self.both + self.person, all)?);
        let chance = model * person + (1.0 - model) * (1.0 - person);
        (chance < 1.0).then(|| (observed - chance) / (1.0 - chance))
    }
}

fn share(part: u32, whole: u32) -> Option<f64> {
    (whole > 0).then(|| f64::from(part) / f64::from(whole))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn agreement_is_counted_as_by_hand() {
        let mut told = Agreement::default();
        for (model, person, times) in [(true, true, 20), (true, false, 5), (false, true, 10), (false, false, 15)] {
            (0..times).for_each(|_| told.add(model, person));
        }
        // p_o = 35/50; p_e = 25/50 * 30/50 + 25/50 * 20/50 = 1/2.
        assert_eq!((told.precision(), told.recall()), (Some(0.8), Some(20.0 / 30.0)));
        assert!((told.kappa().unwrap() - 0.4).abs() < 1e-12);
        let none = Agreement::default();
        assert_eq!((none.precision(), none.recall(), none.kappa()), (None, None, None));
        let same = Agreement { neither: 3, ..none };
        assert_eq!((same.recall(), same.kappa()), (None, None), "chance would agree as much");
    }
}
