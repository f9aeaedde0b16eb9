"""What one worker does with a chunk."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from farm.engine.chunks import Chunk, ChunkOutcome, WorkerSetup
from farm.engine.decide import History, Policy
from farm.engine.worker import Worker
from farm.store import Row, Store, encode_image
from farm.task import FailureKind, TaskSpec, pipeline_key, task_id
from tests.engine.fault_renderers import AHEAD_FACTORY, BATCHING_FACTORY, begun, loads
from tests.engine.scenes import make_job


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return tmp_path / "model"


@pytest.fixture
def setup(tmp_path: Path, model: Path) -> WorkerSetup:
    job = make_job(tmp_path / "out", prompts=("fine",), models=[model])
    store = Store.open(job.output, create=True)
    return WorkerSetup(
        store_url=store.url,
        job=job,
        run=store.begin_run(),
        policy=Policy(),
        factory=BATCHING_FACTORY,
    )


@pytest.fixture
def worker(setup: WorkerSetup) -> Iterator[Worker]:
    worker = Worker(setup, name="w1", node="here")
    yield worker
    worker.close()


def _chunk(
    name: str, model: Path, *prompts: str, seed: int = 0, history: History | None = None
) -> Chunk:
    tasks = tuple(
        TaskSpec(
            backend="pattern", model=str(model), prompt=prompt, seed=seed + i, width=8, height=8
        )
        for i, prompt in enumerate(prompts)
    )
    return Chunk(id=name, key=pipeline_key(tasks[0]), tasks=tasks, history=history or History())


def _outcomes(worker: Worker, count: int) -> dict[str, ChunkOutcome]:
    """Let the worker work until it has answered `count` chunks."""
    for _ in worker.work():
        pass
    found: dict[str, ChunkOutcome] = {}
    while len(found) < count:
        found |= {outcome.chunk: outcome for outcome in worker.report(10).outcomes}
    return found


def test_one_stream_runs_on_across_chunks_of_one_pipeline(
    worker: Worker, model: Path, setup: WorkerSetup
) -> None:
    for number in range(3):
        worker.lease(_chunk(f"c{number}", model, *["fine"] * 3, seed=10 * number))
    outcomes = _outcomes(worker, 3)
    assert [outcome.rendered for outcome in outcomes.values()] == [3, 3, 3]
    assert loads(model) == 1
    # Batches of four went across chunks of three.
    sizes = Store.open(setup.store_url).table(["batch_size"])["batch_size"].to_pylist()
    assert sorted(sizes) == [1] + [4] * 8


def test_a_chunk_is_one_part_unless_it_takes_long(setup: WorkerSetup, model: Path) -> None:
    hasty = WorkerSetup(
        store_url=setup.store_url,
        job=setup.job,
        run=setup.run,
        policy=setup.policy,
        factory=setup.factory,
        commit_every_s=0.0,
    )
    for index, (one_setup, parts) in enumerate(((setup, 1), (hasty, 12))):
        worker = Worker(one_setup, name=f"w{index}", node="here")
        chunk = _chunk(f"c{index}", model, *["fine"] * 12, seed=100 * index)
        worker.lease(chunk)
        outcome = _outcomes(worker, 1)[chunk.id]
        worker.close()
        assert outcome.rendered == 12
        assert len(set(outcome.parts)) == len(outcome.parts) == parts
        committed = Store.open(setup.store_url).committed_by(run=setup.run, chunk=chunk.id)
        assert len(committed) == 12


def test_a_stop_answers_every_lease_and_commits_what_is_finished(
    worker: Worker, model: Path, setup: WorkerSetup
) -> None:
    worker.lease(_chunk("c1", model, *["fine"] * 12))
    worker.lease(_chunk("c2", model, *["fine"] * 12, seed=50))
    steps = worker.work()
    for _ in range(2 + 5):  # it will load, the renderer is ready, then five images
        next(steps)
    worker.ask_to_stop()
    for _ in steps:
        pass
    outcomes = _outcomes(worker, 2)
    assert outcomes["c1"].rendered == 8  # two batches of four had begun
    assert outcomes["c1"].undone == (8, 9, 10, 11)
    assert outcomes["c2"].undone == tuple(range(12))
    assert len(Store.open(setup.store_url).finished().rendered) == 8
    assert Store.open(setup.store_url).control.names("leases/") == []


def test_alone_means_one_at_a_time_each_noted_before_it_begins(
    worker: Worker, model: Path, setup: WorkerSetup
) -> None:
    control = Store.open(setup.store_url).control
    worker.lease(_chunk("c1", model, *["fine"] * 3, history=History(crashes=1, alone=True)))
    noted = []
    steps = worker.work()
    for _ in range(2):  # it will load, and the renderer is ready
        next(steps)
    for _ in steps:
        [name] = control.names("leases/")
        noted.append(json.loads(control.read(name) or "")["tasks"])
    assert [len(tasks) for tasks in noted] == [1, 1, 1]
    assert len({tasks[0] for tasks in noted}) == 3


def test_a_chunk_that_is_to_be_rendered_alone_is_not_drawn_into_a_stream(
    worker: Worker, model: Path, setup: WorkerSetup
) -> None:
    worker.lease(_chunk("c1", model, *["fine"] * 4))
    alone = _chunk("c2", model, *["fine"] * 4, seed=50, history=History(alone=True))
    worker.lease(alone)
    _outcomes(worker, 2)
    rows = Store.open(setup.store_url).table(["seed", "batch_size"]).to_pylist()
    assert {row["batch_size"] for row in rows if row["seed"] < 50} == {4}
    assert {row["batch_size"] for row in rows if row["seed"] >= 50} == {1}


def test_what_is_rendered_alone_is_committed_before_the_next_chunk_begins(
    worker: Worker, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = History(crashes=1, alone=True)
    chunks = [
        _chunk("c1", model, "fine"),
        _chunk("c2", model, "fine", seed=10, history=alone),
        _chunk("c3", model, "fine", seed=20, history=alone),
        _chunk("c4", model, "fine", seed=30),
    ]
    begun_before: list[list[str]] = []
    commit = Store.commit

    def commit_late(store: Store, rows: Sequence[Row], **name: Any) -> str:
        hurried_on.wait(0.05)
        begun_before.append(begun(model))
        return commit(store, rows, **name)

    hurried_on = threading.Event()
    monkeypatch.setattr(Store, "commit", commit_late)
    for chunk in chunks[:2]:
        worker.lease(chunk)
    for _ in worker.work():
        pass
    for chunk in chunks[2:]:
        worker.lease(chunk)
    _outcomes(worker, 4)
    ids = [task_id(chunk.tasks[0]) for chunk in chunks]
    assert begun_before == [ids[:1], ids[:2], ids[:3], ids]


def test_a_pipeline_that_did_not_load_is_not_tried_again_for_the_chunk_that_waits(
    worker: Worker, tmp_path: Path
) -> None:
    bad = tmp_path / "unloadable"
    bad.mkdir()
    worker.lease(_chunk("c1", bad, "fine"))
    worker.lease(_chunk("c2", bad, "fine", seed=10))
    outcomes = _outcomes(worker, 2)
    assert outcomes["c1"].fault is not None
    assert (outcomes["c2"].fault, outcomes["c2"].undone) == (None, (0,))
    assert loads(bad) == 1


def test_a_pipeline_that_did_not_load_is_tried_again_by_order_only(
    worker: Worker, tmp_path: Path
) -> None:
    bad = tmp_path / "unloadable"
    bad.mkdir()
    worker.lease(_chunk("c1", bad, "fine"))
    assert _outcomes(worker, 1)["c1"].fault is not None
    # The driver cut this one before it heard of the failure, and it arrives after it.
    worker.lease(_chunk("c2", bad, "fine", "fine"))
    outcome = _outcomes(worker, 1)["c2"]
    assert (outcome.fault, outcome.undone, loads(bad)) == (None, (0, 1), 1)
    worker.lease(replace(_chunk("c3", bad, "fine"), load_failures=1))
    assert _outcomes(worker, 1)["c3"].fault is not None
    assert loads(bad) == 2


def test_a_renderer_that_raises_makes_the_worker_spent_once_all_is_answered(
    worker: Worker, model: Path
) -> None:
    worker.lease(_chunk("c1", model, "raise 1", "fine", "fine"))
    worker.lease(_chunk("c2", model, "fine", seed=50))
    for _ in worker.work():
        pass
    outcomes: dict[str, ChunkOutcome] = {}
    report = worker.report(10)
    while not report.is_spent:
        outcomes |= {outcome.chunk: outcome for outcome in report.outcomes}
        report = worker.report(10)
    outcomes |= {outcome.chunk: outcome for outcome in report.outcomes}
    assert {problem.in_company for problem in outcomes["c1"].again} == {True}
    assert len(outcomes["c1"].again) + len(outcomes["c2"].again) == 4
    worker.lease(_chunk("c3", model, "fine", seed=70))
    assert _outcomes(worker, 1)["c3"].undone == (0,)


def test_a_stop_leaves_undone_what_the_renderer_has_not_begun(
    setup: WorkerSetup, model: Path
) -> None:
    worker = Worker(replace(setup, factory=AHEAD_FACTORY), name="w1", node="here")
    worker.lease(_chunk("c1", model, *["fine"] * 12))
    worker.lease(_chunk("c2", model, *["fine"] * 12, seed=50))
    steps = worker.work()
    for _ in range(2 + 3):  # it will load, the renderer is ready, then three images
        next(steps)
    worker.ask_to_stop()
    for _ in steps:
        pass
    outcomes = _outcomes(worker, 2)
    assert outcomes["c1"].rendered == 4  # the one that was being drawn is finished
    assert outcomes["c1"].undone == tuple(range(4, 12))
    assert outcomes["c2"].undone == tuple(range(12))
    worker.close()


def test_the_heartbeat_counts_what_no_answer_has_counted(worker: Worker, model: Path) -> None:
    worker.lease(_chunk("c1", model, *["fine"] * 4, "refuse", "fine"))
    steps = worker.work()
    for _ in range(2 + 5):  # it will load, the renderer is ready, then five images
        next(steps)
    heartbeat = worker.report(0).heartbeat
    assert (heartbeat.phase, heartbeat.rendered, heartbeat.failed) == ("rendering", 4, 1)
    assert heartbeat.in_flight == 1
    assert "cfg 7.5" in heartbeat.settings
    for _ in steps:
        pass
    assert _outcomes(worker, 1)["c1"].rendered == 5
    heartbeat = worker.report(0).heartbeat
    assert (heartbeat.phase, heartbeat.rendered, heartbeat.in_flight) == ("idle", 0, 0)


def test_a_worker_says_that_it_loads_before_it_does(worker: Worker, model: Path) -> None:
    """Loading takes minutes for a large model, and whoever watches sees `idle` otherwise."""
    worker.lease(_chunk("c1", model, "fine"))
    steps = worker.work()
    next(steps)
    assert worker.has_news
    assert worker.report(0).heartbeat.phase == "loading"
    assert not loads(model)
    next(steps)
    assert worker.has_news
    assert worker.report(0).heartbeat.phase == "rendering"
    assert loads(model) == 1


def test_every_row_says_who_made_it_and_in_which_attempt(
    worker: Worker, model: Path, setup: WorkerSetup
) -> None:
    chunk = _chunk("c1", model, "fine", "refuse", history=History(attempt=3))
    worker.lease(chunk)
    _outcomes(worker, 1)
    columns = ["task_id", "status", "worker", "node", "attempt", "run", "encode_ms", "image_bytes"]
    rows = Store.open(setup.store_url).table(columns).to_pylist()
    assert {row["task_id"] for row in rows} == {task_id(task) for task in chunk.tasks}
    for row in rows:
        assert (row["worker"], row["node"], row["attempt"], row["run"]) == ("w1", "here", 3, 1)
        assert (row["encode_ms"] is not None) == (row["status"] == "rendered")
    assert len(begun(model)) == 2


def test_a_picture_that_cannot_be_written_is_a_failed_row(
    worker: Worker, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(pixels: object, settings: object, row: Row) -> bytes:
        if row.task.prompt == "too large":
            raise ValueError("no encoder takes this")
        return encode_image(pixels, settings, row)  # type: ignore[arg-type]

    monkeypatch.setattr("farm.engine.worker.encode_image", refuse)
    worker.lease(_chunk("c1", model, "fine", "too large", "fine 2"))
    outcome = _outcomes(worker, 1)["c1"]
    assert outcome.rendered == 2
    [problem] = outcome.failed
    assert (problem.index, problem.kind) == (1, FailureKind.INTERNAL)
    assert "no encoder takes this" in problem.message


def test_closing_lets_a_commit_finish_that_has_begun(
    setup: WorkerSetup, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its images are still being written when the worker is closed, and none of them failed."""
    has_begun, is_closing = threading.Event(), threading.Event()
    commit = Worker._commit  # nothing else tells that it waits for images

    def watched(worker: Worker, *args: Any) -> None:
        has_begun.set()
        commit(worker, *args)

    def encode_late(pixels: object, settings: object, row: Row) -> bytes:
        assert is_closing.wait(60)
        return encode_image(pixels, settings, row)  # type: ignore[arg-type]

    monkeypatch.setattr(Worker, "_commit", watched)
    monkeypatch.setattr("farm.engine.worker.encode_image", encode_late)
    worker = Worker(setup, name="w1", node="here", threads=1)
    worker.lease(_chunk("c1", model, *["fine"] * 12))
    for _ in worker.work():
        pass
    assert has_begun.wait(60)
    is_closing.set()
    worker.close()
    status = Store.open(setup.store_url).table(["status"])["status"].to_pylist()
    assert status == ["rendered"] * 12
