"""From a stream of tasks to batches, and from a batch that failed to the task that is to blame.

The idea: look a bounded window ahead, group the tasks whose settings are equal, draw each group in
batches as large as memory allows. When a batch fails, its tasks are tried one by one, so that only
the guilty ones fail; when it does not fit, it is halved, and the size that fits is remembered.

Knows nothing of torch or of any model: a `Painter` does the drawing.
"""

from __future__ import annotations

import logging
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Protocol

from farm.task import Failed, FailureKind, RenderFacts, RenderResult, TaskSpec, task_id

WINDOW = 256
"""Tasks taken ahead of the results: enough to fill batches, and few enough to hold."""

_log = logging.getLogger(__name__)


class Refusal(Exception):  # noqa: N818 - a verdict on settings; nothing went wrong
    """The settings of a task are not possible with this model; the message says which and why."""


class Painter(Protocol):
    """What draws one batch."""

    @property
    def facts(self) -> RenderFacts:
        """What draws: recorded with failures too."""
        ...

    def settings(self, task: TaskSpec) -> Hashable:
        """Return what tasks of one batch must have in common."""
        ...

    def memory_class(self, task: TaskSpec) -> Hashable:
        """Return what the memory of one image depends on, such as its size in pixels."""
        ...

    def first_batch_size(self, task: TaskSpec) -> int:
        """Return a batch size to start from, at least 1, before any experience."""
        ...

    def largest_batch(self, task: TaskSpec) -> int | None:
        """Return the batch size that these settings never allow to exceed, if there is one."""
        ...

    def draw(self, tasks: Sequence[TaskSpec]) -> Sequence[RenderResult]:
        """Return one result for each of `tasks`, which share their settings.

        Raises:
            Refusal: the settings are not possible; so for every one of the tasks.
            Exception: anything else; some of the tasks may be innocent.
        """
        ...

    def diagnose(self, error: Exception) -> FailureKind:
        """Return what kind of failure an exception of `draw` is."""
        ...

    def recover(self) -> None:
        """Release what a failed `draw` may have left behind."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class _Trouble:
    """Why a batch failed, without the exception: its traceback would keep the batch in memory."""

    kind: FailureKind
    message: str
    concerns_all: bool


class BatchedStream:
    """A stream of results from a painter that draws batches."""

    def __init__(self, painter: Painter) -> None:
        self._painter = painter
        self._fitting: dict[Hashable, int] = {}
        """Largest batch to try, by memory class; lowered when memory runs out."""

    def render(self, tasks: Iterator[TaskSpec]) -> Iterator[RenderResult]:
        """Yield one result for every task, window by window."""
        while window := tuple(islice(tasks, WINDOW)):
            groups: dict[Hashable, list[TaskSpec]] = {}
            for task in window:
                groups.setdefault(self._painter.settings(task), []).append(task)
            for group in groups.values():
                yield from self._render_group(group)

    def _render_group(self, group: Sequence[TaskSpec]) -> Iterator[RenderResult]:
        start = 0
        while start < len(group):
            size = self._batch_size(group[0])
            yield from self._render_batch(group[start : start + size])
            start += size

    def _batch_size(self, task: TaskSpec) -> int:
        memory_class = self._painter.memory_class(task)
        if memory_class not in self._fitting:
            self._fitting[memory_class] = self._painter.first_batch_size(task)
        largest = self._painter.largest_batch(task)
        fitting = self._fitting[memory_class]
        return fitting if largest is None else min(fitting, largest)

    def _render_batch(self, batch: Sequence[TaskSpec]) -> Iterator[RenderResult]:
        outcome = self._attempt(batch)
        if not isinstance(outcome, _Trouble):
            yield from outcome
            return
        self._painter.recover()
        if len(batch) == 1 or outcome.concerns_all:
            for task in batch:
                yield Failed(
                    task=task,
                    kind=outcome.kind,
                    message=outcome.message,
                    facts=self._painter.facts,
                )
            return
        if outcome.kind is FailureKind.OUT_OF_MEMORY:
            self._shrink(batch)
            yield from self._render_group(batch)
        else:
            for task in batch:
                yield from self._render_batch((task,))

    def _shrink(self, batch: Sequence[TaskSpec]) -> None:
        """Remember that at most half of `batch` fits."""
        memory_class = self._painter.memory_class(batch[0])
        size = len(batch) // 2
        self._fitting[memory_class] = size
        _log.warning(
            "out of memory: smaller batches from here on",
            extra={"batch_size": size, "memory_class": memory_class},
        )

    def _attempt(self, batch: Sequence[TaskSpec]) -> Sequence[RenderResult] | _Trouble:
        try:
            return self._painter.draw(batch)
        except Refusal as refusal:
            return _Trouble(kind=FailureKind.BAD_TASK, message=str(refusal), concerns_all=True)
        except Exception as error:  # noqa: BLE001 - any of them is one task's failure, not the run's
            kind = self._painter.diagnose(error)
            if kind is FailureKind.INTERNAL and len(batch) == 1:
                _log.exception("a task failed", extra={"task_id": task_id(batch[0])})
            return _Trouble(kind=kind, message=message_of(error), concerns_all=False)


def message_of(error: Exception) -> str:
    """Return an exception as one line for people."""
    text = " ".join(str(error).split())
    return text if isinstance(error, ValueError) and text else f"{type(error).__name__}: {text}"
