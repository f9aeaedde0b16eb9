"""Pictures that look nearly the same, found by their perceptual hashes.

Two pictures are near duplicates if their 64-bit hashes differ in at most `DISTANCE` bits, and so is
whatever a chain of those connects. Comparing every pair would take hours for a million pictures.
But where two hashes differ in at most four bits, one of five bands of them is equal: only hashes
that share a band are compared.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

DISTANCE: Final = 4
"""Bits that may differ. Another seed usually changes more than ten of them."""
_BITS = 64
_MOST_AT_ONCE = 2000
"""Hashes of a band that are compared with all others of it in one step."""


def near_duplicates(hashes: Sequence[str], *, distance: int = DISTANCE) -> list[int]:
    """Return the group of each hash (16 hexadecimal digits): 1, 2, ...; 0 for one without a like.

    The largest group comes first; of equal ones, that whose first member comes first.
    """
    values = np.array([int(text, 16) for text in hashes], np.uint64)
    distinct, place = np.unique(values, return_inverse=True)
    leader = list(range(len(distinct)))

    def find(one: int) -> int:
        while leader[one] != one:
            leader[one] = leader[leader[one]]
            one = leader[one]
        return one

    for pair in _close(distinct, distance):
        low, high = sorted(map(find, pair))
        leader[high] = low
    roots = np.array([find(one) for one in range(len(distinct))], np.int64)[place]
    names, begins, sizes = np.unique(roots, return_index=True, return_counts=True)
    found = np.zeros(len(distinct), np.int64)
    ranked = np.lexsort((begins, -sizes))
    several = ranked[sizes[ranked] > 1]
    found[names[several]] = np.arange(1, len(several) + 1)
    groups: list[int] = found[roots].tolist()
    return groups


def _close(
    values: np.ndarray[Any, np.dtype[np.uint64]], distance: int
) -> Iterator[tuple[int, int]]:
    """Yield pairs of places whose values differ in at most `distance` bits, some of them twice."""
    edges = np.linspace(0, _BITS, distance + 2).round().astype(int)
    for low, high in pairwise(edges.tolist()):
        band = (values >> np.uint64(low)) & np.uint64((1 << (high - low)) - 1)
        order = np.argsort(band, kind="stable")
        starts = np.flatnonzero(np.diff(band[order], prepend=~band[order[:1]]))
        for members in np.split(order, starts[1:]):
            if len(members) > 1:
                yield from _pairs(values, members, distance)


def _pairs(
    values: np.ndarray[Any, np.dtype[np.uint64]],
    members: np.ndarray[Any, np.dtype[np.int64]],
    distance: int,
) -> Iterator[tuple[int, int]]:
    for start in range(0, len(members), _MOST_AT_ONCE):
        some = members[start : start + _MOST_AT_ONCE]
        differing = np.bitwise_count(values[some][:, None] ^ values[members][None, :])
        for one, other in np.argwhere(differing <= distance):
            if some[one] < members[other]:
                yield int(some[one]), int(members[other])


def duplicates_table(table: pa.Table) -> pa.Table:
    """Return the rows of `table` that have near duplicates in it, group by group.

    Two columns stand first: `duplicate_group` (1 is the largest) and `duplicates`, its size.
    """
    seen = table.filter(pc.is_valid(table["phash"]))
    groups = np.array(near_duplicates(seen["phash"].to_pylist()), np.int64)
    sizes = np.bincount(groups, minlength=1)[groups] if len(groups) else groups
    seen = seen.add_column(0, "duplicate_group", pa.array(groups))
    seen = seen.add_column(1, "duplicates", pa.array(sizes))
    seen = seen.filter(pc.greater(seen["duplicate_group"], 0))
    return seen.sort_by([("duplicate_group", "ascending"), ("image_path", "ascending")])
