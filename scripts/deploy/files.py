"""The files of deploy/, by the tools of those who read them: kustomize, Kubernetes' schemas, Compose, promtool, hadolint, shellcheck.

Run by `make test-deploy`. A tool that is not there is said, and counted as skipped; one that finds something fails.
"""

import shutil
import subprocess
import sys
from pathlib import Path

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
BIN = Path(sys.executable).parent


def tool(name):
    beside = BIN / name
    return str(beside) if beside.exists() else shutil.which(name)


class Checks:
    def __init__(self):
        self.done, self.skipped, self.failed = 0, [], []

    def check(self, what, command, **options):
        """Runs a command; the first word names its tool."""
        program = tool(command[0])
        if not program:
            self.skipped.append(f"{what}: there is no {command[0]} here")
            return None
        run = subprocess.run([program, *map(str, command[1:])], text=True, capture_output=True, **options)
        if run.returncode != 0:
            self.failed.append(f"{what}:\n{run.stdout[-2000:]}{run.stderr[-2000:]}")
            return None
        self.done += 1
        return run.stdout


def main():
    checks = Checks()
    for folder in ["base", "gpu", "autoscaling"]:
        manifest = checks.check(f"kubernetes/{folder}", ["kubectl", "kustomize", DEPLOY / "kubernetes" / folder])
        # Schemas of resources that others define are not there.
        if manifest and folder != "autoscaling":
            checks.check(f"schemas of kubernetes/{folder}", ["kubernetes-validate", "--strict", "-"], input=manifest)
    for profile in ["gpu-8", "observability"]:
        compose = ["docker-compose", "-f", DEPLOY / "compose.yaml", "--profile", profile, "config", "--quiet"]
        checks.check(f"compose.yaml with {profile}", compose)
    observability = DEPLOY / "observability"
    checks.check("alerts.yaml", ["promtool", "check", "rules", observability / "alerts.yaml"])
    # Its rules lie elsewhere in the container.
    checks.check("prometheus.yaml", ["promtool", "check", "config", "--syntax-only", observability / "prometheus.yaml"])
    checks.check("Dockerfile", ["hadolint", DEPLOY / "Dockerfile"])
    checks.check("slurm", ["shellcheck", *sorted((DEPLOY / "slurm").glob("*.sbatch"))])
    for line in checks.skipped:
        print(f"skipped: {line}")
    for line in checks.failed:
        print(f"failed: {line}", file=sys.stderr)
    print(f"deploy/: {checks.done} checks passed, {len(checks.skipped)} skipped, {len(checks.failed)} failed")
    sys.exit(1 if checks.failed else 0)


if __name__ == "__main__":
    main()
