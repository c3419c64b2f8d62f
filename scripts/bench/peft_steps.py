"""The steps of `train.py`'s other side: PEFT on transformers, all rows in one batch. Prints one JSON object.

    peft_steps.py MODEL.gguf ROWS LENGTH STEPS [checkpointing]
"""

import json
import resource
import sys
import time

import torch
from peft import LoraConfig, get_peft_model

from peer import load
from sizes import some_ids


def main():
    path, rows, length, steps = sys.argv[1], *map(int, sys.argv[2:5])
    model = load(path)
    targets = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    config = LoraConfig(r=16, lora_alpha=32, lora_dropout=0.0, use_rslora=True, target_modules=targets)
    if sys.argv[5:] == ["checkpointing"]:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        model.enable_input_require_grads()
    model = get_peft_model(model, config).train()
    ids = torch.tensor([some_ids(model.config.vocab_size, row, length) for row in range(rows)])
    optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-5, weight_decay=0.0)
    fastest, losses = float("inf"), []
    for _ in range(steps):
        started = time.perf_counter()
        loss = model(input_ids=ids, labels=ids, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad()
        fastest = min(fastest, time.perf_counter() - started)
        losses.append(loss.item())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    print(json.dumps({"tokens_per_s": rows * length / fastest, "peak_mib": peak, "losses": losses}))


main()
