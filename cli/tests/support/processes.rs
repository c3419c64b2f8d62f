//! Processes of a cluster that are killed, stopped and started again.

use std::fs::File;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use super::Lab;

/// One place in the cluster, whatever process fills it now.
pub(crate) struct Place {
    command: Vec<String>,
    log: PathBuf,
    process: Option<Child>,
}

impl Place {
    /// Starts the command; what it says on stderr is kept in a file of the lab.
    pub(crate) fn start(lab: &Lab, name: &str, command: &[&str]) -> Self {
        let command = command.iter().map(|part| (*part).to_owned()).collect();
        let mut place = Self { command, log: lab.path(&format!("{name}.log")), process: None };
        place.start_again(lab);
        place
    }

    pub(crate) fn start_again(&mut self, lab: &Lab) {
        let arguments: Vec<&str> = self.command.iter().map(String::as_str).collect();
        let log = File::options().create(true).append(true).open(&self.log).unwrap();
        let mut command = lab.command(&arguments);
        command.env("INFLUENCE_LOG", "info,influence_worker=debug").stdout(Stdio::null()).stderr(log);
        self.process = Some(command.spawn().unwrap());
    }

    pub(crate) fn is_running(&mut self) -> bool {
        self.status().is_none() && self.process.is_some()
    }

    /// How the process ended, if it did.
    pub(crate) fn status(&mut self) -> Option<ExitStatus> {
        self.process.as_mut()?.try_wait().unwrap()
    }

    pub(crate) fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }

    pub(crate) fn signal(&self, signal: &str) {
        if let Some(process) = &self.process {
            send(signal, process.id());
        }
    }

    /// Waits for the process's own end.
    pub(crate) fn wait(&mut self, limit: Duration) -> Option<ExitStatus> {
        let deadline = Instant::now() + limit;
        while Instant::now() < deadline {
            if let Some(status) = self.status() {
                return Some(status);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        None
    }

    /// Waits until something has been said `times` times.
    pub(crate) fn until_said(&self, what: &str, times: usize) {
        let deadline = Instant::now() + Duration::from_secs(30);
        while self.said().matches(what).count() < times {
            assert!(Instant::now() < deadline, "`{what}` was not said {times} times:\n{}", self.said());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// What the processes of this place have said.
    pub(crate) fn said(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Sends a signal to a process, as in `STOP`.
pub(crate) fn send(signal: &str, process: u32) {
    let sent = Command::new("kill").args(["-s", signal, &process.to_string()]).status().unwrap();
    assert!(sent.success(), "kill -s {signal} {process}");
}
