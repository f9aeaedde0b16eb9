"""The executor without processes: one worker, here, now.

The same loop, the same worker, the same store; only nothing is between them. A breakpoint in a
renderer stops where it should, and an exception that escapes has the whole story in its traceback.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Iterator, Sequence

from farm.engine.chunks import Chunk, Message, WorkerSetup, WorkerUp
from farm.engine.worker import Worker


class InlineExecutor:
    """Renders in the calling thread, whenever the loop waits."""

    name = "inline"
    size = 1

    def __init__(self, *, device: str = "auto", threads: int | None = None) -> None:
        self._device = device
        self._threads = threads
        self._setup: WorkerSetup | None = None
        self._worker: Worker | None = None
        self._steps: Iterator[None] = iter(())
        self._born = 0
        self._is_new = False

    def start(self, setup: WorkerSetup) -> None:
        """See `Executor.start`."""
        self._setup = setup
        self._begin_worker()

    def lease(self, worker: str, chunk: Chunk) -> None:
        """See `Executor.lease`."""
        self._live(worker).lease(chunk)

    def wait(self, timeout_s: float) -> Sequence[Message]:
        """See `Executor.wait`. Renders until there is something to say or time is up."""
        worker = self._live()
        if self._is_new:
            self._is_new = False
            return [WorkerUp(worker=worker.name, node=worker.node, device=self._device)]
        until = time.monotonic() + timeout_s
        while not worker.has_news and time.monotonic() < until:
            if not self._step(worker):
                break
        return [worker.report(max(0.0, until - time.monotonic()))]

    def replace(self, worker: str) -> None:
        """See `Executor.replace`. The process stays; everything the worker held goes."""
        self._live(worker).close()
        self._begin_worker()

    def avoid(self, node_ids: frozenset[str]) -> None:
        """See `Executor.avoid`. There is only one node."""

    def ask_to_stop(self) -> None:
        """See `Executor.ask_to_stop`."""
        self._live().ask_to_stop()

    def close(self) -> None:
        """See `Executor.close`."""
        if self._worker is not None:
            self._steps = iter(())
            self._worker.close()
            self._worker = None

    def _begin_worker(self) -> None:
        assert self._setup is not None, "start comes first"
        self._born += 1
        self._steps = iter(())
        self._worker = Worker(
            self._setup,
            name=f"inline-{self._born}",
            node=platform.node(),
            device=self._device,
            threads=self._threads,
        )
        self._is_new = True

    def _step(self, worker: Worker) -> bool:
        """Render one image more; return False if nothing is leased."""
        for _ in self._steps:
            return True
        if not worker.wait_for_lease(0.0):
            return False
        self._steps = worker.work()
        return True

    def _live(self, name: str | None = None) -> Worker:
        assert self._worker is not None, "an executor is used between start and close"
        assert name in (None, self._worker.name), f"{name} is not a worker any more"
        return self._worker
