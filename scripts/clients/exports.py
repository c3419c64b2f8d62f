"""Readers that others wrote, over the files of `influence export`: Inspect, Arrow, pandas, DuckDB, TensorBoard, datasets.

    exports.py --influence target/debug/influence --model MODEL.gguf

It makes three small runs. `make test-clients` calls it; the Python that runs it needs what `requirements.txt` lists.
Where TRL is installed, its own check of columns is asked too.
"""

import argparse
import csv
import json
import os
import pathlib
import subprocess
import tempfile

# What is read lies here; nothing is looked up elsewhere.
os.environ["HF_HUB_OFFLINE"] = "1"

import datasets
import duckdb
import inspect_ai
import pandas
import pyarrow.parquet
import tensorboard
from inspect_ai.log import read_eval_log, read_eval_log_sample, read_eval_log_sample_summaries
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
SMALL = [
    "iterations=1",
    "environments.initial_states=1",
    "environments.held_out=1/8",
    "roles.agent.max_tokens=16",
    "roles.environment.max_tokens=12",
    "roles.influence.enabled=true",
    "selection.worst=1/2",
    "evaluation.at=[first]",
]


class Runs:
    """The command, on one data folder."""

    def __init__(self, binary, data, model):
        self.binary, self.data, self.model = binary, data, model

    def ask(self, *arguments):
        environment = dict(os.environ, INFLUENCE_DATA=str(self.data), INFLUENCE_LOG="warn")
        done = subprocess.run([self.binary, *arguments], env=environment, capture_output=True, text=True)
        if done.returncode != 0:
            raise SystemExit(f"influence {' '.join(arguments)} failed:\n{done.stderr}")
        return done.stdout

    def make(self, name, *settings):
        flags = [flag for setting in [*SMALL, *settings] for flag in ("--set", setting)]
        experiment = str(REPOSITORY / "configs/experiments/quickstart.yaml")
        place = ["--model", f"smollm2-135m={self.model}", "--dashboard", "off"]
        self.ask("run", experiment, "--name", name, *place, *flags)
        return name

    def export(self, run, out):
        formats = "jsonl,parquet,trl,openai,adapters,inspect,tensorboard,csv"
        return json.loads(self.ask("export", run, "--format", formats, "--out", str(out), "--json"))["files"]


def tables(runs, run, out):
    """Both tables in both formats, as every reader sees them, against the conversations that the command prints."""
    told = [json.loads(line) for line in runs.ask("episodes", run, "--json").splitlines()]
    for name in ["episodes", "turns"]:
        lines = [json.loads(line) for line in (out / f"{name}.jsonl").read_text().splitlines()]
        table = pyarrow.parquet.read_table(out / f"{name}.parquet")
        assert table.to_pylist() == lines, f"{name}: Parquet and JSON lines differ"
        assert pandas.read_parquet(out / f"{name}.parquet").shape == (len(lines), len(lines[0]))
        found = duckdb.sql(f"select * from '{out}/{name}.parquet'")
        assert [dict(zip(found.columns, row)) for row in found.fetchall()] == lines, f"{name}: DuckDB differs"
    turns = pyarrow.parquet.read_table(out / "turns.parquet").to_pylist()
    replies = [turn["reply"]["text"] for episode in told for turn in episode["turns"]]
    assert [turn["reply"] for turn in turns] == replies, "a reply was changed"
    episodes = pyarrow.parquet.read_table(out / "episodes.parquet").to_pylist()
    assert [(e["episode"], e["reward"], e["seed"]) for e in episodes] == [
        (e["spec"]["id"], e["reward"], str(e["spec"]["seed"])) for e in told
    ]
    mean = duckdb.sql(f"select avg(reward) from '{out}/episodes.parquet' where phase = 'train' and iteration = 0")
    figures = json.loads(runs.ask("runs", run, "--json"))["iterations"]
    shown = next(row for row in figures if row["phase"] == "train")["reward"]["mean"]
    assert abs(mean.fetchall()[0][0] - shown) < 1e-9
    rated = duckdb.sql(
        f"select count(*) from '{out}/turns.parquet' where preference is not null and abs(preference - list_sum("
        "list_transform(list_zip(preference_answers, preference_probabilities), lambda p: p[1]::double * p[2]))) > 1e-9"
    )
    assert rated.fetchall()[0][0] == 0, "an expected rating is not that of its distribution"
    return f"{len(episodes)} episodes, {len(turns)} turns, mean reward {shown:.3f}"


def inspect(runs, run, out):
    told = {e["spec"]["id"]: e for e in (json.loads(line) for line in runs.ask("episodes", run, "--json").splitlines())}
    figures = json.loads(runs.ask("runs", run, "--json"))["iterations"]
    seen = 0
    logs = sorted((out / "inspect").glob("*.eval"))
    assert len(logs) == len(figures)
    for path in logs:
        log = read_eval_log(str(path))
        phase, iteration = log.eval.task_args["phase"], log.eval.task_args["iteration"]
        row = next(row for row in figures if (row["phase"], row["iteration"]) == (phase, iteration))
        assert log.status == "success" and log.eval.model == "smollm2-135m"
        assert len(log.samples) == row["episodes"] == log.results.total_samples
        used = log.stats.model_usage["smollm2-135m"]
        assert (used.input_tokens, used.output_tokens) == (row["prompt_tokens"], row["generated_tokens"])
        metrics = {score.name: score.metrics for score in log.results.scores}
        assert metrics["reward"]["mean"].value == row["reward"]["mean"]
        for sample in log.samples:
            episode = told[sample.uuid]
            scores = {name: episode[name] for name in ["reward", "influence"] if episode[name] is not None}
            assert {name: score.value for name, score in sample.scores.items()} == scores
            replies = [message.text for message in sample.messages if message.source == "generate" and message.role == "assistant"]
            assert replies == [turn["reply"]["text"] for turn in episode["turns"]]
            opening = [(m["role"], m["content"]) for m in episode["spec"]["opening"]]
            assert [(m.metadata["speaker"], m.text) for m in sample.input[1:]] == opening
            assert sample.messages[0].role == "system" and sample.output.completion == replies[-1]
            alone = read_eval_log_sample(str(path), sample.id, sample.epoch)
            assert alone.messages == sample.messages
        summaries = read_eval_log_sample_summaries(str(path))
        assert {s.uuid for s in summaries} == {s.uuid for s in log.samples} and all(s.completed for s in summaries)
        seen += len(log.samples)
    assert seen == len(told)
    return f"{len(logs)} logs, {seen} samples"


def events(out):
    rows = list(csv.DictReader((out / "curves.csv").open()))
    points = 0
    for phase in {row["phase"] for row in rows}:
        read = EventAccumulator(str(out / "tensorboard" / phase))
        read.Reload()
        for tag in read.Tags()["scalars"]:
            wanted = [(int(row["iteration"]), float(row[tag])) for row in rows if row["phase"] == phase and row[tag]]
            found = [(event.step, event.value) for event in read.Scalars(tag)]
            assert [step for step, _ in found] == [step for step, _ in wanted]
            assert all(abs(a - b) <= 1e-6 * abs(b) for (_, a), (_, b) in zip(found, wanted)), (tag, found, wanted)
            points += len(found)
    assert points > 0
    return f"{points} points, those of curves.csv ({len(rows)} rows)"


def rows(run, out, columns):
    loaded = datasets.load_dataset("json", data_files=str(out / "trl/iteration-0.jsonl"), split="train", cache_dir=str(out / "cache"))
    assert loaded.column_names == columns, loaded.column_names
    for row in loaded:
        replies = [row[name] for name in columns if name in ("completion", "chosen", "rejected")]
        assert all(reply[-1]["role"] == "assistant" and reply[-1]["content"] for reply in replies)
        assert row["prompt"][0]["role"] == "system" and row["prompt"][-1]["role"] == "user"
    try:
        from trl import is_conversational
    except ImportError:
        told = "TRL is not installed"
    else:
        assert all(is_conversational(row) for row in loaded)
        told = "TRL finds them conversational"
    chats = datasets.load_dataset("json", data_files=str(out / "openai/iteration-0.jsonl"), split="train", cache_dir=str(out / "cache"))
    for chat in chats["messages"]:
        assert chat[0]["role"] == "system" and chat[-1]["role"] == "assistant"
        assert {message["role"] for message in chat} <= {"system", "user", "assistant"}
    assert json.loads((out / "adapters/iteration-0/adapter_config.json").read_text())["peft_type"] == "LORA"
    return f"{run}: {len(loaded)} rows of {', '.join(columns)}; {len(chats)} chats; {told}"


COLUMNS = {
    "sft": ["prompt", "completion"],
    "kto": ["prompt", "completion", "label"],
    "dpo": ["prompt", "chosen", "rejected"],
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--influence", required=True, help="the binary")
    parser.add_argument("--model", required=True, help="the .gguf file of smollm2-135m")
    arguments = parser.parse_args()
    datasets.disable_progress_bars()
    readers = [inspect_ai, pyarrow, pandas, duckdb, tensorboard, datasets]
    versions = [getattr(reader, "__version__", None) or reader.version.VERSION for reader in readers]
    print(", ".join(f"{reader.__name__} {version}" for reader, version in zip(readers, versions)))
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        binary = str(pathlib.Path(arguments.influence).resolve())
        runs = Runs(binary, folder / "runs", arguments.model)
        for algorithm, columns in COLUMNS.items():
            run = runs.make(f"export-{algorithm}", f"training.algorithm={algorithm}")
            out = folder / run
            files = runs.export(run, out)
            assert all(pathlib.Path(file["path"]).exists() for file in files)
            print(f"ok  rows: {rows(run, out, columns)}", flush=True)
            if algorithm == "sft":
                print(f"ok  tables: {tables(runs, run, out)}", flush=True)
                print(f"ok  inspect: {inspect(runs, run, out)}", flush=True)
                print(f"ok  events: {events(out)}", flush=True)


if __name__ == "__main__":
    main()
