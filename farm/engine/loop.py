"""The one scheduling loop: a plan goes in, events come out, the store fills.

```
while there is work:   heed requests -> settle deaths -> lease chunks -> wait -> take answers
                       -> replace who hangs
```

The loop holds who has what; `Workload` holds what is left; `decide` says what a failure means; an
executor runs the workers. The store is the only truth: a chunk is done because its part is there,
and before the tasks of a dead worker are leased again the store is asked what it did commit. So
everything here may be forgotten at any moment, and nothing committed is lost or rendered again.

Memory is bounded by workers and chunks in flight, not by tasks.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import platform
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from farm.engine import events
from farm.engine.chunks import (
    Chunk,
    ChunkOutcome,
    Fault,
    Heartbeat,
    Message,
    WorkerDown,
    WorkerReport,
    WorkerSetup,
    WorkerUp,
)
from farm.engine.decide import (
    Avoid,
    Decision,
    EndRun,
    Fruitless,
    GiveUp,
    History,
    LoadFailed,
    NodeStruck,
    Pause,
    Policy,
    Proceed,
    Replace,
    Retry,
    Returned,
    Silent,
    Split,
    StoreFailed,
    TaskFailed,
    WorkerDied,
    decide,
)
from farm.engine.events import Event, RunReport
from farm.engine.executor import Executor, Stop
from farm.engine.journal import Journal
from farm.engine.requests import Requests
from farm.engine.workload import Piece, Workload
from farm.errors import FarmError, StoreError
from farm.manifest.job import Job
from farm.planner import Plan
from farm.render import Effort
from farm.store import CommittedFailure, Store, row_for
from farm.task import (
    Failed,
    FailureKind,
    PipelineKey,
    TaskId,
    TaskSpec,
    format_task_id,
    task_digest,
)

WAIT_S = 0.5
"""Longest wait for news; also how soon a stop request is heeded."""
LEASES_PER_WORKER = 2
"""One rendering, one waiting behind it, so that a stream can run on."""
MOST_LEASES = 12
"""Where a renderer draws more tasks at once than two chunks have."""
LONELY_S = 60.0
"""How long no worker is normal: Ray's start and a worker's imports on a busy machine."""
LOOK_S = 3.0
"""How often requests from elsewhere are looked for: each look is a listing of the store."""
ROWS_PER_VERDICT = 4096
"""Failed rows that the driver writes at a time, when a whole pipeline is given up."""


def run(
    plan: Plan,
    *,
    job: Job,
    store: Store,
    executor: Executor,
    reason: str = "",
    stop: Stop | None = None,
    policy: Policy | None = None,
    factory: str | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[Event]:
    """Render what `plan` says is left, yielding what happens as it happens.

    With nothing left, no worker is started and nothing is written. Whoever stops reading ends the
    run: the workers are closed, and what was committed stays.

    Args:
        plan: what is left of the job's tasks.
        job: how images are named and written, and how patient to be.
        store: where everything goes.
        executor: runs the workers; started and closed here.
        reason: why this executor, for the reader of `RunStarted`.
        stop: lets somebody else end the run early.
        policy: limits of patience; the job's own by default.
        factory: entry point of a renderer to use in place of the backends' own.
        clock: seconds from anywhere, never backwards.

    Raises:
        StoreError: the output kept failing. What was committed stays.
        FarmError: workers kept dying, or cannot be started.
    """
    started = clock()
    yield events.RunStarted(
        tasks=plan.unique_tasks,
        done=plan.done,
        failed_before=plan.failed_standing,
        to_render=plan.to_render,
        executor=executor.name,
        workers=executor.size,
        reason=reason,
        output=store.url,
    )
    tally = _Tally()
    stop = stop or Stop()
    number: int | None = None
    if plan.to_render:
        policy = policy or Policy(retries=job.retries, stuck_after_s=job.resources.stuck_after_s)
        number = store.begin_run()
        setup = WorkerSetup(
            store_url=store.url, job=job, run=number, policy=policy, factory=factory
        )
        journal = Journal(store.control, run=number)
        requests = Requests(store.control)
        workload = Workload(plan.backlog(), suspects=journal.left_behind())
        yield from _Run(
            setup=setup,
            store=store,
            journal=journal,
            requests=requests,
            workload=workload,
            executor=executor,
            stop=stop,
            clock=clock,
            tally=tally,
        ).run()
    else:
        finished = functools.cache(store.finished)
        with contextlib.suppress(StoreError):
            Journal(store.control, run=0).tidy(lambda few: finished().has_all(few))
    seconds = clock() - started
    effort = tally.effort()
    failed = sum(tally.failures.values())
    unfinished = plan.to_render - tally.rendered - failed
    yield events.RunFinished(
        report=RunReport(
            rendered=tally.rendered,
            failed=failed,
            failed_before=plan.failed_standing,
            skipped=plan.unique_tasks - plan.failed_standing - plan.to_render,
            unfinished=unfinished,
            seconds=seconds,
            images_per_second=tally.rendered / seconds if seconds else 0.0,
            denoiser_evaluations=tally.denoiser_evaluations,
            shared_evaluations=tally.shared_evaluations,
            efficiency=_share(effort.best if effort else None, seconds * tally.most_workers),
            time_shares=tally.time_shares(effort, seconds * tally.most_workers),
            workers=tally.summaries(until=clock()),
            output=store.url,
            failures=dict(tally.failures),
            interrupted=stop.asked and unfinished > 0,
            run=number,
        )
    )


@dataclass(slots=True, kw_only=True)
class _Tally:
    """What the run's committed rows add up to."""

    rendered: int = 0
    failures: Counter[FailureKind] = field(default_factory=Counter)
    denoiser_evaluations: int = 0
    shared_evaluations: int = 0
    load_seconds: float = 0.0
    services: dict[str, _Service] = field(default_factory=dict)
    """By worker."""
    most_workers: int = 0
    """At any one time."""
    remarks: set[str] = field(default_factory=set)

    def effort(self) -> Effort | None:
        """Return what all workers' renderers measured; None if one of them measured nothing."""
        efforts = [service.effort for service in self.services.values() if service.rendered]
        if not efforts or None in efforts:
            return None
        return sum((effort for effort in efforts if effort is not None), Effort())

    def time_shares(self, effort: Effort | None, device_seconds: float) -> Mapping[str, float]:
        """Return where the devices' time went; `waiting` is what nobody accounts for."""
        if effort is None or not device_seconds:
            return {}
        fill = max(0.0, effort.network - effort.best_network)
        spent = {
            "network": effort.network - fill,
            "fill": fill,
            "decoder": effort.decoder,
            "text": effort.text,
            "host": effort.host,
            "loading": self.load_seconds,
        }
        spent["waiting"] = max(0.0, device_seconds - sum(spent.values()))
        return {name: seconds / device_seconds for name, seconds in spent.items()}

    def summaries(self, *, until: float) -> tuple[events.WorkerSummary, ...]:
        """Return what each worker did, up to a moment of the run's clock."""
        summaries = []
        for name, service in self.services.items():
            seconds = (until if service.until is None else service.until) - service.since
            best = service.effort.best if service.effort and service.rendered else None
            summaries.append(
                events.WorkerSummary(
                    worker=name,
                    node=service.node,
                    device=service.device,
                    rendered=service.rendered,
                    seconds=seconds,
                    efficiency=_share(best, seconds),
                )
            )
        return tuple(summaries)


@dataclass(slots=True, kw_only=True)
class _Service:
    """What a worker did, whether it still lives or not. Times are the run's clock's."""

    node: str
    device: str
    since: float
    until: float | None = None
    rendered: int = 0
    effort: Effort | None = None


def _share(part: float | None, whole: float) -> float | None:
    return part / whole if part and whole else None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Lease:
    """A chunk in a worker's hands, and since when by the run's clock."""

    chunk: Chunk
    since: float


@dataclass(slots=True, kw_only=True)
class _WorkerState:
    """What the loop knows of a live worker."""

    node_id: str
    since: float
    """When it last showed progress, or was leased something after being idle."""
    leases: dict[str, _Lease] = field(default_factory=dict)
    """By chunk id, in the order they were leased."""
    key: PipelineKey | None = None
    """The pipeline of its latest lease."""
    opened: PipelineKey | None = None
    """The pipeline of the latest task it finished."""
    load_failures: Counter[PipelineKey] = field(default_factory=Counter)
    """What failed to load there, and how often."""

    @property
    def refused(self) -> set[PipelineKey]:
        """What failed to load there."""
        return set(self.load_failures)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Grave:
    """A worker that is gone; what became of its chunks has to be read from the store."""

    chunks: tuple[Chunk, ...]
    node_id: str
    reason: str
    blame: bool
    """It died. False: we discarded it ourselves, and these chunks had not been begun."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Estate:
    """What the store says of one chunk of a worker that is gone."""

    chunk: Chunk
    committed: Mapping[bytes, CommittedFailure | None]
    suspects: tuple[TaskSpec, ...]
    """Not committed, and may have been in flight."""
    others: tuple[TaskSpec, ...]
    """Not committed, and not in flight."""
    was_loading: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class _Verdict:
    """Tasks that were given up and whose failed rows the driver has to write."""

    tasks: tuple[TaskSpec, ...]
    kind: FailureKind
    message: str
    attempt: int


@dataclass(slots=True, kw_only=True)
class _Run:
    """One run, from the first worker to the last commit."""

    setup: WorkerSetup
    store: Store
    journal: Journal
    requests: Requests
    workload: Workload
    executor: Executor
    stop: Stop
    clock: Callable[[], float]
    tally: _Tally

    workers: dict[str, _WorkerState] = field(default_factory=dict)
    graves: deque[_Grave] = field(default_factory=deque)
    verdicts: deque[_Verdict] = field(default_factory=deque)
    load_failures: Counter[PipelineKey] = field(default_factory=Counter)
    """In a row, with no task of the pipeline finished in between."""
    given_up: dict[PipelineKey, str] = field(default_factory=dict)
    """Pipelines that cannot be loaded, and why."""
    store_faults: int = 0
    """In a row, with nothing committed in between."""
    deaths: int = 0
    """In a row, with no task finished in between."""
    node_deaths: dict[str, list[frozenset[TaskSpec]]] = field(default_factory=dict)
    """By node, the suspects of each death there since a task was last finished there."""
    avoided: frozenset[str] = frozenset()
    """Nodes on which workers only ever die."""
    node_names: dict[str, str] = field(default_factory=dict)
    """What people call the nodes, by id."""
    paused_until: float = 0.0
    """While the store is given a rest."""
    is_paused: bool = False
    """Somebody asked for it."""
    next_look: float = 0.0
    """For requests."""
    heartbeats: dict[str, Heartbeat] = field(default_factory=dict)
    told_to_stop: bool = False
    alone_since: float | None = None
    """Since when there has been no worker."""
    has_mentioned_waiting: bool = False
    verdict_numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    # --- the loop -------------------------------------------------------------------------------

    def run(self) -> Iterator[Event]:
        """Run to the end."""
        try:
            self.executor.start(self.setup)
            with contextlib.suppress(StoreError):  # one that was killed may have left it
                self.requests.say_paused(paused=False)
            while not self.is_over():
                yield from self.heed_requests()
                yield from self.heed_stop()
                yield from self.tend_store()
                yield from self.leave_avoided()
                yield from self.lease()
                yield from self.mention_waiting()
                for message in self.executor.wait(self.patience()):
                    yield from self.take(message)
                yield from self.replace_stuck()
        finally:
            self.executor.close()
            if self.is_paused:
                with contextlib.suppress(StoreError):
                    self.requests.say_paused(paused=False)
        with contextlib.suppress(StoreError):  # what stays behind is only advice
            self.journal.forgive(everybody=not self.stop.asked)

    def is_over(self) -> bool:
        """Whether nothing is left to do, or nothing is left to wait for."""
        if self.stop.insisted:
            return True
        if self.graves or self.verdicts or any(state.leases for state in self.workers.values()):
            return False
        return self.stop.asked or not self.workload

    def heed_requests(self) -> Iterator[Event]:
        """Pause, go on or stop as asked from elsewhere; a store that fails is asked again later."""
        if self.clock() < self.next_look:
            return
        self.next_look = self.clock() + LOOK_S
        with contextlib.suppress(StoreError):
            match self.requests.news():
                case "cancel" if not self.stop.asked:
                    self.stop.request()
                case "pause" if not self.is_paused:
                    self.is_paused = True
                    self.requests.say_paused(paused=True)
                    yield events.Notice(message="paused, as asked: what is leased is finished")
                case "resume" if self.is_paused:
                    self.is_paused = False
                    self.requests.say_paused(paused=False)
                    yield events.Notice(message="going on, as asked")

    def heed_stop(self) -> Iterator[Event]:
        """Pass a stop request on, once."""
        if self.stop.asked and not self.told_to_stop:
            self.told_to_stop = True
            self.executor.ask_to_stop()
            yield events.Notice(
                message="stopping: what is being drawn is finished and committed; a second Ctrl-C "
                "stops at once"
            )

    def leave_avoided(self) -> Iterator[Event]:
        """Move workers away from the nodes to be avoided as soon as they hold nothing."""
        for name, worker in list(self.workers.items()):
            if worker.node_id in self.avoided and not worker.leases:
                reason = f"node {self.node_names[worker.node_id]} is avoided"
                yield from self.bury_worker(name, reason, blame=False)
                self.executor.replace(name)

    def mention_waiting(self) -> Iterator[Event]:
        """Say so, once, when there is no worker for a while: it may take a cluster minutes.

        Better than none are then those of nodes that were to be avoided.
        """
        if self.workers:
            self.alone_since = None
        elif self.alone_since is None:
            self.alone_since = self.clock()
        elif self.clock() - self.alone_since >= LONELY_S:
            if not self.has_mentioned_waiting:
                self.has_mentioned_waiting = True
                yield events.Notice(message="waiting for a worker: there is no room for one yet")
            if self.avoided:
                self.avoided = frozenset()
                self.node_deaths.clear()
                self.executor.avoid(self.avoided)

    def patience(self) -> float:
        """Return how long to wait for news, in seconds."""
        pause = self.paused_until - self.clock()
        return min(WAIT_S, pause) if pause > 0 else WAIT_S

    def lease(self) -> Iterator[Event]:
        """Give every worker its next chunks: first those that have none."""
        if self.stop.asked or self.is_paused or self.clock() < self.paused_until:
            return
        for depth in range(1, MOST_LEASES + 1):
            for name, worker in self.workers.items():
                is_wanting = depth <= LEASES_PER_WORKER or self.is_hungry(name)
                if not is_wanting:
                    continue
                if len(worker.leases) < depth and (chunk := self.next_chunk(name)):
                    if chunk.history.crashes >= self.policy.deaths_alone:
                        self.condemn(chunk)
                        continue
                    if not worker.leases:
                        worker.since = self.clock()
                    worker.key = chunk.key
                    worker.leases[chunk.id] = _Lease(chunk=chunk, since=self.clock())
                    self.executor.lease(name, chunk)
                    yield events.ChunkStarted(
                        chunk=chunk.id,
                        worker=name,
                        tasks=len(chunk.tasks),
                        attempt=chunk.history.attempt,
                        model=chunk.key.model,
                        backend=chunk.key.backend,
                    )

    def is_hungry(self, name: str) -> bool:
        """Whether a worker's batch would not stay full with what it is leased.

        It is given no more than its share of what is left, or the others would be idle while it
        still has much to do.
        """
        appetite = self.heartbeats.get(name, Heartbeat()).appetite
        key = self.workers[name].key
        left = {peer: self.left(peer) for peer, state in self.workers.items() if state.key == key}
        share = (sum(left.values()) + (self.workload.pending(key) if key else 0)) / len(left)
        return left[name] < min(appetite, share)

    def left(self, name: str) -> int:
        """Return how many tasks a worker was leased and has not finished."""
        heartbeat = self.heartbeats.get(name, Heartbeat())
        leased = sum(len(lease.chunk.tasks) for lease in self.workers[name].leases.values())
        return leased - heartbeat.rendered - heartbeat.failed

    def condemn(self, chunk: Chunk) -> None:
        """Give up tasks that were enough workers' deaths in earlier runs."""
        message = f"{chunk.history.crashes} workers died with this task in flight, in earlier runs"
        self.verdicts.append(
            _Verdict(
                tasks=chunk.tasks,
                kind=FailureKind.WORKER_DIED,
                message=message,
                attempt=chunk.history.attempt,
            )
        )

    def next_chunk(self, name: str) -> Chunk | None:
        """Return what a worker should be leased, or None if nothing should."""
        worker = self.workers[name]
        if worker.node_id in self.avoided:
            return None
        held = Counter(state.key for state in self.workers.values() if state.key is not None)
        everywhere = set.intersection(*(state.refused for state in self.workers.values()))
        unsuited = set(self.given_up)
        while True:
            key = self.workload.choose_key(worker.key, refused=worker.refused | unsuited, held=held)
            if key is None:
                # What failed to load everywhere gets its last chance anywhere.
                refused = worker.refused - everywhere | unsuited
                key = self.workload.choose_key(worker.key, refused=refused, held=held)
            if key is None:
                return None
            is_ahead = bool(worker.leases)
            others = len(self.workers) - 1
            is_needed = others and self.workload.pending(key) <= others
            if is_ahead and (key != worker.key or (is_needed and not self.is_hungry(name))):
                # A chunk that waits here could be rendered elsewhere, or this worker may be needed
                # for another pipeline by the time it is free. In a hungry worker nothing waits: the
                # last images belong into a batch, not into one of their own.
                return None
            suits = functools.partial(self.suits, worker, key)
            chunk = self.workload.cut(key, workers=max(1, len(self.workers)), suits=suits)
            if chunk is not None:
                return replace(chunk, load_failures=worker.load_failures[key])
            unsuited.add(key)

    def suits(self, worker: _WorkerState, key: PipelineKey, history: History) -> bool:
        """Whether a worker may have tasks of this history, or one of another node had better."""
        return worker.node_id not in history.nodes or not any(
            state.node_id not in history.nodes | self.avoided and key not in state.refused
            for state in self.workers.values()
        )

    # --- what workers say -----------------------------------------------------------------------

    def take(self, message: Message) -> Iterator[Event]:
        """Take in one message."""
        match message:
            case WorkerUp():
                node_id = message.node_id or message.node
                self.node_names[node_id] = message.node
                if node_id in self.avoided:
                    self.executor.replace(message.worker)
                    return
                self.workers[message.worker] = _WorkerState(node_id=node_id, since=self.clock())
                self.tally.services[message.worker] = _Service(
                    node=message.node, device=message.device, since=self.clock()
                )
                self.tally.most_workers = max(self.tally.most_workers, len(self.workers))
                yield events.WorkerReady(
                    worker=message.worker, node=message.node, device=message.device
                )
            case WorkerDown():
                yield from self.lose_worker(message.worker, message.reason)
            case WorkerReport():
                yield from self.take_report(message)

    def take_report(self, report: WorkerReport) -> Iterator[Event]:
        """Settle the chunks that a worker answers, and say what it is doing."""
        if (worker := self.workers.get(report.worker)) is None:
            return  # answered after it was given up for dead: its chunks are read from the store
        for outcome in report.outcomes:
            lease = worker.leases.pop(outcome.chunk)
            yield from self.settle(report.worker, lease, outcome)
        if report.outcomes:
            worker.since = self.clock()
        if report.heartbeat != self.heartbeats.get(report.worker):
            worker.since = self.clock()
            self.heartbeats[report.worker] = report.heartbeat
            yield _progress(report.worker, report.heartbeat)
        if report.is_spent:
            yield from self.bury_worker(
                report.worker, "its renderer raised, so the process is replaced", blame=False
            )
            self.executor.replace(report.worker)

    def settle(self, worker: str, lease: _Lease, outcome: ChunkOutcome) -> Iterator[Event]:
        """Account for one answered chunk, and send back what it leaves."""
        chunk = lease.chunk
        finished = outcome.rendered + len(outcome.failed)
        self.tally.rendered += outcome.rendered
        self.tally.failures.update(problem.kind for problem in outcome.failed)
        self.tally.denoiser_evaluations += outcome.denoiser_evaluations
        self.tally.shared_evaluations += outcome.shared_evaluations
        self.tally.load_seconds += outcome.load_seconds
        service = self.tally.services[worker]
        service.rendered += outcome.rendered
        service.effort = outcome.effort
        if outcome.remark and outcome.remark not in self.tally.remarks:
            self.tally.remarks.add(outcome.remark)
            yield events.Notice(message=outcome.remark)
        if finished or outcome.again:
            self.load_failures[chunk.key] = 0
            self.deaths = 0
            self.workers[worker].opened = chunk.key
            self.node_deaths.pop(self.workers[worker].node_id, None)
        if finished:
            self.store_faults = 0
            if outcome.seconds > 0 and not chunk.history.alone:
                self.workload.learn(chunk, seconds=outcome.seconds, finished=finished)
        yield events.ChunkDone(
            chunk=chunk.id,
            worker=worker,
            rendered=outcome.rendered,
            failed=len(outcome.failed),
            unfinished=len(outcome.undone) + len(outcome.again),
            seconds=outcome.seconds,
            write_seconds=outcome.write_seconds,
            last_image=outcome.last_image,
        )
        for problem in outcome.failed:
            yield events.TaskFailed(
                task_id=problem.task_id, kind=problem.kind, message=problem.message
            )
        for problem in outcome.again:
            failure = TaskFailed(kind=problem.kind, in_company=problem.in_company)
            verdict = decide(failure, chunk.history, self.policy)
            tasks = (chunk.tasks[problem.index],)
            yield from self.apply(verdict, chunk, tasks, problem.message)
        undone = tuple(chunk.tasks[index] for index in outcome.undone)
        match outcome.fault:
            case Fault(kind="load", message=message):
                self.workers[worker].load_failures[chunk.key] += 1
                yield from self.fail_to_load(chunk, undone, message)
            case Fault(kind="store", message=message):
                yield from self.put_back(chunk, undone)
                yield from self.suffer_store(StoreError(message), since=lease.since)
            case None:
                yield from self.put_back(chunk, undone)

    # --- what failures mean ---------------------------------------------------------------------

    @property
    def policy(self) -> Policy:
        """The limits of patience."""
        return self.setup.policy

    def apply(
        self, decision: Decision, chunk: Chunk, tasks: tuple[TaskSpec, ...], reason: str
    ) -> Iterator[Event]:
        """Do with `tasks` of `chunk` as decided."""
        if not tasks:
            return
        match decision:
            case Retry(history=history) | Split(history=history):
                self.workload.put_back(Piece(key=chunk.key, tasks=tasks, history=history))
                yield events.ChunkRetried(
                    chunk=chunk.id, tasks=len(tasks), attempt=history.attempt, reason=reason
                )
            case GiveUp(kind=kind):
                self.verdicts.append(
                    _Verdict(tasks=tasks, kind=kind, message=reason, attempt=chunk.history.attempt)
                )
            case Pause() | Replace() | Avoid() | Proceed() | EndRun():
                raise AssertionError(f"{decision} is not about tasks")

    def put_back(self, chunk: Chunk, tasks: tuple[TaskSpec, ...]) -> Iterator[Event]:
        """Take tasks back that nothing is held against."""
        if tasks and not self.stop.asked:
            decision = decide(Returned(), chunk.history, self.policy)
            yield from self.apply(decision, chunk, tasks, "came back unfinished")

    def lose_worker(self, name: str, reason: str) -> Iterator[Event]:
        """Bury a worker that died; end the run if they only ever die."""
        yield from self.bury_worker(name, reason, blame=True)
        self.deaths += 1
        if decide(Fruitless(in_a_row=self.deaths), History(), self.policy) == EndRun():
            raise FarmError(
                f"workers keep dying: {self.deaths} in a row, and no task was finished in between",
                note=f"the last one: {reason}",
                hint="run `farm doctor`, or see the error itself with `--executor inline`",
            )

    def replace_stuck(self) -> Iterator[Event]:
        """Kill workers that have been silent for much longer than their work should take."""
        for name, worker in list(self.workers.items()):
            if not worker.leases:
                continue
            chunk = next(iter(worker.leases.values())).chunk
            beat = self.heartbeats.get(name, Heartbeat())
            expected_s = None
            if beat.phase != "loading":
                expected_s = self.workload.expect(chunk, in_flight=beat.in_flight)
            silent_s = self.clock() - worker.since
            failure = Silent(silent_s=silent_s, expected_s=expected_s)
            if decide(failure, chunk.history, self.policy) == Replace():
                reason = f"it made no progress for {silent_s:.0f} s, so it was killed"
                self.executor.replace(name)
                yield from self.lose_worker(name, reason)

    def bury_worker(self, name: str, reason: str, *, blame: bool) -> Iterator[Event]:
        """Forget a worker; what it was leased is settled from the store."""
        worker = self.workers.pop(name, None)
        if name in self.tally.services:
            self.tally.services[name].until = self.clock()
        self.heartbeats.pop(name, None)
        yield events.WorkerLost(worker=name, reason=reason)
        if worker is not None:
            chunks = tuple(lease.chunk for lease in worker.leases.values())
            self.graves.append(
                _Grave(chunks=chunks, node_id=worker.node_id, reason=reason, blame=blame)
            )

    def fail_to_load(
        self, chunk: Chunk, tasks: tuple[TaskSpec, ...], message: str
    ) -> Iterator[Event]:
        """Send the tasks of a pipeline elsewhere, or give the pipeline up."""
        key = chunk.key
        self.load_failures[key] += 1
        # Those who are still trying count for one round: each of them may be the one that can.
        is_first_round = self.load_failures[key] <= len(self.workers)
        is_elsewhere = any(
            state.key == key
            and key not in state.refused
            and (is_first_round or state.opened == key)
            for state in self.workers.values()
        )
        failure = LoadFailed(in_a_row=self.load_failures[key], elsewhere=is_elsewhere)
        decision = decide(failure, chunk.history, self.policy)
        if isinstance(decision, GiveUp) and key not in self.given_up:
            self.given_up[key] = message
            yield events.Notice(message=f"{key.model} ({key.backend}) cannot be loaded: {message}")
        yield from self.apply(decision, chunk, tasks, message)

    def suffer_store(self, error: StoreError, *, since: float) -> Iterator[Event]:
        """Charge nobody, wait a while, and end the run if that does not help.

        `since` is when the work began that failed. A pause answers every fault of work that began
        before its end: several chunks meet one fault.
        """
        if since < self.paused_until:
            return
        self.store_faults += 1
        match decide(StoreFailed(in_a_row=self.store_faults), History(), self.policy):
            case Pause(delay_s=delay_s):
                self.paused_until = self.clock() + delay_s
                what, *_ = str(error).splitlines()
                yield events.Notice(message=f"the store failed, next try in {delay_s:g} s: {what}")
            case _:
                raise error

    # --- what the driver itself asks of the store -----------------------------------------------

    def tend_store(self) -> Iterator[Event]:
        """Settle the dead and write failed rows, unless the store is being given a rest."""
        if self.clock() < self.paused_until:
            return
        try:
            while self.graves:
                yield from self.settle_grave(self.graves[0])
                self.graves.popleft()
            while self.verdicts or self.condemn_pipelines():
                yield from self.execute(self.verdicts[0])
                self.verdicts.popleft()
        except StoreError as error:
            yield from self.suffer_store(error, since=self.clock())

    def settle_grave(self, grave: _Grave) -> Iterator[Event]:
        """Take what a dead worker committed; decide about the rest.

        A death has one author, so the suspects of all its chunks are counted together: one chunk
        may have been waiting for its commit while a task of the next one killed the worker.
        """
        estates = [self.read_estate(chunk, blame=grave.blame) for chunk in grave.chunks]
        suspects = frozenset(task for estate in estates for task in estate.suspects)
        if suspects:
            yield from self.strike_node(grave.node_id, suspects)
        death = WorkerDied(known=len(suspects) == 1, node=grave.node_id)
        for estate in estates:
            chunk = estate.chunk
            yield from self.take_committed(estate)
            if estate.was_loading:
                yield from self.fail_to_load(chunk, estate.others, grave.reason)
            else:
                yield from self.put_back(chunk, estate.others)
            if estate.suspects:
                decision = decide(death, chunk.history, self.policy)
                yield from self.apply(decision, chunk, estate.suspects, grave.reason)
            with contextlib.suppress(StoreError):  # only advice, and this run has taken it
                self.journal.clear(chunk.id)

    def strike_node(self, node_id: str, suspects: frozenset[TaskSpec]) -> Iterator[Event]:
        """Count a death on a node; avoid the node if it, and no task, is what they have in common.

        Workers that live there stay without work, and may be needed again.
        """
        deaths = self.node_deaths.setdefault(node_id, [])
        deaths.append(suspects)
        is_one_task = bool(frozenset.intersection(*deaths))
        failure = NodeStruck(
            in_a_row=0 if is_one_task else len(deaths),
            elsewhere=any(
                state.opened is not None and state.node_id not in self.avoided | {node_id}
                for state in self.workers.values()
            ),
        )
        if node_id not in self.avoided and decide(failure, History(), self.policy) == Avoid():
            self.avoided |= {node_id}
            self.executor.avoid(self.avoided)
            yield events.Notice(
                message=f"node {self.node_names[node_id]} is avoided: {len(deaths)} workers died "
                "there in a row, and other nodes do well"
            )

    def read_estate(self, chunk: Chunk, *, blame: bool) -> _Estate:
        """Ask the store what became of a chunk whose worker is gone."""
        lease = self.journal.read(chunk.id) if blame else None
        committed = self.store.committed_by(run=self.setup.run, chunk=chunk.id)
        digests = {task: task_digest(task) for task in chunk.tasks}
        left = [task for task in chunk.tasks if digests[task] not in committed]
        noted = frozenset(lease.digests if lease else ())
        return _Estate(
            chunk=chunk,
            committed=committed,
            suspects=tuple(task for task in left if digests[task] in noted),
            others=tuple(task for task in left if digests[task] not in noted),
            was_loading=lease is not None and lease.alone and not lease.digests,
        )

    def take_committed(self, estate: _Estate) -> Iterator[Event]:
        """Account for the rows that a dead worker had committed of a chunk."""
        for digest, failure in estate.committed.items():
            self.deaths = 0
            if failure is None:
                self.tally.rendered += 1
            else:
                kind = FailureKind(failure.kind)
                self.tally.failures[kind] += 1
                yield events.TaskFailed(
                    task_id=format_task_id(digest), kind=kind, message=failure.message
                )

    def condemn_pipelines(self) -> bool:
        """Pass verdict on what waits for pipelines that were given up, a slice at a time.

        Returns whether there was any.
        """
        for key, message in self.given_up.items():
            if self.workload.pending(key):
                self.verdicts.append(
                    _Verdict(
                        tasks=self.workload.drain(key, ROWS_PER_VERDICT),
                        kind=FailureKind.LOAD_FAILED,
                        message=message,
                        attempt=1,
                    )
                )
                return True
        return False

    def execute(self, verdict: _Verdict) -> Iterator[Event]:
        """Write the failed rows of tasks that no worker can write."""
        now = datetime.now(UTC)
        rows = [
            row_for(
                Failed(task=task, kind=verdict.kind, message=verdict.message),
                job=self.setup.job.name,
                image=None,
                run=self.setup.run,
                attempt=verdict.attempt,
                worker="driver",
                node=platform.node(),
                started_at=now,
                finished_at=now,
            )
            for task in verdict.tasks
        ]
        self.store.commit(
            rows, run=self.setup.run, chunk=f"driver-{next(self.verdict_numbers)}", attempt=1
        )
        self.store_faults = 0
        self.tally.failures[verdict.kind] += len(rows)
        for row in rows:
            yield events.TaskFailed(
                task_id=TaskId(row.task_id), kind=verdict.kind, message=verdict.message
            )


def _progress(worker: str, heartbeat: Heartbeat) -> Event:
    return events.Progress(
        worker=worker,
        phase=heartbeat.phase,
        rendered=heartbeat.rendered,
        failed=heartbeat.failed,
        in_flight=heartbeat.in_flight,
        last_image=heartbeat.last_image,
        settings=heartbeat.settings,
    )
