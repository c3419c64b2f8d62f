//! An adapter's settings, and PEFT's form of them.

use super::{AdapterError, Projection};
use serde::{Deserialize, Serialize};
use std::path::Path;

/// Settings of a LoRA adapter (arXiv 2106.09685).
#[derive(Debug, Clone, PartialEq)]
pub struct LoraConfig {
    /// Rank of the update: the rows of A and the columns of B.
    pub rank: usize,
    /// Strength of the update, see [`Self::scale`].
    pub alpha: f64,
    /// Share of the adapter's inputs that training sets to zero, 0 to below 1.
    pub dropout: f64,
    /// Divide alpha by the square root of the rank (arXiv 2312.03732) and not by the rank.
    pub rank_stabilized: bool,
    /// The projections that get an update, in every layer.
    pub targets: Vec<Projection>,
}

impl Default for LoraConfig {
    fn default() -> Self {
        Self { rank: 16, alpha: 32.0, dropout: 0.0, rank_stabilized: true, targets: Projection::ALL.to_vec() }
    }
}

impl LoraConfig {
    /// The factor of `B A x`: `alpha / sqrt(rank)` if rank-stabilised, else `alpha / rank`.
    #[must_use]
    pub fn scale(&self) -> f64 {
        let rank = self.rank as f64;
        self.alpha / if self.rank_stabilized { rank.sqrt() } else { rank }
    }

    /// Checks the bounds of every setting.
    ///
    /// # Errors
    /// [`AdapterError::Setting`] with the first setting out of its bounds.
    pub fn check(&self) -> Result<(), AdapterError> {
        let refuse = |setting, value: String, expected| Err(AdapterError::Setting { setting, value, expected });
        if self.rank == 0 || self.rank > 4096 {
            return refuse("rank", self.rank.to_string(), "give 1 to 4096");
        }
        if !self.alpha.is_finite() || self.alpha <= 0.0 {
            return refuse("alpha", self.alpha.to_string(), "give a positive number");
        }
        if !(0.0..1.0).contains(&self.dropout) {
            let value = self.dropout.to_string();
            return refuse("dropout", value, "give a share from 0 to below 1");
        }
        if self.targets.is_empty() {
            return refuse("targets", "[]".to_owned(), "give at least one projection");
        }
        let mut sorted = self.targets.clone();
        sorted.sort_unstable();
        if sorted.windows(2).any(|pair| pair[0] == pair[1]) {
            let value = format!("{:?}", self.targets);
            return refuse("targets", value, "name each projection once");
        }
        Ok(())
    }

    pub(super) fn target_names(&self) -> Vec<String> {
        self.targets.iter().map(|target| target.name().to_owned()).collect()
    }
}

/// What PEFT keeps in `adapter_config.json`: the keys that we set or that change what an adapter computes.
/// Other keys are PEFT's bookkeeping and are ignored.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct PeftConfig {
    peft_type: String,
    task_type: Option<String>,
    base_model_name_or_path: Option<String>,
    r: usize,
    lora_alpha: f64,
    #[serde(default)]
    lora_dropout: f64,
    #[serde(default)]
    use_rslora: bool,
    target_modules: Targets,
    #[serde(default = "no_bias")]
    bias: String,
    #[serde(default)]
    fan_in_fan_out: bool,
    #[serde(default)]
    use_dora: bool,
    #[serde(default)]
    inference_mode: bool,
    #[serde(default)]
    modules_to_save: Option<Vec<String>>,
    #[serde(default)]
    layers_to_transform: Option<serde_json::Value>,
    #[serde(default)]
    rank_pattern: serde_json::Map<String, serde_json::Value>,
    #[serde(default)]
    alpha_pattern: serde_json::Map<String, serde_json::Value>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(untagged)]
enum Targets {
    Names(Vec<String>),
    Pattern(String),
}

fn no_bias() -> String {
    "none".to_owned()
}

impl PeftConfig {
    pub(super) fn of(config: &LoraConfig, base_model: Option<&str>) -> Self {
        Self {
            peft_type: "LORA".to_owned(),
            task_type: Some("CAUSAL_LM".to_owned()),
            base_model_name_or_path: base_model.map(str::to_owned),
            r: config.rank,
            lora_alpha: config.alpha,
            lora_dropout: config.dropout,
            use_rslora: config.rank_stabilized,
            target_modules: Targets::Names(config.target_names()),
            bias: no_bias(),
            fan_in_fan_out: false,
            use_dora: false,
            inference_mode: true,
            modules_to_save: None,
            layers_to_transform: None,
            rank_pattern: serde_json::Map::new(),
            alpha_pattern: serde_json::Map::new(),
        }
    }

    /// Our settings, or the first key whose value we cannot honour.
    pub(super) fn into_config(self, path: &Path) -> Result<LoraConfig, AdapterError> {
        let unsupported = |key, value: String, supported| {
            Err(AdapterError::Unsupported { path: path.to_owned(), key, value, supported })
        };
        if self.peft_type != "LORA" {
            return unsupported("peft_type", self.peft_type, "LORA");
        }
        if self.bias != "none" {
            return unsupported("bias", self.bias, "none");
        }
        if self.fan_in_fan_out {
            return unsupported("fan_in_fan_out", "true".to_owned(), "false");
        }
        if self.use_dora {
            return unsupported("use_dora", "true".to_owned(), "false");
        }
        if let Some(modules) = self.modules_to_save.filter(|modules| !modules.is_empty()) {
            return unsupported("modules_to_save", format!("{modules:?}"), "none");
        }
        if let Some(layers) = self.layers_to_transform {
            let supported = "null (every layer)";
            return unsupported("layers_to_transform", layers.to_string(), supported);
        }
        for (key, pattern) in [("rank_pattern", self.rank_pattern), ("alpha_pattern", self.alpha_pattern)] {
            if !pattern.is_empty() {
                let value = serde_json::Value::Object(pattern).to_string();
                return unsupported(key, value, "{} (one rank and alpha for all)");
            }
        }
        let config = LoraConfig {
            rank: self.r,
            alpha: self.lora_alpha,
            dropout: self.lora_dropout,
            rank_stabilized: self.use_rslora,
            targets: self.target_modules.parse(path)?,
        };
        config.check()?;
        Ok(config)
    }
}

impl Targets {
    fn parse(self, path: &Path) -> Result<Vec<Projection>, AdapterError> {
        let unsupported = |value: String| AdapterError::Unsupported {
            path: path.to_owned(),
            key: "target_modules",
            value,
            supported: "a list of q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj, or \"all-linear\"",
        };
        match self {
            Self::Pattern(pattern) if pattern == "all-linear" => Ok(Projection::ALL.to_vec()),
            Self::Pattern(pattern) => Err(unsupported(format!("{pattern:?}"))),
            Self::Names(names) => {
                let mut targets = names
                    .into_iter()
                    .map(|name| Projection::from_name(&name).ok_or_else(|| unsupported(name)))
                    .collect::<Result<Vec<_>, _>>()?;
                // PEFT writes a set, in any order.
                targets.sort_unstable();
                Ok(targets)
            }
        }
    }
}
