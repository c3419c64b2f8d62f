"""The compose file on a real Docker engine: a run by three workers, of which one is killed, as Redis is.

Run by `make test-deploy`. Uses the engine that answers, or starts one of its own for the time of the test (root, Docker's
`dockerd`). Base images that cannot be pulled are made here, of Debian's packages (debootstrap). Where no
engine can be had it says why, and ends well.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PROJECT = "influence-test"
# What the Dockerfile and the compose file name, and what Debian's packages they need here.
BASES = {"debian:bookworm-slim": [], "redis:7.4-bookworm": ["redis-server"]}
EXPERIMENT = """\
name: deploy-test
seed: 1
iterations: 1
model: smollm2-135m
environments:
  class: therapist
  fractions: {gameable: 1/2, ordinary: 1/2}
  initial_states: 2
  siblings: 2
  order: sequential
  held_out: 0.25
  max_turns: 3
roles:
  agent: {temperature: 0.7, max_tokens: 24}
  environment: {temperature: 0.7, max_tokens: 24}
selection: {level: initial_state, best: 1/2}
leases: {seconds: 5}
training: {lora: {rank: 4}, batch_size: 8, max_length: 512}
evaluation: {initial_states: 1, siblings: 1, at: [last]}
"""


class Failed(Exception):
    pass


def sh(*command, check=True, quiet=True, **options):
    done = subprocess.run(command, text=True, capture_output=quiet, **options)
    if check and done.returncode != 0:
        raise Failed(f"{' '.join(map(str, command))}\n{(done.stdout or '')[-2000:]}\n{(done.stderr or '')[-4000:]}")
    return done


def no_engine(why):
    print(f"skipped: {why}")
    sys.exit(0)


class Engine:
    """The engine that answers, or one of our own."""

    def __init__(self, folder):
        self.process = None
        if sh("docker", "info", check=False).returncode == 0:
            return
        if os.geteuid() != 0 or not shutil.which("dockerd"):
            no_engine("no Docker engine answers, and none can be started here (it takes root and dockerd)")
        socket = folder / "docker.sock"
        os.environ["DOCKER_HOST"] = f"unix://{socket}"
        log = open(folder / "dockerd.log", "w")
        places = ["--data-root", folder / "data", "--exec-root", folder / "exec", "--pidfile", folder / "pid"]
        self.process = subprocess.Popen(["dockerd", *places, "--host", f"unix://{socket}"], stdout=log, stderr=log)
        for _ in range(60):
            if sh("docker", "info", check=False).returncode == 0:
                return
            if self.process.poll() is not None:
                break
            time.sleep(0.5)
        last = (folder / "dockerd.log").read_text().splitlines()[-3:]
        no_engine("a Docker engine does not start here: " + " | ".join(last))

    def stop(self):
        if self.process:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(timeout=60)


def base_images(folder):
    """Those of the files, pulled, or made of Debian's packages under the same names."""
    missing = [name for name in BASES if sh("docker", "image", "inspect", name, check=False).returncode != 0]
    if missing and sh("timeout", "60", "docker", "pull", "--quiet", missing[0], check=False).returncode == 0:
        for name in missing[1:]:
            sh("docker", "pull", "--quiet", name)
        return
    if not missing:
        return
    if not shutil.which("debootstrap"):
        no_engine("base images can neither be pulled nor made (there is no debootstrap)")
    root = folder / "root"
    packages = sorted({package for name in missing for package in BASES[name]})
    include = [f"--include={','.join(['ca-certificates', *packages])}"]
    print(f"making {', '.join(missing)} of Debian's packages", flush=True)
    if sh("debootstrap", "--variant=minbase", *include, "bookworm", root, check=False).returncode != 0:
        no_engine("base images can neither be pulled nor made (debootstrap failed)")
    packed = subprocess.Popen(["tar", "-C", root, "-c", "."], stdout=subprocess.PIPE)
    sh("docker", "import", "-", missing[0], stdin=packed.stdout)
    for name in missing[1:]:
        sh("docker", "tag", missing[0], name)
    shutil.rmtree(root)


def runs_containers():
    """An engine may answer where the system lets no container run, or no network be."""
    tried = sh("docker", "run", "--rm", "debian:bookworm-slim", "true", check=False)
    if tried.returncode == 0:
        tried = sh("docker", "network", "create", f"{PROJECT}-try", check=False)
        sh("docker", "network", "rm", f"{PROJECT}-try", check=False)
    if tried.returncode != 0:
        no_engine("Docker's engine answers here, but runs nothing: " + tried.stderr.strip()[-300:])


class Cluster:
    """What the compose file brings up."""

    def __init__(self, configs, port):
        v2 = sh("docker", "compose", "version", check=False).returncode == 0
        self.compose_command = ["docker", "compose"] if v2 else ["docker-compose"]
        self.environment = {
            **os.environ,
            "INFLUENCE_IMAGE": "influence:test",
            "INFLUENCE_TARGET": "prebuilt",
            "INFLUENCE_EXPERIMENT": "deploy-test",
            "INFLUENCE_CONFIGS": str(configs),
            "INFLUENCE_DASHBOARD_PORT": str(port),
            "INFLUENCE_SLOTS": "2",
            # The classic builder needs no more than the engine itself.
            "DOCKER_BUILDKIT": "0",
            "COMPOSE_DOCKER_CLI_BUILD": "0",
        }

    def compose(self, *arguments, **options):
        files = ["-p", PROJECT, "-f", str(ROOT / "deploy/compose.yaml")]
        return sh(*self.compose_command, *files, *arguments, env=self.environment, **options)

    def containers(self, service):
        return self.compose("ps", "-q", service).stdout.split()

    def crash(self, container):
        """As if the process had died: the engine's own `kill` would keep it from being started again."""
        process = sh("docker", "inspect", "--format", "{{.State.Pid}}", container).stdout.strip()
        if process == "0":
            raise Failed(f"{container[:12]} does not run")
        os.kill(int(process), signal.SIGKILL)

    def influence(self, *arguments, check=True):
        store = ["--store", "redis://redis:6379"]
        return self.compose("exec", "-T", "coordinator", "influence", *arguments, *store, check=check)

    def run(self):
        """How the run stands; None before there is one."""
        listed = self.influence("runs", "--json", check=False)
        if listed.returncode != 0:
            return None
        runs = json.loads(listed.stdout)
        return runs[0] if runs else None

    def episodes(self, run):
        lines = self.influence("episodes", run, "--json").stdout.splitlines()
        return [json.loads(line) for line in lines]


def wait(what, limit, ready):
    began = time.monotonic()
    while time.monotonic() - began < limit:
        found = ready()
        if found:
            print(f"{time.strftime('%X')} {what}", flush=True)
            return found
        time.sleep(1)
    raise Failed(f"after {limit} s still not: {what}")


def seed_models(cache):
    """The models of this machine, as the volume of the workers would have them after their first download."""
    volume = f"{PROJECT}_models:/to"
    script = "cp -r /from/. /to/models/ && chown -R 10001:10001 /to"
    mounts = ["-v", volume, "-v", f"{cache / 'models'}:/from:ro"]
    sh("docker", "volume", "create", "--label", f"com.docker.compose.project={PROJECT}", f"{PROJECT}_models")
    command = f"mkdir -p /to/models && {script}"
    sh("docker", "run", "--rm", "--user", "0", "--entrypoint", "sh", *mounts, "influence:test", "-c", command)


def attempt(cluster, cache):
    print("building the image out of the binary that is here", flush=True)
    cluster.compose("build", "coordinator", "worker", "init")
    seed_models(cache)
    began = time.monotonic()
    cluster.compose("up", "-d", "--scale", "worker=3")
    finished = lambda: len([e for e in cluster.episodes(run) if e["status"] == "finished"])
    run = wait("the run has begun", 90, lambda: (cluster.run() or {}).get("run"))
    wait("the first episodes are finished", 240, lambda: finished() >= 2)
    check_metrics(cluster)
    worker = cluster.containers("worker")[0]
    cluster.crash(worker)
    print(f"{time.strftime('%X')} killed a worker", flush=True)
    wait("more episodes are finished", 240, lambda: finished() >= 6)
    redis = cluster.containers("redis")[0]
    cluster.crash(redis)
    print(f"{time.strftime('%X')} killed Redis", flush=True)
    wait("the run is finished", 600, lambda: (cluster.run() or {}).get("status") == "finished")
    seconds = time.monotonic() - began
    episodes = cluster.episodes(run)
    check(cluster, episodes)
    print(f"ok: {len(episodes)} episodes, all finished, each once, in {seconds:.0f} s from `up`; a worker and Redis were killed")


def check_metrics(cluster):
    """The metrics pages, by Prometheus' own tool."""
    if not shutil.which("promtool"):
        print("skipped: the metrics pages are not checked, because promtool is not installed", flush=True)
        return
    for service in ["coordinator", "worker"]:
        container = cluster.containers(service)[0]
        address = "{{range .NetworkSettings.Networks}}{{.IPAddress}} {{end}}"
        address = sh("docker", "inspect", "--format", address, container).stdout.split()[0]
        with urllib.request.urlopen(f"http://{address}:9464/metrics", timeout=10) as answer:
            page = answer.read()
        checked = subprocess.run(["promtool", "check", "metrics"], input=page, capture_output=True)
        if checked.returncode != 0 or b"influence_" not in page:
            raise Failed(f"promtool on the metrics of the {service}: {checked.stderr.decode()}")
        print(f"promtool has checked {len(page.splitlines())} lines of metrics of the {service}", flush=True)


def check(cluster, episodes):
    planned = 24 + 6
    ids = {episode["spec"]["id"] for episode in episodes}
    unfinished = [episode["spec"]["id"] for episode in episodes if episode["status"] != "finished"]
    if len(episodes) != planned or len(ids) != planned or unfinished:
        raise Failed(f"{len(episodes)} episodes, {len(ids)} ids, unfinished: {unfinished}; planned were {planned}")
    ready = cluster.compose("exec", "-T", "coordinator", "influence", "health", "--ready").stdout
    if ready.strip() != "ready":
        raise Failed(f"the coordinator is not ready: {ready}")
    log = cluster.compose("logs", "--no-color", "coordinator", "worker").stdout
    said = [line.split("|", 1)[1].strip() for line in log.splitlines() if "|" in line]
    objects = [line for line in said if line.startswith("{")]
    for line in objects:
        json.loads(line)
    tokens = cluster.compose("exec", "-T", "coordinator", "sh", "-c", "cat /run/influence/tokens/*.token").stdout.split()
    if not objects or len(tokens) != 3 or any(token in log for token in tokens):
        raise Failed("the log holds a token, or no line of JSON")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--influence", type=Path, required=True, help="the binary to run")
    parser.add_argument("--cache", type=Path, required=True, help="a cache folder that has the model")
    parser.add_argument("--port", type=int, default=5055, help="of the dashboard, meanwhile")
    arguments = parser.parse_args()
    if not shutil.which("docker") or not (shutil.which("docker-compose") or shutil.which("dockerd")):
        no_engine("there is no Docker here")
    folder = Path(tempfile.mkdtemp(prefix="influence-deploy-"))
    engine = Engine(folder)
    configs = folder / "configs"
    cluster = Cluster(configs, arguments.port)
    prebuilt = ROOT / "deploy/prebuilt/influence"
    try:
        base_images(folder)
        runs_containers()
        shutil.copytree(ROOT / "configs", configs)
        (configs / "experiments/deploy-test.yaml").write_text(EXPERIMENT)
        for path in [folder, configs, *configs.rglob("*")]:
            path.chmod(0o755 if path.is_dir() else 0o644)
        prebuilt.parent.mkdir(exist_ok=True)
        sh("strip", "-o", prebuilt, arguments.influence)
        prebuilt.chmod(0o755)
        try:
            attempt(cluster, arguments.cache)
        except Failed:
            print(cluster.compose("logs", "--no-color", "--tail", "60", check=False).stdout)
            raise
        finally:
            cluster.compose("down", "--volumes", "--timeout", "5", check=False)
    except Failed as error:
        print(f"failed: {error}", file=sys.stderr)
        sys.exit(1)
    finally:
        engine.stop()
        shutil.rmtree(prebuilt.parent, ignore_errors=True)
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
