//! What a run is, apart from how it came about.

use std::collections::BTreeMap;

use serde_json::Value;

use super::Lab;

/// Everything of the run `tiny` that must not depend on how often it was interrupted: times, attempts, who did it, and what
/// was found in a cache are left out. `store` says where it is, as command line options.
pub(crate) fn outcome(lab: &Lab, store: &[&str]) -> BTreeMap<String, Value> {
    let mut all = BTreeMap::new();
    for line in lab.succeed(&[&["episodes", "tiny", "--json"], store].concat()).lines() {
        let mut episode: Value = serde_json::from_str(line).unwrap();
        for turn in episode["turns"].as_array_mut().unwrap() {
            for call in turn["calls"].as_array_mut().unwrap() {
                call.as_object_mut().unwrap().retain(|key, _| key != "milliseconds" && key != "reused_tokens");
            }
            turn.as_object_mut().unwrap().remove("worker");
        }
        episode.as_object_mut().unwrap().remove("attempt");
        let id = episode["spec"]["id"].as_str().unwrap().to_owned();
        assert!(all.insert(id, episode).is_none(), "an episode is listed twice");
    }
    let mut run: Value = serde_json::from_str(&lab.succeed(&[&["runs", "tiny", "--json"], store].concat())).unwrap();
    for iteration in run["iterations"].as_array_mut().unwrap() {
        iteration.as_object_mut().unwrap().remove("seconds");
    }
    all.insert("iterations".into(), run["iterations"].clone());
    all.insert("status".into(), run["status"].clone());
    all
}
