"""What is leased next, and how much of it."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Sequence
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from farm.engine.chunks import Chunk
from farm.engine.decide import History
from farm.engine.workload import CHUNK_SECONDS, FIRST_CHUNK, MOST_TASKS, Piece, Workload
from farm.task import PipelineKey, TaskSpec, pipeline_key, task_digest

NOBODY: Counter[PipelineKey] = Counter()


class Backlog:
    """Tasks by pipeline, in order."""

    def __init__(self, tasks: Sequence[TaskSpec]) -> None:
        self._tasks: dict[PipelineKey, deque[TaskSpec]] = {}
        for task in tasks:
            self._tasks.setdefault(pipeline_key(task), deque()).append(task)

    def keys(self) -> list[PipelineKey]:
        return [key for key, tasks in self._tasks.items() if tasks]

    def remaining(self, key: PipelineKey) -> int:
        return len(self._tasks.get(key, ()))

    def take(self, key: PipelineKey, n: int) -> tuple[TaskSpec, ...]:
        tasks = self._tasks[key]
        return tuple(tasks.popleft() for _ in range(min(n, len(tasks))))


def _tasks(count: int, *, model: str = "m") -> list[TaskSpec]:
    return [TaskSpec(model=model, seed=seed) for seed in range(count)]


def _key(model: str = "m") -> PipelineKey:
    return pipeline_key(TaskSpec(model=model))


def _cut(workload: Workload, key: PipelineKey | None = None, *, workers: int) -> Chunk:
    chunk = workload.cut(key or _key(), workers=workers)
    assert chunk is not None
    return chunk


def _chunk(count: int) -> Chunk:
    return Chunk(id="c", key=_key(), tasks=tuple(_tasks(count)))


def test_the_first_chunk_is_small() -> None:
    workload = Workload(Backlog(_tasks(10_000)), suspects={})
    assert len(_cut(workload, workers=2).tasks) == FIRST_CHUNK


def test_chunks_grow_step_by_step_to_their_seconds() -> None:
    workload = Workload(Backlog(_tasks(100_000)), suspects={})
    sizes = []
    for _ in range(6):
        chunk = _cut(workload, workers=2)
        sizes.append(len(chunk.tasks))
        workload.learn(chunk, seconds=0.05 * len(chunk.tasks), finished=len(chunk.tasks))
    assert sizes[:3] == [8, 32, 128]
    assert sizes[-1] == CHUNK_SECONDS / 0.05


def test_a_chunk_never_carries_more_than_a_lease_can() -> None:
    workload = Workload(Backlog(_tasks(100_000)), suspects={})
    for _ in range(8):
        size = len(_cut(workload, workers=2).tasks)
        workload.learn(_chunk(size), seconds=1e-6 * size, finished=size)
    assert size == MOST_TASKS


def test_chunks_shrink_towards_the_end_so_that_all_workers_have_some() -> None:
    workload = Workload(Backlog(_tasks(400)), suspects={})
    workload.learn(_chunk(1000), seconds=1000.0, finished=1000)
    sizes = []
    while workload:
        sizes.append(len(_cut(workload, workers=4).tasks))
    assert sum(sizes) == 400
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-4:] == [1, 1, 1, 1]


def test_slow_pictures_are_leased_one_at_a_time() -> None:
    workload = Workload(Backlog(_tasks(100)), suspects={})
    workload.learn(_chunk(2), seconds=300.0, finished=2)
    assert len(_cut(workload, workers=1).tasks) == 1


def test_what_a_task_may_take_goes_by_its_size_and_steps_and_its_company() -> None:
    workload = Workload(Backlog(()), suspects={})
    small = [TaskSpec(width=64, height=64, num_inference_steps=10, seed=i) for i in range(4)]
    large = TaskSpec(width=128, height=64, num_inference_steps=30)
    chunk = Chunk(id="c1", key=_key(), tasks=tuple(small))
    mixed = Chunk(id="c2", key=_key(), tasks=(*small, large))
    assert workload.expect(chunk, in_flight=4) is None
    workload.learn(chunk, seconds=8.0, finished=4)
    assert workload.expect(chunk, in_flight=0) == pytest.approx(2.0)
    assert workload.expect(chunk, in_flight=4) == pytest.approx(8.0)
    assert workload.expect(mixed, in_flight=2) == pytest.approx(2.0 * 6 * 2)


def test_what_came_back_can_wait_for_another_worker_while_there_is_something_else() -> None:
    workload = Workload(Backlog(_tasks(20)), suspects={})
    first = _cut(workload, workers=1)
    here = History(attempt=2, nodes=frozenset({"here"}))
    workload.put_back(Piece(key=_key(), tasks=first.tasks, history=here))
    elsewhere = partial(workload.cut, _key(), workers=1, suits=lambda history: not history.nodes)
    other = elsewhere()
    assert other is not None
    assert not set(other.tasks) & set(first.tasks)
    while elsewhere():
        pass
    assert workload.pending(_key()) == len(first.tasks)
    assert _cut(workload, workers=1).history == here


def test_a_worker_stays_with_its_pipeline_and_then_goes_where_most_work_waits() -> None:
    tasks = [*_tasks(3, model="own"), *_tasks(100, model="crowded"), *_tasks(60, model="free")]
    workload = Workload(Backlog(tasks), suspects={})
    held = Counter({_key("crowded"): 1})
    assert workload.choose_key(_key("own"), refused=set(), held=held) == _key("own")
    workload.drain(_key("own"), 3)
    assert workload.choose_key(_key("own"), refused=set(), held=held) == _key("free")
    assert workload.choose_key(None, refused={_key("free")}, held=held) == _key("crowded")
    assert workload.choose_key(None, refused=set(workload.keys()), held=held) is None


def test_what_came_back_goes_out_again_first_and_never_mixes_histories() -> None:
    workload = Workload(Backlog(_tasks(50)), suspects={})
    first = _cut(workload, workers=1)
    once, twice = History(attempt=2), History(attempt=3, alone=True)
    workload.put_back(Piece(key=_key(), tasks=first.tasks[:3], history=once))
    workload.put_back(Piece(key=_key(), tasks=first.tasks[3:], history=twice))
    chunks = [_cut(workload, workers=1) for _ in range(3)]
    assert [chunk.history for chunk in chunks] == [once, twice, History()]
    assert [len(chunk.tasks) for chunk in chunks] == [3, 5, 8]


def test_a_task_that_was_in_flight_when_a_run_died_begins_alone() -> None:
    tasks = _tasks(8)
    suspects = {task_digest(tasks[2]): 1, task_digest(tasks[5]): 2}
    workload = Workload(Backlog(tasks), suspects=suspects)
    chunks = []
    while workload:
        chunks.append(_cut(workload, workers=1))
    histories = {
        task.seed: (chunk.history.crashes, chunk.history.alone)
        for chunk in chunks
        for task in chunk.tasks
    }
    assert histories[2] == (1, True)
    assert histories[5] == (2, True)
    assert {histories[seed] for seed in (0, 1, 3, 4, 6, 7)} == {(0, False)}


@given(
    counts=st.lists(st.integers(1, 60), min_size=1, max_size=4),
    workers=st.integers(1, 9),
    pace=st.floats(1e-4, 1e3),
    suspicious=st.sets(st.integers(0, 59)),
)
def test_every_task_is_leased_exactly_once(
    counts: list[int], workers: int, pace: float, suspicious: set[int]
) -> None:
    tasks = [task for i, count in enumerate(counts) for task in _tasks(count, model=f"m{i}")]
    suspects = {task_digest(task): 1 for task in tasks if task.seed in suspicious}
    workload = Workload(Backlog(tasks), suspects=suspects)
    leased: list[TaskSpec] = []
    key = None
    while key := workload.choose_key(key, refused=set(), held=NOBODY):
        before = len(workload)
        chunk = _cut(workload, key, workers=workers)
        assert chunk.tasks
        assert len(workload) == before - len(chunk.tasks)
        leased.extend(chunk.tasks)
        workload.learn(chunk, seconds=pace * len(chunk.tasks), finished=len(chunk.tasks))
    assert sorted(leased, key=str) == sorted(tasks, key=str)
