"""Measured numbers as an axis: each by itself if they are few, else ranges with round edges.

Sheets and the explorer divide a column by this module, so both say the same of a picture. Numbers
are told apart in 32 bits, as measures are stored: 0.7 is at the edge 0.7, and not just below it.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

_MOST_NUMBERS = 12
"""More different numbers than this become ranges."""
_RANGES = 8
"""Ranges that they are divided into, about."""

Numbers: TypeAlias = "np.ndarray[Any, np.dtype[np.float64]]"
Single: TypeAlias = "np.ndarray[Any, np.dtype[np.float32]]"
Places: TypeAlias = "np.ndarray[Any, np.dtype[np.int32]]"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranges:
    """What the numbers of a column are divided into, in order: ranges, or single numbers."""

    labels: tuple[str, ...]
    edges: tuple[float, ...]
    """Where each of them begins; of ranges, also where the last one ends."""

    @property
    def are_single(self) -> bool:
        """Whether each of them is one number."""
        return len(self.edges) == len(self.labels)

    def places(self, numbers: Numbers) -> Places:
        """Return which of them each number belongs to, from 0; -1 for what is no finite number."""
        found = np.searchsorted(_in_32_bits(self.edges), _in_32_bits(numbers), "right") - 1
        inside = np.clip(found, 0, len(self.labels) - 1)
        return np.where(np.isfinite(numbers), inside, -1).astype(np.int32)


def divide(numbers: Numbers) -> Ranges:
    """Return what numbers are divided into; those that are not finite do not count."""
    found = np.unique(_in_32_bits(numbers[np.isfinite(numbers)]))
    if len(found) <= _MOST_NUMBERS:
        each = shortest(found).tolist()
        return Ranges(labels=tuple(map(_label, each)), edges=tuple(each))
    edges = nice_edges(*shortest(found[[0, -1]]).tolist())
    labels = [f"{_label(low)} to {_label(high)}" for low, high in itertools.pairwise(edges)]
    return Ranges(labels=tuple(labels), edges=tuple(edges))


def shortest(numbers: Single) -> Numbers:
    """Return numbers of 32 bits with the fewest digits: 0.3, and not 0.30000001192092896."""
    return numbers.astype(str).astype(np.float64)


def nice_edges(low: float, high: float) -> list[float]:
    """Return about nine round numbers, evenly spaced, that `low` and `high` lie between."""
    rough = (high - low) / _RANGES
    power = 10 ** math.floor(math.log10(rough))
    step = next(power * times for times in (1, 2, 5, 10) if power * times >= rough)
    first, last = math.floor(low / step), math.floor(high / step) + 1
    # Rounded to the step's own digits: sums of decimals leave 0.30000000000000004 behind.
    digits = max(0, -math.floor(math.log10(step)))
    return [round(place * step, digits) for place in range(first, last + 1)]


def _in_32_bits(numbers: Numbers | tuple[float, ...]) -> Single:
    return np.asarray(numbers, np.float32)


def _label(number: float) -> str:
    return f"{number:.10g}"
