"""Writes reference logits of tiny random models, as Hugging Face transformers computes them.

The weights come from the same little generator as those of the Rust tests (`tests/tiny`), so only logits are kept.
Usage: python logits.py > families.json (needs the packages `torch` and `transformers`).
"""

import json
import pathlib
import sys
import tempfile

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM

HIDDEN, INNER, LAYERS, HEADS, KV_HEADS, HEAD, VOCABULARY, CONTEXT = 48, 80, 3, 6, 2, 8, 300, 256
PROMPT = [3 + (7 * i * i + 11 * i) % 250 for i in range(150)]
POSITIONS = [0, 63, 64, 149]
PLAIN = {
    "hidden_size": HIDDEN,
    "intermediate_size": INNER,
    "vocab_size": VOCABULARY,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "num_key_value_heads": KV_HEADS,
    "head_dim": HEAD,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "max_position_embeddings": CONTEXT,
    "tie_word_embeddings": False,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "hidden_act": "silu",
}
SCALED = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
# Windows far shorter than the prompt, bounds that bite.
GEMMA = {
    **{key: value for key, value in PLAIN.items() if key != "hidden_act"},
    "hidden_activation": "gelu_pytorch_tanh",
    "query_pre_attn_scalar": 12,
    "sliding_window": 40,
    "tie_word_embeddings": True,
}
FAMILIES = [
    {"model_type": "llama", **PLAIN},
    {"model_type": "llama", **PLAIN, "rope_scaling": SCALED},
    {"model_type": "mistral", **PLAIN, "sliding_window": None},
    {"model_type": "qwen2", **PLAIN, "rope_theta": 1000000.0, "use_sliding_window": False},
    {"model_type": "qwen3", **PLAIN, "rope_theta": 1000000.0, "use_sliding_window": False},
    {
        "model_type": "gemma2", **GEMMA, "rope_theta": 50000.0, "attn_logit_softcapping": 5.0,
        "final_logit_softcapping": 8.0,
    },
    {
        "model_type": "gemma3_text", **GEMMA, "rope_theta": 1000000.0, "rope_local_base_freq": 500.0,
        "sliding_window_pattern": 3,
    },
    {"model_type": "llama", **PLAIN, "rope_scaling": {"rope_type": "linear", "factor": 4.0}},
    # Of the larger Gemma 3: layers with a window are not scaled.
    {
        "model_type": "gemma3_text", **GEMMA, "rope_theta": 1000000.0, "rope_local_base_freq": 500.0,
        "sliding_window_pattern": 3, "rope_scaling": {"rope_type": "linear", "factor": 8.0},
    },
]


class Noise:
    def __init__(self, seed):
        self.state = seed

    def next(self):
        self.state = (self.state * 6364136223846793005 + 1442695040888963407) % 2**64
        return np.float32(self.state >> 40) / np.float32(2**24) * np.float32(2) - np.float32(1)

    def tensor(self, shape, scale):
        count = int(np.prod(shape))
        values = np.array([self.next() * np.float32(scale) for _ in range(count)], dtype=np.float32)
        return torch.from_numpy(values.reshape(shape))


def weights(family, seed):
    noise, every = Noise(seed), {}

    def put(name, shape):
        if len(shape) == 1:
            every[name] = noise.tensor(shape, 0.2) + 1
        else:
            every[name] = noise.tensor(shape, np.float32(2.5) / np.sqrt(np.float32(shape[1])))

    put("model.embed_tokens.weight", [VOCABULARY, HIDDEN])
    put("lm_head.weight", [VOCABULARY, HIDDEN])
    put("model.norm.weight", [HIDDEN])
    for layer in range(LAYERS):
        name = f"model.layers.{layer}.{{}}.weight".format
        put(name("input_layernorm"), [HIDDEN])
        put(name("self_attn.q_proj"), [HEADS * HEAD, HIDDEN])
        put(name("self_attn.k_proj"), [KV_HEADS * HEAD, HIDDEN])
        put(name("self_attn.v_proj"), [KV_HEADS * HEAD, HIDDEN])
        put(name("self_attn.o_proj"), [HIDDEN, HEADS * HEAD])
        put(name("post_attention_layernorm"), [HIDDEN])
        put(name("mlp.gate_proj"), [INNER, HIDDEN])
        put(name("mlp.up_proj"), [INNER, HIDDEN])
        put(name("mlp.down_proj"), [HIDDEN, INNER])
    noise = Noise(seed + 1)
    for layer in range(LAYERS):
        name = f"model.layers.{layer}.self_attn.{{}}".format
        if family == "qwen2":
            for part, width in [("q", HEADS * HEAD), ("k", KV_HEADS * HEAD), ("v", KV_HEADS * HEAD)]:
                every[name(f"{part}_proj.bias")] = noise.tensor([width], 0.5)
        if family == "qwen3":
            for part in ["q", "k"]:
                every[name(f"{part}_norm.weight")] = noise.tensor([HEAD], 0.2) + 1
        if family.startswith("gemma"):
            for part in ["pre", "post"]:
                every[f"model.layers.{layer}.{part}_feedforward_layernorm.weight"] = noise.tensor([HIDDEN], 0.2) + 1
            for part in ["q", "k"] if family == "gemma3_text" else []:
                every[name(f"{part}_norm.weight")] = noise.tensor([HEAD], 0.2) + 1
            every["lm_head.weight"] = every["model.embed_tokens.weight"]
    return every


def reference(index, config):
    seed = 100 + 2 * index
    with tempfile.TemporaryDirectory() as folder:
        (pathlib.Path(folder) / "config.json").write_text(json.dumps(config))
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder), attn_implementation="eager")
    model = model.float().eval()
    model.load_state_dict(weights(config["model_type"], seed), strict=True)
    with torch.no_grad():
        logits = model(torch.tensor([PROMPT])).logits[0]
    rows = [[float(f"{x:.7g}") for x in logits[position].tolist()] for position in POSITIONS]
    return {"config": config, "seed": seed, "prompt": PROMPT, "positions": POSITIONS, "logits": rows}


def main():
    lines = [json.dumps(reference(index, config)) for index, config in enumerate(FAMILIES)]
    sys.stdout.write("[\n" + ",\n".join(lines) + "\n]\n")


if __name__ == "__main__":
    main()
