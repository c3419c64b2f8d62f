//! This machine: device, disk, clock, store.

use std::path::Path;
use std::time::SystemTime;

use anyhow::Context;
use influence_coordinator::store::{StoreAddress, open};
use influence_engine::model::Placement;

use super::{Report, Verdict};
use crate::args::DoctorArguments;
use crate::place::cache_folder;
use crate::stored::store_address;

/// Less room than this on a disk is worth a word: adapters, datasets and checkpoints of a run take some GiB.
const LITTLE_ROOM: u64 = 10 << 30;

pub(super) async fn look(report: &mut Report, arguments: &DoctorArguments) {
    let device = Placement::device(&arguments.device).map(|_| format!("{} is there", arguments.device));
    report.check("device", device.map_err(Into::into));
    disk(report, "data folder", &arguments.data.data);
    match cache_folder(arguments.cache.as_deref()) {
        Ok(cache) => disk(report, "cache folder", &cache),
        Err(error) => report.say("cache folder", Verdict::Bad, error.to_string()),
    }
    report.check("clock", clock());
    let address = store_address(&arguments.data);
    match &address {
        // Looking must not make one: the data folder was looked at.
        StoreAddress::Sqlite(file) if !file.exists() => {
            report.say("store", Verdict::Ok, format!("{} will be made", file.display()));
        }
        _ => match open(&address).await {
            Ok(opened) => {
                report.say("store", Verdict::Ok, format!("{address} answers"));
                opened.warnings.into_iter().for_each(|warning| report.say("store", Verdict::Note, warning.to_string()));
            }
            Err(error) => report.say("store", Verdict::Bad, error.to_string()),
        },
    }
}

/// The room on the disk of a folder that may not exist yet, and whether it can be written to.
fn disk(report: &mut Report, about: &str, folder: &Path) {
    let absolute = std::path::absolute(folder).unwrap_or_else(|_| folder.to_owned());
    let Some(there) = absolute.ancestors().find(|path| path.is_dir()) else { return };
    let found = rustix::fs::statvfs(there).with_context(|| format!("{} cannot be looked at", there.display()));
    let room = match found {
        Ok(found) => found.f_bavail.saturating_mul(found.f_frsize),
        Err(error) => return report.say(about, Verdict::Bad, format!("{error:#}")),
    };
    if let Err(error) = rustix::fs::access(there, rustix::fs::Access::WRITE_OK) {
        return report.say(about, Verdict::Bad, format!("{} cannot be written to: {error}", there.display()));
    }
    let verdict = if room < LITTLE_ROOM { Verdict::Note } else { Verdict::Ok };
    report.say(about, verdict, format!("{}: {:.1} GiB are free", folder.display(), room as f64 / f64::from(1 << 30)));
}

/// TLS and signed requests fail with a clock that is far off; this program cannot be older than its file.
fn clock() -> anyhow::Result<String> {
    let built =
        std::env::current_exe().and_then(|file| file.metadata()?.modified()).context("no file of this program")?;
    let ahead = built.duration_since(SystemTime::now()).map(|span| span.as_secs()).unwrap_or(0);
    anyhow::ensure!(ahead < 60, "it is {ahead} s before the time at which this program was built; set it");
    Ok("it is after the time at which this program was built".to_owned())
}
