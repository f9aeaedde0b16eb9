"""The runner of the benchmarks: one that fails or hangs is named, and costs the others nothing."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
SCRIPTS = {
    "good": "print('a table')",
    "broken": "print('half a table'); raise SystemExit('the disk is full')",
    "hangs": "import time; print('waiting', flush=True); time.sleep(600)",
}


def load(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    spec = importlib.util.spec_from_file_location("bench_run", ROOT / "benchmarks/run.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "bench_run", module)  # its dataclasses look for it there
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def runner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The runner, with three scripts of its own."""
    module = load(monkeypatch)
    for name, text in SCRIPTS.items():
        (tmp_path / f"{name}.py").write_text(text)
    monkeypatch.setattr(module, "HERE", tmp_path)
    slow = module.Script("hangs", limit_s=1.0)
    monkeypatch.setattr(module, "SCRIPTS", (slow, module.Script("broken"), module.Script("good")))
    return module


def test_every_failure_is_named_and_every_other_script_runs(
    runner: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "argv", ["run.py"])
    assert runner.main() == 1
    said = capsys.readouterr()
    assert said.err.split("\n")[1:3] == [
        "hangs: took longer than 1 s and was stopped",
        "broken: failed with exit code 1",
    ]
    assert "the disk is full" in said.out
    results = (tmp_path / "RESULTS.md").read_text()
    assert "a table" in results
    assert "**failed with exit code 1**" in results


def test_a_script_run_by_name_replaces_its_own_section_and_no_other(
    runner: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["run.py", "good", "broken"])
    runner.main()
    (tmp_path / "good.py").write_text("print('another table')")
    monkeypatch.setattr(sys, "argv", ["run.py", "good"])
    assert runner.main() == 0
    results = (tmp_path / "RESULTS.md").read_text()
    assert "another table" in results
    assert "a table\n" not in results.replace("another table", "").replace("half a table", "")
    assert "half a table" in results
    assert [line for line in results.split("\n") if line.startswith("#")] == [
        "# Results", "## broken", "## good",
    ]  # fmt: skip


def test_a_budget_ends_the_round_and_a_quick_one_keeps_nothing(
    runner: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "argv", ["run.py", "--quick", "--minutes", "0", "good"])
    assert runner.main() == 1
    assert "good: not begun: 0 minutes were over" in capsys.readouterr().err
    assert not (tmp_path / "RESULTS.md").exists()


def test_every_script_there_is_is_run_and_every_name_has_a_script(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    there = {path.stem for path in (ROOT / "benchmarks").glob("*.py")} - {"run"}
    assert {script.name for script in load(monkeypatch).SCRIPTS} == there
