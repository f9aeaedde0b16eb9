"""How long a person waits for an answer: `farm --help`, and `farm plan` of a small job.

Goals: 0.3 s and 0.6 s. Each command runs in a fresh process, as a shell runs it; the median of
seven, beside the fastest and the slowest. Bytecode is cached, as where the farm is installed; the
job's output does not exist yet.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
GOALS_S = {"--help": 0.3, "plan jobs/quickstart.yaml --set output=out/not-yet": 0.6}


def seconds(command: str, *, runs: int, folder: str) -> list[float]:
    """Return the wall times of `runs` runs of a command, after one that warms all caches.

    `folder` is where bytecode is kept.
    """
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    environment |= {"PYTHONPYCACHEPREFIX": folder, "PYTHONPATH": str(ROOT)}
    times = []
    for _ in range(runs + 1):
        start = time.perf_counter()
        subprocess.run(
            [sys.executable, "-m", "farm.cli", *command.split()],
            cwd=ROOT,
            env=environment,
            check=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        times.append(time.perf_counter() - start)
    return times[1:]


def main() -> None:
    """Measure, print a table and one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--runs", type=int, default=7)
    options = parser.parse_args()
    found = {}
    print(f"{'command':32} {'median':>8} {'fastest':>8} {'slowest':>8} {'goal':>6}")
    with tempfile.TemporaryDirectory() as folder:
        for command, goal in GOALS_S.items():
            times = seconds(command, runs=options.runs, folder=folder)
            middle = statistics.median(times)
            name = command.partition(" --set")[0]
            found[name] = {"median_s": round(middle, 3), "goal_s": goal}
            print(
                f"farm {name:27} {middle:7.3f}s {min(times):7.3f}s {max(times):7.3f}s {goal:5.1f}s"
            )
    print(json.dumps({"benchmark": "startup", **found}))


if __name__ == "__main__":
    main()
