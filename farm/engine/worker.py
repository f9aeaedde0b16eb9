"""What one worker does with the chunks it is leased.

One thread renders: it keeps one pipeline open and feeds it tasks as a stream that runs on across
chunks of the same pipeline, so a renderer never drains its batch at a chunk's end. A few threads
encode and write images beside it. One more thread commits: it waits for a chunk's images, writes
its part, and only then answers. So the renderer waits for the disk only when the disk is the
bottleneck.

Order is what makes a kill harmless: images first, then the part, then the journal entry goes, then
the answer. Between any two of these the process may die, and nothing committed is lost or rendered
again.

A chunk that runs long commits what it has every `commit_every_s`, as further parts with names of
their own (`c00012.1`, `c00012.2`, ...): a kill costs at most that many seconds of finished images.
"""

from __future__ import annotations

import dataclasses
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial

from farm.engine.chunks import (
    Chunk,
    ChunkOutcome,
    Fault,
    Heartbeat,
    Phase,
    TaskProblem,
    WorkerReport,
    WorkerSetup,
)
from farm.engine.decide import GiveUp, TaskFailed, decide
from farm.engine.journal import Journal
from farm.errors import FarmError, StoreError
from farm.render import (
    Effort,
    Hungry,
    Measured,
    Remarkable,
    Renderer,
    Withdrawable,
    open_renderer,
)
from farm.store import Row, Store, encode_image, image_suffix, row_for, with_image
from farm.task import (
    Failed,
    FailureKind,
    PipelineKey,
    Rendered,
    RenderResult,
    TaskSpec,
    task_digest,
    task_id,
)

MOST_WRITERS = 4
"""Threads that encode and write, at most; fewer where a worker has fewer threads to use, because
they would only take turns. Compression leaves the interpreter's lock, so they do overlap."""
UNWRITTEN_LIMIT = 32
"""Images that may wait to be written before the renderer waits for the writers."""
MESSAGE_LIMIT = 2000
"""Characters of an error message that are kept."""


@dataclass(slots=True, kw_only=True)
class _Batch:
    """What a lot has for the store and has not handed to the committing thread yet."""

    writes: list[tuple[_InFlight, Future[Row]]] = field(default_factory=list)
    failures: list[tuple[TaskProblem, Row]] = field(default_factory=list)


@dataclass(slots=True, kw_only=True)
class _Lot:
    """A chunk being rendered. The rendering thread fills it; the committing thread empties it."""

    chunk: Chunk
    began: float
    left: int
    load_seconds: float = 0.0
    seconds: float = 0.0
    images: int = 0
    failures: int = 0
    evaluations: int = 0
    shared: int = 0
    effort: Effort | None = None
    remark: str | None = None
    last_commit: float = 0.0
    batch: _Batch = field(default_factory=_Batch)
    again: list[TaskProblem] = field(default_factory=list)
    store_fault: str | None = None
    """What the store said when it failed this lot; set by any thread, never taken back."""
    write_times: list[float] = field(default_factory=list)
    """Processor seconds an image; a list because several threads add to it."""
    # Filled by the committing thread alone:
    parts: list[str] = field(default_factory=list)
    committed: set[int] = field(default_factory=set)
    rendered: int = 0
    failed: list[TaskProblem] = field(default_factory=list)
    """In the order of the rows."""
    commit_seconds: float = 0.0

    def unload(self) -> _Batch:
        """Take what there is for the store; called by the rendering thread."""
        batch, self.batch = self.batch, _Batch()
        return batch


@dataclass(frozen=True, slots=True, kw_only=True)
class _InFlight:
    lot: _Lot
    index: int
    since: datetime


class Worker:
    """Renders chunks into a store.

    `lease`, `ask_to_stop` and `report` may be called from any thread; `work` and `close` from the
    one that renders.
    """

    def __init__(
        self,
        setup: WorkerSetup,
        *,
        name: str,
        node: str,
        device: str = "auto",
        threads: int | None = None,
    ) -> None:
        """Open the store; load nothing yet.

        Raises:
            OutputError: the store cannot be opened from here.
        """
        self.name = name
        self.node = node
        self._setup = setup
        self._device = device
        self._threads = threads
        self._store = Store.open(setup.store_url)
        self._journal = Journal(self._store.control, run=setup.run)
        self._renderer: Renderer | None = None
        self._key: PipelineKey | None = None
        self._load_failures: Counter[PipelineKey] = Counter()
        self._past_effort: Effort | None = Effort()
        """Of the renderers before this one."""

        self._news = threading.Condition()
        self._inbox: deque[Chunk] = deque()
        self._outbox: list[ChunkOutcome] = []
        self._bug: BaseException | None = None
        self._has_moved_on = False
        """It begins to load or to render, and nobody has been told."""
        self._stopping = False
        self._spent = False

        self._lots: dict[str, _Lot] = {}
        self._in_flight: dict[TaskSpec, _InFlight] = {}
        self._unwritten: deque[Future[Row]] = deque()
        writers = min(MOST_WRITERS, threads or MOST_WRITERS)
        self._writers = ThreadPoolExecutor(writers, thread_name_prefix=f"{name}-write")
        self._committer = ThreadPoolExecutor(1, thread_name_prefix=f"{name}-commit")
        self._last_close = 0.0
        self._phase: Phase = "idle"
        self._latest: TaskSpec | None = None
        self._last_image: str | None = None

    # --- from any thread ------------------------------------------------------------------------

    def lease(self, chunk: Chunk) -> None:
        """Take a chunk, to be answered by exactly one outcome."""
        with self._news:
            self._inbox.append(chunk)
            self._news.notify_all()

    def ask_to_stop(self) -> None:
        """Take no more tasks; finish those in flight, commit, and answer the rest as undone."""
        with self._news:
            self._stopping = True
            self._news.notify_all()

    def report(self, timeout_s: float) -> WorkerReport:
        """Return outcomes as soon as there are any, else what is going on after `timeout_s`.

        A renderer that has just been opened is told of at once: it may want more than is leased.
        So is one that is going to be opened, which may take long.
        """
        with self._news:
            self._news.wait_for(lambda: self.has_news, timeout_s)
            outcomes, self._outbox = tuple(self._outbox), []
            self._has_moved_on = False
            if self._bug is not None:
                raise self._bug
            is_spent = self._spent and not (self._lots or self._inbox)
        return WorkerReport(
            worker=self.name, outcomes=outcomes, heartbeat=self._heartbeat(), is_spent=is_spent
        )

    def wait_for_lease(self, timeout_s: float) -> bool:
        """Return whether something is in the inbox, waiting up to `timeout_s` for it."""
        with self._news:
            return bool(self._news.wait_for(lambda: self._inbox, timeout_s))

    @property
    def has_news(self) -> bool:
        """`report` would return at once."""
        return bool(self._outbox or self._bug or self._has_moved_on)

    def prove_output(self, token: str) -> None:
        """Write `token` where the driver can see it, if this output is the driver's output."""
        self._store.control.write(f"probes/{self.name}", token)

    def _heartbeat(self) -> Heartbeat:
        lots = list(self._lots.values())
        return Heartbeat(
            phase=self._phase,
            rendered=sum(lot.images for lot in lots),
            failed=sum(lot.failures for lot in lots),
            in_flight=len(self._in_flight),
            appetite=_appetite_of(self._renderer),
            last_image=self._last_image,
            settings=_describe(list(self._in_flight) or [t for t in (self._latest,) if t]),
        )

    # --- the rendering thread -------------------------------------------------------------------

    def work(self) -> Iterator[None]:
        """Render what is in the inbox, a step at a time, until the inbox is empty.

        A step is an image, or a renderer that is going to be opened, or is open.
        """
        while self._inbox:
            at_hand = [self._inbox[0], *(lot.chunk for lot in list(self._lots.values()))]
            if self._meets_store_fault() or any(chunk.history.alone for chunk in at_hand):
                self._wait_for_commits()
            yield from self._stream(self._inbox.popleft())
            self._phase = "idle"

    def close(self) -> None:
        """Give back the pipeline and the threads. What is not committed is given up.

        A commit that has begun is finished, with the images that it waits for: whoever looks at the
        store afterwards sees it at rest.
        """
        self._committer.shutdown(wait=True, cancel_futures=True)
        self._writers.shutdown(wait=True, cancel_futures=True)
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None

    def _stream(self, chunk: Chunk) -> Iterator[None]:
        """Render `chunk`, and what follows it in the inbox as long as the stream can run on."""
        if chunk.load_failures < self._load_failures[chunk.key]:
            self._later(partial(self._return, chunk))
            return
        lot = self._open(chunk)
        fault: Fault | None = None
        if not self._has_open(chunk.key) and not self._must_stop():
            self._move_on_to("loading")
            yield
        if not self._must_stop():
            try:
                renderer = self._ensure_renderer(lot)
            except Exception as error:  # noqa: BLE001 - whatever a library raises while it loads
                fault = Fault(kind="load", message=_explain(error))
                self._load_failures[chunk.key] += 1
            else:
                yield from self._draw(renderer, lot)
        for open_lot in list(self._lots.values()):
            if open_lot.left:
                self._close(open_lot, fault)

    def _draw(self, renderer: Renderer, lot: _Lot) -> Iterator[None]:
        """Render `lot` and what follows it; account for tasks that the renderer never answers."""
        if self._has_moved_on:
            yield  # whoever drives this may have to lease what a new renderer wants
        feed = self._feed_one_by_one if lot.chunk.history.alone else self._feed
        message = "the renderer gave no answer for this task"
        try:
            for stream in feed(lot):
                for result in renderer.render(stream):
                    self._take(result)
                    if self._must_stop() and isinstance(renderer, Withdrawable):
                        self._take_back(renderer.withdraw())
                    yield
        except Exception as error:  # noqa: BLE001 - a renderer must not raise; this one did
            message = _explain(error)
            self._discard_renderer()
        self._fail_unanswered(message)

    def _wait_for_commits(self) -> None:
        """Wait until every chunk begun so far has been answered.

        After a store fault, because the store is tried again then. Around a chunk that is rendered
        alone, because a death is blamed on whatever the journal names, and a task that is finished
        but not committed is still named there.
        """
        self._committer.submit(lambda: None).result()

    def _open(self, chunk: Chunk) -> _Lot:
        lot = _Lot(chunk=chunk, began=time.perf_counter(), left=len(chunk.tasks))
        lot.last_commit = lot.began
        self._lots[chunk.id] = lot
        alone = chunk.history.alone
        self._note(lot, () if alone else [task_digest(task) for task in chunk.tasks])
        return lot

    def _note(self, lot: _Lot, digests: list[bytes] | tuple[()]) -> None:
        if self._must_stop():
            return
        try:
            self._journal.note(lot.chunk.id, digests=digests, history=lot.chunk.history)
        except StoreError as error:
            lot.store_fault = str(error)

    def _ensure_renderer(self, lot: _Lot) -> Renderer:
        key = lot.chunk.key
        if self._renderer is not None and self._has_open(key):
            return self._renderer
        if self._renderer is not None:
            self._past_effort = self._effort()
            self._renderer.close()
            self._renderer = None
        started = time.perf_counter()
        self._renderer = open_renderer(
            key, device=self._device, threads=self._threads, factory=self._setup.factory
        )
        self._key = key
        lot.began = time.perf_counter()
        lot.load_seconds = lot.began - started
        self._move_on_to("rendering")
        return self._renderer

    def _has_open(self, key: PipelineKey) -> bool:
        return self._renderer is not None and self._key == key

    def _move_on_to(self, phase: Phase) -> None:
        """Be in a phase, and have whoever waits for a report told of it."""
        self._phase = phase
        with self._news:
            self._has_moved_on = True
            self._news.notify_all()

    def _effort(self) -> Effort | None:
        """Return what everything rendered so far took; None if part of it was not measured."""
        if self._renderer is None:
            return self._past_effort
        if self._past_effort is None or not isinstance(self._renderer, Measured):
            return None
        return self._past_effort + self._renderer.effort

    def _discard_renderer(self) -> None:
        """Drop a renderer that raised. Its process is not to be trusted either."""
        self._past_effort = self._effort()
        self._renderer = None
        self._key = None
        self._spent = True

    def _must_stop(self) -> bool:
        return self._stopping or self._spent or self._meets_store_fault()

    def _meets_store_fault(self) -> bool:
        return any(lot.store_fault is not None for lot in list(self._lots.values()))

    def _feed(self, lot: _Lot) -> Iterator[Iterator[TaskSpec]]:
        """Yield one stream of tasks: of `lot`, then of the chunks that follow it."""

        def tasks() -> Iterator[TaskSpec]:
            following: _Lot | None = lot
            while following is not None:
                for index, task in enumerate(following.chunk.tasks):
                    if self._must_stop():
                        return
                    yield self._launch(following, index, task)
                following = self._open_next(lot.chunk.key)

        self._phase = "rendering"
        yield tasks()

    def _feed_one_by_one(self, lot: _Lot) -> Iterator[Iterator[TaskSpec]]:
        """Yield one stream a task, each task noted before it starts."""
        self._phase = "rendering"
        for index, task in enumerate(lot.chunk.tasks):
            self._note(lot, [task_digest(task)])
            if self._must_stop():
                return
            yield iter([self._launch(lot, index, task)])

    def _open_next(self, key: PipelineKey) -> _Lot | None:
        """Open the next chunk of the inbox if the stream can simply run on into it."""
        if not self._inbox or self._must_stop():
            return None
        following = self._inbox[0]
        if following.key != key or following.history.alone:
            return None
        return self._open(self._inbox.popleft())

    def _launch(self, lot: _Lot, index: int, task: TaskSpec) -> TaskSpec:
        self._in_flight[task] = _InFlight(lot=lot, index=index, since=datetime.now(UTC))
        self._latest = task
        return task

    def _take(self, result: RenderResult) -> None:
        """Send a result on its way to the store."""
        flight = self._in_flight.pop(result.task)
        lot = flight.lot
        match result:
            case Rendered():
                lot.images += 1
                lot.evaluations += result.denoiser_evaluations - result.shared_evaluations
                lot.shared += result.shared_evaluations
                self._wait_for_writers()
                write = self._writers.submit(self._write, flight, result)
                self._unwritten.append(write)
                lot.batch.writes.append((flight, write))
            case Failed():
                self._fail(flight, result, in_company=False)
        self._answered(lot)

    def _take_back(self, tasks: Sequence[TaskSpec]) -> None:
        """Leave tasks undone that the renderer has not begun."""
        for task in tasks:
            self._answered(self._in_flight.pop(task).lot)

    def _answered(self, lot: _Lot) -> None:
        lot.left -= 1
        now = time.perf_counter()
        if lot.left == 0:
            self._close(lot, None)
        elif now - lot.last_commit > self._setup.commit_every_s:
            lot.last_commit = now
            batch = lot.unload()
            self._later(lambda: self._commit(lot, batch))

    def _fail(self, flight: _InFlight, result: Failed, *, in_company: bool) -> None:
        lot = flight.lot
        problem = TaskProblem(
            index=flight.index,
            task_id=task_id(result.task),
            kind=result.kind,
            message=result.message[:MESSAGE_LIMIT],
            in_company=in_company,
        )
        failure = TaskFailed(kind=result.kind, in_company=in_company)
        if isinstance(decide(failure, lot.chunk.history, self._setup.policy), GiveUp):
            row = self._row(result, chunk=lot.chunk, since=flight.since)
            lot.batch.failures.append((problem, row))
            lot.failures += 1
        else:
            lot.again.append(problem)

    def _fail_unanswered(self, message: str) -> None:
        """Account for the tasks that the renderer took and never answered."""
        unanswered = list(self._in_flight.items())
        self._in_flight.clear()
        for task, flight in unanswered:
            failed = Failed(task=task, kind=FailureKind.INTERNAL, message=message)
            self._fail(flight, failed, in_company=len(unanswered) > 1)
            self._answered(flight.lot)

    def _wait_for_writers(self) -> None:
        while self._unwritten and (
            self._unwritten[0].done() or len(self._unwritten) >= UNWRITTEN_LIMIT
        ):
            self._unwritten.popleft().exception()  # waits; whoever commits the row sees the error

    def _close(self, lot: _Lot, fault: Fault | None) -> None:
        now = time.perf_counter()
        lot.seconds = now - max(lot.began, self._last_close)
        self._last_close = now
        lot.left = 0
        lot.effort = self._effort()
        lot.remark = _remark_of(self._renderer)
        batch = lot.unload()
        self._later(lambda: self._finish(lot, batch, fault))

    # --- the writing threads --------------------------------------------------------------------

    def _write(self, flight: _InFlight, result: Rendered) -> Row:
        """Encode and write one image; return its row."""
        started, processor = time.perf_counter(), time.thread_time()
        job = self._setup.job
        row = self._row(result, chunk=flight.lot.chunk, since=flight.since)
        data = encode_image(result.pixels, job.image, row)
        try:
            image = self._store.put_image(
                result.task, data, suffix=image_suffix(job.image), file_name=job.file_name
            )
        except StoreError as error:
            flight.lot.store_fault = str(error)
            raise
        seconds = time.perf_counter() - started
        flight.lot.write_times.append(time.thread_time() - processor)
        self._last_image = image.path
        return with_image(dataclasses.replace(row, encode_ms=seconds * 1e3), image)

    def _row(self, result: RenderResult, *, chunk: Chunk, since: datetime) -> Row:
        return row_for(
            result,
            job=self._setup.job.name,
            image=None,
            run=self._setup.run,
            attempt=chunk.history.attempt,
            worker=self.name,
            node=self.node,
            started_at=since,
            finished_at=datetime.now(UTC),
        )

    # --- the committing thread ------------------------------------------------------------------

    def _later(self, act: Callable[[], None]) -> None:
        """Have the committing thread do `act`, after everything it was given before."""

        def guarded() -> None:
            try:
                act()
            except BaseException as error:  # noqa: BLE001 - a bug of ours: `report` raises it
                with self._news:
                    self._bug = error
                    self._news.notify_all()

        self._committer.submit(guarded)

    def _commit(self, lot: _Lot, batch: _Batch) -> None:
        """Commit what is written of `batch` as one part; note a store fault and leave the rest."""
        failures = list(batch.failures)
        rows: list[Row] = []
        written: list[int] = []
        for flight, write in batch.writes:
            try:
                rows.append(write.result())
            except StoreError:
                continue  # noted by the thread that met it
            except Exception as error:  # noqa: BLE001 - an encoder that cannot have this picture
                failures.append(self._unwritable(flight, error))
                continue
            written.append(flight.index)
        rows.extend(row for _, row in failures)
        if not rows:
            return
        started = time.perf_counter()
        name = f"{lot.chunk.id}.{len(lot.parts)}" if lot.parts else lot.chunk.id
        try:
            part = self._store.commit(
                rows, run=self._setup.run, chunk=name, attempt=lot.chunk.history.attempt
            )
        except StoreError as error:
            lot.store_fault = str(error)
            return
        lot.commit_seconds += time.perf_counter() - started
        lot.parts.append(part)
        lot.rendered += len(written)
        lot.failed.extend(problem for problem, _ in failures)
        lot.committed.update(written, (problem.index for problem, _ in failures))

    def _unwritable(self, flight: _InFlight, error: Exception) -> tuple[TaskProblem, Row]:
        """Return the failed row of a picture that was rendered and cannot be encoded or named."""
        chunk = flight.lot.chunk
        task = chunk.tasks[flight.index]
        message = f"the image cannot be written: {_explain(error)}"
        failed = Failed(task=task, kind=FailureKind.INTERNAL, message=message)
        problem = TaskProblem(
            index=flight.index, task_id=task_id(task), kind=failed.kind, message=message
        )
        return problem, self._row(failed, chunk=chunk, since=flight.since)

    def _finish(self, lot: _Lot, batch: _Batch, fault: Fault | None) -> None:
        """Commit the rest of a lot and answer it."""
        self._commit(lot, batch)
        try:
            self._journal.clear(lot.chunk.id)
        except StoreError as error:
            lot.store_fault = str(error)
        settled = lot.committed | {problem.index for problem in lot.again}
        undone = tuple(index for index in range(len(lot.chunk.tasks)) if index not in settled)
        if undone and fault is None and lot.store_fault is not None:
            fault = Fault(kind="store", message=lot.store_fault)
        outcome = ChunkOutcome(
            chunk=lot.chunk.id,
            rendered=lot.rendered,
            failed=tuple(lot.failed),
            again=tuple(lot.again),
            undone=undone,
            fault=fault,
            parts=tuple(lot.parts),
            seconds=lot.seconds,
            load_seconds=lot.load_seconds,
            write_seconds=sum(lot.write_times),
            commit_seconds=lot.commit_seconds,
            denoiser_evaluations=lot.evaluations,
            shared_evaluations=lot.shared,
            effort=lot.effort,
            remark=lot.remark,
            last_image=self._last_image,
        )
        with self._news:
            del self._lots[lot.chunk.id]
            self._outbox.append(outcome)
            self._news.notify_all()

    def _return(self, chunk: Chunk) -> None:
        """Answer a chunk of which nothing was begun, after the failure that it was to know of."""
        with self._news:
            everything = tuple(range(len(chunk.tasks)))
            self._outbox.append(ChunkOutcome(chunk=chunk.id, undone=everything))
            self._news.notify_all()


def _appetite_of(renderer: object) -> int:
    return renderer.appetite if isinstance(renderer, Hungry) else 0


def _remark_of(renderer: object) -> str | None:
    return renderer.remark if isinstance(renderer, Remarkable) else None


def _explain(error: Exception) -> str:
    """Return `error` as a line for a row or an event."""
    text = str(error) if isinstance(error, FarmError) else f"{type(error).__name__}: {error}"
    return text[:MESSAGE_LIMIT]


def _describe(tasks: Sequence[TaskSpec]) -> str:
    """Return the settings of the tasks in flight in a line, for people."""
    if not tasks:
        return ""
    sizes = sorted({f"{task.width}x{task.height}" for task in tasks if task.width and task.height})
    prompts = list(dict.fromkeys(task.prompt for task in tasks))
    more = f" and {len(prompts) - 1} more" if len(prompts) > 1 else ""
    parts = [
        " ".join(sizes),
        " ".join(sorted({task.sampler for task in tasks})),
        f"{_span([task.num_inference_steps for task in tasks])} steps",
        f"cfg {_span([task.guidance_scale for task in tasks])}",
        f"seed {_span([task.seed for task in tasks])}",
    ]
    return f"{', '.join(part for part in parts if part)}: {prompts[0]}{more}"


def _span(numbers: Sequence[float]) -> str:
    least, most = min(numbers), max(numbers)
    return f"{least:g}" if least == most else f"{least:g} to {most:g}"
