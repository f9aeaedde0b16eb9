"""How much of the hardware a run used, from what its renderers measured."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from farm.engine import Event
from farm.engine.chunks import (
    Chunk,
    Heartbeat,
    Message,
    WorkerReport,
    WorkerSetup,
    WorkerUp,
)
from farm.engine.events import ChunkDone, ChunkStarted, Notice
from farm.engine.inline import InlineExecutor
from farm.engine.loop import LEASES_PER_WORKER
from farm.render import Effort, Renderer
from farm.render.pattern import open_pattern_renderer
from farm.task import PipelineKey, Rendered, RenderResult, TaskSpec
from tests.engine.scenes import finish, make_job, play

MEASURED = f"{__name__}:open_measured"
HUNGRY = f"{__name__}:open_hungry"
A_PICTURE = Effort(best_network=0.0010, best_decoder=0.0005, network=0.0012, decoder=0.0005)
"""In seconds: little enough for any machine to take longer."""


class MeasuredRenderer:
    """Paints patterns, and says that it shares one evaluation of three and what that takes."""

    def __init__(self, inner: Renderer) -> None:
        self._inner = inner
        self.effort = Effort()
        self.remark = "this is only a test"

    def render(self, tasks: Iterator[TaskSpec]) -> Iterator[RenderResult]:
        for result in self._inner.render(tasks):
            assert isinstance(result, Rendered)
            self.effort += A_PICTURE
            yield replace(result, denoiser_evaluations=3, shared_evaluations=1)

    def close(self) -> None:
        self._inner.close()


class HungryRenderer:
    """Wants many tasks before it answers one, and takes as many as there are."""

    appetite = 10_000
    first_meal = 0
    """Tasks that the latest one could take before it answered any."""

    def __init__(self, inner: Renderer) -> None:
        self._inner = inner

    def render(self, tasks: Iterator[TaskSpec]) -> Iterator[RenderResult]:
        taken = list(itertools.islice(tasks, 64))
        HungryRenderer.first_meal = len(taken)
        return self._inner.render(itertools.chain(taken, tasks))

    def close(self) -> None:
        self._inner.close()


def open_measured(key: PipelineKey, *, device: str, threads: int | None) -> Renderer:
    return MeasuredRenderer(open_pattern_renderer(key, device=device, threads=threads))


def open_hungry(key: PipelineKey, *, device: str, threads: int | None) -> Renderer:
    return HungryRenderer(open_pattern_renderer(key, device=device, threads=threads))


def test_efficiency_is_what_the_work_takes_at_best_of_the_time_it_took(tmp_path: Path) -> None:
    job = make_job(tmp_path / "out", prompts="abcd", models=[tmp_path / "model"], seeds=range(5))
    report = finish(play(job, InlineExecutor(), factory=MEASURED))
    assert report.rendered == 20
    assert (report.denoiser_evaluations, report.shared_evaluations) == (40, 20)
    assert report.efficiency == pytest.approx(20 * A_PICTURE.best / report.seconds)
    [worker] = report.workers
    assert worker.rendered == 20
    assert worker.efficiency == pytest.approx(20 * A_PICTURE.best / worker.seconds)


def test_the_time_is_accounted_for_to_the_last(tmp_path: Path) -> None:
    job = make_job(tmp_path / "out", prompts="abcd", models=[tmp_path / "model"])
    report = finish(play(job, InlineExecutor(), factory=MEASURED))
    assert sum(report.time_shares.values()) == pytest.approx(1.0)
    assert report.time_shares["network"] == pytest.approx(4 * 0.0010 / report.seconds)
    assert report.time_shares["fill"] == pytest.approx(4 * 0.0002 / report.seconds)


def test_effort_outlives_a_change_of_models(tmp_path: Path) -> None:
    models = [tmp_path / "one", tmp_path / "two"]
    job = make_job(tmp_path / "out", prompts="abc", models=models)
    report = finish(play(job, InlineExecutor(), factory=MEASURED))
    assert report.efficiency == pytest.approx(6 * A_PICTURE.best / report.seconds)


def test_nothing_is_claimed_where_nothing_is_measured(tmp_path: Path) -> None:
    job = make_job(tmp_path / "out", prompts="ab", models=[tmp_path / "model"])
    report = finish(play(job, InlineExecutor(), factory=None))
    assert report.efficiency is None
    assert report.time_shares == {}


def test_what_a_renderer_remarks_is_told_once(tmp_path: Path) -> None:
    job = make_job(tmp_path / "out", prompts="abcd", models=[tmp_path / "model"], seeds=range(9))
    events = list(play(job, InlineExecutor(), factory=MEASURED))
    told = [event for event in events if isinstance(event, Notice)]
    assert [event.message for event in told] == ["this is only a test"]


def test_a_hungry_renderer_gets_more_chunks_before_it_has_answered_the_first(
    tmp_path: Path,
) -> None:
    prompts = [f"p{number}" for number in range(12)]
    job = make_job(tmp_path / "out", prompts=prompts, models=[tmp_path / "model"], seeds=range(12))
    assert most_leased(play(job, InlineExecutor(), factory=HUNGRY)) > LEASES_PER_WORKER
    other = make_job(tmp_path / "other", prompts=prompts, models=[tmp_path / "model"], seeds=[1])
    assert most_leased(play(other, InlineExecutor(), factory=MEASURED)) <= LEASES_PER_WORKER


class ReadyToEat:
    """Two workers with an endless appetite, one of which says so before the other; none renders."""

    name = "ready to eat"
    size = 2

    def __init__(self) -> None:
        self.leased = {"first": 0, "second": 0}
        self._messages: list[Sequence[Message]] = [
            [WorkerUp(worker=worker, node="n", device="d") for worker in self.leased],
            *([WorkerReport(worker=worker, heartbeat=ENDLESS)] for worker in self.leased),
        ]

    def start(self, setup: WorkerSetup) -> None:
        pass

    def lease(self, worker: str, chunk: Chunk) -> None:
        self.leased[worker] += len(chunk.tasks)

    def wait(self, timeout_s: float) -> Sequence[Message]:
        del timeout_s
        return self._messages.pop(0)

    def replace(self, worker: str) -> None:
        pass

    def avoid(self, node_ids: frozenset[str]) -> None:
        pass

    def ask_to_stop(self) -> None:
        pass

    def close(self) -> None:
        pass


ENDLESS = Heartbeat(phase="rendering", appetite=10_000)


def test_whoever_is_hungry_first_leaves_the_others_their_share(tmp_path: Path) -> None:
    job = make_job(tmp_path / "out", prompts="abcd", models=[tmp_path / "model"], seeds=range(16))
    executor = ReadyToEat()
    with pytest.raises(IndexError):  # there is no more to wait for
        finish(play(job, executor, factory=HUNGRY))
    assert sum(executor.leased.values()) == 64
    assert max(executor.leased.values()) <= 36


def test_a_new_renderer_is_fed_before_it_begins(tmp_path: Path) -> None:
    job = make_job(tmp_path / "out", prompts="abcd", models=[tmp_path / "model"], seeds=range(16))
    finish(play(job, InlineExecutor(), factory=HUNGRY))
    assert HungryRenderer.first_meal == 64


def most_leased(events: Iterator[Event]) -> int:
    """Return how many chunks were in a worker's hands at most."""
    leased = most = 0
    for event in events:
        leased += isinstance(event, ChunkStarted)
        leased -= isinstance(event, ChunkDone)
        most = max(most, leased)
    return most


def test_effort_adds_up() -> None:
    twice = A_PICTURE + A_PICTURE
    assert twice.best == pytest.approx(0.003)
    assert twice + Effort() == twice
