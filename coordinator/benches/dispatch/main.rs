//! The coordinator under the load of a large cluster: `make bench-dispatch`.
//!
//! Three processes. This one makes a folder with an experiment in it, starts the other two by executing itself again, and
//! prints the table. The second is a coordinator as it is, with its store, over real gRPC on loopback. The third simulates
//! the workers: no models, sampled durations; it also reads what the coordinator uses, from /proc.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

mod children;
mod coordinator;
mod options;
mod process;
mod report;
mod setting;
mod simulator;

use std::path::Path;

use options::Options;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    let json = |text: &String| -> Options { serde_json::from_str(text).expect("the parent wrote it") };
    match args.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        [children::COORDINATOR, _, folder] => coordinator::run(&json(&args[1]), Path::new(folder)),
        [children::SIMULATOR, _, address, pid] => {
            simulator::run(json(&args[1]), address.parse().expect("an address"), pid.parse().expect("a process"));
        }
        _ => match Options::parse(&args) {
            Ok(options) => measure(&options),
            Err(usage) => {
                eprintln!("{usage}");
                std::process::exit(2);
            }
        },
    }
}

fn measure(options: &Options) {
    let folder =
        tempfile::Builder::new().prefix("dispatch-").tempdir_in(&options.folder).expect("a folder can be made");
    setting::write(folder.path(), options);
    let (measured, ended) = children::measure(options, folder.path());
    if options.json {
        println!("{}", serde_json::to_string_pretty(&report::json(options, &measured, &ended)).expect("figures"));
    } else {
        report::print(options, &measured, &ended);
    }
}
