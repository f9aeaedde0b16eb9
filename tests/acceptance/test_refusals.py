"""What cannot be rendered here is refused before anything is written, not noted task by task."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from farm import api, engine
from farm.engine.events import Event, RunFinished, RunReport
from farm.render import providers
from farm.render.providers import PROVIDER_VARIABLE

pytest.importorskip("onnxruntime")

if TYPE_CHECKING:
    from tests.acceptance.conftest import Farm


@pytest.fixture(autouse=True)
def without_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(providers, "seems_to_have_gpu", lambda: False)


@pytest.mark.parametrize("executor", ["inline", "auto"])
@pytest.mark.parametrize(
    ("provider", "dtype", "fault", "hint"),
    [
        ("cudda", "float32", "no ONNX Runtime provider 'cudda'", "did you mean 'cuda'?"),
        ("cuda", "float32", "'cuda' cannot be used here", f"unset {PROVIDER_VARIABLE}"),
        ("cpu", "float16", "does not compute in float16 on cpu", "use dtype auto or float32"),
    ],
)
def test_what_no_worker_here_could_load_is_refused_before_the_first_task(
    farm: Farm,
    job_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    provider: str,
    dtype: str,
    fault: str,
    hint: str,
    executor: str,
) -> None:
    monkeypatch.setenv(PROVIDER_VARIABLE, provider)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    outcome = farm(
        "submit", job_file, "--set", "backend=onnx", "--set", f"dtype={dtype}",
        "--executor", executor,
    )  # fmt: skip
    assert outcome.code == 2
    assert fault in outcome.err
    assert f"next: {hint}" in outcome.err
    assert not (tmp_path / "out").exists()


def test_a_missing_library_is_refused_with_what_installs_it(
    farm: Farm, job_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    outcome = farm("submit", job_file, "--set", "backend=onnx", "--executor", "inline")
    assert outcome.code == 3
    assert "next: pip install '.[onnx]'" in outcome.err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("is_in_environment", [False, True])
def test_a_cluster_is_not_judged_by_this_machine(
    job_file: Path, monkeypatch: pytest.MonkeyPatch, *, is_in_environment: bool
) -> None:
    pytest.importorskip("ray")
    address = "cluster.example:6379"
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    if is_in_environment:
        monkeypatch.setenv("RAY_ADDRESS", address)
    monkeypatch.setenv(PROVIDER_VARIABLE, "cudda")
    monkeypatch.setattr(engine, "run", _run_nothing)
    job = api.load_job(job_file, overrides=("backend=onnx", "model=owner/only-there"))
    assert api.submit(job, address=None if is_in_environment else address).rendered == 0


def _run_nothing(*_: object, **__: object) -> Iterator[Event]:
    yield RunFinished(
        report=RunReport(
            rendered=0, failed=0, failed_before=0, skipped=0, unfinished=0, seconds=1.0,
            images_per_second=0.0, denoiser_evaluations=0, efficiency=None, output="nowhere",
        )
    )  # fmt: skip


def test_a_plan_says_why_nothing_would_run_and_what_to_do(
    farm: Farm, job_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(PROVIDER_VARIABLE, "cudda")
    outcome = farm("plan", job_file, "--set", "backend=onnx")
    said = " ".join(outcome.out.split())
    assert "here on nothing: there is no ONNX Runtime provider 'cudda'" in said
    assert "did you mean 'cuda'?" in said
    monkeypatch.setenv(PROVIDER_VARIABLE, "cpu")
    outcome = farm("plan", job_file, "--set", "backend=onnx", "--set", "dtype=float16", "--json")
    said = outcome.json["onnx_provider"]
    assert "nothing: backend onnx does not compute in float16 on cpu; use dtype auto" in said
