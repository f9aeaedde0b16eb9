"""What the loop promises beside rendering: when it starts, when it ends, and who may share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NoReturn

import pytest

from farm import engine, grid
from farm.engine import Event, Policy, Stop
from farm.engine.chunks import (
    Chunk,
    ChunkOutcome,
    Fault,
    Message,
    WorkerReport,
    WorkerSetup,
    WorkerUp,
)
from farm.engine.decide import History
from farm.engine.events import ChunkDone, ChunkStarted, Notice, RunFinished, RunStarted
from farm.engine.inline import InlineExecutor
from farm.engine.journal import Journal
from farm.engine.requests import PAUSED, Requests, ask
from farm.manifest.job import Job
from farm.store import Store
from farm.task import FailureKind, task_digest
from farm.view.status import Phase, status
from tests.engine.fault_renderers import begun
from tests.engine.scenes import content, finish, make_job, plan_of, play


class Unstartable:
    """An executor that must not be started."""

    name = "unstartable"
    size = 1

    def start(self, setup: WorkerSetup) -> NoReturn:
        raise AssertionError(f"started for {setup.job.name}")

    def lease(self, worker: str, chunk: Chunk) -> None: ...

    def wait(self, timeout_s: float) -> Sequence[Message]:  # noqa: ARG002 - as Executor.wait
        return []

    def replace(self, worker: str) -> None: ...

    def avoid(self, node_ids: frozenset[str]) -> None: ...

    def ask_to_stop(self) -> None: ...

    def close(self) -> None: ...


class Silent(Unstartable):
    """An executor whose only worker never answers."""

    closed = False
    _greeted = False

    def start(self, setup: WorkerSetup) -> None:  # type: ignore[override]
        assert setup.run

    def wait(self, timeout_s: float) -> Sequence[Message]:
        if self._greeted:
            return super().wait(timeout_s)
        self._greeted = True
        return [WorkerUp(worker="w", node="n", device="d")]

    def close(self) -> None:
        self.closed = True


class Scripted(Silent):
    """An executor whose one worker answers its first two chunks with a store fault, seconds apart.

    The clock is its own: every wait takes a second.
    """

    def __init__(self) -> None:
        self.now = 0.0
        self.faults = 2
        self.on_idle: Callable[[], None] = lambda: None
        self._leased: list[Chunk] = []

    def lease(self, worker: str, chunk: Chunk) -> None:
        assert worker == "w"
        self._leased.append(chunk)

    def wait(self, timeout_s: float) -> Sequence[Message]:
        self.now += 1.0
        if not self._leased:
            self.on_idle()
            return super().wait(timeout_s)
        chunk = self._leased.pop(0)
        places = tuple(range(len(chunk.tasks)))
        if self.faults:
            self.faults -= 1
            fault = Fault(kind="store", message="disk full")
            outcome = ChunkOutcome(chunk=chunk.id, undone=places, fault=fault)
        else:
            outcome = ChunkOutcome(chunk=chunk.id, rendered=len(places), seconds=1.0)
        return [WorkerReport(worker="w", outcomes=(outcome,))]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return tmp_path / "model"


def test_with_nothing_to_do_no_worker_is_started_and_no_run_is_claimed(
    tmp_path: Path, model: Path
) -> None:
    job = make_job(tmp_path / "out", prompts=("fine",), models=[model])
    assert finish(play(job, InlineExecutor())).run == 1
    events = list(play(job, Unstartable()))
    assert [type(event) for event in events] == [RunStarted, RunFinished]
    assert finish(iter(events)).run is None
    assert Store.open(job.output).begin_run() == 2


def test_a_second_stop_request_ends_the_run_at_once(tmp_path: Path, model: Path) -> None:
    job = make_job(tmp_path / "out", prompts=("fine",), models=[model])
    stop, executor = Stop(), Silent()
    for event in play(job, executor, stop=stop):
        if isinstance(event, ChunkStarted):
            stop.request()
        if isinstance(event, Notice):
            stop.request()
        last = event
    assert isinstance(last, RunFinished)
    assert (last.report.interrupted, last.report.unfinished) == (True, 1)
    assert executor.closed


def test_one_pause_answers_one_store_fault_however_many_chunks_met_it(
    tmp_path: Path, model: Path
) -> None:
    job = make_job(tmp_path / "out", prompts=("fine",), models=[model], seeds=range(100))
    executor = Scripted()
    store = Store.open(job.output, create=True)
    events = engine.run(
        plan_of(job),
        job=job,
        store=store,
        executor=executor,
        policy=Policy(store_delay_s=0.5),
        clock=lambda: executor.now,
    )
    notices = [event.message for event in events if isinstance(event, Notice)]
    assert notices == ["the store failed, next try in 0.5 s: disk full"]


def test_whoever_stops_reading_ends_the_run_and_keeps_what_is_committed(
    tmp_path: Path, model: Path
) -> None:
    job = make_job(tmp_path / "out", prompts=("fine",), models=[model], seeds=range(60))
    events = play(job, InlineExecutor())
    for event in events:
        if isinstance(event, ChunkDone):
            break
    events.close()  # type: ignore[attr-defined]
    kept = len(content(job))
    assert 0 < kept < 60
    report = finish(play(job, InlineExecutor()))
    assert (report.skipped, report.rendered) == (kept, 60 - kept)


def test_two_drivers_at_once_waste_work_and_nothing_else(tmp_path: Path, model: Path) -> None:
    job = make_job(tmp_path / "out", prompts=("fine", "refuse"), models=[model], seeds=range(20))
    streams = [play(job, InlineExecutor()) for _ in range(2)]
    reports = []
    while streams:
        for stream in tuple(streams):
            event = next(stream, None)
            if event is None:
                streams.remove(stream)
            elif isinstance(event, RunFinished):
                reports.append(event.report)
    assert [report.rendered for report in reports] == [20, 20]
    rows = content(job)
    assert len(rows) == 40
    assert sum(row["status"] == "rendered" for row in rows) == 20


def test_a_failed_row_stays_until_it_is_to_be_tried_again(tmp_path: Path, model: Path) -> None:
    job = make_job(tmp_path / "out", prompts=("fine", "black 3 then fine"), models=[model])
    assert finish(play(job, InlineExecutor())).failures == {FailureKind.BAD_OUTPUT: 1}
    report = finish(play(job, InlineExecutor()))
    assert (report.rendered, report.skipped, report.failed_before) == (0, 1, 1)
    report = finish(play(job, InlineExecutor(), retry_failed=True))
    assert (report.rendered, report.skipped, report.failed_before) == (1, 1, 0)
    assert {row["status"] for row in content(job)} == {"rendered"}


def test_a_task_that_killed_enough_runs_is_given_up_without_another_try(
    tmp_path: Path, model: Path
) -> None:
    job = make_job(tmp_path / "out", prompts=("fine", "die 99"), models=[model])
    store = Store.open(job.output, create=True)
    [task] = [task for task in grid.expand(job) if task.prompt == "die 99"]
    for run in range(1, 4):
        journal = Journal(store.control, run=store.begin_run())
        crashes = max(journal.left_behind().values(), default=0)
        assert crashes == run - 1
        history = History(crashes=crashes, alone=True)
        journal.note("c00001", digests=[task_digest(task)], history=history)
    report = finish(play(job, InlineExecutor()))
    assert (report.rendered, report.failures) == (1, {FailureKind.WORKER_DIED: 1})
    assert len(begun(model)) == 1
    assert store.control.names("leases/") == []


# --- requests from elsewhere --------------------------------------------------------------------


def _paced(job: Job, executor: Scripted, stop: Stop | None = None) -> Iterator[Event]:
    executor.faults = 0
    store = Store.open(job.output, create=True)
    yield from engine.run(
        plan_of(job), job=job, store=store, executor=executor, stop=stop, clock=lambda: executor.now
    )


def test_a_paused_run_leases_nothing_until_it_is_to_go_on(tmp_path: Path, model: Path) -> None:
    job = make_job(tmp_path / "out", prompts=("fine",), models=[model], seeds=range(400))
    control = Store.open(job.output, create=True).control
    ask(control, "pause")  # of the past: this run has not begun
    executor = Scripted()
    told: list[str] = []
    leased_while_paused = 0
    for event in _paced(job, executor):
        match event:
            case ChunkDone() if not told and control.read(PAUSED) is None:
                ask(control, "pause")
            case Notice(message=message):
                told.append(message)
                if len(told) == 1:
                    assert status(job.output).phase is Phase.PAUSED
                    executor.on_idle = lambda: ask(control, "resume")
            case ChunkStarted():
                leased_while_paused += len(told) == 1
            case _:
                pass
    assert [words.partition(",")[0] for words in told] == ["paused", "going on"]
    assert leased_while_paused == 0
    assert control.read(PAUSED) is None


def test_a_run_that_is_cancelled_from_elsewhere_ends_as_after_a_stop_request(
    tmp_path: Path, model: Path
) -> None:
    job = make_job(tmp_path / "out", prompts=("fine",), models=[model], seeds=range(4000))
    control = Store.open(job.output, create=True).control
    stop = Stop()
    last: Event | None = None
    for last in _paced(job, Scripted(), stop):
        if isinstance(last, ChunkDone):
            ask(control, "cancel")
    assert isinstance(last, RunFinished)
    assert last.report.interrupted
    assert (stop.asked, stop.insisted) == (True, False)


def test_the_last_request_counts_and_two_who_ask_at_once_are_both_heard(tmp_path: Path) -> None:
    control = Store.open(tmp_path / "out", create=True).control
    requests = Requests(control)
    assert requests.news() is None
    ask(control, "pause")
    ask(control, "resume")
    ask(control, "cancel")
    assert requests.news() == "cancel"
    assert requests.news() is None
    control.write("requests/000009", "dance")
    assert requests.news() is None
    ask(control, "pause")
    assert requests.news() == "pause"
