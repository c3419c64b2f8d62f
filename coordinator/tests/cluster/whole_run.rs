use influence_coordinator::planning::Phase;
use influence_coordinator::{Opened, RunPhase, open_run, summary};
use influence_proto::{Digest, TrainingBackend};

use crate::setting::{Living, Setting};
use crate::worker::Worker;

#[tokio::test]
async fn a_run_goes_from_plan_to_adapters_and_says_goodbye() {
    let setting = Setting::new();
    let living = Living::start(&setting, setting.experiment(&[])).await;
    assert!(matches!(living.opened, Opened::New(_)));
    let run = living.run().clone();
    let workers: Vec<_> =
        (1..=2).map(|i| tokio::spawn(Worker::new(living.address, &format!("w{i}"), i).work())).collect();
    let progress = living.progress.clone();
    living.end().await.unwrap();
    for worker in workers {
        assert_eq!(worker.await.unwrap(), "the run is finished");
    }
    assert_eq!(progress.borrow().phase, RunPhase::Done);

    let store = setting.store();
    let table = summary(store.as_ref(), &run).await.unwrap();
    let shape: Vec<_> = table.iter().map(|r| (r.phase, r.iteration, r.adapter.as_str(), r.episodes)).collect();
    assert_eq!(
        shape,
        [
            (Phase::Evaluate, 0, "base", 2),
            (Phase::Train, 0, "base", 12),
            (Phase::Train, 1, "iteration-0", 12),
            (Phase::Evaluate, 2, "iteration-1", 2),
        ]
    );
    for row in &table {
        assert_eq!((row.finished, row.failed, row.scored), (row.episodes, 0, row.episodes), "{row:?}");
        assert_eq!(row.selected, if row.phase == Phase::Train { 6 } else { 0 }, "one of each two siblings");
        assert!(row.reward.unwrap().standard_error.unwrap() > 0.0);
        assert!(row.reply_characters.unwrap() > 3.0 && row.active.as_millis() > 0);
        assert_eq!(row.loss, (row.phase == Phase::Train).then_some((2.0, 1.0)));
        let turns = row.generated_tokens / 2;
        assert_eq!(row.prompt_tokens, 10 * turns);
    }
    assert_eq!(progress.borrow().turns, table.iter().map(|r| r.generated_tokens / 2).sum::<u64>());

    // Iteration 1 rolled out and continued from what iteration 0 trained.
    let trainings = store.trainings(&run).await.unwrap();
    let first = trainings[0].report.clone().unwrap();
    let start = |iteration: usize| match &trainings[iteration].spec.backend {
        TrainingBackend::Local { start, .. } => *start,
        TrainingBackend::Api(tuning) => panic!("{tuning:?}"),
    };
    assert_eq!((start(0), start(1)), (None, first.agent.adapter()));
    assert_eq!(first.rows, 6, "one row per selected episode");
    let episodes = store.episodes(&run, Phase::Train, 1).await.unwrap();
    for episode in episodes {
        assert_eq!(store.spec(&run, &episode.id).await.unwrap().trained, Some(first.agent.clone()));
    }

    let folder = setting.data().join("demo");
    let weights = std::fs::read(folder.join("adapters/iteration-0/adapter_model.safetensors")).unwrap();
    assert_eq!(Digest::of(weights), first.agent.adapter().unwrap().weights);
    assert!(folder.join("adapters/iteration-1/adapter_config.json").exists());
    let resolved: serde_json::Value =
        serde_json::from_slice(&std::fs::read(folder.join("experiment.json")).unwrap()).unwrap();
    assert_eq!(resolved["name"], "demo");

    let again = open_run(store.as_ref(), &setting.experiment(&[]), false).await.unwrap();
    assert_eq!(again, Opened::Finished(run));
}

#[tokio::test]
async fn the_same_command_means_the_same_run_and_a_changed_one_lists_its_keys() {
    let setting = Setting::new();
    let store = setting.store();
    let experiment = setting.experiment(&[]);
    let open = |experiment, fresh| {
        let store = store.clone();
        async move { open_run(store.as_ref(), &experiment, fresh).await }
    };
    let first = open(experiment.clone(), false).await.unwrap();
    assert_eq!(first.run().as_str(), "demo");
    assert_eq!(open(experiment.clone(), false).await.unwrap(), Opened::Resumed(first.run().clone()));
    let changed = setting.experiment(&[("environments.siblings", "4"), ("seed", "8")]);
    let refused = open(changed.clone(), false).await.unwrap_err().to_string();
    for part in ["`demo`", "environments.siblings, seed", "--fresh"] {
        assert!(refused.contains(part), "{part} is missing in: {refused}");
    }
    let fresh = open(changed.clone(), true).await.unwrap();
    assert_eq!(fresh.run().as_str(), "demo-2");
    assert_eq!(open(changed, false).await.unwrap(), Opened::Resumed(fresh.run().clone()), "the latest of that name");
    let reserved = open(setting.experiment(&[("name", "artifacts")]), false).await.unwrap();
    assert_eq!(reserved.run().as_str(), "artifacts-2", "a run's folder is not the artifacts'");
}
