"""What is leased next, and how much of it."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

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


def test_the_first_chunk_is_small() -> None:
    workload = Workload(Backlog(_tasks(10_000)), suspects={})
    assert len(workload.cut(_key(), workers=2).tasks) == FIRST_CHUNK


def test_chunks_grow_step_by_step_to_their_seconds() -> None:
    workload = Workload(Backlog(_tasks(100_000)), suspects={})
    sizes = []
    for _ in range(6):
        chunk = workload.cut(_key(), workers=2)
        sizes.append(len(chunk.tasks))
        workload.learn(_key(), seconds=0.05 * len(chunk.tasks), tasks=len(chunk.tasks))
    assert sizes[:3] == [8, 32, 128]
    assert sizes[-1] == CHUNK_SECONDS / 0.05


def test_a_chunk_never_carries_more_than_a_lease_can() -> None:
    workload = Workload(Backlog(_tasks(100_000)), suspects={})
    for _ in range(8):
        size = len(workload.cut(_key(), workers=2).tasks)
        workload.learn(_key(), seconds=1e-6 * size, tasks=size)
    assert size == MOST_TASKS


def test_chunks_shrink_towards_the_end_so_that_all_workers_have_some() -> None:
    workload = Workload(Backlog(_tasks(400)), suspects={})
    workload.learn(_key(), seconds=1000.0, tasks=1000)
    sizes = []
    while workload:
        sizes.append(len(workload.cut(_key(), workers=4).tasks))
    assert sum(sizes) == 400
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-4:] == [1, 1, 1, 1]


def test_slow_pictures_are_leased_one_at_a_time() -> None:
    workload = Workload(Backlog(_tasks(100)), suspects={})
    workload.learn(_key(), seconds=300.0, tasks=2)
    assert len(workload.cut(_key(), workers=1).tasks) == 1


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
    first = workload.cut(_key(), workers=1)
    once, twice = History(attempt=2), History(attempt=3, alone=True)
    workload.put_back(Piece(key=_key(), tasks=first.tasks[:3], history=once))
    workload.put_back(Piece(key=_key(), tasks=first.tasks[3:], history=twice))
    chunks = [workload.cut(_key(), workers=1) for _ in range(3)]
    assert [chunk.history for chunk in chunks] == [once, twice, History()]
    assert [len(chunk.tasks) for chunk in chunks] == [3, 5, 8]


def test_a_task_that_was_in_flight_when_a_run_died_begins_alone() -> None:
    tasks = _tasks(8)
    suspects = {task_digest(tasks[2]): 1, task_digest(tasks[5]): 2}
    workload = Workload(Backlog(tasks), suspects=suspects)
    chunks = []
    while workload:
        chunks.append(workload.cut(_key(), workers=1))
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
        chunk = workload.cut(key, workers=workers)
        assert chunk.tasks
        assert len(workload) == before - len(chunk.tasks)
        leased.extend(chunk.tasks)
        workload.learn(key, seconds=pace * len(chunk.tasks), tasks=len(chunk.tasks))
    assert sorted(leased, key=str) == sorted(tasks, key=str)
