//! What workers heard, read from their logs.

use std::collections::BTreeMap;

/// The value of `name=` in a line of the log.
fn field<'a>(line: &'a str, name: &str) -> Option<&'a str> {
    let start = line.find(&format!(" {name}="))? + name.len() + 2;
    line[start..].split_whitespace().next()
}

/// Checks that each attempt went on from all turns that an earlier attempt's worker was told are stored;
/// returns how many those are. Whatever was acknowledged was stored before the later attempt began, for
/// its beginning fences the earlier one off: no times are compared.
pub(crate) fn nothing_acknowledged_is_missing(log: &str) -> Result<usize, String> {
    let mut stored: BTreeMap<(&str, u32), u32> = BTreeMap::new();
    let mut begun = Vec::new();
    let mut count = 0;
    for line in log.lines() {
        let number = |name| field(line, name).and_then(|n| n.parse::<u32>().ok());
        let (Some(work), Some(attempt)) = (field(line, "work"), number("attempt")) else { continue };
        if line.contains("turn stored")
            && let Some(turn) = number("turn")
        {
            let turns = stored.entry((work, attempt)).or_default();
            *turns = (*turns).max(turn + 1);
            count += 1;
        }
        if line.contains("lease taken")
            && let Some(journal) = number("journal")
        {
            begun.push((work, attempt, journal));
        }
    }
    for (work, attempt, journal) in begun {
        for ((_, earlier), turns) in stored.range((work, 0)..(work, attempt)) {
            if *turns > journal {
                return Err(format!(
                    "attempt {attempt} of {work} began with {journal} turns, but {turns} of attempt {earlier} were acknowledged"
                ));
            }
        }
    }
    if count == 0 { Err("the logs tell of no acknowledged turn".to_owned()) } else { Ok(count) }
}
