"""How long a contact sheet takes, and how much memory: 50 x 50 cells of 128 x 128 pixels.

The pictures are those of the pattern renderer, written as the store does. Each sheet is made by a
process of its own, as by `farm sheet`: once as PNG and once as PDF. Seconds are of that process's
life, imports included; memory is the most it held. Goals: 10 s, 1 GB.

    python benchmarks/sheet.py [--columns N] [--rows N]
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import farm

GOAL_S, GOAL_GB = 10.0, 1.0
JOB = """\
name: sheet
output: {output}
backend: pattern
defaults: {{height: 128, width: 128, prompt: a sword}}
matrix:
  guidance_scale: {{linspace: [1, 10, {rows}]}}
  seed: 1..{columns}
"""


def make(output: Path, file: Path) -> dict[str, float]:
    """Make one sheet in a process of its own; return its seconds and gigabytes."""
    started = time.perf_counter()
    command = ("sheet", output, "--x", "seed", "--y", "guidance_scale", "--out", file)
    subprocess.run([sys.executable, "-m", "farm.cli", *command], check=True, capture_output=True)
    seconds = time.perf_counter() - started
    # The most of any child so far: made in the order of what each is expected to take.
    most = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    return {"s": seconds, "gb": most * 1024 / 1e9}


def main() -> int:
    """Measure, and print a table for people and a line for machines."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--columns", type=int, default=50)
    parser.add_argument("--rows", type=int, default=50)
    options = parser.parse_args()
    seen: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path = folder / "sheet.yaml"
        path.write_text(
            JOB.format(output=folder / "out", columns=options.columns, rows=options.rows),
            encoding="utf-8",
        )
        report = farm.submit(farm.load_job(path), executor="inline")
        print(f"{report.rendered:,} cells of 128 x 128 (goals {GOAL_S:g} s, {GOAL_GB:g} GB)")
        for suffix in ("pdf", "png"):
            found = make(folder / "out", folder / f"sheet.{suffix}")
            seen |= {f"{suffix}_{key}": value for key, value in found.items()}
            print(f"{suffix:5} {found['s']:8.2f} s   {found['gb']:6.2f} GB")
    print(json.dumps({"benchmark": "sheet", "cells": report.rendered, **seen}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
