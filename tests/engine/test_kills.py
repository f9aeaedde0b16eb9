"""Processes that are killed, for real."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from farm.engine import Executor
from farm.engine.decide import Policy
from farm.engine.events import WorkerLost
from farm.engine.inline import InlineExecutor
from farm.engine.ray_executor import RayExecutor
from farm.manifest.job import Job
from farm.store import Store
from farm.task import FailureKind, format_task_id
from tests.engine.fault_renderers import BATCHING_FACTORY, begun, loads
from tests.engine.scenes import content, finish, images, make_job, play

ROOT = Path(__file__).parents[2]
FINE = tuple(f"fine {letter}" for letter in "abcdef")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return tmp_path / "model"


def _two_workers() -> Executor:
    return RayExecutor(workers=2, num_gpus=0, num_cpus=1)


def _undisturbed(job: Job, tmp_path: Path) -> list[dict[str, Any]]:
    """Return what a run leaves that meets no fault: those of the prompts are used up by now."""
    models = [Path(str(point["model"])) for point in job.matrix.blocks[0].points]  # type: ignore[union-attr]
    prompts = [str(point["prompt"]) for point in job.matrix.blocks[1].points]  # type: ignore[union-attr]
    seeds = [int(str(point["seed"])) for point in job.matrix.blocks[2].points]  # type: ignore[union-attr]
    again = make_job(tmp_path / "undisturbed", prompts=prompts, models=models, seeds=seeds)
    finish(play(again, InlineExecutor()))
    return content(again)


@pytest.mark.cluster
@pytest.mark.usefixtures("ray_cluster")
def test_a_worker_killed_in_the_middle_of_a_chunk_costs_nothing_but_time(
    tmp_path: Path, model: Path
) -> None:
    prompts = (*FINE, "die 1 then fine")
    job = make_job(tmp_path / "out", prompts=prompts, models=[model], seeds=range(4))
    events = list(play(job, _two_workers(), factory=BATCHING_FACTORY))
    assert finish(iter(events)).rendered == 28
    # Each of the four tasks kills one worker, unless two of them were in flight together.
    assert 1 <= sum(isinstance(event, WorkerLost) for event in events) <= 4
    assert content(job) == _undisturbed(job, tmp_path)
    assert not Store.open(job.output).control.names("leases/")


@pytest.mark.cluster
@pytest.mark.usefixtures("ray_cluster")
def test_a_task_that_kills_its_worker_every_time_becomes_a_failed_row(
    tmp_path: Path, model: Path
) -> None:
    job = make_job(tmp_path / "out", prompts=(*FINE, "die 99"), models=[model], seeds=(1,))
    events = list(play(job, _two_workers(), factory=BATCHING_FACTORY))
    report = finish(iter(events))
    assert (report.rendered, report.failures) == (6, {FailureKind.WORKER_DIED: 1})
    assert sum(isinstance(event, WorkerLost) for event in events) == 3
    report = finish(play(job, _two_workers()))
    assert (report.skipped, report.failed_before) == (6, 1)


@pytest.mark.slow
@pytest.mark.cluster
@pytest.mark.usefixtures("ray_cluster")
def test_a_model_that_kills_whoever_loads_it_is_given_up(tmp_path: Path, model: Path) -> None:
    deadly = tmp_path / "deadly"
    job = make_job(tmp_path / "out", prompts=FINE, models=[deadly, model])
    report = finish(play(job, _two_workers()))
    assert (report.rendered, report.failures) == (6, {FailureKind.LOAD_FAILED: 6})
    assert loads(deadly) <= 8


@pytest.mark.slow
@pytest.mark.cluster
@pytest.mark.usefixtures("ray_cluster")
def test_a_run_ends_when_workers_only_ever_die(tmp_path: Path, model: Path) -> None:
    job = make_job(tmp_path / "out", prompts=("die 99",), models=[model], seeds=range(3))
    policy = Policy(fruitless_deaths=2)
    with pytest.raises(Exception, match="workers keep dying"):
        finish(play(job, _two_workers(), policy=policy))


# --- whole drivers ------------------------------------------------------------------------------


@pytest.fixture(
    params=["inline", pytest.param("ray", marks=[pytest.mark.cluster, pytest.mark.slow])]
)
def start_driver(
    request: pytest.FixtureRequest, tmp_path: Path, model: Path
) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start a driver as a shell would: in a process group of its own."""
    started: list[subprocess.Popen[str]] = []

    def start(*prompts: str, seeds: int) -> subprocess.Popen[str]:
        model.mkdir(exist_ok=True)
        command = [sys.executable, "-m", "tests.engine.driver", request.param]
        process = subprocess.Popen(
            [*command, str(tmp_path / "out"), str(model), str(seeds), *prompts],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


def test_a_driver_killed_with_its_workers_loses_nothing_that_was_committed(
    start_driver: Callable[..., subprocess.Popen[str]], tmp_path: Path, model: Path
) -> None:
    prompts = (*FINE, "kill-driver then fine", "slow")
    first = start_driver(*prompts, seeds=12)
    first.communicate()
    assert first.returncode == -signal.SIGKILL
    job = make_job(tmp_path / "out", prompts=prompts, models=[model], seeds=range(12))
    committed = {
        format_task_id(digest.tobytes()) for digest in Store.open(job.output).finished().rendered
    }
    already = len(begun(model))

    report = finish(play(job, InlineExecutor()))
    # A worker that outlives its driver for a moment may still commit what it has.
    assert report.skipped >= len(committed)
    assert report.rendered == len(prompts) * 12 - report.skipped
    assert not committed & set(begun(model)[already:])
    assert content(job) == _undisturbed(job, tmp_path)
    assert not Store.open(job.output).control.names("leases/")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["ctrl-c", "kill"])
def test_a_signal_commits_what_is_finished(
    start_driver: Callable[..., subprocess.Popen[str]],
    tmp_path: Path,
    model: Path,
    number: signal.Signals,
) -> None:
    driver = start_driver("slow", seeds=2000)
    assert driver.stdout is not None
    report: dict[str, Any] = {}
    asked = False
    for line in driver.stdout:
        event = json.loads(line)
        if event["event"] == "progress" and event["rendered"] and not asked:
            asked = True
            if number == signal.SIGINT:
                os.killpg(driver.pid, number)  # a terminal tells the whole group
            else:
                driver.send_signal(number)
        if event["event"] == "run-finished":
            report = event["report"]
    assert driver.wait() == 0
    assert report["interrupted"]
    assert 0 < report["rendered"] < 2000
    job = make_job(tmp_path / "out", prompts=("slow",), models=[model], seeds=range(2000))
    assert len(content(job)) == len(images(job)) == report["rendered"]
    assert not Store.open(job.output).control.names("leases/")
