//! The scripts. Each is carried out as one step, so what it checks still holds when it writes.

use std::sync::LazyLock;

/// A script, and the digest by which the server knows it.
pub(super) struct Script {
    pub(super) code: &'static str,
    pub(super) digest: LazyLock<String>,
}

macro_rules! scripts {
    ($($name:ident = $($file:literal)+;)+) => {$(
        pub(super) static $name: Script = {
            const CODE: &str = concat!($(include_str!(concat!("lua/", $file, ".lua"))),+);
            Script { code: CODE, digest: LazyLock::new(|| redis::Script::new(CODE).get_hash().to_owned()) }
        };
    )+};
}

scripts! {
    LEAD = "lead";
    RESIGN = "resign";
    LEADER = "leader";
    CREATE_RUN = "create_run";
    RUNS = "runs";
    ITERATIONS = "iterations";
    ITERATION = "iteration";
    EPISODES = "episodes";
    STORED = "stored";
    TRAININGS = "trainings";
    MARKS = "marks";
    // What anybody writes.
    MARK = "mark";
    UNMARK = "unmark";
    ADD_METRIC = "add_metric";
    // What writes for a leader.
    SET_STATUS = "led" "set_status";
    SET_ACTIVE = "led" "set_active";
    LED_ITERATION = "led" "led_iteration";
    PLAN = "led" "plan";
    PLAN_END = "led" "plan_end";
    REOPEN = "led" "reopen";
    VERDICTS = "led" "verdicts";
    JUDGE = "led" "judge";
    PLAN_TRAINING = "led" "plan_training";
    FINISH_TRAINING = "led" "finish_training";
    START = "led" "start_training" "episode" "start";
    FAIL = "led" "fail_training" "episode" "fail";
    RECORD_TURN = "led" "episode" "record_turn";
    FINISH = "led" "episode" "finish";
}
