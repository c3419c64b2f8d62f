//! Which files make up a model, and one digest for all of them.

use std::fs;
use std::path::{Path, PathBuf};

use influence_proto::{Digest, PushedFile};

use super::{SourceError, record};

/// The weights of a model that has them in one file.
pub(super) const SINGLE: &str = "model.safetensors";
/// Which weights are in which file.
pub(super) const INDEX: &str = "model.safetensors.index.json";

/// What a lone file is called among its kind, whatever its name on this machine is.
const GGUF: &str = "model.gguf";
/// What is read beside the weights, where it is there.
const BESIDE: [&str; 5] =
    ["chat_template.jinja", "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"];

/// The files of the model at `path`, sorted by name. What lies beside them in a folder and is never read is none of them.
pub(super) fn listed(path: &Path, records: &Path) -> Result<Vec<(PushedFile, PathBuf)>, SourceError> {
    let mut files = Vec::new();
    for (name, path) in found(path)? {
        let bytes = path.metadata().map_err(SourceError::io(&path))?.len();
        let sha256 = record::digest(&path, records)?;
        files.push((PushedFile { name, sha256, bytes }, path));
    }
    files.sort_by(|(one, _), (other, _)| one.name.cmp(&other.name));
    Ok(files)
}

/// The sha256 of the lines that `sha256sum` prints for the files, sorted by name.
pub(super) fn digest_of<'a>(files: impl Iterator<Item = &'a PushedFile>) -> Digest {
    let mut lines: Vec<_> = files.map(|file| (&file.name, file.sha256)).collect();
    lines.sort();
    Digest::of(lines.iter().map(|(name, sha256)| format!("{sha256}  {name}\n")).collect::<String>())
}

fn found(path: &Path) -> Result<Vec<(String, PathBuf)>, SourceError> {
    if path.is_file() {
        return Ok(vec![(GGUF.to_owned(), path.to_owned())]);
    }
    let no_model = |problem: String| SourceError::NoModel { path: path.to_owned(), problem };
    let index = path.join(INDEX);
    let mut names: Vec<String> =
        BESIDE.into_iter().filter(|name| path.join(name).is_file()).map(str::to_owned).collect();
    if index.is_file() {
        names.push(INDEX.to_owned());
        names.extend(shards_of(&index).ok_or_else(|| no_model(format!("{INDEX} is no index of its files")))?);
    } else if path.join(SINGLE).is_file() {
        names.push(SINGLE.to_owned());
    } else {
        return Err(no_model(format!("it has neither {SINGLE} nor {INDEX}")));
    }
    Ok(names.into_iter().map(|name| (name.clone(), path.join(name))).collect())
}

/// The files that an index of shards names. None when it is not an index, or names a file outside its folder.
pub(super) fn shards_of(index: &Path) -> Option<Vec<String>> {
    let index: serde_json::Value = serde_json::from_slice(&fs::read(index).ok()?).ok()?;
    let mut shards = Vec::new();
    for file in index.get("weight_map")?.as_object()?.values() {
        let file = file.as_str()?;
        if file.contains(['/', '\\']) || !file.ends_with(".safetensors") {
            return None;
        }
        if !shards.iter().any(|known| known == file) {
            shards.push(file.to_owned());
        }
    }
    Some(shards)
}
