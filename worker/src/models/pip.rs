//! The user's own pip, with the user's own settings.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use super::SourceError;

/// A package index that is silent for longer is given up.
const LIMIT: Duration = Duration::from_secs(30 * 60);
const POLL: Duration = Duration::from_millis(100);

/// Ways to call pip, in order.
#[derive(Debug, Clone)]
pub(super) struct Pip {
    commands: Vec<Vec<OsString>>,
}

/// What became of one way to call pip.
enum Attempt {
    Done(PathBuf),
    /// There is no such program, or it has no pip.
    Absent(String),
    Failed(String),
}

impl Pip {
    /// Whatever the user's search path offers.
    pub(super) fn of_user() -> Self {
        let commands: [&[&str]; 4] = [&["python3", "-m", "pip"], &["python", "-m", "pip"], &["pip3"], &["pip"]];
        Self { commands: commands.iter().map(|words| words.iter().map(OsString::from).collect()).collect() }
    }

    #[cfg(test)]
    pub(super) fn of_command(program: &Path) -> Self {
        Self { commands: vec![vec![program.as_os_str().to_owned()]] }
    }

    /// Downloads the wheel of `package==version` into `folder` and returns its path. `report` is told how many bytes have
    /// arrived: pip itself says nothing that a program could read.
    pub(super) fn download(
        &self,
        package: &str,
        version: &str,
        folder: &Path,
        report: &dyn Fn(u64),
    ) -> Result<PathBuf, SourceError> {
        let requirement = format!("{package}=={version}");
        // Nothing that looks like an option or a path may reach pip's command line.
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_.+!=".contains(c);
        if !requirement.chars().all(plain) || !requirement.starts_with(|c: char| c.is_ascii_alphanumeric()) {
            return Err(SourceError::Pip(format!("`{requirement}` is not a package and a version")));
        }
        let mut absent = Vec::new();
        for words in &self.commands {
            match attempt(words, &requirement, folder, report)? {
                Attempt::Done(wheel) => return Ok(wheel),
                Attempt::Absent(reason) => absent.push(reason),
                Attempt::Failed(reason) => return Err(SourceError::Pip(reason)),
            }
        }
        Err(SourceError::Pip(format!("pip is not installed ({})", absent.join("; "))))
    }
}

fn attempt(words: &[OsString], requirement: &str, folder: &Path, report: &dyn Fn(u64)) -> Result<Attempt, SourceError> {
    let Some((program, first)) = words.split_first() else { return Ok(Attempt::Absent(String::new())) };
    let shown = words.iter().map(|w| w.to_string_lossy()).collect::<Vec<_>>().join(" ");
    let log = folder.join("pip.log");
    let output = File::create(&log).map_err(SourceError::io(&log))?;
    let errors = output.try_clone().map_err(SourceError::io(&log))?;
    let child = Command::new(program)
        .args(first)
        .args(["download", "--no-deps", "--no-input", "--disable-pip-version-check", "--progress-bar", "off"])
        .args(["--only-binary", ":all:", "--dest"])
        .arg(folder)
        .arg(requirement)
        // pip downloads to a temporary folder first: here its growth can be watched, and it is removed in any case.
        .env("TMPDIR", folder)
        .stdin(Stdio::null())
        .stdout(output)
        .stderr(errors)
        .spawn();
    let child = match child {
        Ok(child) => child,
        Err(reason) if reason.kind() == io::ErrorKind::NotFound => {
            return Ok(Attempt::Absent(format!("`{shown}` is not there")));
        }
        Err(reason) => return Ok(Attempt::Absent(format!("`{shown}` cannot be started: {reason}"))),
    };
    let status = wait(child, || report(bytes_below(folder))).map_err(SourceError::io(program.clone()))?;
    let said = fs::read(&log).map_err(SourceError::io(&log))?;
    let said = String::from_utf8_lossy(&said);
    match status {
        None => Ok(Attempt::Failed(format!("`{shown}` did not end within {} minutes", LIMIT.as_secs() / 60))),
        Some(status) if status.success() => Ok(wheel_in(folder)?
            .map_or_else(|| Attempt::Failed(format!("`{shown} download {requirement}` left no wheel")), Attempt::Done)),
        Some(_) if said.contains("No module named pip") => {
            Ok(Attempt::Absent(format!("`{shown}`: no module named pip")))
        }
        Some(status) => {
            Ok(Attempt::Failed(format!("`{shown} download {requirement}` failed ({status}): {}", last_lines(&said))))
        }
    }
}

/// Waits for the child to end; kills it at the limit.
fn wait(mut child: Child, mut tick: impl FnMut()) -> io::Result<Option<ExitStatus>> {
    let started = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if started.elapsed() > LIMIT {
            child.kill()?;
            child.wait()?;
            return Ok(None);
        }
        tick();
        std::thread::sleep(POLL);
    }
}

fn wheel_in(folder: &Path) -> Result<Option<PathBuf>, SourceError> {
    for entry in fs::read_dir(folder).map_err(SourceError::io(folder))? {
        let path = entry.map_err(SourceError::io(folder))?.path();
        if path.extension().is_some_and(|e| e == "whl") {
            return Ok(Some(path));
        }
    }
    Ok(None)
}

/// Bytes of all files below a folder; those that vanish meanwhile do not count.
fn bytes_below(folder: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(folder) else { return 0 };
    let size = |entry: fs::DirEntry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => bytes_below(&entry.path()),
        Ok(metadata) => metadata.len(),
        Err(_) => 0,
    };
    entries.flatten().map(size).sum()
}

/// The end of what pip said, in which it says what went wrong.
fn last_lines(said: &str) -> String {
    let lines: Vec<&str> = said.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    if lines.is_empty() {
        return "it said nothing".to_owned();
    }
    lines[lines.len().saturating_sub(3)..].join(" / ")
}
