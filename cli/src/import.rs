//! `influence import`: runs of the Python benchmark.

use influence_coordinator::config::RewardTurns;
use influence_coordinator::import::{Origin, import as imported};
use influence_proto::RunId;
use serde_json::json;

use crate::args::ImportArguments;
use crate::stored::store_address;
use crate::terminal::print;

pub(crate) async fn import(arguments: ImportArguments) -> anyhow::Result<()> {
    let run = RunId::new(arguments.name)?;
    let reward = if arguments.reward == "final" { RewardTurns::Final } else { RewardTurns::Mean };
    let origin = Origin { run: run.clone(), class: arguments.class, model: arguments.model, reward };
    let store = influence_coordinator::store::open(&store_address(&arguments.data)).await?.store;
    let episodes = imported(&*store, &origin, &arguments.paths).await?;
    if arguments.json {
        return print(&format!("{:#}\n", json!({ "run": run, "episodes": episodes })));
    }
    print(&format!("run {run}: {episodes} conversations; `influence runs {run}` shows its table\n"))
}
