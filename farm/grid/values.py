"""What a cell says: the points of the tree, laid over the defaults, with templates filled in.

A template is a text with `${name}` in it, where a name is a task field or a template variable. What
stands for a name may be a template itself; what has been filled in is not read again. So the value
of a name is a function of what the cell assigns to that name and to those it reads, directly or
through others. That set is small and known in advance, and with it every function of a few names is
a small *table*: computed once per cell of the tree's projection onto the set, found by its fold.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType
from typing import Any, Generic, TypeAlias, TypeVar

import numpy as np

from farm.grid.tree import Cells, Fold, Node, Projection, measure, project
from farm.manifest.job import VAR_PREFIX, Axis, Block, Point
from farm.manifest.scope import resolve_name
from farm.manifest.template import Template, parse
from farm.task import FIELDS, Scalar, TaskSpec

T = TypeVar("T", bound=Hashable)

Codes: TypeAlias = "np.ndarray[Any, np.dtype[np.int32]]"
"""int32 `[n]`: numbers of levels."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Table(Generic[T]):
    """A function over the cells of a tree: the values it takes, and which cell takes which."""

    levels: tuple[T, ...]
    """The distinct values, in the order in which the matrix first takes them."""
    codes: Codes
    """The level of each cell of the projection."""
    fold: Fold
    """From the tree to the projection."""

    def at(self, cells: Cells) -> Codes:
        """Return the levels of `cells` of the tree, as indices into `levels`."""
        return self.codes[self.fold(cells)]


class Grid:
    """All cells of a matrix, before any is filtered out, and what they say."""

    def __init__(self, matrix: Block, *, defaults: Point) -> None:
        self.root: Node = measure(matrix)
        self._defaults = defaults
        self._reads = _find_reads(matrix, defaults)

    def values(self, point: Point, names: Iterable[str]) -> dict[str, Scalar]:
        """Return what `names` are worth in a cell that assigns `point`.

        A variable that the cell does not define is None.
        """
        settled: dict[str, Scalar] = {}

        def settle(name: str) -> Scalar:
            if name not in settled:
                value = point.get(name, self._defaults.get(name))
                if isinstance(value, str) and _is_template(value):
                    text, inputs = _read(value)
                    for word, read in inputs:
                        assert read in point or read in self._defaults, (
                            f"{name} reads {word}, which this cell does not define"
                        )
                    value = text.fill({word: settle(read) for word, read in inputs})
                settled[name] = value
            return settled[name]

        return {name: settle(name) for name in names}

    def task(self, cell: int) -> TaskSpec:
        """Return a cell as a task."""
        point = self.root.cell(cell)
        variables = [name for name in point if name.startswith(VAR_PREFIX)]
        values: dict[str, Any] = self.values(point, itertools.chain(FIELDS, variables))
        named = {name.removeprefix(VAR_PREFIX): values.pop(name) for name in variables}
        return TaskSpec(**values, vars=MappingProxyType(named))

    def is_constant(self, name: str) -> bool:
        """Return whether no axis has a say in what `name` is worth."""
        return not self._needed((name,)) & self.root.names

    def project(self, names: Iterable[str]) -> Projection:
        """Return the projection of the tree onto everything that `names` depend on."""
        return project(self.root, self._needed(names))

    def tabulate(
        self, names: Iterable[str], function: Callable[[Mapping[str, Scalar]], T]
    ) -> Table[T]:
        """Tabulate a function of the values of `names` over all cells."""
        names = tuple(names)
        node, fold = self.project(names)
        numbers: dict[T, int] = {}
        results = (function(self.values(point, names)) for point in node.cells())
        codes = (numbers.setdefault(result, len(numbers)) for result in results)
        table = np.fromiter(codes, dtype=np.int32, count=node.size)
        return Table(levels=tuple(numbers), codes=table, fold=fold)

    def _needed(self, names: Iterable[str]) -> frozenset[str]:
        """Return `names` and all that their templates read, directly or through others."""
        needed: set[str] = set()
        waiting = list(names)
        while waiting:
            name = waiting.pop()
            if name not in needed:
                needed.add(name)
                waiting.extend(self._reads.get(name, ()))
        return frozenset(needed)


def _find_reads(matrix: Block, defaults: Point) -> Mapping[str, frozenset[str]]:
    """Return, for each name, which names its templates read directly."""
    reads: dict[str, set[str]] = {}
    for point in itertools.chain((defaults,), _points(matrix)):
        for name, value in point.items():
            if isinstance(value, str) and _is_template(value):
                _, inputs = _read(value)
                reads.setdefault(name, set()).update(read for _, read in inputs)
    return {name: frozenset(inputs) for name, inputs in reads.items()}


def _points(block: Block) -> Iterator[Point]:
    if isinstance(block, Axis):
        return iter(block.points)
    return itertools.chain.from_iterable(_points(child) for child in block.blocks)


def _is_template(text: str) -> bool:
    return "${" in text


@lru_cache(maxsize=4096)
def _read(text: str) -> tuple[Template, tuple[tuple[str, str], ...]]:
    """Return a template, and each word to be filled in with the name it stands for."""
    parsed = parse(text)
    return parsed, tuple((word, resolve_name(word)) for word in sorted(parsed.names))
