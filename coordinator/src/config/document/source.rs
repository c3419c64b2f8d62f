use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use super::Problem;

/// How large a file may be, and what to call the file in messages.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limit {
    /// In bytes.
    pub(crate) bytes: u64,
    /// As in `an experiment file`.
    pub(crate) of: &'static str,
}

/// Experiments, evaluations and model tables are written by hand.
pub(crate) const EXPERIMENT: Limit = Limit { bytes: 1 << 20, of: "an experiment file" };
pub(crate) const EVALUATION: Limit = Limit { bytes: 1 << 20, of: "an evaluation file" };
pub(crate) const MODELS: Limit = Limit { bytes: 1 << 20, of: "a model table" };
pub(crate) const PUBLISHED: Limit = Limit { bytes: 1 << 20, of: "a file of published results" };
/// Environments may hold thousands of generated conversations.
pub(crate) const ENVIRONMENT: Limit = Limit { bytes: 64 << 20, of: "an environment file" };

/// The YAML parser keeps up to 230 bytes per item and needs time in proportion to items x open
/// brackets: both are bounded before it starts. Prose has an item per 25 characters or so, and the
/// documents that we read nest less than 10 deep.
const MAX_ITEMS: usize = 4 << 20;
const MAX_OPEN_BRACKETS: usize = 512;

/// Reads a text file that is no larger than `limit`. The limit also holds for what has no size to
/// ask for, such as a pipe.
pub(super) fn read(path: &Path, limit: Limit) -> Result<String, Problem> {
    let refuse = |message: String| Problem::in_file(path, message);
    let unreadable = |error: std::io::Error| match error.kind() {
        std::io::ErrorKind::NotFound => {
            refuse("there is no such file; check the path, or run from the folder that it is relative to".into())
        }
        std::io::ErrorKind::IsADirectory => refuse(format!("is a folder, not {}", limit.of)),
        _ => refuse(format!("cannot be read: {error}")),
    };
    let mut bytes = Vec::new();
    File::open(path).and_then(|file| file.take(limit.bytes + 1).read_to_end(&mut bytes)).map_err(unreadable)?;
    if bytes.len() as u64 > limit.bytes {
        let mib = limit.bytes >> 20;
        return Err(refuse(format!("is larger than {mib} MiB, the limit of {}; nothing of it was read", limit.of)));
    }
    let text = String::from_utf8(bytes).map_err(|error| {
        let valid = error.utf8_error().valid_up_to();
        let line = error.as_bytes()[..valid].iter().filter(|b| **b == b'\n').count() + 1;
        let message = format!("is not UTF-8 from byte {valid} on; save the file as UTF-8");
        Problem::at_line(path, Some(line), message)
    })?;
    check_shape(&text).map_err(refuse)?;
    Ok(text)
}

/// Refuses text that would take the YAML parser unreasonable memory or time. It counts brackets and
/// separators without regard to quotes: an upper bound.
pub(super) fn check_shape(text: &str) -> Result<(), String> {
    let (mut items, mut open) = (0_usize, 0_usize);
    for byte in text.bytes() {
        match byte {
            b'[' | b'{' => open += 1,
            b']' | b'}' => open = open.saturating_sub(1),
            b',' | b'\n' | b':' | b'-' | b'?' | b'*' | b'&' => {}
            _ => continue,
        }
        items += 1;
        if open > MAX_OPEN_BRACKETS {
            return Err(format!(
                "has more than {MAX_OPEN_BRACKETS} brackets open at once; close them, or nest less deeply"
            ));
        }
        if items > MAX_ITEMS {
            return Err(format!("has more than {MAX_ITEMS} items; split the file"));
        }
    }
    Ok(())
}
