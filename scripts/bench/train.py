"""Measures a training step beside PEFT's, one after the other: `make bench-train`.

    train.py --model MODEL.gguf [--rows 8] [--length 512] [--steps 2]

The same rows, every position a target, adapters of rank 16 on all linear layers, f32, the fastest of the steps, each with
the layers run again in the backward pass (activation checkpointing) and with what they compute kept. PEFT gets all rows
as one batch.
"""

import argparse
import pathlib

from run import built, printed, python


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, type=pathlib.Path)
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--modes", nargs="*", default=["checkpointing", "plain"], choices=["checkpointing", "plain"])
    args = parser.parse_args()
    sizes = [args.rows, args.length, args.steps]
    ours = [built(), "train", "--model", args.model, "--rows", args.rows, "--length", args.length, "--steps", args.steps]
    found = {}
    for mode in args.modes:
        again = mode == "checkpointing"
        found[f"ours, {mode}"] = printed([*ours, *(["--graph-mib", 0] if again else [])])
        found[f"PEFT, {mode}"] = python("peft_steps.py", args.model, *sizes, *(["checkpointing"] if again else []))
    print(f"{args.rows} rows of {args.length} tokens      tokens/s   peak memory, MiB   losses")
    for name, row in found.items():
        losses = ", ".join(f"{loss:.5f}" for loss in row["losses"])
        print(f"  {name:22} {row['tokens_per_s']:12.0f} {row['peak_mib']:18}   {losses}")


main()
