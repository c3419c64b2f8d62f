#!/usr/bin/env python3
"""Kills `influence run` with SIGKILL at seeded random moments, gives the same command again each time, and compares the
outcome with an undisturbed run, bit for bit: episodes, turns, scores, selection and adapters.

    scripts/kill-nine.py EXPERIMENT --reference DIR [--kills 10] [--seed 1] [--longest 40] [--binary target/debug/influence]

DIR is the data folder of an undisturbed run of the same experiment. `tests/resume.rs` of the binary does the same with a
tiny model in seconds; this is for the real one.
"""
import argparse
import hashlib
import json
import pathlib
import random
import subprocess
import sys
import tempfile
import time


def episodes(binary, data, run):
    """Everything of the episodes that must not depend on interruptions: times and attempts are left out."""
    command = [binary, "episodes", run, "--data", data, "--json"]
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    found = {}
    for line in lines:
        episode = json.loads(line)
        del episode["attempt"]
        for turn in episode["turns"]:
            for call in turn["calls"]:
                del call["milliseconds"]
        identity = episode["spec"]["id"]
        assert identity not in found, f"episode {identity} is there twice"
        found[identity] = episode
    return found


def adapters(data, run):
    files = sorted(pathlib.Path(data, run, "adapters").glob("iteration-*/*"))
    return {str(f.relative_to(pathlib.Path(data, run))): hashlib.sha256(f.read_bytes()).hexdigest() for f in files}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiment")
    parser.add_argument("--reference", required=True)
    parser.add_argument("--run", default="quickstart")
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--longest", type=float, default=40, help="seconds before a kill, at most")
    parser.add_argument("--binary", default="target/debug/influence")
    options = parser.parse_args()
    draw = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as data:
        command = [options.binary, "run", options.experiment, "--data", data]
        kills = 0
        while kills < options.kills:
            process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            wait = draw.uniform(0, options.longest)
            try:
                if process.wait(wait) != 0:
                    sys.exit(f"the run failed after {kills} kills")
                print(f"the run ended after {kills} kills: shorten --longest")
                break
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                kills += 1
                print(f"kill {kills} after {wait:.1f} s", flush=True)
        started = time.monotonic()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        print(f"the last start took {time.monotonic() - started:.0f} s to the end")
        expected, actual = episodes(options.binary, options.reference, options.run), episodes(options.binary, data, options.run)
        differing = [e for e in expected.keys() | actual.keys() if expected.get(e) != actual.get(e)]
        turns = sum(len(e["turns"]) for e in expected.values())
        same = adapters(options.reference, options.run) == adapters(data, options.run)
        print(f"{kills} kills: {len(expected)} episodes, {turns} turns; {len(differing)} episodes differ; adapters {'equal' if same else 'DIFFER'}")
        sys.exit(bool(differing) or not same)


if __name__ == "__main__":
    main()
