//! `influence`: coordinator and worker put together, or either alone, and what is needed around
//! them. This crate parses, calls and prints; it decides nothing.

mod allocator;
mod answering;
mod args;
mod check;
mod cluster;
mod compare;
mod conversation;
mod convert;
mod coordinate;
mod credentials;
mod dashboard;
mod doctor;
mod environments;
mod evaluate;
mod export;
mod generate_states;
mod import;
mod interrupt;
mod model;
mod place;
mod progress;
mod report;
mod reproduce;
mod run;
mod serve;
mod steps;
mod stored;
mod table;
mod telemetry;
mod terminal;
mod train;

use std::process::ExitCode;

use anyhow::Context;
use args::{Arguments, Command};
use clap::Parser;
use telemetry::Telemetry;

fn main() -> ExitCode {
    // SAFETY: there is no other thread yet.
    unsafe { influence_engine::leave_threads_to_rayon() };
    allocator::keep_freed_memory();
    let arguments = Arguments::parse();
    match start(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            telemetry::fail(&error);
            ExitCode::FAILURE
        }
    }
}

fn start(arguments: Arguments) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Runtime::new().context("no runtime could be started")?;
    let telemetry = {
        let _inside = runtime.enter();
        Telemetry::start(&arguments.telemetry, arguments.command.name())?
    };
    let done = runtime.block_on(dispatch(arguments.command));
    telemetry.end();
    // A model that is still computing must not keep a finished command from ending.
    runtime.shutdown_timeout(std::time::Duration::from_secs(2));
    done
}

async fn dispatch(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Run(arguments) => run::alone(arguments).await,
        Command::Coordinator(arguments) => coordinate::coordinator(arguments).await,
        Command::Worker(arguments) => run::worker(arguments).await,
        Command::Cluster(arguments) => cluster::dispatch(arguments).await,
        Command::Validate(arguments) => check::validate(&arguments),
        Command::Doctor(arguments) => doctor::doctor(arguments).await,
        Command::Schema { of } => check::schema(of),
        Command::Convert(arguments) => convert::convert(&arguments),
        Command::Environments(command) => environments::dispatch(command).await,
        Command::GenerateStates(arguments) => generate_states::generate(arguments).await,
        Command::Runs(arguments) => stored::runs(arguments).await,
        Command::Episodes(arguments) => stored::episodes(arguments).await,
        Command::Evaluate(arguments) => evaluate::evaluate(arguments).await,
        Command::Compare(arguments) => compare::compare(arguments).await,
        Command::Reproduce(arguments) => reproduce::reproduce(arguments).await,
        Command::Export(arguments) => export::export(arguments).await,
        Command::Import(arguments) => import::import(arguments).await,
        Command::Report(arguments) => report::report(arguments).await,
        Command::Dashboard(arguments) => dashboard::alone(arguments).await,
        Command::Health(arguments) => telemetry::health(arguments).await,
        Command::Serve(arguments) => serve::serve(arguments).await,
        Command::Model(command) => model::dispatch(command).await,
        Command::Train(arguments) => train::train(arguments).await,
        Command::Token(command) => credentials::token(&command),
    }
}
