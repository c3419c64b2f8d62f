"""Ours and its peers on the same work, in turn, in one run. `make bench` calls it.

    run.py --model MODEL.gguf [--workloads short real] [--without-llama-cpp]

The Python that runs it needs torch, transformers and gguf, and llama-cpp-python unless that is left out.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile

from floor import operations

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
SPEED = ROOT / "cli/benches/speed"
WORKLOADS = {
    "short": (SPEED / "short/experiments/short.yaml", SPEED / "short"),
    "real": (SPEED / "real.yaml", ROOT / "configs"),
}


# Ours with less memory: keys and values in 16 bits.
COMPACT = ["--kv-dtype", "f16"]


def built():
    """Our side of the bench, as `cargo bench` builds it."""
    command = [os.environ.get("CARGO", "cargo"), "bench", "--locked", "--package", "influence", "--bench", "speed", "--no-run"]
    lines = subprocess.run([*command, "--message-format=json"], check=True, stdout=subprocess.PIPE, text=True, cwd=ROOT).stdout
    made = [json.loads(line) for line in lines.splitlines() if line.startswith("{")]
    return next(m["executable"] for m in made if m.get("executable") and m["target"]["name"] == "speed")


def printed(command):
    """The JSON object that a command prints last."""
    result = subprocess.run([str(part) for part in command], stdout=subprocess.PIPE, text=True)
    if result.returncode != 0:
        sys.exit(f"{command[0]} {command[1]} failed with status {result.returncode}")
    return json.loads(result.stdout.strip().splitlines()[-1])


def python(script, *arguments):
    return printed([sys.executable, HERE / script, *arguments])


def rollout(ours, model, name, folder, peak_gflops, more):
    experiment, configs = WORKLOADS[name]
    out = folder / f"{name}.json"
    command = [ours, "rollout", experiment, "--configs", configs, "--model", model, "--out", out, *more]
    subprocess.run([str(part) for part in command], check=True)
    work = json.loads(out.read_text())
    peer = python("peer.py", "rollout", model, out)
    floor = operations(work)
    seconds = (floor["linear"] + floor["attention"] + floor["output"]) / peak_gflops / 1e9
    prompts = work["prompt_tokens_run"] + work["prompt_tokens_reused"]
    per_minute = [60 * work["episodes"] / took for took in (work["seconds"], peer["seconds"])]
    print(f"""
{name}: {work['episodes']} episodes, {work['turns']} turns, {peer['prompt_tokens']} prompt tokens, {peer['generated_tokens']} generated
                                   ours       peer      ratio
  seconds                    {work['seconds']:10.1f} {peer['seconds']:10.1f}
  episodes per minute        {per_minute[0]:10.1f} {per_minute[1]:10.1f} {per_minute[0] / per_minute[1]:10.2f}
  peak memory, MiB           {work['peak_mib']:10} {peer['peak_mib']:10} {work['peak_mib'] / peer['peak_mib']:10.2f}
  prompt tokens reused       {work['prompt_tokens_reused'] / prompts:10.0%}
  floor: {floor['tokens']} distinct tokens, {(floor['linear'] + floor['attention'] + floor['output']) / 1e12:.2f} TFLOP at {peak_gflops:.0f} GFLOP/s: {seconds:.1f} s; ours over it: {work['seconds'] / seconds:.2f}
  the peer by role: {', '.join(f'{role} {took:.1f} s' for role, took in peer['seconds_by_role'].items())}""", flush=True)


def tokens(ours, model, torch, without_llama_cpp):
    rows = {}
    for dtype in ("f32", "int8"):
        mine = printed([ours, "tokens", "--model", model, "--dtype", dtype])
        mine["decoded_tokens_per_s"], = mine["decoded_tokens_per_s"]
        rows[f"ours, {dtype}"] = mine
    rows["torch, f32"] = torch
    if not without_llama_cpp:
        rows["llama.cpp, as the file is"] = python("llama_cpp_tokens.py", model)
    print("\ntokens per second                prompt of 512   32 rows decoded   peak memory, MiB")
    for name, row in rows.items():
        print(f"  {name:28} {row['prompt_tokens_per_s']:14.0f} {row['decoded_tokens_per_s']:17.0f} {row['peak_mib']:18}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, type=pathlib.Path)
    parser.add_argument("--workloads", nargs="*", default=list(WORKLOADS), choices=list(WORKLOADS))
    parser.add_argument("--without-llama-cpp", action="store_true")
    parser.add_argument("--compact", action="store_true", help="ours keeps keys and values in 16 bits")
    parser.add_argument("--dtype", default="f32", choices=["f32", "int8"], help="what ours rolls out in")
    args = parser.parse_args()
    more = ["--dtype", args.dtype, *(COMPACT if args.compact else [])]
    ours = built()
    torch = python("peer.py", "tokens", args.model)
    print(f"matrix peak of this machine, torch, {torch['threads']} threads: {torch['matrix_peak_gflops']:.0f} GFLOP/s", flush=True)
    tokens(ours, args.model, torch, args.without_llama_cpp)
    with tempfile.TemporaryDirectory() as folder:
        for name in args.workloads:
            rollout(ours, args.model, name, pathlib.Path(folder), torch["matrix_peak_gflops"], more)


if __name__ == "__main__":
    main()
