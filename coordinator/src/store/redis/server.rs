//! What a server must be, and what its settings may lose.

use std::collections::HashMap;

use redis::{Cmd, ErrorKind, RedisError, Value};

use super::link::{Link, describe, refusal};
use super::{SCHEMA_KEY, SCHEMA_VERSION};
use crate::store::StoreError;
use crate::store::open::OpenStoreError;

/// The first release that has what the scripts use, and undoes half a script's writes on restart.
const RELEASE: u32 = 7;

/// The settings that decide what outlives what.
const SETTINGS: [&str; 5] = ["appendonly", "appendfsync", "no-appendfsync-on-rewrite", "save", "maxmemory-policy"];

/// Checks the server and returns warnings.
pub(super) async fn check(link: &Link) -> Result<Vec<String>, OpenStoreError> {
    let store = link.name();
    let pong = ask(link, &redis::cmd("PING")).await?;
    if pong != Value::SimpleString("PONG".into()) {
        return Err(OpenStoreError::NotRedis { store: store.into(), detail: "it answers no ping".into() });
    }
    let info: String = text(ask(link, redis::cmd("INFO").arg("server")).await?);
    check_release(store, &info)?;
    let schema = text(ask(link, redis::cmd("GET").arg(SCHEMA_KEY)).await?);
    check_schema(store, &schema)?;
    let settings = link.ask(redis::cmd("CONFIG").arg("GET").arg(&SETTINGS[..])).await;
    Ok(match settings.map(redis::from_redis_value::<HashMap<String, String>>) {
        Ok(Ok(settings)) => warnings(&settings),
        Ok(Err(error)) => vec![unchecked(&error.to_string())],
        // Managed servers often forbid it.
        Err(error) if error.code().is_some() => vec![unchecked(&describe(&error))],
        Err(error) => return Err(refusal(store, &error).into()),
    })
}

async fn ask(link: &Link, command: &Cmd) -> Result<Value, OpenStoreError> {
    link.ask(command).await.map_err(|error| refused(link.name(), &error))
}

fn refused(store: &str, error: &RedisError) -> OpenStoreError {
    let (name, detail) = (store.to_owned(), describe(error));
    match (error.kind(), error.code().unwrap_or_default()) {
        (ErrorKind::AuthenticationFailed, _) | (_, "NOAUTH" | "WRONGPASS" | "NOPERM") => {
            OpenStoreError::Login { store: name, detail }
        }
        (ErrorKind::Parse, _) => OpenStoreError::NotRedis { store: name, detail },
        _ => refusal(store, error).into(),
    }
}

fn text(value: Value) -> String {
    redis::from_redis_value(value).unwrap_or_default()
}

fn check_release(store: &str, info: &str) -> Result<(), OpenStoreError> {
    let field = |name: &str| {
        let value = info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        value.unwrap_or("unknown").trim().to_owned()
    };
    let found = field("redis_version");
    let release: Option<u32> = found.split('.').next().and_then(|major| major.parse().ok());
    match release {
        None => Err(OpenStoreError::NotRedis { store: store.into(), detail: "it does not say its release".into() }),
        Some(release) if release < RELEASE => {
            Err(OpenStoreError::TooOld { store: store.into(), found, needed: RELEASE })
        }
        Some(_) => match field("redis_mode") {
            mode if mode == "cluster" || mode == "sentinel" => Err(OpenStoreError::Mode { store: store.into(), mode }),
            _ => Ok(()),
        },
    }
}

fn check_schema(store: &str, found: &str) -> Result<(), StoreError> {
    let store = store.to_owned();
    match found.parse::<u32>() {
        Ok(found) if found > SCHEMA_VERSION => Err(StoreError::Newer { store, found, known: SCHEMA_VERSION }),
        Err(_) if !found.is_empty() => {
            let detail = format!("its key {SCHEMA_KEY} holds `{found}`, which is no version");
            Err(StoreError::Unreadable { store, detail })
        }
        _ => Ok(()),
    }
}

fn unchecked(detail: &str) -> String {
    format!(
        "whether what Redis acknowledges outlives a restart could not be checked: it does not show its settings ({detail}). Make sure of `appendonly yes`, `appendfsync always` and `maxmemory-policy noeviction`"
    )
}

/// What these settings may lose.
pub(super) fn warnings(settings: &HashMap<String, String>) -> Vec<String> {
    let is = |name: &str, value: &str| settings.get(name).is_some_and(|found| found == value);
    let mut warnings = Vec::new();
    if !is("appendonly", "yes") {
        let lost = if settings.get("save").is_none_or(String::is_empty) {
            "everything is lost when Redis restarts (`appendonly no`, `save \"\"`)"
        } else {
            "what Redis acknowledged since its last snapshot is lost when it restarts (`appendonly no`)"
        };
        warnings.push(format!("{lost}: set `appendonly yes` and `appendfsync always`"));
    } else {
        warnings.extend(sync_warning(settings.get("appendfsync").map_or("", String::as_str)));
        if is("no-appendfsync-on-rewrite", "yes") {
            warnings.push(
                "what Redis acknowledges while it rewrites its files is not on disk, and may be lost with its machine (`no-appendfsync-on-rewrite yes`): set `no-appendfsync-on-rewrite no`"
                    .into(),
            );
        }
    }
    let policy = settings.get("maxmemory-policy").map_or("noeviction", String::as_str);
    if policy.starts_with("volatile-") {
        warnings.push(format!(
            "Redis may drop the lead of a run once its memory is full, so that a standby takes over (`maxmemory-policy {policy}`): set `maxmemory-policy noeviction`"
        ));
    } else if policy != "noeviction" {
        warnings.push(format!(
            "Redis drops stored episodes once its memory is full (`maxmemory-policy {policy}`): set `maxmemory-policy noeviction`"
        ));
    }
    warnings
}

/// Redis hands a write to the operating system before it answers, but with `everysec` it waits with
/// that for up to two seconds while the last sync is still going on.
fn sync_warning(appendfsync: &str) -> Option<String> {
    match appendfsync {
        "always" => None,
        "everysec" => Some(
            "the last second of acknowledged turns, or the last two when its disk is slow, is lost when Redis's machine dies; when only its process dies, at most what it held back for a slow disk, again up to two seconds (`appendfsync everysec`): set `appendfsync always`"
                .into(),
        ),
        other => Some(format!(
            "acknowledged turns are lost when Redis's machine dies, as far back as its system had not yet written them, half a minute and more (`appendfsync {other}`): set `appendfsync always`"
        )),
    }
}
