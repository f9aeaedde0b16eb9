"""What crosses between the driver and a worker: chunks out, small facts back.

A *chunk* is a few seconds of work that share a loaded pipeline: the unit that is leased, retried
and accounted. Pixels never travel. A worker writes images and rows to the store itself and answers
with counts, a part name and timings, so an answer is kilobytes however large the images are.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from farm.engine.decide import History, Policy
from farm.manifest.job import Job
from farm.render import Effort
from farm.task import FailureKind, PipelineKey, TaskId, TaskSpec

Phase: TypeAlias = Literal["idle", "loading", "rendering"]
"""What a worker is at."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSetup:
    """What every worker of a run is told once, when it starts."""

    store_url: str
    """Absolute: a worker's current directory is not the driver's."""
    job: Job
    run: int
    """The run's number in the store; part of every part's name."""
    policy: Policy
    factory: str | None = None
    """Entry point of a renderer to use in place of the backends' own; see `open_renderer`."""
    commit_every_s: float = 20.0
    """A chunk that takes longer commits what it has this often, so that a kill costs little."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """Tasks of one pipeline, leased to one worker as one unit."""

    id: str
    """Unique within the run."""
    key: PipelineKey
    tasks: tuple[TaskSpec, ...]
    history: History = field(default_factory=History)
    """What these tasks have been through; the same for all of them."""
    load_failures: int = 0
    """How often the pipeline failed to load in this worker, as far as the driver had heard when it
    leased the chunk. A worker that knows of one more answers the chunk untouched: it was leased in
    ignorance of that failure, and another try is the driver's to order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskProblem:
    """A task without an image. `index` is its place in the chunk."""

    index: int
    task_id: TaskId
    kind: FailureKind
    message: str
    in_company: bool = False
    """The renderer raised while it held other tasks too; see `decide`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """Why a chunk came back before its time, when no task of it is to blame by name."""

    kind: Literal["load", "store"]
    """`load`: the pipeline did not open. `store`: the output could not be written."""
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunkOutcome:
    """What became of a chunk. Every task is in exactly one of: committed, `again`, `undone`."""

    chunk: str
    rendered: int = 0
    """Rows with images, committed."""
    failed: tuple[TaskProblem, ...] = ()
    """Rows without, committed."""
    again: tuple[TaskProblem, ...] = ()
    """Failed in a way that another try may cure; not committed."""
    undone: tuple[int, ...] = ()
    """Places of tasks that were not finished, or not committed; nobody's fault but `fault`'s."""
    fault: Fault | None = None
    parts: tuple[str, ...] = ()
    """Parts this chunk committed, in order."""
    seconds: float = 0.0
    """Busy wall time that this chunk added, loading not counted."""
    load_seconds: float = 0.0
    write_seconds: float = 0.0
    """Processor time of encoding and writing images."""
    commit_seconds: float = 0.0
    denoiser_evaluations: int = 0
    """Made for this chunk's images, of one row each."""
    shared_evaluations: int = 0
    """Not made, because they had been made for another image."""
    effort: Effort | None = None
    """What everything that the worker rendered so far took its device; None where a renderer among
    it measures nothing. Not this chunk's alone: measurements of the past get better."""
    remark: str | None = None
    """What the renderer of this chunk says of itself."""
    last_image: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Heartbeat:
    """What a worker is doing, read while it does it."""

    phase: Phase = "idle"
    rendered: int = 0
    """Images finished in chunks that have not been answered yet."""
    failed: int = 0
    in_flight: int = 0
    """Tasks the renderer holds at this moment."""
    appetite: int = 0
    """Tasks it should have before it: its batch is not full with fewer."""
    last_image: str | None = None
    """Relative to the output."""
    settings: str = ""
    """The latest task's settings in a line, for people."""


# --- what an executor tells the loop ------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerUp:
    """A worker can be leased to."""

    worker: str
    node: str
    """For people."""
    device: str
    node_id: str = ""
    """Tells nodes apart that have one name; as `Executor.avoid` takes it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerDown:
    """A worker died with whatever was leased to it. A replacement comes as its own `WorkerUp`."""

    worker: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerReport:
    """A worker's answers since its last report, and what it is doing now."""

    worker: str
    outcomes: tuple[ChunkOutcome, ...] = ()
    heartbeat: Heartbeat = field(default_factory=Heartbeat)
    is_spent: bool = False
    """Its renderer raised, so its process is not to be trusted, and everything it was leased has
    been answered."""


Message: TypeAlias = "WorkerUp | WorkerDown | WorkerReport"
