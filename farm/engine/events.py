"""What a run says while it runs: one stream of frozen facts.

A progress bar, JSON lines and a test are three readers of this one stream; none of them asks the
engine anything. The first event of a run is `RunStarted`, the last one `RunFinished`.

Counting: images finished so far are the sums over every `ChunkDone`, plus, for a live view, the
latest `Progress` of every worker, which covers exactly what no `ChunkDone` has counted yet.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from farm.task import FailureKind, TaskId

NO_SHARES: Mapping[str, float] = MappingProxyType({})
NO_FAILURES: Mapping[FailureKind, int] = MappingProxyType({})


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something that happened in a run."""

    def to_json(self) -> dict[str, Any]:
        """Return the event as JSON values; `event` is its name in kebab case."""
        name = re.sub(r"(?<!^)(?=[A-Z])", "-", type(self).__name__).lower()
        return {"event": name, **_to_json(self)}


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSummary:
    """What one worker did in a run."""

    worker: str
    node: str
    device: str
    rendered: int
    seconds: float
    """From its first sign of life to its end, or the run's."""
    efficiency: float | None
    """As the run's, of these seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunReport:
    """What a run did. Counts are of unique tasks of the job."""

    rendered: int
    """Rendered and committed by this run."""
    failed: int
    """Given up by this run, each with a failed row."""
    failed_before: int
    """Failed in an earlier run and not tried again by this one."""
    skipped: int
    """Not tried, because the output already has their images or a limit was set."""
    unfinished: int
    """Left to do because the run was interrupted."""
    seconds: float
    images_per_second: float
    denoiser_evaluations: int
    """Network evaluations of one row each that were really executed."""
    efficiency: float | None
    """Share of the run's time that its evaluations and pictures take at best on these devices;
    None where nothing measured it. Shared evaluations do not count."""
    output: str
    shared_evaluations: int = 0
    """Evaluations that images needed and that had been made for another image."""
    time_shares: Mapping[str, float] = field(default_factory=lambda: NO_SHARES)
    """Where the devices' time went, as shares of it; empty where nothing measured it."""
    workers: tuple[WorkerSummary, ...] = ()
    failures: Mapping[FailureKind, int] = field(default_factory=lambda: NO_FAILURES)
    """`failed` by kind."""
    interrupted: bool = False
    run: int | None = None
    """Its number, as in the catalog's column `run`; None if there was nothing to render."""

    def to_json(self) -> dict[str, Any]:
        """Return the report as JSON values."""
        return {**_to_json(self)}


@dataclass(frozen=True, slots=True, kw_only=True)
class RunStarted(Event):
    """The plan, before anything is started."""

    tasks: int
    """Unique tasks of the job."""
    done: int
    """Of these, rendered before."""
    failed_before: int
    """Of these, failed before and not tried again."""
    to_render: int
    executor: str
    workers: int | None
    """None: known only once a cluster has been joined."""
    reason: str
    """Why this executor, in a sentence."""
    output: str


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerReady(Event):
    """A worker can be leased to."""

    worker: str
    node: str
    device: str


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerLost(Event):
    """A worker died or was discarded; another takes its place where there is room."""

    worker: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunkStarted(Event):
    """A chunk was leased."""

    chunk: str
    worker: str
    tasks: int
    attempt: int
    model: str
    backend: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress(Event):
    """What a worker is doing, and what it has finished that no `ChunkDone` has counted yet."""

    worker: str
    phase: str
    """`idle`, `loading` or `rendering`."""
    rendered: int
    failed: int
    in_flight: int
    """Tasks in the batch being rendered."""
    last_image: str | None
    """Relative to the output."""
    settings: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunkDone(Event):
    """Rows of a chunk were committed."""

    chunk: str
    worker: str
    rendered: int
    failed: int
    unfinished: int
    """Tasks of the chunk that go back to be leased again, or are left by an interrupted run."""
    seconds: float
    """Wall time that the chunk added to what its worker did before."""
    write_seconds: float = 0.0
    """Processor time of encoding and writing its images, beside the rendering."""
    last_image: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunkRetried(Event):
    """Tasks of a chunk go back, to be leased again."""

    chunk: str
    tasks: int
    attempt: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskFailed(Event):
    """A task was given up; the catalog has its failed row."""

    task_id: TaskId
    kind: FailureKind
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice(Event):
    """Something a person may want to know, in a sentence."""

    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFinished(Event):
    """The end of a run."""

    report: RunReport


def _to_json(value: Any) -> Any:  # noqa: ANN401 - any field of an event
    if dataclasses.is_dataclass(value):
        return {f.name: _to_json(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, tuple):
        return [_to_json(entry) for entry in value]
    if isinstance(value, Mapping):
        return {str(key): _to_json(entry) for key, entry in value.items()}
    return value
