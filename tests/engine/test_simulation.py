"""The real loop against simulated workers, with every fault at random times.

Workers, store and clock are simulated; the loop, its queue, its journal and `decide` are the real
ones. Hypothesis draws a schedule of faults: workers that die before, between and after their steps,
stores that refuse, pipelines that do not load, renderers that raise, commits that come after their
worker was buried, drivers that die. Oracle: whatever the schedule, the run ends, and the catalog
holds what a run without faults would have left, except that poison tasks are failed rows.
"""

from __future__ import annotations

import contextlib
import random
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from farm import engine
from farm.engine.chunks import (
    Chunk,
    ChunkOutcome,
    Fault,
    Message,
    TaskProblem,
    WorkerDown,
    WorkerReport,
    WorkerSetup,
    WorkerUp,
)
from farm.engine.decide import GiveUp, Policy, TaskFailed, decide
from farm.engine.events import WorkerLost
from farm.engine.journal import Journal
from farm.errors import StoreError
from farm.manifest.job import Axis, Job
from farm.planner import Plan
from farm.store import CommittedFailure, Finished, Row, Store
from farm.task import FailureKind, PipelineKey, TaskSpec, pipeline_key, task_digest, task_id

POLICY = Policy(
    retries=4,
    deaths_alone=8,
    load_failures=8,
    store_faults=8,
    fruitless_deaths=1000,
    stuck_least_s=60.0,
    stuck_unknown_s=120.0,
)
"""More patience than the faults of a schedule can use up, so that no innocent task is given up."""
JOB = Job(
    name="simulated",
    output="nowhere",
    defaults={},
    matrix=Axis(name="seed", points=(), labels=()),
)


@dataclass(kw_only=True)
class World:
    """What outlives drivers and workers: the store, the clock, the faults still to come."""

    rng: random.Random
    budget: Counter[str]
    """How many faults of each kind may still happen."""
    now: float = 0.0
    texts: dict[str, str] = field(default_factory=dict)
    parts: list[tuple[int, str, dict[bytes, CommittedFailure | None]]] = field(default_factory=list)
    runs: int = 0
    url: str = "simulated://"
    flaws: Counter[bytes] = field(default_factory=Counter)
    """How often a flaky task has failed."""
    begun: int = 0
    repeated: int = 0
    """How often a task was begun that had its image already."""

    def fault(self, kind: str, *, probability: float = 0.1) -> bool:
        """Return whether a fault of this kind happens here and now."""
        if self.budget[kind] > 0 and self.rng.random() < probability:
            self.budget[kind] -= 1
            return True
        return False

    # --- as farm.store.Store --------------------------------------------------------------------

    @property
    def control(self) -> World:
        return self

    def begin_run(self) -> int:
        self.runs += 1
        return self.runs

    def read(self, name: str) -> str | None:
        self._may_fail()
        return self.texts.get(name)

    def write(self, name: str, text: str) -> None:
        self._may_fail()
        self.texts[name] = text

    def names(self, prefix: str) -> list[str]:
        return sorted(name for name in self.texts if name.startswith(prefix))

    def delete(self, name: str) -> None:
        self._may_fail()
        self.texts.pop(name, None)

    def commit(self, rows: Sequence[Row], *, run: int, chunk: str, attempt: int) -> str:
        """Commit rows of the driver, which are failures."""
        failures = {
            task_digest(row.task): CommittedFailure(kind=row.error_kind or "", message="")
            for row in rows
        }
        return self.commit_digests(dict(failures), run=run, chunk=chunk, attempt=attempt)

    def commit_digests(
        self,
        rows: dict[bytes, CommittedFailure | None],
        *,
        run: int,
        chunk: str,
        attempt: int,  # noqa: ARG002 - as Store.commit
    ) -> str:
        self._may_fail()
        self.parts.append((run, chunk, rows))
        self._may_fail()  # an error although it was done
        return f"part-{len(self.parts)}"

    def committed_by(self, *, run: int, chunk: str) -> dict[bytes, CommittedFailure | None]:
        self._may_fail()
        found: dict[bytes, CommittedFailure | None] = {}
        for of_run, of_chunk, rows in self.parts:
            if (of_run, of_chunk.partition(".")[0]) == (run, chunk):
                found |= rows
        return found

    def _may_fail(self) -> None:
        if self.fault("store", probability=0.03):
            raise StoreError("simulated")

    def winners(self) -> dict[bytes, str]:
        """Return `rendered` or the kind of failure of every task that has a row."""
        found: dict[bytes, str] = {}
        for _, _, rows in self.parts:
            for digest, failure in rows.items():
                if failure is None:
                    found[digest] = "rendered"
                elif found.get(digest) != "rendered":
                    found[digest] = failure.kind
        return found

    def finished(self) -> Finished:
        winners = self.winners()
        rendered = [digest for digest, what in winners.items() if what == "rendered"]
        failed = [digest for digest, what in winners.items() if what != "rendered"]
        return Finished(rendered=_rows(rendered), failed=_rows(failed))


def _rows(digests: Sequence[bytes]) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.frombuffer(b"".join(digests), np.uint8).reshape(-1, 16)


class SimulatedExecutor:
    """Workers that take no time but that of the virtual clock, and die when the schedule says."""

    name = "simulated"

    def __init__(
        self,
        world: World,
        *,
        size: int,
        bad: frozenset[str] = frozenset(),
        nodes: Sequence[str] = ("n",),
        sick: frozenset[str] = frozenset(),
    ) -> None:
        """Workers named in `bad` load nothing; those on `sick` nodes die with whatever they do."""
        self.size = size
        self.avoided: frozenset[str] = frozenset()
        self.node_of: dict[str, str] = {}
        self._nodes = nodes
        self._sick = sick
        self._hung: set[str] = set()
        self.bad_loads: Counter[PipelineKey] = Counter()
        """How often a worker that cannot load anything was asked to."""
        self._bad = bad
        self._world = world
        self._queues: dict[str, deque[Chunk]] = {}
        self._loaded: dict[str, PipelineKey] = {}
        self._behind: dict[str, _Steps] = {}
        """What a worker has rendered and not committed yet, while it goes on to its next chunk."""
        self._messages: deque[Message] = deque()
        self._zombies: list[Callable[[], None]] = []
        self._born = 0
        self._stopping = False

    def start(self, setup: WorkerSetup) -> None:
        self._setup = setup
        self._journal = Journal(self._world, run=setup.run)
        for _ in range(self.size):
            self._spawn()

    def lease(self, worker: str, chunk: Chunk) -> None:
        if worker in self._queues:
            self._queues[worker].append(chunk)

    def wait(self, timeout_s: float) -> Sequence[Message]:
        world = self._world
        busy = [
            name
            for name, queue in self._queues.items()
            if (queue or name in self._behind) and name not in self._hung
        ]
        if busy and world.rng.random() < 0.8:
            name = world.rng.choice(busy)
            world.now += 1.0
            if world.fault("hang", probability=0.05):
                self._hung.add(name)
            else:
                self._perform(name)
        elif self._zombies and world.rng.random() < 0.5:
            self._zombies.pop()()
        if not self._messages:
            world.now += timeout_s
            return []
        count = world.rng.randint(1, len(self._messages))
        return [self._messages.popleft() for _ in range(count)]

    def replace(self, worker: str) -> None:
        self._queues.pop(worker)
        self._behind.pop(worker, None)
        self._spawn()

    def avoid(self, node_ids: frozenset[str]) -> None:
        self.avoided = node_ids

    def ask_to_stop(self) -> None:
        self._stopping = True

    def close(self) -> None:
        self._queues.clear()

    def _spawn(self) -> None:
        self._born += 1
        name = f"w{self._born}"
        self._queues[name] = deque()
        left = [node for node in self._nodes if node not in self.avoided] or self._nodes
        here = Counter(self.node_of[other] for other in self._queues if other in self.node_of)
        node = self.node_of[name] = min(left, key=lambda node: here[node])
        self._messages.append(WorkerUp(worker=name, node=node, device="d"))

    def _perform(self, name: str) -> None:
        """Do a worker's next chunk, and commit what it did before, unless something happens."""
        before = self._behind.pop(name, None)
        steps = self._next_steps(name)
        dying = before
        try:
            if steps is not None:
                dying = steps
                steps.is_doomed = self.node_of[name] in self._sick
                steps.render(self._loaded.get(name), stopping=self._stopping)
            dying = before
            outcomes = [] if before is None else [before.finish()]
            dying = steps
            if steps is None:
                pass
            elif steps.raised or self._world.rng.random() < 0.5:
                outcomes.append(steps.finish())
            else:
                self._behind[name] = steps
        except _DeathError:
            self._die(name, dying)
            return
        if steps is not None and steps.loaded:
            self._loaded[name] = steps.chunk.key
        is_spent = steps is not None and steps.raised
        if is_spent:
            outcomes += [
                ChunkOutcome(chunk=other.id, undone=tuple(range(len(other.tasks))))
                for other in self._queues[name]
            ]
            self._queues[name].clear()
        if outcomes:
            self._messages.append(
                WorkerReport(worker=name, outcomes=tuple(outcomes), is_spent=is_spent)
            )

    def _next_steps(self, name: str) -> _Steps | None:
        if not self._queues[name]:
            return None
        chunk = self._queues[name].popleft()
        self.bad_loads[chunk.key] += name in self._bad
        return _Steps(
            world=self._world,
            journal=self._journal,
            setup=self._setup,
            chunk=chunk,
            cannot_load=name in self._bad,
        )

    def _die(self, name: str, steps: _Steps | None) -> None:
        del self._queues[name]
        if steps and steps.late_commit and self._world.fault("zombie", probability=0.5):
            self._zombies.append(steps.late_commit)
        self._messages.append(WorkerDown(worker=name, reason="simulated"))
        if not self._stopping:
            self._spawn()


class _DeathError(Exception):
    """The simulated process is gone."""


@dataclass(kw_only=True)
class _Steps:
    """One chunk in a simulated worker, step by step as `farm.engine.worker` does it."""

    world: World
    journal: Journal
    setup: WorkerSetup
    chunk: Chunk
    cannot_load: bool
    is_doomed: bool = False
    loaded: bool = False
    raised: bool = False
    late_commit: Callable[[], None] | None = None
    parts: int = 0
    committed: set[int] = field(default_factory=set)
    failed: list[TaskProblem] = field(default_factory=list)
    again: list[TaskProblem] = field(default_factory=list)
    rows: dict[bytes, CommittedFailure | None] = field(default_factory=dict)
    unsaved: set[int] = field(default_factory=set)
    fault: Fault | None = None

    def render(self, loaded: PipelineKey | None, *, stopping: bool) -> None:
        """Do all but the last commit."""
        chunk = self.chunk
        alone = chunk.history.alone
        try:
            self._may_die()
            if not stopping:
                digests = () if alone else tuple(map(task_digest, chunk.tasks))
                self.journal.note(chunk.id, digests=digests, history=chunk.history)
                self._load(loaded)
                for index, task in enumerate(chunk.tasks):
                    if self.fault or self.raised:
                        break
                    if alone:
                        self.journal.note(
                            chunk.id, digests=[task_digest(task)], history=chunk.history
                        )
                    self._render(index, task)
                    if self.world.rng.random() < 0.1:
                        self._commit()
        except StoreError as error:
            self.fault = Fault(kind="store", message=str(error))

    def finish(self) -> ChunkOutcome:
        """Commit the rest and answer."""
        chunk = self.chunk
        try:
            self._commit()
            self._may_die()
            self.journal.clear(chunk.id)
            self._may_die()
        except StoreError as error:
            self.fault = Fault(kind="store", message=str(error))
        settled = self.committed | {problem.index for problem in self.again}
        undone = tuple(index for index in range(len(chunk.tasks)) if index not in settled)
        return ChunkOutcome(
            chunk=chunk.id,
            rendered=len(self.committed) - len(self.failed),
            failed=tuple(self.failed),
            again=tuple(self.again),
            undone=undone,
            fault=self.fault if undone else None,
            seconds=0.3 * len(settled),
        )

    def _load(self, loaded: PipelineKey | None) -> None:
        key = self.chunk.key
        if loaded == key:
            self.loaded = True
            return
        if key.model == "deadly":
            raise _DeathError
        self._may_die()
        if key.model == "unloadable" or self.cannot_load or self.world.fault("load"):
            self.fault = Fault(kind="load", message="simulated")
        self.loaded = self.fault is None

    def _render(self, index: int, task: TaskSpec) -> None:
        self.world.begun += 1
        self.world.repeated += self.world.winners().get(task_digest(task)) == "rendered"
        if task.prompt == "poison" or self.is_doomed:
            raise _DeathError
        self._may_die()
        if self.world.fault("raise", probability=0.05):
            self.raised = True
            self._problem(
                index, task, FailureKind.INTERNAL, in_company=self.world.rng.random() < 0.5
            )
            return
        if task.prompt == "refuse":
            self._problem(index, task, FailureKind.BAD_TASK, in_company=False)
            return
        if task.prompt == "flaky":
            self.world.flaws[task_digest(task)] += 1
            if self.world.flaws[task_digest(task)] <= 1:
                self._problem(index, task, FailureKind.BAD_OUTPUT, in_company=False)
                return
        self.rows[task_digest(task)] = None
        self.unsaved.add(index)

    def _problem(self, index: int, task: TaskSpec, kind: FailureKind, *, in_company: bool) -> None:
        problem = TaskProblem(
            index=index, task_id=task_id(task), kind=kind, message="", in_company=in_company
        )
        failure = TaskFailed(kind=kind, in_company=in_company)
        if isinstance(decide(failure, self.chunk.history, self.setup.policy), GiveUp):
            self.rows[task_digest(task)] = CommittedFailure(kind=kind, message="")
            self.unsaved.add(index)
            self.failed.append(problem)
        else:
            self.again.append(problem)

    def _commit(self) -> None:
        if not self.rows:
            return
        name = f"{self.chunk.id}.{self.parts}" if self.parts else self.chunk.id
        rows, self.rows = self.rows, {}
        unsaved, self.unsaved = self.unsaved, set()

        def save() -> None:
            self.world.commit_digests(
                rows, run=self.setup.run, chunk=name, attempt=self.chunk.history.attempt
            )

        self.late_commit = lambda: self.world.parts.append((self.setup.run, name, rows))
        self._may_die()
        self.late_commit = None
        try:
            save()
        except StoreError:
            self.failed = [problem for problem in self.failed if problem.index not in unsaved]
            raise
        self.parts += 1
        self.committed |= unsaved

    def _may_die(self) -> None:
        if self.world.fault("death", probability=0.05):
            raise _DeathError


class _Backlog:
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


def _run(
    world: World,
    tasks: Sequence[TaskSpec],
    *,
    size: int,
    executor: SimulatedExecutor | None = None,
    policy: Policy = POLICY,
) -> Iterator[engine.Event]:
    """Run what the store says is left."""
    winners = world.winners()
    left = [task for task in tasks if task_digest(task) not in winners]
    plan = SimpleNamespace(
        unique_tasks=len(tasks),
        done=len(tasks) - len(left),
        failed_standing=0,
        to_render=len(left),
        backlog=lambda: _Backlog(left),
    )
    return engine.run(
        cast("Plan", plan),
        job=JOB,
        store=cast("Store", world),
        executor=executor or SimulatedExecutor(world, size=size),
        policy=policy,
        clock=lambda: world.now,
    )


prompts = st.sampled_from(("fine",) * 12 + ("flaky", "flaky", "refuse", "poison"))
models = st.sampled_from(("m1",) * 4 + ("m2", "unloadable", "deadly"))
EXPECTED = {
    "fine": "rendered",
    "flaky": "rendered",
    "refuse": FailureKind.BAD_TASK,
    "poison": FailureKind.WORKER_DIED,
}


schedules = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow], max_examples=150)
cell_lists = st.lists(st.tuples(models, prompts), min_size=1, max_size=40)
seeds = st.integers(0, 2**32)
driver_death_lists = st.lists(st.integers(1, 60), max_size=2)
kills = {
    "death": st.integers(0, 3),
    "load": st.integers(0, 2),
    "raise": st.integers(0, 2),
    "hang": st.integers(0, 2),
}
confusions = {"store": st.integers(0, 5), "zombie": st.integers(0, 2)}


def _check(
    cells: list[tuple[str, str]],
    *,
    size: int,
    seed: int,
    budget: dict[str, int],
    driver_deaths: list[int],
) -> World:
    """Run a schedule of faults to its end, compare with the oracle, and return what is left."""
    tasks = [
        TaskSpec(model=model, prompt=prompt, seed=index)
        for index, (model, prompt) in enumerate(cells)
    ]
    world = World(rng=random.Random(seed), budget=Counter(budget))
    for limit in driver_deaths:
        _read(_run(world, tasks, size=size), limit)
    report = None
    for _ in range(3):  # a store fault while a run begins is answered by beginning again
        report = report or _read(_run(world, tasks, size=size), 100_000)
    assert report is not None, "the run does not end"
    assert report.unfinished == 0
    winners = world.winners()
    for task in tasks:
        loads = task.model not in {"unloadable", "deadly"}
        wanted = EXPECTED[task.prompt] if loads else FailureKind.LOAD_FAILED
        assert winners.get(task_digest(task)) == wanted, task
    return world


@schedules
@given(
    cells=cell_lists,
    size=st.integers(1, 4),
    seed=seeds,
    budget=st.fixed_dictionaries(kills | confusions),
    driver_deaths=driver_death_lists,
)
def test_any_schedule_of_faults_ends_in_the_catalog_of_a_run_without_faults(
    cells: list[tuple[str, str]],
    size: int,
    seed: int,
    budget: dict[str, int],
    driver_deaths: list[int],
) -> None:
    _check(cells, size=size, seed=seed, budget=budget, driver_deaths=driver_deaths)


@schedules
@given(
    cells=cell_lists,
    size=st.integers(1, 4),
    seed=seeds,
    budget=st.fixed_dictionaries(kills),
    driver_deaths=driver_death_lists,
)
@example(
    cells=[("deadly", "fine")],
    size=1,
    seed=0,
    budget={"death": 0, "load": 0, "raise": 0, "hang": 0},
    driver_deaths=[7, 37],
)
@example(
    cells=[("m1", "fine"), ("m1", "poison")],
    size=3,
    seed=691,
    budget={"death": 1, "load": 0, "raise": 1, "hang": 1},
    driver_deaths=[13, 42],
)
def test_whoever_dies_nothing_committed_is_begun_again_and_nothing_is_left_lying_about(
    cells: list[tuple[str, str]],
    size: int,
    seed: int,
    budget: dict[str, int],
    driver_deaths: list[int],
) -> None:
    world = _check(cells, size=size, seed=seed, budget=budget, driver_deaths=driver_deaths)
    assert world.repeated == 0
    assert not [name for name in world.texts if name.startswith("leases/")]


@schedules
@given(
    cells=st.lists(st.sampled_from(("fine",) * 3 + ("poison",)), min_size=1, max_size=40),
    size=st.integers(1, 4),
    seed=seeds,
)
def test_however_impatient_the_policy_only_the_tasks_that_kill_are_given_up(
    cells: list[str], size: int, seed: int
) -> None:
    world = World(rng=random.Random(seed), budget=Counter())
    tasks = [TaskSpec(prompt=prompt, seed=index) for index, prompt in enumerate(cells)]
    policy = Policy(deaths_alone=2, fruitless_deaths=1000)
    assert _read(_run(world, tasks, size=size, policy=policy), 100_000) is not None
    winners = world.winners()
    assert [winners[task_digest(task)] for task in tasks] == [EXPECTED[name] for name in cells]


@settings(deadline=None, max_examples=30)
@given(count=st.integers(20, 200), size=st.integers(2, 6), seed=seeds)
def test_a_node_on_which_workers_only_die_is_avoided_and_costs_no_task_anything(
    count: int, size: int, seed: int
) -> None:
    world = World(rng=random.Random(seed), budget=Counter())
    tasks = [TaskSpec(seed=index) for index in range(count)]
    executor = SimulatedExecutor(world, size=size, nodes=("well", "sick"), sick=frozenset({"sick"}))
    policy = Policy(deaths_alone=3)
    report = _read(_run(world, tasks, size=size, executor=executor, policy=policy), 100_000)
    assert report is not None
    assert (report.rendered, report.failed) == (count, 0)
    on_sick = [name for name, node in executor.node_of.items() if node == "sick"]
    assert executor.avoided == frozenset({"sick"}) or len(on_sick) <= size + policy.node_deaths


@settings(deadline=None, max_examples=30)
@given(cells=st.lists(st.sampled_from(("fine", "fine", "poison")), max_size=40), seed=seeds)
def test_a_node_is_not_avoided_for_what_its_tasks_do(cells: list[str], seed: int) -> None:
    world = World(rng=random.Random(seed), budget=Counter())
    tasks = [TaskSpec(prompt=prompt, seed=index) for index, prompt in enumerate(["poison", *cells])]
    executor = SimulatedExecutor(world, size=2, nodes=("a", "b"))
    policy = Policy(deaths_alone=6, fruitless_deaths=1000)
    assert _read(_run(world, tasks, size=2, executor=executor, policy=policy), 100_000) is not None
    assert executor.avoided == frozenset() or cells.count("poison")


@settings(deadline=None, max_examples=30)
@given(count=st.integers(8, 200), seed=seeds)
def test_a_worker_that_cannot_load_anything_leaves_the_work_to_the_others(
    count: int, seed: int
) -> None:
    world = World(rng=random.Random(seed), budget=Counter())
    tasks = [TaskSpec(model=f"m{index % 2}", seed=index) for index in range(count)]
    executor = SimulatedExecutor(world, size=3, bad=frozenset({"w1"}))
    report = _read(_run(world, tasks, size=3, executor=executor), 100_000)
    assert report is not None
    assert report.rendered == count
    # What it had been leased when it first failed, and one last chance when nobody had a lease.
    assert all(loads <= 3 for loads in executor.bad_loads.values())


@settings(deadline=None, max_examples=30)
@given(count=st.integers(1, 60), size=st.integers(1, 3), hangs=st.integers(1, 3), seed=seeds)
def test_a_worker_that_hangs_is_replaced_and_its_tasks_are_rendered_elsewhere(
    count: int, size: int, hangs: int, seed: int
) -> None:
    world = World(rng=random.Random(seed), budget=Counter({"hang": hangs}))
    tasks = [TaskSpec(seed=index) for index in range(count)]
    events = list(_run(world, tasks, size=size))
    lost = [event for event in events if isinstance(event, WorkerLost)]
    assert len(lost) == hangs - world.budget["hang"]
    assert all("no progress" in event.reason for event in lost)
    report = _read(iter(events), 100_000)
    assert report is not None
    assert (report.rendered, report.failed, world.repeated) == (count, 0, 0)


@settings(deadline=None, max_examples=30)
@given(count=st.integers(1, 300), size=st.integers(1, 5), seed=st.integers(0, 2**32))
def test_without_faults_every_task_is_begun_once(count: int, size: int, seed: int) -> None:
    world = World(rng=random.Random(seed), budget=Counter())
    tasks = [TaskSpec(model=f"m{index % 3}", seed=index) for index in range(count)]
    report = _read(_run(world, tasks, size=size), 100_000)
    assert report is not None
    assert (report.rendered, world.begun) == (count, count)


def _read(events: Iterator[engine.Event], limit: int) -> engine.RunReport | None:
    """Read up to `limit` events, as a driver that then dies; return the report if it got there."""
    with contextlib.suppress(StoreError):
        for event, _ in zip(events, range(limit), strict=False):
            if isinstance(event, engine.RunFinished):
                return event.report
    cast("Any", events).close()
    return None
