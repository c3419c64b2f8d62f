"""Runs a whole experiment with every role behind llama-cpp-python's OpenAI-compatible server.

    python scripts/clients/llama_cpp_server.py --influence target/debug/influence --model SmolLM2.gguf

Needs `llama-cpp-python[server]`, and builds it anew where pip had kept one that was built for another processor.
Prints one line per check, and fails with the first that does not hold.
"""

import argparse
import importlib.metadata
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
SCORES = {"first_token": "scores: first_token", "samples": "scores: samples, samples: 4"}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def suit_processor(model: str) -> None:
    """A build takes what the processor has that it is made on; on one that has less, it dies at its first long prompt."""
    prompt = f"from llama_cpp import Llama; Llama({model!r}, verbose=False)('word ' * 256, max_tokens=1)"
    probe = subprocess.run([sys.executable, "-c", prompt], stdout=subprocess.DEVNULL)
    if probe.returncode != -signal.SIGILL:
        return
    name = f"llama-cpp-python=={importlib.metadata.version('llama-cpp-python')}"
    print(f"{name} was built for another processor: it is built anew, which takes minutes", flush=True)
    pip = [sys.executable, "-m", "pip"]
    subprocess.run([*pip, "cache", "remove", "llama_cpp_python"], stdout=subprocess.DEVNULL)
    options = ["NATIVE=OFF", "AVX2=ON", "FMA=ON", "F16C=ON", "BMI2=ON"]
    flags = " ".join(f"-DGGML_{option}" for option in options)
    install = [*pip, "install", "--quiet", "--no-deps", "--force-reinstall", name]
    subprocess.run(install, env=dict(os.environ, CMAKE_ARGS=flags), check=True)


def serve(model: str, port: int) -> subprocess.Popen:
    command = [sys.executable, "-m", "llama_cpp.server", "--model", model, "--model_alias", "smollm2"]
    command += ["--n_ctx", "2048", "--logits_all", "true", "--port", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and server.poll() is None:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/v1/models", timeout=2).read()
            return server
        except OSError:
            time.sleep(0.2)
    server.kill()
    sys.exit("llama_cpp.server does not come up: pip install 'llama-cpp-python[server]'")


def influence(server: subprocess.Popen, binary: str, folder: pathlib.Path, *arguments: str) -> str:
    environment = dict(os.environ, INFLUENCE_DATA=str(folder / "runs"), INFLUENCE_LOG="warn")
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    asking = subprocess.Popen([binary, *arguments], cwd=folder, env=environment, **pipes)
    while True:
        try:
            told, complaints = asking.communicate(timeout=1)
            break
        except subprocess.TimeoutExpired:
            # A run waits for a server that is away, for longer than anybody here wants to.
            if server.poll() is not None:
                asking.kill()
                sys.exit(f"llama_cpp.server ended with {server.returncode} during influence {' '.join(arguments)}")
    if asking.returncode != 0:
        sys.exit(f"influence {' '.join(arguments)} failed:\n{complaints}")
    return told


def check(name: str, holds: bool, shown: object) -> None:
    print(f"{'ok ' if holds else 'BAD'} {name}: {shown}", flush=True)
    if not holds:
        sys.exit(1)


def run(server: subprocess.Popen, binary: str, folder: pathlib.Path, scores: str) -> None:
    name = f"api-{scores.replace('_', '-')}"
    settings = ["model=judge-" + scores, "iterations=0", "evaluation.at=[first]", "roles.influence.enabled=true"]
    flags = [flag for setting in settings for flag in ("--set", setting)]
    experiment = str(REPOSITORY / "configs/experiments/quickstart.yaml")
    place = ["--configs", str(folder / "configs"), "--name", name, "--dashboard", "off"]
    influence(server, binary, folder, "run", experiment, *place, *flags)
    told = influence(server, binary, folder, "episodes", name, "--json")
    episodes = [json.loads(line) for line in told.splitlines()]
    turns = [turn for episode in episodes for turn in episode["turns"]]
    check(f"{scores}: every episode has turns", bool(episodes) and all(e["turns"] for e in episodes), len(episodes))
    check(f"{scores}: replies", all(turn["reply"]["text"] for turn in turns), repr(turns[0]["reply"]["text"][:60]))
    check(f"{scores}: tokens are counted", all(c["prompt_tokens"] > 0 for t in turns for c in t["calls"]), len(turns))
    ratings = [turn["preference"] for turn in turns]
    method = {"first_token": "first_token", "samples": {"samples": 4}}[scores]
    check(f"{scores}: the method is said", all(r.get("method") == method for r in ratings), method)
    scored = [r for r in ratings if not r.get("unscored")]
    sums = [sum(p for _, p in r["answers"]) for r in scored]
    check(f"{scores}: ratings are distributions", all(abs(s - 1) < 1e-9 for s in sums), f"scored {len(scored)} of {len(ratings)}")
    masses = [round(r["mass"], 3) for r in ratings]
    check(f"{scores}: masses are probabilities", all(0 <= m <= 1 for m in masses), masses)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--influence", required=True)
    arguments.add_argument("--model", required=True)
    chosen = arguments.parse_args()
    suit_processor(chosen.model)
    port = free_port()
    server = serve(chosen.model, port)
    try:
        with tempfile.TemporaryDirectory() as name:
            folder = pathlib.Path(name)
            (folder / "configs").mkdir()
            (folder / "configs/environments").symlink_to(REPOSITORY / "configs/environments")
            url = f"url: 'http://127.0.0.1:{port}/v1', model: smollm2, concurrency: 2"
            models = [f"  judge-{name}: {{api: {{{url}, {how}}}}}\n" for name, how in SCORES.items()]
            (folder / "configs/models.yaml").write_text("models:\n" + "".join(models))
            for scores in SCORES:
                run(server, str(pathlib.Path(chosen.influence).resolve()), folder, scores)
    finally:
        server.kill()


main()
