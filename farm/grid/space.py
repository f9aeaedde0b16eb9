"""The sequence of tasks that a job describes. It is never written out.

A space is a choice of cells of a grid, in order. Unfiltered, the choice is a `range`, and a space
of ten million tasks takes a few kilobytes; filtered or sampled, it is an array of cell numbers.
Slicing and selecting give spaces again.

Order is a promise: `space[i]` is the same task on every machine, in every Python version, for as
long as the job stays the same. The first block of a product varies slowest, the last fastest.

Besides tasks one by one, a space answers questions about all of them in numpy: which level of a
field (`codes`), which digest (`digests`), which value of any function of some names (`column`).
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from itertools import compress
from operator import itemgetter
from types import MappingProxyType
from typing import Any, Generic, TypeAlias, TypeVar, overload

import numpy as np

from farm.errors import InputError
from farm.grid.identity import Digests, Identity, Keys
from farm.grid.tree import Cells
from farm.grid.values import Codes, Grid, Table
from farm.manifest.job import Axis, Block, Job, Sample
from farm.task import FIELDS, Scalar, TaskSpec

T = TypeVar("T", bound=Hashable)

Places: TypeAlias = "np.ndarray[Any, np.dtype[np.integer[Any]]]"
"""Integers `[n]`, of 4 bytes where those will do: places in a space, or cells of its grid."""

Flags: TypeAlias = "np.ndarray[Any, np.dtype[np.bool_]]"
"""bool `[n]`: one claim for each task of a space."""

MAX_CELLS = 2**62
"""Cells are numbered in 64 bits."""
MAX_LISTED_CELLS = 2**32
"""A matrix with filters is walked once, and its cells are listed."""

_BLOCK = 1 << 16
"""Cells that numpy works on at a time: arrays of half a megabyte."""


def expand(job: Job) -> TaskSpace:
    """Return the tasks of a job.

    Raises:
        InputError: the matrix has more cells than can be numbered, or than can be filtered.
    """
    grid = Grid(job.matrix, defaults=job.defaults)
    filtered = bool(job.where or job.exclude or job.sample)
    limit = MAX_LISTED_CELLS if filtered else MAX_CELLS
    if grid.root.size > limit:
        raise InputError(
            f"the matrix has {grid.root.size:,} cells; the farm can handle {limit:,}"
            + (" with where, exclude or sample" if filtered else ""),
            where=job.source,
            hint="shorten an axis, or split the job",
        )
    space = TaskSpace(
        grid=grid,
        identity=Identity(grid),
        axes=_axes(job.matrix),
        cells=range(grid.root.size),
    )
    if job.where or job.exclude:
        space = _filter(space, job)
    if job.sample is not None and job.sample.n < len(space):
        space = _draw(space, job.sample)
    return space


class TaskSpace(Sequence[TaskSpec]):
    """A lazy, immutable sequence of tasks. Made by `expand`."""

    def __init__(
        self,
        *,
        grid: Grid,
        identity: Identity,
        axes: Mapping[str, tuple[str, ...]],
        cells: range | Places,
    ) -> None:
        self._grid = grid
        self._identity = identity
        self._axes = axes
        self._cells = cells
        self._columns: dict[str, Column[Scalar]] = {}

    @property
    def axes(self) -> Mapping[str, tuple[str, ...]]:
        """The labels of each axis as the job has them, in its order; filters do not count."""
        return self._axes

    def __len__(self) -> int:
        return len(self._cells)

    @overload
    def __getitem__(self, index: int) -> TaskSpec: ...
    @overload
    def __getitem__(self, index: slice) -> TaskSpace: ...
    def __getitem__(self, index: int | slice) -> TaskSpec | TaskSpace:
        if isinstance(index, slice):
            return self._choose(self._cells[index])
        return self._grid.task(int(self._cells[index]))

    def __iter__(self) -> Iterator[TaskSpec]:
        for start in range(0, len(self), _BLOCK):
            yield from map(self._grid.task, _numbers(self._cells[start : start + _BLOCK]).tolist())

    def __repr__(self) -> str:
        return f"<TaskSpace of {len(self):,} tasks>"

    def select(self, places: Places) -> TaskSpace:
        """Return the tasks at these places, in this order."""
        if not isinstance(self._cells, range):
            return self._choose(self._cells[places])
        if self._is_whole:
            return self._choose(places)
        return self._choose(places.astype(np.int64) * self._cells.step + self._cells.start)

    def levels(self, name: str) -> tuple[Scalar, ...]:
        """Return the distinct values of a field or `var_*` variable, in order of the matrix.

        None stands for a field that is not applied and for a variable that a task lacks.

        Raises:
            KeyError: neither a field nor a variable of the job.
        """
        return self._column(name).levels

    def codes(self, name: str, start: int, stop: int) -> Codes:
        """Return the level of `name` in tasks `start` to `stop`: indices into `levels(name)`."""
        return self._column(name).codes(start, stop)

    def column(
        self, names: Iterable[str], function: Callable[[Mapping[str, Scalar]], T]
    ) -> Column[T]:
        """Return a function of the values of `names` as a column over all tasks.

        It is called once per combination of the axes that `names` depend on, not once per task.
        """
        table = self._grid.tabulate(names, function)
        return Column(self._cells, table if self._is_whole else self._restrict(table))

    def digests(self, start: int, stop: int) -> Digests:
        """Return `task_digest(space[i])` of tasks `start` to `stop`: uint8 `[n, 16]`."""
        return self._identity.digests(_numbers(self._cells[start:stop]))

    def keys(self, start: int, stop: int) -> Keys:
        """Return uint64 `[n]`, equal exactly where two tasks of this space are the same task.

        Much faster than digests, and comparable within one job's spaces only.
        """
        return self._identity.keys(_numbers(self._cells[start:stop]))

    def blocks(self) -> Iterator[tuple[int, int]]:
        """Yield the `start, stop` of consecutive pieces that suit numpy and the cache."""
        for start in range(0, len(self), _BLOCK):
            yield start, min(start + _BLOCK, len(self))

    @property
    def _is_whole(self) -> bool:
        """Whether these are all cells of the grid, in its order."""
        return isinstance(self._cells, range) and self._cells == range(self._grid.root.size)

    def _choose(self, cells: range | Places) -> TaskSpace:
        return TaskSpace(grid=self._grid, identity=self._identity, axes=self._axes, cells=cells)

    def _column(self, name: str) -> Column[Scalar]:
        if name not in self._columns:
            if name not in FIELDS and name not in self._grid.root.names:
                raise KeyError(name)
            self._columns[name] = self.column((name,), itemgetter(name))
        return self._columns[name]

    def _restrict(self, table: Table[T]) -> Table[T]:
        """Return `table` without the levels that no task of this space has."""
        present = np.zeros(len(table.levels), dtype=np.bool_)
        for start, stop in self.blocks():
            present[table.at(_numbers(self._cells[start:stop]))] = True
        renumbered = np.cumsum(present, dtype=np.int32) - np.int32(1)
        return Table(
            levels=tuple(compress(table.levels, present)),
            codes=renumbered[table.codes],
            fold=table.fold,
        )


class Column(Generic[T]):
    """A function of the tasks of a space: few values, and for each task the number of its own."""

    def __init__(self, cells: range | Places, table: Table[T]) -> None:
        self._cells = cells
        self._table = table

    @property
    def levels(self) -> tuple[T, ...]:
        """The distinct values, in order of the matrix."""
        return self._table.levels

    def codes(self, start: int, stop: int) -> Codes:
        """Return int32 `[n]`: the indices into `levels` of tasks `start` to `stop`."""
        return self._table.at(_numbers(self._cells[start:stop]))


def _numbers(cells: range | Places) -> Cells:
    if isinstance(cells, range):
        return np.arange(cells.start, cells.stop, cells.step, dtype=np.int64)
    return cells.astype(np.int64)


def empty_places(count: int, *, below: int) -> Places:
    """Return room for `count` places in a space of size `below`, in as few bytes as will do."""
    return np.empty(count, dtype=np.uint32) if below <= 2**32 else np.empty(count, dtype=np.uint64)


def places_of(flags: Flags) -> Places:
    """Return where `flags` are true: `np.flatnonzero`, in half the memory."""
    found = empty_places(int(np.count_nonzero(flags)), below=len(flags))
    filled = 0
    for start in range(0, len(flags), _BLOCK):
        here = np.flatnonzero(flags[start : start + _BLOCK])
        found[filled : filled + len(here)] = here + start
        filled += len(here)
    return found


def _axes(matrix: Block) -> Mapping[str, tuple[str, ...]]:
    """Return the labels of every axis; axes of the same name in several blocks are one."""
    found: dict[str, dict[str, None]] = {}

    def visit(block: Block) -> None:
        if isinstance(block, Axis):
            found.setdefault(block.name, {}).update(dict.fromkeys(block.labels))
        else:
            for child in block.blocks:
                visit(child)

    visit(matrix)
    return MappingProxyType({name: tuple(labels) for name, labels in found.items()})


def _filter(space: TaskSpace, job: Job) -> TaskSpace:
    """Return the tasks that every `where` keeps and no `exclude` leaves out."""
    kept = np.ones(len(space), dtype=np.bool_)
    for expressions, wanted in ((job.where, True), (job.exclude, False)):
        for expression in expressions:
            column = space.column(sorted(expression.names), expression.holds)
            keeps = np.array([holds is wanted for holds in column.levels])
            for start, stop in space.blocks():
                kept[start:stop] &= keeps[column.codes(start, stop)]
    return space.select(places_of(kept))


def _draw(space: TaskSpace, sample: Sample) -> TaskSpace:
    """Return `sample.n` tasks, in order: those that rank lowest by a hash of seed and digest.

    Because the rank is a task's own, a sample does not depend on the order of the axes, a larger
    sample contains a smaller one, and a wider matrix keeps most of what was drawn before.
    """
    ranks = np.empty(0, dtype=np.uint64)
    places = np.empty(0, dtype=np.int64)
    for start, stop in space.blocks():
        ranks = np.append(ranks, _rank(space.digests(start, stop), seed=sample.seed))
        places = np.append(places, np.arange(start, stop))
        if len(ranks) > 2 * sample.n + _BLOCK:  # now and then: memory stays that of the sample
            low = _lowest(ranks, sample.n)
            ranks, places = ranks[low], places[low]
    return space.select(places[_lowest(ranks, sample.n)])


def _lowest(ranks: Keys, n: int) -> Flags:
    """Return which are the `n` lowest; of those that rank equal, the first."""
    if n == 0 or len(ranks) <= n:
        return np.full(len(ranks), n > 0)
    last = np.partition(ranks, n - 1)[n - 1]
    low: Flags = ranks < last
    level = np.flatnonzero(ranks == last)
    low[level[: n - np.count_nonzero(low)]] = True
    return low


def _rank(digests: Digests, *, seed: int) -> Keys:
    """Return uint64 `[n]`: the first half of each digest, mixed with the seed.

    The mixer is the finaliser of SplitMix64 (Steele, Lea and Flood, doi:10.1145/2714064.2660195).
    """
    mixed = np.ascontiguousarray(digests[:, :8]).view("<u8")[:, 0].astype(np.uint64)
    mixed += np.uint64(seed * 0x9E3779B97F4A7C15 % 2**64)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    return mixed ^ (mixed >> np.uint64(31))
