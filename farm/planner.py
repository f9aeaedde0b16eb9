"""What is left to render: the tasks of a space, less what the store already has. Pure.

A plan decides three things. *Once*: a task that stands in several cells is rendered once, for the
first of them. *Only if missing*: a task with an image is done; one that failed in an earlier run
stays failed, unless it is retried. *Model by model*: work is grouped by the pipeline it needs, so
that each model is loaded once, however the axes are ordered.

Within a pipeline the order is that of the space. Sorting by settings would fill batches of equal
settings a little better, but a run stopped half-way should have finished the first rows of its
matrix, not a slice through all of them; and a renderer is free to regroup the tasks it is handed.

Everything is done on arrays, in a few bytes a task: no task is built before somebody takes it.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from farm.errors import InputError
from farm.grid import Column, Digests, Flags, Places, TaskSpace, empty_places, places_of
from farm.manifest.job import VAR_PREFIX, Job
from farm.samplers import SAMPLERS
from farm.task import PipelineKey, TaskSpec

MAX_TASKS = 1_000_000_000
"""A plan takes up to 16 bytes of memory a task while it is made."""

CHUNK_EVALUATIONS = 2_400
CHUNK_TASKS = 1_000
"""How the number of chunks is estimated: a chunk is full at whichever limit it meets first. The
engine sizes real chunks by the seconds that tasks turn out to take, which no plan can know."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PipelineWork:
    """What a plan will render with one loaded pipeline."""

    key: PipelineKey
    tasks: int
    denoiser_evaluations: int
    places: Places = field(repr=False, compare=False)
    """Where its tasks stand in the space, ascending."""

    @property
    def chunks(self) -> int:
        """About how many chunks the engine will make of it."""
        return math.ceil(
            max(self.tasks / CHUNK_TASKS, self.denoiser_evaluations / CHUNK_EVALUATIONS)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a submit would do."""

    job: str
    output: str
    tasks: int
    """Cells of the matrix."""
    unique_tasks: int
    """Different tasks among them. Every count below is of unique tasks."""
    done: int
    """Tasks with an image in the output."""
    failed: int
    """Tasks without an image that failed in an earlier run."""
    failed_standing: int
    """Of these, the ones that a submit would not try again."""
    pixels: int | None
    """Pixels of all images to render; None if a task leaves its size to the model."""
    axes: Mapping[str, int]
    """How many values each axis has, under its name in the job."""
    pipelines: tuple[PipelineWork, ...]
    """What is to render, by pipeline, in the order in which the matrix first has each."""
    space: TaskSpace = field(repr=False, compare=False)

    @property
    def to_render(self) -> int:
        """Tasks that a submit would render."""
        return sum(work.tasks for work in self.pipelines)

    @property
    def denoiser_evaluations(self) -> int:
        """Evaluations of the network that they need, of one row each, without any sharing."""
        return sum(work.denoiser_evaluations for work in self.pipelines)

    @property
    def model_loads(self) -> int:
        """Different pipelines to load; every worker loads those it is given work for."""
        return len(self.pipelines)

    @property
    def chunks(self) -> int:
        """About how many chunks the engine will make."""
        return sum(work.chunks for work in self.pipelines)

    def backlog(self) -> Backlog:
        """Return a new queue of everything to render."""
        return Backlog(self)

    def to_json(self) -> dict[str, Any]:
        """Return the plan as plain values, for `farm plan --json`."""
        return {
            "job": self.job,
            "output": self.output,
            "tasks": self.tasks,
            "unique_tasks": self.unique_tasks,
            "done": self.done,
            "failed": self.failed,
            "failed_standing": self.failed_standing,
            "to_render": self.to_render,
            "denoiser_evaluations": self.denoiser_evaluations,
            "model_loads": self.model_loads,
            "chunks": self.chunks,
            "pixels": self.pixels,
            "axes": dict(self.axes),
            "pipelines": [
                {
                    **work.key._asdict(),
                    "tasks": work.tasks,
                    "denoiser_evaluations": work.denoiser_evaluations,
                }
                for work in self.pipelines
            ],
        }


class Backlog:
    """The queue of a run: every task to render, handed out once, by pipeline, in space order.

    Tasks are built as they are taken. Not safe to share between threads.
    """

    def __init__(self, plan: Plan) -> None:
        self._space = plan.space
        self._work = {work.key: work for work in plan.pipelines}
        self._taken = dict.fromkeys(self._work, 0)

    def __len__(self) -> int:
        return sum(map(self.remaining, self._work))

    def keys(self) -> tuple[PipelineKey, ...]:
        """Return the pipelines that still have tasks, in the order of the plan."""
        return tuple(key for key in self._work if self.remaining(key))

    def remaining(self, key: PipelineKey) -> int:
        """Return how many tasks of `key` have not been taken."""
        return self._work[key].tasks - self._taken[key]

    def take(self, key: PipelineKey, n: int) -> tuple[TaskSpec, ...]:
        """Return the next `n` tasks of `key`, or as many as remain."""
        start = self._taken[key]
        places = self._work[key].places[start : start + n]
        self._taken[key] = start + len(places)
        return tuple(self._space.select(places))


def plan(
    space: TaskSpace,
    *,
    job: Job,
    rendered: Digests,
    failed: Digests,
    force: bool = False,
    retry_failed: bool = False,
    limit: int | None = None,
) -> Plan:
    """Return what is to be done to have every task of `space` rendered.

    Args:
        space: the tasks of `job`.
        job: where the tasks come from.
        rendered: tasks with an image, of this job or any other in the same output.
        failed: tasks whose last attempt failed. A task that is also in `rendered` has its image.
        force: render what is done, and what failed, again.
        retry_failed: render what failed again.
        limit: render no more than this many tasks: the first ones, in the order of the space.

    Raises:
        InputError: the space is too large to be planned at once.
    """
    if len(space) > MAX_TASKS:
        raise InputError(
            f"the matrix has {len(space):,} tasks; a plan can hold {MAX_TASKS:,}",
            where=job.source,
            hint="draw a sample, or split the job",
        )
    first = _first_of_each(space)
    done, broken = _states(space, rendered=rendered, failed=failed)
    done &= first
    broken &= first & ~done
    pending = first.copy()
    if not force:
        pending &= ~done
        if not retry_failed:
            pending &= ~broken
    if limit is not None:
        pending[places_of(pending)[limit:]] = False
    pipelines, pixels = _group(space, pending)
    return Plan(
        job=job.name,
        output=job.output,
        tasks=len(space),
        unique_tasks=int(np.count_nonzero(first)),
        done=int(np.count_nonzero(done)),
        failed=int(np.count_nonzero(broken)),
        failed_standing=int(np.count_nonzero(broken & ~pending)),
        pixels=pixels,
        axes={name.removeprefix(VAR_PREFIX): len(labels) for name, labels in space.axes.items()},
        pipelines=pipelines,
        space=space,
    )


# --- once ---------------------------------------------------------------------------------------


def _first_of_each(space: TaskSpace) -> Flags:
    """Return which tasks of the space have not occurred before in it."""
    first = np.ones(len(space), dtype=np.bool_)
    keys = np.empty(len(space), dtype=np.uint64)
    for start, stop in space.blocks():
        keys[start:stop] = space.keys(start, stop)
    keys.sort()
    repeated = keys[1:][keys[1:] == keys[:-1]]
    del keys
    if not len(repeated):
        return first
    repeated = np.unique(repeated)
    seen = np.zeros(len(repeated), dtype=np.bool_)
    for start, stop in space.blocks():
        block = space.keys(start, stop)
        rows = np.minimum(np.searchsorted(repeated, block), len(repeated) - 1)
        twins = np.flatnonzero(repeated[rows] == block)
        numbers, leaders = np.unique(rows[twins], return_index=True)
        first[start + twins] = False
        first[start + twins[leaders[~seen[numbers]]]] = True
        seen[numbers] = True
    return first


# --- only if missing ----------------------------------------------------------------------------


def _states(space: TaskSpace, *, rendered: Digests, failed: Digests) -> tuple[Flags, Flags]:
    """Return which tasks of the space are in `rendered`, and which in `failed`."""
    in_rendered = np.zeros(len(space), dtype=np.bool_)
    in_failed = np.zeros(len(space), dtype=np.bool_)
    if len(rendered) or len(failed):
        with_image, without = _DigestSet(rendered), _DigestSet(failed)
        for start, stop in space.blocks():
            digests = space.digests(start, stop)
            in_rendered[start:stop] = with_image.contains(digests)
            in_failed[start:stop] = without.contains(digests)
    return in_rendered, in_failed


class _DigestSet:
    """A set of digests as sorted numbers: 16 bytes each, where a Python set takes 100."""

    def __init__(self, digests: Digests) -> None:
        high, low = _halves(digests)
        order = np.lexsort((low, high))
        self._high, self._low = high[order], low[order]
        _, alike = np.unique(self._high, return_counts=True)
        self._most_alike = int(alike.max(initial=0))
        """How many digests share their first half: 1, short of a coincidence in 64 bits."""

    def contains(self, digests: Digests) -> Flags:
        """Return, for each row of `digests`, whether it is in the set."""
        found = np.zeros(len(digests), dtype=np.bool_)
        high, low = _halves(digests)
        rows = np.searchsorted(self._high, high)
        for step in range(self._most_alike):
            at = np.minimum(rows + step, len(self._high) - 1)
            found |= (self._high[at] == high) & (self._low[at] == low)
        return found


def _halves(digests: Digests) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Return the digests as two columns of uint64."""
    pairs = np.ascontiguousarray(digests).reshape(-1, 16).view(np.uint64)
    return pairs[:, 0].copy(), pairs[:, 1].copy()


# --- model by model -----------------------------------------------------------------------------


class _Need(NamedTuple):
    """What rendering a task takes."""

    key: PipelineKey
    evaluations: int
    pixels: int | None


_NEED_READS = (
    *PipelineKey._fields,
    "height",
    "width",
    "num_inference_steps",
    "guidance_scale",
    "sampler",
)


def _need(values: Mapping[str, Any]) -> _Need:
    """Return what a task with these values takes; `_NEED_READS` names them."""
    height, width = values["height"], values["width"]
    evaluations = 0
    if values["backend"] != "pattern":
        rows = 2 if values["guidance_scale"] > 1 else 1
        sampler = SAMPLERS[values["sampler"]]
        evaluations = rows * sampler.count_evaluations(values["num_inference_steps"])
    return _Need(
        key=PipelineKey(*(values[name] for name in PipelineKey._fields)),
        evaluations=evaluations,
        pixels=None if height is None or width is None else height * width,
    )


def _group(space: TaskSpace, pending: Flags) -> tuple[tuple[PipelineWork, ...], int | None]:
    """Return the pending work by pipeline, in order of the matrix, and the pixels of all of it."""
    needs = space.column(_NEED_READS, _need)
    counts = np.zeros(len(needs.levels), dtype=np.int64)
    for start, stop in space.blocks():
        codes = needs.codes(start, stop)[pending[start:stop]]
        counts += np.bincount(codes, minlength=len(counts))
    tasks: Counter[PipelineKey] = Counter()
    evaluations: Counter[PipelineKey] = Counter()
    pixels: int | None = 0
    for need, count in zip(needs.levels, counts.tolist(), strict=True):
        if count:
            tasks[need.key] += count
            evaluations[need.key] += count * need.evaluations
            pixels = _add(pixels, None if need.pixels is None else count * need.pixels)
    owner = {key: number for number, key in enumerate(tasks)}
    owners = np.array([owner.get(need.key, -1) for need in needs.levels], dtype=np.intp)
    places = _split(space, pending, needs=needs, owners=owners, sizes=tuple(tasks.values()))
    work = (
        PipelineWork(key=key, tasks=n, denoiser_evaluations=evaluations[key], places=own)
        for (key, n), own in zip(tasks.items(), places, strict=True)
    )
    return tuple(work), pixels


def _add(total: int | None, more: int | None) -> int | None:
    """Return the sum of what is known; once a part is unknown, so is the whole."""
    return None if total is None or more is None else total + more


def _split(
    space: TaskSpace,
    pending: Flags,
    *,
    needs: Column[_Need],
    owners: np.ndarray[Any, np.dtype[np.intp]],
    sizes: tuple[int, ...],
) -> list[Places]:
    """Return the places of pending tasks by owner; `owners` holds the owner of each need."""
    places = [empty_places(size, below=len(space)) for size in sizes]
    filled = [0] * len(sizes)
    for start, stop in space.blocks():
        here = np.flatnonzero(pending[start:stop])
        owner = owners[needs.codes(start, stop)[here]]
        order = np.argsort(owner, kind="stable")
        present, begins = np.unique(owner[order], return_index=True)
        parts = np.split(here[order] + start, begins[1:])
        for number, part in zip(present.tolist(), parts, strict=False):
            places[number][filled[number] : filled[number] + len(part)] = part
            filled[number] += len(part)
    return places
