#![allow(clippy::unwrap_used, clippy::expect_used)]

mod faults;
mod leads;
mod opening;
mod same;
mod server;
mod size;

use influence_proto::WorkId;
use serde_json::json;

use super::*;
use crate::store::behaviour::{TTL, run_id, spec, suite};
use server::Server;

async fn fresh() -> (RedisStore, Server) {
    let server = Server::start();
    (server.store().await, server)
}

suite!(fresh().await);

fn new_run() -> NewRun {
    NewRun { id: run_id(), name: "demo".into(), digest: "d".into(), experiment: json!({"seed": u64::MAX}) }
}

/// A led run with a plan of this many episodes.
async fn planned(store: &dyn Store, episodes: usize) -> Vec<WorkId> {
    store.create_run(new_run()).await.unwrap();
    store.lead(&run_id(), "me", TTL).await.unwrap();
    let specs: Vec<_> = (0..episodes).map(|i| spec(&format!("e{i}"))).collect();
    let works = specs.iter().map(|s| WorkId::from(&s.id)).collect();
    store.plan(&run_id(), Phase::Train, 0, specs).await.unwrap();
    works
}
