"""Task digests by the million: hash what many cells share once.

The canonical JSON of a task is cut in two between two fields: a *head*, and a *tail*. Each half
depends on few axes, so it has few different texts: of 1,000 prompts x 10 guidance scales x 10 step
counts x 100 seeds, cut before the guidance scale, there are 10,000 heads and 1,000 tails for
10,000,000 cells. A head is hashed when it is first met; from then on a cell costs a copy of that
hash, an update with its tail, and the digest, whatever the order of the axes.

The same halves tell without any hashing of cells which of them are the same task: those that agree
in both.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable
from functools import cached_property
from typing import Any, TypeAlias, TypeVar

import numpy as np

from farm.grid.tree import Cells
from farm.grid.values import Codes, Grid
from farm.manifest.job import Point
from farm.task import (
    DIGEST_BYTES,
    FIELDS,
    IDENTITY_HEAD,
    IDENTITY_TAIL,
    identity_fragment,
    new_identity_hash,
)

T = TypeVar("T")

Digests: TypeAlias = "np.ndarray[Any, np.dtype[np.uint8]]"
"""uint8 `[n, 16]`: one task digest a row."""

Keys: TypeAlias = "np.ndarray[Any, np.dtype[np.uint64]]"
"""uint64 `[n]`: equal where two cells are the same task, and meaningless apart from that."""

_BLOCK = 8192
"""Cells hashed at a time: enough to amortise numpy's calls, few enough to stay in the cache."""
_MAX_STATES = 16_384
"""Hash states kept, at about 0.5 kB each."""
_MAX_TAILS = 65_536
"""Tails kept, at about 0.2 kB each."""


class Identity:
    """Digests and keys of the cells of a grid."""

    def __init__(self, grid: Grid) -> None:
        fields = tuple(FIELDS)

        def texts(cut: int) -> int:
            return grid.project(fields[:cut]).node.size + grid.project(fields[cut:]).node.size

        # Of equally good cuts the last: tails are hashed for every cell, so short ones are better.
        cut = min(range(len(fields), -1, -1), key=texts)
        self._head = _Half(grid, fields[:cut], before=IDENTITY_HEAD)
        self._tail = _Half(grid, fields[cut:], after=IDENTITY_TAIL)
        self._states = _Memo(self._start, limit=_MAX_STATES)
        self._ends = _Memo(self._end, limit=_MAX_TAILS)

    def digests(self, cells: Cells) -> Digests:
        """Return `task_digest` of each cell."""
        blocks = (cells[start : start + _BLOCK] for start in range(0, len(cells), _BLOCK))
        joined = b"".join(map(self._digest, blocks))
        return np.frombuffer(joined, dtype=np.uint8).reshape(-1, DIGEST_BYTES)

    def keys(self, cells: Cells) -> Keys:
        """Return a number for each cell; two are equal exactly if the tasks are the same."""
        heads = self._head.twins[self._head.fold(cells)].astype(np.uint64)
        tails = self._tail.twins[self._tail.fold(cells)].astype(np.uint64)
        return (heads << np.uint64(32)) | tails

    def _digest(self, cells: Cells) -> bytes:
        states = map(self._states.__getitem__, self._head.fold(cells).tolist())
        ends = map(self._ends.__getitem__, self._tail.fold(cells).tolist())
        hashes = [state.copy() for state in states]
        # Loops inside map and join run in C; a Python loop takes half as long again.
        deque(map(hashlib.blake2b.update, hashes, ends), maxlen=0)
        return b"".join(map(hashlib.blake2b.digest, hashes))

    def _start(self, cell: int) -> hashlib.blake2b:
        state = new_identity_hash()
        state.update(self._head.text(self._head.node.cell(cell)))
        return state

    def _end(self, cell: int) -> bytes:
        return self._tail.text(self._tail.node.cell(cell))


class _Half:
    """Some consecutive fields of the canonical JSON, over all cells of a grid."""

    def __init__(
        self, grid: Grid, fields: tuple[str, ...], *, before: bytes = b"", after: bytes = b""
    ) -> None:
        self.node, self.fold = grid.project(fields)
        self._grid = grid
        self._varying = tuple(name for name in fields if not grid.is_constant(name))
        values = grid.values({}, set(fields).difference(self._varying))
        constant = before
        pieces: list[tuple[bytes, str]] = []
        for name in fields:
            if name in values:
                constant += identity_fragment(name, values[name])
            else:
                pieces.append((constant, name))
                constant = b""
        self._pieces = tuple(pieces)
        """The varying fields in order, each with the constant text before it."""
        self._last = constant + after

    def text(self, point: Point) -> bytes:
        """Return this half of the canonical JSON of a cell of `node`."""
        values = self._grid.values(point, self._varying)
        parts = [before + identity_fragment(name, values[name]) for before, name in self._pieces]
        return b"".join((*parts, self._last))

    @cached_property
    def twins(self) -> Codes:
        """int32 `[node.size]`: equal for cells of `node` that have the same text."""
        # Compared by digest, as tasks themselves are: a million prompts would be a lot of text.
        digests = (
            hashlib.blake2b(self.text(point), digest_size=DIGEST_BYTES).digest()
            for point in self.node.cells()
        )
        array = np.fromiter(digests, dtype=f"S{DIGEST_BYTES}", count=self.node.size)
        _, codes = np.unique(array, return_inverse=True)
        return codes.astype(np.int32)


class _Memo(dict[int, T]):
    """A bounded dictionary that makes what it lacks, and starts afresh when it is full."""

    def __init__(self, make: Callable[[int], T], *, limit: int) -> None:
        super().__init__()
        self._make = make
        self._limit = limit

    def __missing__(self, cell: int) -> T:
        if len(self) >= self._limit:
            self.clear()
        value = self[cell] = self._make(cell)
        return value
