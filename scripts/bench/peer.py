"""What a user would run instead: transformers, all conversations in lockstep, one role after the other.

    peer.py rollout MODEL.gguf CALLS.json     # the calls that the engine's side has written
    peer.py tokens MODEL.gguf                 # reading a prompt, decoding rows, and the machine's matrix peak

It is given the prompts that our side saw, and generates as many tokens, so both do the same conversations. Prompts of
one turn and role are a padded batch; nothing is kept between calls. Prints one JSON object.
"""

import json
import os
import resource
import sys
import time

import torch
from transformers import AutoModelForCausalLM

from sizes import PROMPT, ROWS, START, STEPS, fastest, some_ids


def load(path):
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    model = AutoModelForCausalLM.from_pretrained(os.path.dirname(path), gguf_file=os.path.basename(path), dtype=torch.float32)
    return model.eval()


def padded(rows):
    longest = max(map(len, rows))
    ids = torch.zeros(len(rows), longest, dtype=torch.long)
    mask = torch.zeros(len(rows), longest, dtype=torch.long)
    for row, tokens in enumerate(rows):
        ids[row, longest - len(tokens):] = torch.tensor(tokens)
        mask[row, longest - len(tokens):] = 1
    return ids, mask


def call(model, batch):
    """One role of one turn, for all conversations. Returns what it took of prompt and generated tokens."""
    prompts = [row["prompt"] for row in batch["rows"]]
    count = max(len(row["sampled"]) for row in batch["rows"])
    ids, mask = padded(prompts)
    if count == 0:
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
        logits = model(input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=False, logits_to_keep=1).logits
        torch.softmax(logits[:, -1].float(), dim=-1)
    else:
        model.generate(
            input_ids=ids, attention_mask=mask, do_sample=True, temperature=batch["temperature"], top_p=1.0, top_k=0,
            max_new_tokens=count, min_new_tokens=count, pad_token_id=0,
        )
    return sum(map(len, prompts)), sum(len(row["sampled"]) for row in batch["rows"])


def rollout(model, path):
    with open(path) as file:
        work = json.load(file)
    started = time.perf_counter()
    prompt_tokens = generated_tokens = 0
    by_role = {}
    for batch in work["calls"]:
        begun = time.perf_counter()
        prompt, generated = call(model, batch)
        prompt_tokens, generated_tokens = prompt_tokens + prompt, generated_tokens + generated
        by_role[batch["role"]] = by_role.get(batch["role"], 0) + time.perf_counter() - begun
    return {
        "seconds": time.perf_counter() - started, "prompt_tokens": prompt_tokens,
        "generated_tokens": generated_tokens, "seconds_by_role": by_role,
    }


def tokens(model):
    vocabulary = model.config.vocab_size

    def read():
        ids = torch.tensor([some_ids(vocabulary, 0, PROMPT)])
        started = time.perf_counter()
        model(input_ids=ids, use_cache=True, logits_to_keep=1)
        return time.perf_counter() - started

    def decode():
        ids = torch.tensor([some_ids(vocabulary, row, START) for row in range(ROWS)])
        cache = model(input_ids=ids, use_cache=True, logits_to_keep=1).past_key_values
        started = time.perf_counter()
        for at in range(STEPS):
            ids = torch.tensor([some_ids(vocabulary, row + at, 1) for row in range(ROWS)])
            cache = model(input_ids=ids, past_key_values=cache, use_cache=True).past_key_values
        return time.perf_counter() - started

    def multiply(size=2048):
        a, b = torch.rand(size, size), torch.rand(size, size)
        started = time.perf_counter()
        torch.mm(a, b)
        return (time.perf_counter() - started) / (2 * size**3)

    return {
        "prompt_tokens_per_s": PROMPT / fastest(read), "decoded_tokens_per_s": ROWS * STEPS / fastest(decode),
        "matrix_peak_gflops": 1e-9 / fastest(multiply), "threads": torch.get_num_threads(),
    }


@torch.inference_mode()
def main():
    what, path = sys.argv[1:3]
    model = load(path)
    figures = rollout(model, sys.argv[3]) if what == "rollout" else tokens(model)
    figures["peak_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
