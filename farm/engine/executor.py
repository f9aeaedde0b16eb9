"""What a scheduling loop needs of whatever runs its workers.

An executor starts workers, carries chunks to them and answers back, and replaces those that die. It
decides nothing: what is leased where, and what a death means, is the loop's business. So the loop
is the same whether workers are this process (`inline`), others (`ray`) or a simulation (tests).
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Protocol

from farm.engine.chunks import Chunk, Message, WorkerSetup


class Executor(Protocol):
    """Runs workers. Used by one thread."""

    @property
    def name(self) -> str:
        """What `--executor` calls it."""
        ...

    @property
    def size(self) -> int | None:
        """Workers it aims at; None while a cluster that decides this has not been joined."""
        ...

    def start(self, setup: WorkerSetup) -> None:
        """Begin to start workers; each announces itself by a `WorkerUp`.

        Raises:
            FarmError: they cannot run here.
        """
        ...

    def lease(self, worker: str, chunk: Chunk) -> None:
        """Hand a chunk to a worker. If the worker is dying, its `WorkerDown` is the answer."""
        ...

    def wait(self, timeout_s: float) -> Sequence[Message]:
        """Return what has happened since the last call, waiting up to `timeout_s` for something.

        Raises:
            FarmError: no worker can be started.
        """
        ...

    def replace(self, worker: str) -> None:
        """Discard a worker whose process is not to be trusted, without a `WorkerDown`."""
        ...

    def avoid(self, node_ids: frozenset[str]) -> None:
        """Start workers on other nodes than these from now on, if there are any."""
        ...

    def ask_to_stop(self) -> None:
        """Ask every worker to finish what is in flight, commit it, and answer."""
        ...

    def close(self) -> None:
        """End every worker at once."""
        ...


class Stop:
    """A wish to end a run, made by a signal handler or another thread and heeded by the loop."""

    def __init__(self) -> None:
        self._asked = threading.Event()
        self._insisted = threading.Event()

    def request(self) -> None:
        """Ask once: finish what is in flight and commit it. Ask again: end at once."""
        if self._asked.is_set():
            self._insisted.set()
        self._asked.set()

    @property
    def asked(self) -> bool:
        """Somebody asked."""
        return self._asked.is_set()

    @property
    def insisted(self) -> bool:
        """Somebody asked twice."""
        return self._insisted.is_set()
