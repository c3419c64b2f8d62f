//! The process that is measured: a coordinator as `influence coordinator` starts it.

use std::path::Path;
use std::time::Duration;

use influence_coordinator::access::Access;
use influence_coordinator::artifacts::Artifacts;
use influence_coordinator::config::Experiment;
use influence_coordinator::store::StoreAddress;
use influence_coordinator::{Coordinator, CoordinatorOptions, Leadership, open_run};
use tokio_util::sync::CancellationToken;

use crate::setting;

/// Says its address on the first line, and how the run ended on the second. Stops when its input ends.
pub(crate) fn run(store: &str, folder: &Path) {
    let cancel = CancellationToken::new();
    let orphaned = cancel.clone();
    std::thread::spawn(move || {
        let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
        orphaned.cancel();
    });
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    runtime.block_on(carry_on(store, folder, cancel));
}

async fn carry_on(store: &str, folder: &Path, cancel: CancellationToken) {
    let data = setting::data(folder);
    let experiment = Experiment::load(&setting::experiment(folder), None, &[], None, None)
        .unwrap_or_else(|problems| panic!("the experiment is valid: {problems:?}"));
    let address: StoreAddress = store.parse().expect("the parent wrote it");
    let store = influence_coordinator::store::open(&address).await.expect("the store opens").store;
    let run = open_run(store.as_ref(), &experiment, false).await.expect("a new run").run().clone();
    let ttl = Duration::from_secs(10);
    let options = CoordinatorOptions {
        run: run.clone(),
        leadership: Leadership::take(store.clone(), run, "bench".into(), ttl).await.expect("the only leader"),
        store,
        artifacts: Artifacts::open(data.join("artifacts"), &data.join("bench")).await.expect("a folder for artifacts"),
        data,
        listen: "127.0.0.1:0".parse().expect("an address"),
        access: Access::default(),
        reclaim: Duration::ZERO,
        store_patience: Some(Duration::from_secs(60)),
        budget: None,
        keeps_workers: false,
    };
    let handle = Coordinator::start(options, experiment, cancel).await.expect("it starts");
    println!("{}", handle.address);
    match handle.wait().await {
        Ok(()) => println!("finished"),
        Err(error) => {
            eprintln!("the coordinator: {error}");
            println!("{error}");
        }
    }
}
