"""What every executor promises, played on each of them."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from farm.engine import Executor, Stop
from farm.engine.events import (
    ChunkDone,
    ChunkStarted,
    Notice,
    Progress,
    RunFinished,
    RunStarted,
    TaskFailed,
    WorkerReady,
)
from farm.errors import StoreError
from farm.manifest.job import Job
from farm.store import Store
from farm.task import FailureKind
from tests.engine.fault_renderers import BATCHING_FACTORY, begun, loads
from tests.engine.scenes import content, finish, images, make_job, play

MakeExecutor = Callable[[], Executor]
FINE = tuple(f"fine {letter}" for letter in "abcdef")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return tmp_path / "model"


def test_every_task_of_the_plan_gets_its_row_and_its_picture(
    make_executor: MakeExecutor, tmp_path: Path, model: Path
) -> None:
    job = make_job(tmp_path / "out", prompts=FINE, models=[model], seeds=range(5))
    events = list(play(job, make_executor()))
    report = finish(iter(events))
    assert isinstance(events[0], RunStarted)
    assert (report.rendered, report.failed, report.unfinished) == (30, 0, 0)
    assert report.denoiser_evaluations == 90
    rows = content(job)
    assert len(rows) == len({row["task_id"] for row in rows}) == len(images(job)) == 30
    assert len(begun(model)) == 30


def test_events_add_up_to_the_report(
    make_executor: MakeExecutor, tmp_path: Path, model: Path
) -> None:
    prompts = (*FINE, "refuse a", "refuse b")
    job = make_job(tmp_path / "out", prompts=prompts, models=[model], seeds=range(3))
    events = list(play(job, make_executor()))
    done = [event for event in events if isinstance(event, ChunkDone)]
    assert sum(event.rendered for event in done) == 18
    assert sum(event.failed for event in done) == 6
    assert sum(isinstance(event, TaskFailed) for event in events) == 6
    assert {event.chunk for event in done} == {
        event.chunk for event in events if isinstance(event, ChunkStarted)
    }
    ready = {event.worker for event in events if isinstance(event, WorkerReady)}
    assert {event.worker for event in events if isinstance(event, Progress)} <= ready
    assert [event for event in events if isinstance(event, RunFinished)] == [events[-1]]


def test_a_second_run_renders_nothing_and_starts_nothing(
    make_executor: MakeExecutor, tmp_path: Path, model: Path
) -> None:
    job = make_job(tmp_path / "out", prompts=("fine", "refuse"), models=[model])
    assert finish(play(job, make_executor())).rendered == 1
    events = list(play(job, make_executor()))
    assert [type(event) for event in events] == [RunStarted, RunFinished]
    report = finish(iter(events))
    assert (report.skipped, report.failed_before) == (1, 1)
    assert len(begun(model)) == 2


def test_a_refused_task_is_a_failed_row_and_its_neighbours_are_unharmed(
    make_executor: MakeExecutor, tmp_path: Path, model: Path
) -> None:
    job = make_job(tmp_path / "out", prompts=(*FINE, "refuse"), models=[model])
    report = finish(play(job, make_executor(), factory=BATCHING_FACTORY))
    assert (report.rendered, report.failures) == (6, {FailureKind.BAD_TASK: 1})
    assert begun(model).count(_id_of(job, "refuse")) == 1


def test_a_curable_failure_is_tried_again_a_bounded_number_of_times(
    make_executor: MakeExecutor, tmp_path: Path, model: Path
) -> None:
    prompts = (*FINE, "black 2 then fine", "black 99")
    job = make_job(tmp_path / "out", prompts=prompts, models=[model])
    report = finish(play(job, make_executor(), factory=BATCHING_FACTORY))
    assert (report.rendered, report.failures) == (7, {FailureKind.BAD_OUTPUT: 1})
    tries = Counter(begun(model))
    assert tries[_id_of(job, "black 2 then fine")] == tries[_id_of(job, "black 99")] == 3


def test_a_renderer_that_raises_harms_only_the_task_that_made_it(
    make_executor: MakeExecutor, tmp_path: Path, model: Path
) -> None:
    prompts = (*FINE, "raise 1 then fine", "raise 99")
    job = make_job(tmp_path / "out", prompts=prompts, models=[model])
    report = finish(play(job, make_executor(), factory=BATCHING_FACTORY))
    assert (report.rendered, report.failures) == (7, {FailureKind.INTERNAL: 1})
    assert _row(job, "raise 99")["status"] == "failed"


def test_a_model_that_does_not_load_fails_its_own_tasks_only(
    make_executor: MakeExecutor, tmp_path: Path, model: Path
) -> None:
    bad = tmp_path / "unloadable"
    job = make_job(tmp_path / "out", prompts=FINE, models=[bad, model], seeds=range(4))
    events = list(play(job, make_executor()))
    report = finish(iter(events))
    assert (report.rendered, report.failures) == (24, {FailureKind.LOAD_FAILED: 24})
    assert sum(isinstance(event, Notice) for event in events) == 1
    assert loads(bad) <= 2


def test_a_worker_keeps_its_model_while_there_is_work_for_it(
    make_executor: MakeExecutor, tmp_path: Path
) -> None:
    models = [tmp_path / f"model-{index}" for index in range(3)]
    job = make_job(tmp_path / "out", prompts=FINE, models=models, seeds=range(20))
    executor = make_executor()
    events = list(play(job, executor))
    last: dict[str, str] = {}
    switches = 0
    for event in events:
        if isinstance(event, ChunkStarted):
            switches += last.get(event.worker) != event.model
            last[event.worker] = event.model
    workers = executor.size or 0
    # Each worker may help each model to its end once, and none goes back to one it left.
    assert switches <= len(models) + (workers - 1) * (len(models) - 1)
    assert sum(loads(model) for model in models) == switches


def test_a_stop_request_commits_what_is_finished_and_the_next_run_does_the_rest(
    make_executor: MakeExecutor, tmp_path: Path, model: Path
) -> None:
    job = make_job(tmp_path / "out", prompts=("slow",), models=[model], seeds=range(200))
    stop = Stop()
    first = None
    for event in play(job, make_executor(), stop=stop):
        if isinstance(event, Progress) and event.rendered and not stop.asked:
            stop.request()
        if isinstance(event, RunFinished):
            first = event.report
    assert first is not None
    assert first.interrupted
    assert 0 < first.rendered < 200
    assert first.rendered == len(content(job)) == len(images(job))
    second = finish(play(job, make_executor()))
    assert first.rendered + second.rendered == 200
    assert Counter(begun(model)).most_common(1)[0][1] == 1


def test_a_stop_request_before_anything_is_leased_ends_the_run(
    make_executor: MakeExecutor, tmp_path: Path, model: Path
) -> None:
    job = make_job(tmp_path / "out", prompts=FINE, models=[model])
    stop = Stop()
    stop.request()
    report = finish(play(job, make_executor(), stop=stop))
    assert (report.rendered, report.unfinished, report.interrupted) == (0, 6, True)


def test_a_store_that_fails_for_a_while_costs_no_task_anything(
    make_executor: MakeExecutor, tmp_path: Path, model: Path
) -> None:
    job = make_job(tmp_path / "out", prompts=FINE, models=[model], seeds=range(10))
    pictures = tmp_path / "out" / "images"
    Store.open(job.output, create=True)
    shutil.rmtree(pictures, ignore_errors=True)
    pictures.write_text("a file where the folder should be")
    notices = 0
    for event in play(job, make_executor()):
        if isinstance(event, Notice):
            notices += 1
            pictures.unlink(missing_ok=True)
    assert notices == 1
    assert {row["status"] for row in content(job)} == {"rendered"}
    assert len(content(job)) == 60


def test_a_store_that_keeps_failing_ends_the_run_and_charges_no_task(
    make_executor: MakeExecutor, tmp_path: Path, model: Path
) -> None:
    job = make_job(tmp_path / "out", prompts=FINE, models=[model])
    Store.open(job.output, create=True)
    pictures = tmp_path / "out" / "images"
    pictures.write_text("a file where the folder should be")
    with pytest.raises(StoreError):
        finish(play(job, make_executor()))
    pictures.unlink()
    assert finish(play(job, make_executor())).rendered == 6


def _row(job: Job, prompt: str) -> dict[str, object]:
    [row] = [row for row in content(job) if row["prompt"] == prompt]
    return row


def _id_of(job: Job, prompt: str) -> str:
    return str(_row(job, prompt)["task_id"])
