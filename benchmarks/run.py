"""Run every benchmark and keep what they said: `make bench`.

Each script measures one claim, prints a table for people and one JSON line (the last line) for
machines. The tables go to `benchmarks/RESULTS.md`, each under its date, commit and machine, so that
no figure stands anywhere without the script and the run that made it. Running some scripts by name
replaces their sections and leaves the others.

A script that fails or takes too long is named, with the end of what it said, and the others still
run. `--quick` runs every script on tiny sizes, to see that it works; its figures are not kept.

    python benchmarks/run.py [--quick] [--minutes N] [NAME ...]
"""

from __future__ import annotations

import argparse
import contextlib
import datetime as dt
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil

HERE = Path(__file__).resolve().parent


@dataclass(frozen=True, slots=True)
class Script:
    """A benchmark: a script of that name beside this one."""

    name: str
    quick: str = ""
    """Arguments that make it small."""
    limit_s: float = 900.0
    """What takes longer on the reference machine, two cores, has gone wrong."""


SCRIPTS = (
    Script("startup", "--runs 1"),
    Script("plan_grid", "--quick"),
    Script("catalog", "--rows 100000"),
    Script("engine_overhead", "--images 400"),
    Script("tables", "--quick"),
    Script("lane", "--quick", limit_s=1800.0),
    Script("onnx_runtime", "--quick"),
    Script("looks", "--tries 3"),
    Script("sheet", "--columns 4 --rows 3"),
    Script("explorer", "--images 40 --rows 2000"),
    Script("sprite_model", "--pictures 4"),
)
QUICK_LIMIT_S = 240.0
SAID_LINES = 12
"""Lines of a failed script's talk that are shown."""
LIBRARIES = ("torch", "diffusers", "onnxruntime-gpu", "ray", "pyarrow", "duckdb", "pillow")


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Ran:
    """What became of one script."""

    name: str
    said: str
    """What it printed: the table and the line for machines."""
    seconds: float
    failure: str | None = None

    def section(self) -> str:
        """Return its section of the results, without the heading."""
        failed = f"**{self.failure}**\n\n" if self.failure else ""
        return (
            f"{dt.datetime.now(tz=dt.UTC):%Y-%m-%d}, commit {commit()}  \n"
            f"{machine()}  \n{versions()}\n\n"
            f"{failed}```text\n{self.said.rstrip()}\n```\n"
        )


HEAD = """# Results

Written by `make bench`; what each figure means stands at the top of the script of that name.
"""


def keep(everything: Sequence[Ran], results: Path) -> None:
    """Write the sections of `everything` into `results`, and leave those of other scripts."""
    old = results.read_text(encoding="utf-8") if results.exists() else HEAD
    sections = {
        name: text for name, _, text in (part.partition("\n\n") for part in old.split("\n## ")[1:])
    }
    sections |= {ran.name: ran.section() for ran in everything}
    known = [script.name for script in SCRIPTS if script.name in sections]
    parts = (f"## {name}\n\n{sections[name].rstrip()}\n" for name in known)
    results.write_text("\n".join((HEAD, *parts)), encoding="utf-8")


def run(script: Script, *, quick: bool, limit_s: float) -> Ran:
    """Run one script and say how it went."""
    command = [sys.executable, str(HERE / f"{script.name}.py")]
    command += script.quick.split() if quick else []
    environment = os.environ | {"PYTHONPATH": str(HERE.parent)}
    started = time.perf_counter()
    with tempfile.TemporaryFile("w+") as talk:
        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=talk,
            text=True,
            env=environment,
            start_new_session=True,
        )
        failure = None
        try:
            said, _ = process.communicate(timeout=limit_s)
        except subprocess.TimeoutExpired:
            failure = f"took longer than {limit_s:.0f} s and was stopped"
        except BaseException:
            _end(process)
            raise
        if failure is not None:
            _end(process)
            said, _ = process.communicate()
        elif process.returncode:
            failure = f"failed with exit code {process.returncode}"
        if failure is not None:
            talk.seek(0)
            said += "".join(talk.readlines()[-SAID_LINES:])
    seconds = time.perf_counter() - started
    return Ran(name=script.name, said=said, seconds=seconds, failure=failure)


def _end(process: subprocess.Popen[str]) -> None:
    """Kill a script with everything it started, Ray's processes among them."""
    below = psutil.Process(process.pid).children(recursive=True)
    for one in (*below, psutil.Process(process.pid)):
        with contextlib.suppress(psutil.NoSuchProcess):
            one.kill()


def main() -> int:
    """Run the named benchmarks, or all; return 1 if one of them failed, 2 if one is unknown."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="default: all")
    parser.add_argument("--quick", action="store_true", help="tiny sizes; nothing is kept")
    parser.add_argument("--minutes", type=float, default=60.0, help="begin none after this long")
    options = parser.parse_args()
    known = {script.name: script for script in SCRIPTS}
    if unknown := [name for name in options.names if name not in known]:
        parser.error(f"unknown: {', '.join(unknown)}; there are {', '.join(known)}")
    wanted = [known[name] for name in options.names] or list(SCRIPTS)
    until = time.perf_counter() + options.minutes * 60
    everything: list[Ran] = []
    for script in wanted:
        left_s = until - time.perf_counter()
        print(f"== {script.name}", flush=True)
        if left_s <= 0:
            failure = f"not begun: {options.minutes:g} minutes were over"
            ran = Ran(name=script.name, said="", seconds=0.0, failure=failure)
        else:
            limit_s = min(left_s, QUICK_LIMIT_S if options.quick else script.limit_s)
            ran = run(script, quick=options.quick, limit_s=limit_s)
        everything.append(ran)
        print(ran.said.rstrip(), f"-- {ran.failure or 'done'}, {ran.seconds:.0f} s", sep="\n")
    if not options.quick:
        keep(everything, HERE / "RESULTS.md")
    broken = [f"{ran.name}: {ran.failure}" for ran in everything if ran.failure]
    if broken:
        print("\n".join(("", *broken)), file=sys.stderr)
    return int(bool(broken))


if __name__ == "__main__":
    sys.exit(main())
