"""Run every benchmark and keep what they said: `make bench`.

Each script measures one claim, prints a table for people and one JSON line (the last line) for
machines. The tables go to `benchmarks/RESULTS.md` under the date, the commit and the machine, so
that no figure stands anywhere without the script and the run that made it.

    python benchmarks/run.py [NAME ...]
"""

from __future__ import annotations

import datetime as dt
import os
import platform
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil

HERE = Path(__file__).resolve().parent
SCRIPTS = (
    "startup",
    "plan_grid",
    "catalog",
    "engine_overhead",
    "tables",
    "looks",
    "sheet",
    "explorer",
    "sprite_model",
)
LIBRARIES = ("torch", "diffusers", "ray", "pyarrow", "duckdb", "pillow")


def machine() -> str:
    """Return one line that says where the numbers come from."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
        if names:
            model = names[0].partition(":")[2].strip()
    memory = psutil.virtual_memory().total / 2**30
    return f"{model}, {os.cpu_count()} cores, {memory:.0f} GiB, Python {platform.python_version()}"


def versions() -> str:
    """Return the versions of the libraries that matter to speed."""
    found = []
    for name in LIBRARIES:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            continue
    return ", ".join(found)


def commit() -> str:
    """Return the checkout's commit, marked when the tree differs from it."""
    told = subprocess.run(
        ["git", "describe", "--always", "--dirty"],
        cwd=HERE,
        capture_output=True,
        text=True,
        check=False,
    )
    return told.stdout.strip() or "unknown"


def main() -> int:
    """Run the named benchmarks, or all; return 1 if one of them failed to run."""
    wanted = tuple(sys.argv[1:]) or SCRIPTS
    sections, broken = [], []
    for name in wanted:
        print(f"== {name}", flush=True)
        ran = subprocess.run(
            [sys.executable, HERE / f"{name}.py"],
            stdout=subprocess.PIPE,
            text=True,
            check=False,
        )
        print(ran.stdout, flush=True)
        if ran.returncode:
            broken.append(name)
        sections.append(f"## {name}\n\n```text\n{ran.stdout.rstrip()}\n```\n")
    if set(wanted) == set(SCRIPTS) and not broken:
        head = (
            "# Results\n\nWritten by `make bench`; what each figure means stands at the top of the "
            "script of that name.\n\n"
            f"{dt.datetime.now(tz=dt.UTC):%Y-%m-%d}, commit {commit()}  \n"
            f"{machine()}  \n{versions()}\n"
        )
        (HERE / "RESULTS.md").write_text("\n".join((head, *sections)), encoding="utf-8")
    if broken:
        print(f"failed: {', '.join(broken)}", file=sys.stderr)
    return int(bool(broken))


if __name__ == "__main__":
    sys.exit(main())
