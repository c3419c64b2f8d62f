"""Writes what PEFT and TRL make of a tiny model's adapter: losses, gradients, and the adapter after five steps.

The model is the Llama of `logits.py` with seed 7, the adapter and the rows come from small formulas that the Rust tests
have too (`src/train/tests/reference.rs`). The folder that PEFT saves after SFT is kept as it is, with the model's logits.
Usage: python training.py training.safetensors peft, with torch 2.15.0, transformers 5.24.0, peft 0.21.2 and trl 1.16.0.
"""

import json
import pathlib
import sys
import tempfile

import torch
from datasets import Dataset
from logits import HEAD, HEADS, HIDDEN, INNER, KV_HEADS, LAYERS, PLAIN, VOCABULARY, Noise, weights
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file
from tokenizers import Tokenizer, models
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, TrainerCallback
from trl import DPOConfig, DPOTrainer, KTOConfig, KTOTrainer, SFTConfig, SFTTrainer

RANK, ALPHA, STEPS, ROWS, BETA, UNDESIRABLE = 2, 8, 5, 4, 0.3, 0.7
PROJECTIONS = {
    "q_proj": (HIDDEN, HEADS * HEAD),
    "k_proj": (HIDDEN, KV_HEADS * HEAD),
    "v_proj": (HIDDEN, KV_HEADS * HEAD),
    "o_proj": (HEADS * HEAD, HIDDEN),
    "gate_proj": (HIDDEN, INNER),
    "up_proj": (HIDDEN, INNER),
    "down_proj": (INNER, HIDDEN),
}


def tokens(count, seed):
    return [3 + (7 * k * k + 11 * k + 13 * seed) % 250 for k in range(count)]


def model():
    llama = LlamaForCausalLM._from_config(LlamaConfig(**PLAIN), attn_implementation="eager").float()
    llama.load_state_dict(weights("llama", 7), strict=True)
    config = LoraConfig(r=RANK, lora_alpha=ALPHA, lora_dropout=0.0, use_rslora=True, target_modules=list(PROJECTIONS),
                        task_type="CAUSAL_LM")
    peft = get_peft_model(llama, config)
    noise = Noise(3)
    for layer in range(LAYERS):
        for name, (inputs, outputs) in PROJECTIONS.items():
            for part, shape, scale in [("A", [RANK, inputs], 0.3), ("B", [outputs, RANK], 0.1)]:
                parameter(peft, layer, name, part).data = noise.tensor(shape, scale)
    return peft


def parameter(peft, layer, name, part):
    block = peft.base_model.model.model.layers[layer]
    owner = block.self_attn if name in ("q_proj", "k_proj", "v_proj", "o_proj") else block.mlp
    return getattr(getattr(owner, name), f"lora_{part}")["default"].weight


def tensors(peft, case, what, of):
    return {
        f"{case}.{what}.{layer}.{name}.lora_{part}": of(parameter(peft, layer, name, part)).detach().clone().contiguous()
        for layer in range(LAYERS)
        for name in PROJECTIONS
        for part in "AB"
    }


def recorded(trainer):
    """The trainer, but it takes its rows as they are and keeps every step's loss and measures."""

    class Recorded(trainer):
        def _prepare_dataset(self, dataset, *args, **kwargs):
            return dataset

        def compute_loss(self, *args, **kwargs):
            loss = super().compute_loss(*args, **kwargs)
            value = loss[0] if isinstance(loss, tuple) else loss
            seen = {key: values[-1] for key, values in self._metrics["train"].items() if values}
            self.seen.append({"loss": value.item(), **seen})
            return loss

    return Recorded


class Gradients(TrainerCallback):
    def __init__(self, case, peft):
        self.case, self.peft, self.first = case, peft, None

    def on_pre_optimizer_step(self, *args, **kwargs):
        if self.first is None:
            self.first = tensors(self.peft, self.case, "gradient", lambda p: p.grad)


def run(case, trainer, config, rows, **settings):
    tokenizer = Tokenizer(models.WordLevel({f"t{i}": i for i in range(VOCABULARY)}, unk_token="t0"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="t0", eos_token="t2", unk_token="t0")
    peft = model()
    gradients = Gradients(case, peft)
    with tempfile.TemporaryDirectory() as folder:
        args = config(
            output_dir=folder, max_steps=STEPS, per_device_train_batch_size=ROWS, learning_rate=5e-3,
            lr_scheduler_type="constant", weight_decay=0.0, max_grad_norm=1e9, optim="adamw_torch", use_cpu=True,
            bf16=False, gradient_checkpointing=False, train_sampling_strategy="sequential", logging_steps=100,
            report_to="none", save_strategy="no", max_length=None, disable_tqdm=True, **settings,
        )
        trainer = recorded(trainer)(
            model=peft, args=args, train_dataset=Dataset.from_list(rows), processing_class=tokenizer, callbacks=[gradients]
        )
        trainer.seen = []
        trainer.train()
    if case == "sft":
        save(peft)
    return trainer.seen, {**gradients.first, **tensors(peft, case, "after", lambda p: p.data)}


def save(peft):
    folder = pathlib.Path(sys.argv[2])
    peft.save_pretrained(folder)
    (folder / "README.md").unlink(missing_ok=True)
    with torch.no_grad():
        logits = peft.eval()(input_ids=torch.tensor([tokens(20, 5)])).logits[0]
    (folder / "logits.json").write_text(json.dumps([[float(f"{x:.7g}") for x in row] for row in logits[::6].tolist()]) + "\n")


def kto_rows(labels, apart=1):
    """Without a distance between the replies, those of mismatched pairs become more probable too, and KL rises."""
    completions = [tokens(4 + i, 10 + apart * i) for i in range(ROWS)]
    return [
        {"prompt_ids": tokens(6 + 2 * i, i), "completion_ids": completions[i], "KL_completion_ids": completions[i - 1],
         "label": labels[i]}
        for i in range(ROWS)
    ]


def main():
    sft = [
        {"input_ids": row["prompt_ids"] + row["completion_ids"],
         "labels": [-100] * len(row["prompt_ids"]) + row["completion_ids"]}
        for row in kto_rows([True] * ROWS)
    ]
    dpo = [
        {"prompt_ids": tokens(6 + 2 * i, i), "chosen_ids": tokens(4 + i, 10 + i), "rejected_ids": tokens(3 + i, 20 + i)}
        for i in range(ROWS)
    ]
    kto = {"beta": BETA, "desirable_weight": 1.0, "undesirable_weight": UNDESIRABLE}
    runs = {
        "sft": (SFTTrainer, SFTConfig, sft, {}),
        "kto": (KTOTrainer, KTOConfig, kto_rows([True, False, True, False]), kto),
        "kto-desirable": (KTOTrainer, KTOConfig, kto_rows([True] * ROWS, apart=0), kto),
        "dpo": (DPOTrainer, DPOConfig, dpo, {"beta": BETA}),
    }
    steps, every = {}, {}
    for case, (trainer, config, rows, settings) in runs.items():
        steps[case], found = run(case, trainer, config, rows, **settings)
        every.update(found)
    save_file(every, sys.argv[1], metadata={"steps": json.dumps(steps)})


main()
