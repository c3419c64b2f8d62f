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
mod redis;
mod report;
mod setting;
mod simulator;

use std::path::Path;

use options::Options;

/// As `influence` has it.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        [children::COORDINATOR, store, folder] => coordinator::run(store, Path::new(folder)),
        [children::SIMULATOR, options, address, pids @ ..] => {
            let options: Options = serde_json::from_str(options).expect("the parent wrote it");
            let pids: Vec<u32> = pids.iter().map(|pid| pid.parse().expect("a process")).collect();
            simulator::run(options, address.parse().expect("an address"), &pids);
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
