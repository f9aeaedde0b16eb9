"""A matrix as arithmetic: what stands in cell `i`, without writing out the cells before it.

A tree of blocks is a number system. A *product* is a mixed-radix number whose digits are cells of
its blocks, the first block most significant; a *zip* uses one digit for all its blocks; a *union*
lays its blocks end to end. So sizes multiply and add, and finding a cell is division with
remainder. For example

    product:                        size 60 = 3 x (2 + 3) x 4
      subject: [a, b, c]            3, and a step of it spans 20 cells
      union:                        5, and a step of it spans 4 cells
        - guidance_scale: [1, 7]    2, at 0..1 of the union
        - eta: [0, 0.5, 1]          3, at 2..4 of the union
      seed: 1..4                    4, and a step of it spans 1 cell

    cell 37:  37 = 1 x 20 + 17      subject b
              17 = 4 x 4 + 1        cell 4 of the union: eta, which begins at 2, so its point 2
               1 = 1 x 1            seed 2

*Projection* is the second idea. Most questions concern few names: which prompts are there, which
cells does `seed > 2` keep? `project(node, names)` returns the smaller tree in which only those
names vary (above, for `seed`, four cells) and a `fold` from the cells of the whole to the cells of
the smaller one, which numpy evaluates for millions of cells at once. The question is answered once
per cell of the small tree and looked up for the rest.

Nothing here knows what a name means; see `farm.grid.space` for that.
"""

from __future__ import annotations

import bisect
import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, TypeAlias

import numpy as np

from farm.manifest.job import Axis, Block, Point, Product, Union, Zip

Cells: TypeAlias = "np.ndarray[Any, np.dtype[np.int64]]"
"""int64 `[n]`: numbers of cells."""

Fold: TypeAlias = "Callable[[Cells], Cells]"
"""From cells of a tree to the cells of its projection that agree with them."""


class Projection(NamedTuple):
    """A tree in which only some names vary, and the way there from the whole tree."""

    node: Node
    fold: Fold


class Node(Protocol):
    """A block that has been measured. Cells are numbered from 0 to `size - 1`."""

    @property
    def size(self) -> int:
        """How many cells there are; at least one."""

    @property
    def names(self) -> frozenset[str]:
        """Every name that some cell assigns."""

    def cell(self, index: int) -> Point:
        """Return what cell `index` assigns. Where blocks overlap, the later one wins."""

    def cells(self) -> Iterator[Point]:
        """Yield every cell in order: `cell(0)`, `cell(1)`, ..."""

    def project(self, names: frozenset[str]) -> Projection:
        """Return the projection onto `names`, at least one of which this node assigns."""


def measure(block: Block) -> Node:
    """Return the node of a block: the same tree with sizes and names worked out."""
    match block:
        case Axis(name=name, points=points):
            assert points, f"axis {name} has no values"
            return _Leaf(points=points, names=frozenset().union(*points))
        case Product(blocks=blocks):
            return _product(tuple(measure(child) for child in blocks))
        case Zip(blocks=blocks):
            children = tuple(measure(child) for child in blocks)
            sizes = {child.size for child in children}
            assert len(sizes) == 1, f"zipped blocks have different sizes: {sorted(sizes)}"
            return _Zip(children=children, size=sizes.pop(), names=_names(children))
        case Union(blocks=blocks):
            assert blocks, "a union of nothing has no cells"
            return _union(tuple(measure(child) for child in blocks))


def project(node: Node, names: frozenset[str]) -> Projection:
    """Return `node` with every block left out that assigns none of `names`.

    Cell `fold(i)` of the projection assigns to `names` what cell `i` of `node` does. It has at most
    as many cells, and each of them occurs in `node`; two of them may still be alike.
    """
    if node.names & names:
        return node.project(names)
    return Projection(_UNIT, np.zeros_like)


def _same(cells: Cells) -> Cells:
    return cells


def _names(children: tuple[Node, ...]) -> frozenset[str]:
    return frozenset[str]().union(*(child.names for child in children))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Leaf:
    points: tuple[Point, ...]
    names: frozenset[str]

    @property
    def size(self) -> int:
        return len(self.points)

    def cell(self, index: int) -> Point:
        return self.points[index]

    def cells(self) -> Iterator[Point]:
        return iter(self.points)

    def project(self, names: frozenset[str]) -> Projection:
        del names
        return Projection(self, _same)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Product:
    children: tuple[Node, ...]
    size: int
    names: frozenset[str]
    spans: tuple[int, ...]
    """How many cells one step of each child spans: the place values of the number system."""

    def cell(self, index: int) -> Point:
        assigned: dict[str, Any] = {}
        for child, span in zip(self.children, self.spans, strict=True):
            digit, index = divmod(index, span)
            assigned.update(child.cell(digit))
        return assigned

    def cells(self) -> Iterator[Point]:
        for digits in itertools.product(*(child.cells() for child in self.children)):
            assigned: dict[str, Any] = {}
            for point in digits:
                assigned.update(point)
            yield assigned

    def project(self, names: frozenset[str]) -> Projection:
        nodes: list[Node] = []
        digits: list[_Digit] = []
        for child, span in zip(self.children, self.spans, strict=True):
            if not child.names & names:
                continue
            node, fold = child.project(names)
            nodes.append(node)
            digit = _Digit(span=span, size=child.size, folded_size=node.size, fold=fold)
            if digits and digits[-1].precedes(digit):
                digit = digits.pop().join(digit)
            digits.append(digit)
        whole = digits[0].fold is _same and digits[0].size == self.size
        if whole and len(nodes) == len(self.children):
            return Projection(self, _same)

        def fold_digits(cells: Cells) -> Cells:
            folded = np.zeros_like(cells)
            for digit in digits:
                place = cells // digit.span if digit.span > 1 else cells
                if digit.span * digit.size < self.size:
                    place = place % digit.size
                folded *= digit.folded_size
                folded += digit.fold(place)
            return folded

        return Projection(_product(tuple(nodes)), _same if whole else fold_digits)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Digit:
    """One place of a product, on its way into the projected product."""

    span: int
    size: int
    folded_size: int
    fold: Fold

    def precedes(self, other: _Digit) -> bool:
        """Whether the two are neighbours that stay whole: one longer digit, one division less."""
        whole = self.fold is _same and other.fold is _same
        return whole and self.span == other.span * other.size

    def join(self, other: _Digit) -> _Digit:
        """Return the digit that both make together."""
        size = self.size * other.size
        return _Digit(span=other.span, size=size, folded_size=size, fold=_same)


def _product(children: tuple[Node, ...]) -> Node:
    if len(children) == 1:
        return children[0]
    sizes = [child.size for child in children]
    return _Product(
        children=children,
        size=math.prod(sizes),
        names=_names(children),
        spans=tuple(math.prod(sizes[place + 1 :]) for place in range(len(sizes))),
    )


_UNIT = _product(())
"""The empty product: one cell that assigns nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Zip:
    children: tuple[Node, ...]
    size: int
    names: frozenset[str]

    def cell(self, index: int) -> Point:
        assigned: dict[str, Any] = {}
        for child in self.children:
            assigned.update(child.cell(index))
        return assigned

    def cells(self) -> Iterator[Point]:
        for together in zip(*(child.cells() for child in self.children), strict=True):
            assigned: dict[str, Any] = {}
            for point in together:
                assigned.update(point)
            yield assigned

    def project(self, names: frozenset[str]) -> Projection:
        children = tuple(child for child in self.children if child.names & names)
        if len(children) == 1:
            return children[0].project(names)
        # Two blocks in step repeat together or not at all: nothing inside them can be left out.
        return Projection(_Zip(children=children, size=self.size, names=_names(children)), _same)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Union:
    children: tuple[Node, ...]
    size: int
    names: frozenset[str]
    starts: tuple[int, ...]
    """The first cell of each child."""

    def cell(self, index: int) -> Point:
        child = bisect.bisect_right(self.starts, index) - 1
        return self.children[child].cell(index - self.starts[child])

    def cells(self) -> Iterator[Point]:
        return itertools.chain.from_iterable(child.cells() for child in self.children)

    def project(self, names: frozenset[str]) -> Projection:
        parts = [project(child, names) for child in self.children]
        if all(fold is _same for _, fold in parts):
            return Projection(self, _same)
        projected = _union(tuple(node for node, _ in parts))
        first_cells = np.array(self.starts)

        def fold_parts(cells: Cells) -> Cells:
            owners = np.searchsorted(first_cells, cells, side="right") - 1
            folded = np.empty_like(cells)
            for owner in np.flatnonzero(np.bincount(owners)).tolist():
                own = owners == owner
                part = parts[owner].fold(cells[own] - self.starts[owner])
                folded[own] = part + projected.starts[owner]
            return folded

        return Projection(projected, fold_parts)


def _union(children: tuple[Node, ...]) -> _Union:
    sizes = [child.size for child in children]
    return _Union(
        children=children,
        size=sum(sizes),
        names=_names(children),
        starts=tuple(itertools.accumulate(sizes[:-1], initial=0)),
    )
