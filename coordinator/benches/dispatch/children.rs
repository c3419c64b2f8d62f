//! The other two processes.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};

use crate::options::Options;
use crate::redis::Redis;
use crate::report::Measured;
use crate::setting;

/// First arguments of this program as a child.
pub(crate) const COORDINATOR: &str = "run-coordinator";
pub(crate) const SIMULATOR: &str = "run-simulator";

/// Runs both to their ends. Also returns how the coordinator says that its run ended.
pub(crate) fn measure(options: &Options, folder: &Path) -> (Measured, String) {
    let redis = Redis::of(options.store, folder);
    let file = setting::data(folder).join("influence.sqlite").display().to_string();
    let store = redis.as_ref().map_or(file, Redis::url);
    let (mut coordinator, mut said) = start(&[COORDINATOR, &store, &folder.display().to_string()]);
    let address = line(&mut said);
    let options = serde_json::to_string(options).expect("options");
    let pid = coordinator.id().to_string();
    let store_pid = redis.as_ref().map_or_else(String::new, |redis| redis.pid().to_string());
    let mut args = vec![SIMULATOR, &options, &address, &pid];
    args.extend((!store_pid.is_empty()).then_some(store_pid.as_str()));
    let (mut simulator, mut figures) = start(&args);
    // Its input stays open while it ends: `wait` would close it, and the simulator end as if abandoned.
    let _open = simulator.stdin.take();
    let measured = line(&mut figures);
    assert!(simulator.wait().expect("it was started").success(), "the simulator failed");
    let measured: Measured = serde_json::from_str(&measured).expect("the simulator's figures");
    // It stops at the end of its input, if it goes on at all.
    drop(coordinator.stdin.take());
    let ended = line(&mut said);
    assert!(coordinator.wait().expect("it was started").success(), "the coordinator failed");
    (measured, ended)
}

fn start(args: &[&str]) -> (Child, BufReader<ChildStdout>) {
    let mut child = Command::new(std::env::current_exe().expect("this program"))
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("this program runs again");
    let output = BufReader::new(child.stdout.take().expect("it is piped"));
    (child, output)
}

fn line(output: &mut BufReader<ChildStdout>) -> String {
    let mut line = String::new();
    output.read_line(&mut line).expect("the child's output");
    line.trim_end().to_owned()
}
