//! The plan of an iteration's phase: written in pieces, and marked as a whole by the last call.
//!
//! The pieces' keys carry the plan's digest, so those of a plan that was never marked, because its
//! process died, are gone on from by the same plan and in nobody's way otherwise.

use std::collections::HashSet;

use influence_proto::{EpisodeSpec, RunId};
use sha2::{Digest as _, Sha256};

use super::call::{Call, CallError, Fields, Led, conflict, iteration_name, prefix, read, to_json, unexpected};
use super::link::Link;
use super::scripts;
use crate::planning::Phase;
use crate::store::StoreError;

/// Episodes in one call at most.
pub(super) const PIECE: usize = 500;
/// Bytes of specs in one call, about: the server does nothing else meanwhile.
const PIECE_BYTES: usize = 1 << 20;
/// How often a plan or a selection is begun anew when the server lost a piece of it by a restart.
pub(super) const TRIES: u32 = 3;

/// How an iteration's phase stands.
pub(super) struct Standing {
    /// The plan's digest.
    pub(super) plan: String,
    /// How many episodes it has.
    pub(super) episodes: usize,
    /// The selection's digest, once it is judged.
    pub(super) selection: Option<String>,
}

fn standing(mut fields: Fields) -> Result<Option<Standing>, CallError> {
    let Some(plan) = fields.optional()? else { return Ok(None) };
    Ok(Some(Standing { plan, episodes: fields.number()?, selection: fields.optional()? }))
}

/// How an iteration's phase stands; none if it is not planned.
pub(super) async fn look(link: &Link, run: &RunId, name: &str) -> Result<Option<Standing>, CallError> {
    standing(read(link, Call::new(&scripts::ITERATION, &[&prefix(run)]).arg(name)).await?)
}

/// As [`look`], for the run's leader only.
pub(super) async fn look_led(led: &Led<'_>, name: &str) -> Result<Option<Standing>, CallError> {
    match led.send(&led.call(&scripts::LED_ITERATION).arg(name)).await? {
        (word, fields) if word == "ok" => standing(fields),
        (word, _) => Err(unexpected(&word)),
    }
}

/// The first half of a digest over texts, in hex: it names what is stored, and guards against
/// mistakes, not against people.
pub(super) fn digest_of(texts: impl Iterator<Item = Result<String, CallError>>) -> Result<String, CallError> {
    let mut hash = Sha256::new();
    for text in texts {
        let text = text?;
        hash.update((text.len() as u64).to_le_bytes());
        hash.update(text.as_bytes());
    }
    Ok(hash.finalize()[..16].iter().map(|byte| format!("{byte:02x}")).collect())
}

/// What a piece of a plan came to.
enum Piece {
    Written,
    /// The plan is there already.
    Planned(Standing),
    /// The server lost what was written before.
    Lost,
}

pub(super) async fn plan(led: &Led<'_>, phase: Phase, iteration: u32, specs: &[EpisodeSpec]) -> Result<(), CallError> {
    let name = iteration_name(phase, iteration);
    let what = || format!("the plan of iteration {iteration} ({phase}) of run `{}`", led.run);
    let digest = digest_of(specs.iter().map(to_json))?;
    let same = |standing: &Standing| {
        let other = || conflict(what(), format!("{} other episodes are planned", standing.episodes));
        if standing.plan == digest { Ok(()) } else { Err(other()) }
    };
    if let Some(standing) = look_led(led, &name).await? {
        return same(&standing);
    }
    let mut ids = HashSet::new();
    if let Some(twice) = specs.iter().find(|spec| !ids.insert(&spec.id)) {
        return Err(conflict(what(), format!("episode `{}` is in it twice", twice.id)));
    }
    for _ in 0..TRIES {
        match pieces(led, &name, &digest, specs, &what).await? {
            Piece::Written => return Ok(()),
            Piece::Planned(standing) => return same(&standing),
            Piece::Lost => {}
        }
    }
    Err(lost(led))
}

/// The server keeps forgetting what it acknowledged: it restarts, and its settings let it.
pub(super) fn lost(led: &Led<'_>) -> CallError {
    let detail = "it restarted and lost what it had acknowledged; its setting `appendfsync` should be `always`";
    StoreError::Away { store: led.link.name().to_owned(), detail: detail.into() }.into()
}

async fn pieces(
    led: &Led<'_>,
    name: &str,
    digest: &str,
    specs: &[EpisodeSpec],
    what: impl Fn() -> String,
) -> Result<Piece, CallError> {
    let begin = |at: usize| led.call(&scripts::PLAN).arg(name).arg(digest).arg(at);
    let (mut call, mut count, mut bytes) = (begin(0), 0, 0);
    for (position, spec) in specs.iter().enumerate() {
        let place = to_json(&(&spec.environment_class, &spec.environment, &spec.initial_state))?;
        let body = to_json(spec)?;
        (count, bytes) = (count + 1, bytes + body.len());
        call = call.arg(spec.id.as_str()).arg(place).arg(body);
        if count == PIECE || bytes >= PIECE_BYTES || position + 1 == specs.len() {
            match sent(led, call, &what).await? {
                Piece::Written => (call, count, bytes) = (begin(position + 1), 0, 0),
                other => return Ok(other),
            }
        }
    }
    let end = led.call(&scripts::PLAN_END).arg(name).arg(digest).arg(specs.len());
    sent(led, end, &what).await
}

async fn sent(led: &Led<'_>, call: Call, what: impl Fn() -> String) -> Result<Piece, CallError> {
    let (word, mut fields) = led.send(&call).await?;
    match word.as_str() {
        "ok" => Ok(Piece::Written),
        "gap" => Ok(Piece::Lost),
        "planned" => Ok(Piece::Planned(Standing { plan: fields.text()?, episodes: fields.number()?, selection: None })),
        "taken" => Err(conflict(what(), format!("episode `{}` is in another plan", fields.text()?))),
        other => Err(unexpected(other)),
    }
}
