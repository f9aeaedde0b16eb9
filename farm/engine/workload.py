"""What is left to lease, and what to lease next.

Chunks aim at seconds, not counts: the first of a pipeline is small, and once its speed is known
they grow to `CHUNK_SECONDS`. Where several workers share, they shrink towards the end with what is
left (guided self-scheduling, Polychronopoulos and Kuck 1987), so that no worker starts a long chunk
while the others have none.

A worker keeps its pipeline until nothing of it is left. Then it goes where most work waits per
worker that is already there.

Tasks that came back stand in pieces, each with one history, before what is still in the backlog:
what may be poisonous is settled early, while there is other work to do meanwhile.
"""

from __future__ import annotations

import dataclasses
import math
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Protocol

from farm.engine.chunks import Chunk
from farm.engine.decide import History
from farm.task import PipelineKey, TaskSpec, task_digest

CHUNK_SECONDS = 20.0
"""Long enough that its overhead (milliseconds) and a stream's drain do not matter, short enough
that a lost worker costs little."""
LEAST_SECONDS = 1.0
"""Chunks do not shrink below this."""
FIRST_CHUNK = 8
GROWTH = 4
"""A chunk has at most so many times the tasks of the largest one finished so far."""
MOST_TASKS = 2048
"""Bounds what a lease carries, whatever the speed."""
_SIDE = 512
"""Stands for a width or height that is the model's own."""


class Backlog(Protocol):
    """The part of `farm.planner.Backlog` that the workload needs."""

    def keys(self) -> Iterable[PipelineKey]:
        """Return the pipelines that tasks are waiting for."""
        ...

    def remaining(self, key: PipelineKey) -> int:
        """Return how many tasks of `key` have not been taken."""
        ...

    def take(self, key: PipelineKey, n: int) -> tuple[TaskSpec, ...]:
        """Take up to `n` tasks of `key`, in the order of the space."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """Tasks that came back, with what they have been through."""

    key: PipelineKey
    tasks: tuple[TaskSpec, ...]
    history: History


def _suits_all(_history: History) -> bool:
    return True


@dataclass(slots=True, kw_only=True)
class _Speed:
    seconds_per_task: float | None = None
    seconds_per_unit: float | None = None
    largest: int = FIRST_CHUNK // GROWTH


class Workload:
    """The tasks of a run that are not leased and not settled."""

    def __init__(self, backlog: Backlog, *, suspects: Mapping[bytes, int]) -> None:
        """Begin with everything in `backlog`.

        `suspects` are digests of tasks that were in flight when earlier runs died, with the number
        of deaths; those tasks start with that history, one at a time.
        """
        self._backlog = backlog
        self._suspects = suspects
        self._pieces: dict[PipelineKey, deque[Piece]] = {}
        self._speeds: dict[PipelineKey, _Speed] = {}
        self._chunks = 0

    def __len__(self) -> int:
        return sum(self.pending(key) for key in self.keys())

    def keys(self) -> list[PipelineKey]:
        """Return the pipelines that tasks are waiting for, in a stable order."""
        keys = dict.fromkeys((*self._backlog.keys(), *self._pieces))
        return [key for key in keys if self.pending(key)]

    def pending(self, key: PipelineKey) -> int:
        """Return how many tasks wait for `key`."""
        pieces = self._pieces.get(key, ())
        return self._backlog.remaining(key) + sum(len(piece.tasks) for piece in pieces)

    def put_back(self, piece: Piece) -> None:
        """Take back tasks that a chunk did not settle."""
        if piece.tasks:
            self._pieces.setdefault(piece.key, deque()).append(piece)

    def learn(self, chunk: Chunk, *, seconds: float, finished: int) -> None:
        """Note that a worker was busy for `seconds` with `finished` tasks of `chunk`."""
        speed = self._speeds.setdefault(chunk.key, _Speed())
        speed.seconds_per_task = _blend(speed.seconds_per_task, seconds / finished)
        units = sum(map(_units, chunk.tasks)) * finished / len(chunk.tasks)
        speed.seconds_per_unit = _blend(speed.seconds_per_unit, seconds / units)
        speed.largest = max(speed.largest, finished)

    def expect(self, chunk: Chunk, *, in_flight: int) -> float | None:
        """Return how many seconds `in_flight` of the chunk's tasks may take together.

        Counted as if each of them were the largest; None before anything of this pipeline has been
        measured.
        """
        speed = self._speeds.get(chunk.key, _Speed())
        if speed.seconds_per_unit is None:
            return None
        return speed.seconds_per_unit * max(map(_units, chunk.tasks)) * max(1, in_flight)

    def choose_key(
        self,
        current: PipelineKey | None,
        *,
        refused: AbstractSet[PipelineKey],
        held: Counter[PipelineKey],
    ) -> PipelineKey | None:
        """Return the pipeline that a worker should render next, or None if there is nothing for it.

        Args:
            current: what it has loaded.
            refused: what it should not be given.
            held: how many workers have each pipeline loaded or leased.
        """
        keys = [key for key in self.keys() if key not in refused]
        if current in keys:
            return current
        return max(keys, key=lambda key: self.pending(key) / (1 + held[key]), default=None)

    def cut(
        self, key: PipelineKey, *, workers: int, suits: Callable[[History], bool] = _suits_all
    ) -> Chunk | None:
        """Return the next chunk of `key`, sized for `workers` workers that share what is left.

        `suits` says which tasks that came back the worker may have; None: nothing else is left.
        """
        piece = self._next_piece(key, self._size(key, workers=workers), suits)
        if piece is None:
            return None
        self._chunks += 1
        return Chunk(id=f"c{self._chunks:05d}", key=key, tasks=piece.tasks, history=piece.history)

    def drain(self, key: PipelineKey, n: int) -> tuple[TaskSpec, ...]:
        """Take up to `n` tasks of `key` that will not be rendered."""
        piece = self._next_piece(key, n, _suits_all)
        return () if piece is None else piece.tasks

    def _size(self, key: PipelineKey, *, workers: int) -> int:
        """Return how many tasks the next chunk of `key` should have."""
        speed = self._speeds.get(key, _Speed())
        # One worker has nobody to wait for: it is better off with a full batch to the end.
        share = math.ceil(self.pending(key) / (2 * workers if workers > 1 else 1))
        size = min(speed.largest * GROWTH, MOST_TASKS)
        if speed.seconds_per_task:
            size = min(size, math.ceil(CHUNK_SECONDS / speed.seconds_per_task))
            share = max(share, math.floor(LEAST_SECONDS / speed.seconds_per_task))
        return max(1, min(size, share))

    def _next_piece(
        self, key: PipelineKey, n: int, suits: Callable[[History], bool]
    ) -> Piece | None:
        """Take up to `n` tasks with one history: what came back first, then the backlog."""
        pieces = self._pieces.setdefault(key, deque())
        fitting = (index for index, piece in enumerate(pieces) if suits(piece.history))
        at = next(fitting, len(pieces))
        if at == len(pieces):
            if not self._backlog.remaining(key):
                return None
            pieces.extend(self._sort(key, self._backlog.take(key, n)))
        piece = pieces[at]
        if len(piece.tasks) > n:
            pieces[at] = dataclasses.replace(piece, tasks=piece.tasks[n:])
            return dataclasses.replace(piece, tasks=piece.tasks[:n])
        del pieces[at]
        return piece

    def _sort(self, key: PipelineKey, tasks: tuple[TaskSpec, ...]) -> list[Piece]:
        """Return `tasks` in pieces by suspicion; those that died alone before stay alone."""
        if not self._suspects:
            return [Piece(key=key, tasks=tasks, history=History())]
        by_crashes: dict[int, list[TaskSpec]] = {}
        for task in tasks:
            by_crashes.setdefault(self._suspects.get(task_digest(task), 0), []).append(task)
        return [
            Piece(
                key=key,
                tasks=tuple(group),
                history=History(crashes=crashes, alone=True) if crashes else History(),
            )
            for crashes, group in sorted(by_crashes.items())
        ]


def _units(task: TaskSpec) -> float:
    """Return how much work a task is beside others of its pipeline: pixels times steps."""
    return (task.width or _SIDE) * (task.height or _SIDE) * task.num_inference_steps


def _blend(known: float | None, latest: float) -> float:
    return latest if known is None else (known + latest) / 2
