"""The Python interface: what the commands do, as functions that return values.

Each function behaves as the command of its name, raises `FarmError` where the command would print
one, and never exits the process.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from farm import grid, manifest, planner
from farm.errors import InputError
from farm.manifest import Job

if TYPE_CHECKING:
    from farm.engine import RunReport
    from farm.engine.events import Event
    from farm.grid import TaskSpace
    from farm.planner import Plan
    from farm.view.query import Catalog

EventReader = Callable[["Event"], None]


def load_job(path: str | os.PathLike[str], *, overrides: Sequence[str] = ()) -> Job:
    """Read a job file; `overrides` are `field=value` texts, as after `--set`.

    Raises:
        ManifestError: everything that is wrong with the file, at once.
    """
    return manifest.load(os.fspath(path), read=_read_text, overrides=tuple(overrides))


def expand(job: Job) -> TaskSpace:
    """Return the job's tasks: a lazy sequence with `len`, `[i]` and iteration."""
    return grid.expand(job)


def plan(
    job: Job, *, force: bool = False, retry_failed: bool = False, limit: int | None = None
) -> Plan:
    """Return what `submit` would do now, given what the job's output already holds.

    Loads no model and writes nothing.

    Raises:
        OutputError: the output exists and cannot be read.
    """
    from farm.store import Store

    finished = Store.peek(job.output)
    return planner.plan(
        grid.expand(job),
        job=job,
        rendered=finished.rendered,
        failed=finished.failed,
        force=force,
        retry_failed=retry_failed,
        limit=limit,
    )


def submit(
    job: Job,
    *,
    executor: str = "auto",
    address: str | None = None,
    workers: int | None = None,
    limit: int | None = None,
    force: bool = False,
    retry_failed: bool = False,
    consent: bool = False,
    on_event: EventReader | None = None,
) -> RunReport:
    """Render what the job describes and the output lacks; return what happened.

    Ctrl-C and SIGTERM (in the main thread) stop after the batch in flight and commit what is
    finished; a second one stops at once. Failed tasks are rows of the catalog, not exceptions.

    Raises:
        InputError: the matrix is larger than the job's `max_tasks` and `consent` is false.
        OutputError: the output cannot be written.
        StoreError: the output failed during the run; what was committed stays.
    """
    from farm import engine
    from farm.store import Store

    todo = plan(job, force=force, retry_failed=retry_failed, limit=limit)
    if todo.tasks > job.max_tasks and not consent:
        raise InputError(
            f"the matrix has {todo.tasks:,} tasks, more than max_tasks = {job.max_tasks:,}",
            where=job.source,
            hint="look at `farm plan`, then submit with --yes, or raise max_tasks in the job",
        )
    store = Store.open(job.output, create=True)
    store.write_job(manifest.resolve_yaml(job), name=job.name)
    chosen, reason = engine.choose_executor(
        executor, address=address, workers=workers, resources=job.resources
    )
    report: RunReport | None = None
    with _stop_on_signal() as stop:
        events = engine.run(todo, job=job, store=store, executor=chosen, reason=reason, stop=stop)
        for event in events:
            if on_event is not None:
                on_event(event)
            if isinstance(event, engine.RunFinished):
                report = event.report
    assert report is not None, "the last event of a run carries its report"
    return report


def catalog(output: str | os.PathLike[str]) -> Catalog:
    """Return the finished tasks of an output folder or URL, one winning row each."""
    from farm.view.query import catalog as read_catalog

    return read_catalog(os.fspath(output))


def _read_text(path: str) -> str:
    return Path(path).read_bytes().decode("utf-8")


@contextmanager
def _stop_on_signal() -> Iterator[Any]:
    """Turn SIGINT and SIGTERM into a stop request for as long as a run lasts."""
    from farm.engine import Stop

    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    watched = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.getsignal(number) for number in watched}
    for number in watched:
        signal.signal(number, lambda *_: stop.request())
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
