//! One process per run: a lock of the operating system, which ends with the process however it ends.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read as _, Seek as _, Write as _};
use std::path::{Path, PathBuf};

use influence_proto::RunId;

/// The right to carry a run on; given back when dropped or when the process ends.
#[derive(Debug)]
pub(super) struct RunLock {
    _file: File,
}

/// Why a run could not be locked.
#[derive(Debug, thiserror::Error)]
pub(super) enum LockError {
    /// Another process is at it.
    #[error(
        "run `{run}` is already being carried on by {holder}; wait for it or end it, or start a run of your own with --name NAME ({path} is its lock)"
    )]
    Held {
        /// The run.
        run: RunId,
        /// The other process.
        holder: String,
        /// The lock file.
        path: PathBuf,
    },
    /// The lock file could not be made.
    #[error("the lock file {path} cannot be made: {source}; check the folder's permissions and space")]
    Io {
        /// The lock file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

impl RunLock {
    /// Locks `run` through the file `lock` in `folder`, which is made if it does not exist.
    ///
    /// # Errors
    /// [`LockError::Held`] at once if another process holds it.
    pub(super) fn acquire(folder: &Path, run: &RunId) -> Result<Self, LockError> {
        let path = folder.join("lock");
        let io = |source| LockError::Io { path: path.clone(), source };
        std::fs::create_dir_all(folder).map_err(io)?;
        let mut file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path).map_err(io)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::Error(source)) => return Err(io(source)),
            Err(TryLockError::WouldBlock) => {
                let mut pid = String::new();
                let read = file.read_to_string(&mut pid);
                let known = read.is_ok() && pid.trim().parse::<u32>().is_ok();
                let holder = if known { format!("process {}", pid.trim()) } else { "another process".to_owned() };
                return Err(LockError::Held { run: run.clone(), holder, path });
            }
        }
        file.set_len(0).and_then(|()| file.rewind()).map_err(io)?;
        writeln!(file, "{}", std::process::id()).map_err(io)?;
        Ok(Self { _file: file })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    #[test]
    fn a_second_holder_is_refused_with_the_first_ones_process_and_the_way_out() {
        let folder = tempfile::tempdir().unwrap();
        let run = RunId::new("demo").unwrap();
        let held = RunLock::acquire(&folder.path().join("demo"), &run).unwrap();
        let refused = RunLock::acquire(&folder.path().join("demo"), &run).unwrap_err().to_string();
        for part in ["`demo`", &format!("process {}", std::process::id()), "--name", "lock"] {
            assert!(refused.contains(part), "{part} is missing in: {refused}");
        }
        drop(held);
        RunLock::acquire(&folder.path().join("demo"), &run).expect("the lock ends with its holder");
    }
}
