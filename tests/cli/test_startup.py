"""What a command imports before it can answer: the whole of its waiting time.

Counted in modules, not in seconds: a busy machine is slow, and an import is an import.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HEAVY = (
    *("torch", "diffusers", "transformers", "onnxruntime", "scipy", "PIL"),
    *("ray", "duckdb", "pandas", "pyarrow", "fsspec", "psutil", "numpy.ma"),
)
PROBE = """
import contextlib, json, sys
from farm.cli import app
with contextlib.suppress(SystemExit), contextlib.redirect_stdout(sys.stderr):
    app(sys.argv[1:], prog_name="farm")
print(json.dumps(sorted(sys.modules)))
"""


def imported_by(*command: str, cwd: Path = ROOT) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-c", PROBE, *command], cwd=cwd, capture_output=True, text=True, check=True
    )
    return set(json.loads(done.stdout))


@pytest.mark.parametrize("command", [("--help",), ("submit", "--help"), ("plan", "--help")])
def test_help_needs_nothing_but_the_parser(command: tuple[str, ...]) -> None:
    modules = imported_by(*command)
    assert not modules & {*HEAVY, "numpy", "rich.markdown", "ruamel.yaml", "farm.api", "farm.grid"}


def test_a_mistake_on_the_command_line_is_told_without_more(tmp_path: Path) -> None:
    assert not imported_by("submit", cwd=tmp_path) & {*HEAVY, "numpy", "rich.markdown"}


def test_a_plan_of_what_does_not_exist_yet_needs_no_catalog(tmp_path: Path) -> None:
    output = f"output={tmp_path / 'new'}"
    modules = imported_by("plan", "jobs/quickstart.yaml", "--set", output)
    assert "farm.planner" in modules
    assert not modules & set(HEAVY)


def test_checking_and_listing_need_no_catalog_either() -> None:
    assert not imported_by("check", "jobs/quickstart.yaml") & {*HEAVY, "rich"}
    assert not imported_by("samplers") & set(HEAVY)
    assert not imported_by("schema") & {*HEAVY, "rich"}
