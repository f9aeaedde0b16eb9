"""How many rows to give a network at once: found out while working, at no cost.

More rows at once take less time each, until the device is full; then they only take memory, or
time where a cache overflows. Where that is depends on the model, the picture's size, the number
type and the device, by more than a factor of ten (a tiny network on a fast GPU against a large one
on a CPU). So it is measured, on the calls that have to be made anyway: a few at each size, doubling
while that pays, and halving where the first size was as good as any.

A search is not free: a row of a small batch may take five times what it could, and a short run is
over before the search is. So it begins further up where calls are short, judges a size by few
calls, and turns round at a size that is clearly worse.

The same measurements say what the network takes at its best, which is what a run's efficiency is
held against.

What one model taught holds for every model whose networks do the same work with other weights: a
grid over checkpoints searches once in a process, and not once a checkpoint.
"""

from __future__ import annotations

import logging
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field

TRIALS = 3
"""Full calls at a size before it is judged. The first is left out: it warms caches up."""
SHORT_S = 0.5
"""A first call that took less tells that nobody has to wait for a picture if there are more rows
in it."""
LEAP = 4
"""How many times the smallest size a search goes on with after a short first call."""
WORTH_IT = 0.97
"""A larger batch is taken if a row takes at most this share of the time it took before."""
PATIENCE = 2
"""Sizes in a row that may gain nothing before the search turns round."""
WORSE = 1.5
"""A size whose row takes so many times the best is not gone beyond."""
KEPT = 64
"""Latest calls of a size that count."""
ENOUGH = 3
"""Calls of a size before its times are believed."""

LARGEST_DECODING = 16
"""Latents that are decoded at once, at most: a decoder gains little from more, and takes much
memory for each."""
KEPT_BUILDS = 16
"""Builds of networks of which this process remembers what it found out."""

_log = logging.getLogger(__name__)


class BatchSize:
    """The batch size of one network at one shape on one device, and what a row takes at it."""

    def __init__(self, *, largest: int, smallest: int = 2, leap: int = LEAP) -> None:
        """Begin a search.

        Args:
            largest: what memory is reckoned to hold; a power of two, as the others are.
            smallest: the size of the first call, and the least that is tried.
            leap: how many times the smallest size to go on with, if the first call was short.
        """
        self._largest = max(1, largest)
        self._smallest = self._current = min(smallest, self._largest)
        self._leap = leap
        self._has_begun = False
        """The first call was made."""
        self._is_rising = True
        self._is_settled = False
        self._times: dict[int, deque[float]] = {}
        """Seconds a row, by the size of the call."""
        self._trials = 0
        self._in_vain = 0

    @property
    def current(self) -> int:
        """Rows to give the network at once, if there are as many."""
        return self._current

    @property
    def is_settled(self) -> bool:
        """The search is over."""
        return self._is_settled

    @property
    def times(self) -> Mapping[int, float]:
        """Return seconds a row by batch size, each the lower quartile of the latest calls."""
        return {
            rows: sorted(times)[len(times) // 4]
            for rows, times in sorted(self._times.items())
            if times
        }

    def record(self, rows: int, seconds: float) -> None:
        """Take note of a call with `rows` rows."""
        is_trial = rows == self._current and not self._is_settled
        if is_trial:
            self._trials += 1
            if not self._has_begun:
                self._begin(seconds)
                return
            if self._trials == 1:
                return
        self._times.setdefault(rows, deque(maxlen=KEPT)).append(seconds / rows)
        if is_trial and self._trials >= TRIALS:
            self._judge()

    def shrink(self, rows: int) -> bool:
        """Take note that `rows` rows do not fit; return whether fewer can be tried."""
        for size in [size for size in self._times if size >= rows]:
            del self._times[size]
        self._largest = _power_of_two_below(rows)
        self._current = min(self._current, self._largest)
        self._is_settled = True
        if rows > 1:
            _log.warning(
                "out of memory: smaller batches from here on", extra={"rows": self._largest}
            )
        return rows > 1

    @property
    def seconds_per_row(self) -> float | None:
        """What a row takes at the best batch size measured; None before anything was.

        The lower quartile of the latest calls: what the network takes when nothing disturbs it.
        """
        times = {rows: s for rows, s in self.times.items() if len(self._times[rows]) >= ENOUGH}
        return min((times or self.times).values(), default=None)

    def _begin(self, seconds: float) -> None:
        """Begin the search further up if the first call of all was short."""
        self._has_begun = True
        further_up = self._current * self._leap
        if seconds < SHORT_S and further_up <= self._largest:
            self._try(further_up)

    def _judge(self) -> None:
        """Go on to twice the size, or to half of the smallest, or settle for the best."""
        # Calls of other sizes, at a tail or before a refill, are nothing that could be settled for.
        best = {rows: min(times) for rows, times in self._times.items() if _is_power_of_two(rows)}
        fastest = min(best.values())
        before = min((t for rows, t in best.items() if rows < self._current), default=None)
        pays = before is None or best[self._current] <= before * WORTH_IT
        self._in_vain = 0 if pays else self._in_vain + 1
        self._is_rising &= (
            self._in_vain < PATIENCE
            and best[self._current] < fastest * WORSE
            and 2 * self._current <= self._largest
        )
        if self._is_rising:
            self._try(2 * self._current)
            return
        # The smallest that is as good as the best: it drains sooner and takes less memory.
        choice = min(rows for rows, t in best.items() if t * WORTH_IT <= fastest)
        if choice == min(best) and choice > self._smallest:
            self._try(choice // 2)
            return
        self._current = choice
        self._is_settled = True

    def _try(self, rows: int) -> None:
        self._current = rows
        self._trials = 0


def _is_power_of_two(rows: int) -> bool:
    return rows & (rows - 1) == 0


def _power_of_two_below(rows: int) -> int:
    """Return the largest power of two below `rows`, at least 1."""
    return 1 << max(0, (rows - 1).bit_length() - 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """The batch sizes of a model at one picture size."""

    batch: BatchSize
    """Of the denoiser."""
    decoding: BatchSize
    """Of the decoder."""


@dataclass(frozen=True, slots=True)
class Experience:
    """What was found out about networks of one build on one device, by height and width."""

    sizes: dict[tuple[int, int], Sizes] = field(default_factory=dict)

    def at(self, height: int, width: int, *, largest: Callable[[], int]) -> Sizes:
        """Return the batch sizes of a picture size, beginning a search if it is new.

        Args:
            height: of a picture, in pixels.
            width: of a picture, in pixels.
            largest: returns what memory is reckoned to hold, a power of two.
        """
        if (height, width) not in self.sizes:
            most = largest()
            self.sizes[height, width] = Sizes(
                batch=BatchSize(largest=most),
                decoding=BatchSize(largest=min(most, LARGEST_DECODING), smallest=1),
            )
        return self.sizes[height, width]


_EXPERIENCES: OrderedDict[Hashable, Experience] = OrderedDict()


def experience_with(build: Hashable) -> Experience:
    """Return what this process knows of a build: of models that differ in their weights alone.

    Args:
        build: equal where the same networks run in the same way on the same device.
    """
    experience = _EXPERIENCES.setdefault(build, Experience())
    _EXPERIENCES.move_to_end(build)
    if len(_EXPERIENCES) > KEPT_BUILDS:
        _EXPERIENCES.popitem(last=False)
    return experience
