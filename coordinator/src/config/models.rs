use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use influence_proto::{Digest, ModelSource, ModelSpec};
use serde_json::Value;

use super::api::read_api;
use super::document::{Document, Dotted, MODELS, Problems, Section, Step, scalar_text};

/// Models by name.
pub type ModelTable = BTreeMap<String, ModelSpec>;

/// Reads a model table: `models: {NAME: {dtype, kv_dtype, sources: [{hub | wheel | path}, ...]}}`, or
/// `{NAME: {api: {...}}}` for a model that a server answers for. Relative paths of files are relative to the table's folder.
///
/// # Errors
/// Everything that is wrong with the file.
pub fn load_models(path: &Path) -> Result<ModelTable, Problems> {
    let document = Document::read(path, MODELS)?;
    let problems = RefCell::new(Problems::none());
    let mut table = ModelTable::new();
    let mut root = Section::root(&document, &problems);
    let models = root.section("models");
    for (name, value) in models.entries() {
        let model = Section::at(&document, &problems, models.path_of(name), value);
        table.insert(name.clone(), read_model(name, model));
    }
    if table.is_empty() && problems.borrow().is_empty() {
        let message = "`models` is empty; name at least one model, as in `models: {NAME: {sources: [{path: FILE}]}}`";
        problems.borrow_mut().push(document.problem(&[], message));
    }
    root.finish();
    problems.into_inner().or(table)
}

fn read_model(name: &str, mut model: Section<'_>) -> ModelSpec {
    let api = model.optional_section("api").map(|api| read_api(name, api));
    if let Some(api) = api.clone().filter(|api| !api.adapters) {
        for key in ["dtype", "kv_dtype", "sources"] {
            if model.value(key).is_some() {
                model.report(
                    key,
                    "has no meaning beside `api`, whose server loads the model, unless it says `adapters: true`",
                );
            }
        }
        model.finish();
        let sources = vec![ModelSource::Api(api)];
        return ModelSpec { name: name.to_owned(), dtype: "f32".to_owned(), kv_dtype: None, sources };
    }
    let dtypes = [("f32", "f32"), ("bf16", "bf16"), ("f16", "f16"), ("int8", "int8")];
    let dtype = model.choice("dtype", &dtypes, "f32").to_owned();
    let kv_dtypes = ["f32", "bf16", "f16"].map(|name| (name, Some(name)));
    let kv_dtype = model.choice("kv_dtype", &kv_dtypes, None).map(str::to_owned);
    let mut sources = Vec::new();
    for (index, value) in model.list("sources").unwrap_or_default().iter().enumerate() {
        let mut path = model.path_of("sources");
        path.push(Step::Index(index));
        sources.extend(read_source(&model, path, value));
    }
    let of_adapters = if api.is_some() { ": adapters are trained on them" } else { "" };
    if sources.is_empty() {
        let place = if model.has("sources") { "is empty or unusable" } else { "is missing" };
        model.report(
            "sources",
            format_args!("{place}; give at least one, as in `sources: [{{path: FILE}}]`, or an `api`{of_adapters}"),
        );
    }
    model.finish();
    sources.extend(api.map(ModelSource::Api));
    ModelSpec { name: name.to_owned(), dtype, kv_dtype, sources }
}

fn read_source(model: &Section<'_>, path: Vec<Step>, value: &Value) -> Option<ModelSource> {
    let (document, problems) = (model.document(), model.problems());
    let mut source = Section::at(document, problems, path.clone(), value);
    let given = ["hub", "wheel", "path"].into_iter().filter(|kind| source.has(kind)).collect::<Vec<_>>();
    let read = match given[..] {
        ["hub"] => read_hub(source.section("hub")),
        ["wheel"] => read_wheel(source.section("wheel")),
        ["path"] => read_path(&mut source, document.path()),
        _ => {
            let message = format!("`{}` must have one of `hub`, `wheel` and `path`", Dotted(&path));
            problems.borrow_mut().push(document.problem(&path, message));
            return None;
        }
    };
    for key in ["hub", "wheel", "path"] {
        source.value(key);
    }
    source.finish();
    read
}

fn read_hub(mut hub: Section<'_>) -> Option<ModelSource> {
    let repository = hub.required_text("repository", "OWNER/NAME");
    if !repository.is_empty() && repository.split('/').filter(|part| !part.is_empty()).count() != 2 {
        hub.report("repository", format_args!("must be OWNER/NAME, but is `{repository}`"));
    }
    let revision = hub.text("revision").unwrap_or_else(|| "main".into());
    hub.finish();
    Some(ModelSource::Hub { repository, revision })
}

fn read_wheel(mut wheel: Section<'_>) -> Option<ModelSource> {
    let package = wheel.required_text("package", "NAME");
    let version = wheel.required_text("version", "0.1.2");
    let file = wheel.required_text("file", "PACKAGE/MODEL.gguf");
    wheel.required_text("sha256", "DIGEST");
    let sha256 = read_digest(&mut wheel);
    wheel.finish();
    Some(ModelSource::Wheel { package, version, file, sha256: sha256? })
}

fn read_digest(section: &mut Section<'_>) -> Option<Digest> {
    let text = section.text("sha256")?;
    Digest::parse(&text).map_err(|error| section.report("sha256", error.problem)).ok()
}

fn read_path(source: &mut Section<'_>, table: &Path) -> Option<ModelSource> {
    let value = source.value("path")?;
    let (path, sha256) = match scalar_text(value) {
        Some(path) => (path, None),
        None => {
            let mut file = source.section("path");
            let path = file.required_text("path", "FILE");
            let sha256 = read_digest(&mut file);
            file.finish();
            (path, sha256)
        }
    };
    let folder = table.parent().unwrap_or(Path::new(""));
    let joined: PathBuf = folder.join(&path);
    let absolute = std::path::absolute(&joined).unwrap_or(joined);
    Some(ModelSource::Path { path: absolute.to_string_lossy().into_owned(), sha256 })
}
