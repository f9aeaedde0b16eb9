"""Cuts a contact sheet into pages: each within the limits of its format, and of a readable shape.

A strip of four hundred columns is no sheet: its labels are at one end, and no screen shows it. So a
grid that is much wider than a page should be is wrapped, block below block, and one that is much
taller is folded, block beside block; every block has its labels. What a dozen rows and columns
compare stays together wherever it fits.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice

from farm.view.layout import Extent, Grid, Layout, Measure, lay_out, measure_extent, pieces, size_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How large a page may be."""

    pixels: int
    edge: int

    def hold(self, width: int, height: int) -> bool:
        """Whether a page of this size is within the limits."""
        return max(width, height) <= self.edge and width * height <= self.pixels


def paginate(grid: Grid, measure: Measure, limits: Limits) -> tuple[Layout, ...]:
    """Return the pages that show all of `grid`, each within `limits`: as few as an even cut gives.

    If even one cell is too large for a page, its tiles are made smaller. Only where labels alone
    are larger than a page, a page is larger than the limits.
    """
    measure = lru_cache(maxsize=65_536)(measure)
    while True:
        for shaped in _shapes(grid, measure, limits):
            for parts in _partitions(shaped):
                if pages := _lay_out_all(parts, measure, limits):
                    return tuple(pages)
        if max(grid.tile) == 1:
            cells = list(_partitions(dataclasses.replace(grid, wrap=1)))[-1]
            return tuple(lay_out(cell, measure) for cell in _numbered(cells))
        width, height = grid.tile
        grid = dataclasses.replace(grid, tile=(max(1, width * 3 // 4), max(1, height * 3 // 4)))


def columns_of_page(tile: tuple[int, int], limits: Limits) -> int:
    """Return how many tiles beside each other make a full page of a readable shape."""
    return max(1, round(math.sqrt(limits.pixels * _SHAPE)) // tile[0])


# --- shapes -------------------------------------------------------------------------------------

_SHAPE = 1.3
"""Width by height of a page that is read best: about that of a screen and of paper on its side."""
_AT_A_GLANCE = 12
"""So few rows or columns stay together, whatever shape that gives the page."""
_LONG = 2400
"""A page may have any shape until one side is longer than this: there is no need to scroll far."""
_WHOLE = 0.2
"""How much worse a shape may be (in powers of e) if nothing is wrapped for it."""
_UNEVEN = 0.4
"""How much worse a shape may be if all blocks are of one size for it."""
_MORE = 0.02
"""How much worse a shape may be if there is a page less for it."""
_TRIED = 6
"""Shapes that seem best, which are laid out to see which one is."""


def _shapes(grid: Grid, measure: Measure, limits: Limits) -> Iterator[Grid]:
    """Yield the grid whole, wrapped and folded in even ways, the most readable first.

    Only those are yielded that can be cut into pages.
    """
    page = _Page(extent=measure_extent(grid, measure, width=_LONG), limits=limits)
    rows, columns = len(grid.rows), len(grid.columns)
    found = [(page.cost(rows=rows, columns=columns), grid)]
    for wrap in _sizes(columns):
        cost = page.cost(rows=rows, columns=wrap, below=math.ceil(columns / wrap))
        found.append((cost, dataclasses.replace(grid, wrap=wrap)))
    for fold in _sizes(rows):
        cost = page.cost(rows=fold, columns=columns, beside=math.ceil(rows / fold))
        found.append((cost, dataclasses.replace(grid, fold=fold)))
    is_short = rows <= _AT_A_GLANCE or page.height(rows) <= _LONG
    is_narrow = columns <= _AT_A_GLANCE or page.width(columns) <= _LONG
    # Captions flow line by line, which no other order of the cells may disturb.
    if ((is_short and is_narrow) or grid.captions) and _can_be_cut(grid, measure, limits):
        yield grid
    likely = iter(
        shaped
        for _, shaped in sorted(found, key=lambda one: one[0])
        if _can_be_cut(shaped, measure, limits)
    )
    while some := list(islice(likely, _TRIED)):
        yield from sorted(some, key=lambda shaped: _cost(shaped, measure, limits))


def _cost(shaped: Grid, measure: Measure, limits: Limits) -> float:
    """Return how far the first page is from the best one, and how many there are; 0 is the best."""
    for parts in _partitions(shaped):
        width, height = size_of(next(_numbered(parts)), measure)
        if limits.hold(width, height):
            sizes = {(len(rows), len(columns)) for rows, columns in shaped.blocks}
            cost = abs(math.log(width / height / _SHAPE)) + _MORE * len(parts)
            return cost + _UNEVEN * (len(sizes) > 1) - _WHOLE * (len(shaped.blocks) == 1)
    return math.inf


@dataclass(frozen=True, slots=True, kw_only=True)
class _Page:
    """Foresees about how large pages are, without laying them out."""

    extent: Extent
    limits: Limits

    def width(self, columns: int, beside: int = 1) -> int:
        """Return the width of a page with blocks of so many columns beside each other."""
        block = self.extent.side + columns * self.extent.column
        return 2 * self.extent.margin + beside * (block + self.extent.gap) - self.extent.gap

    def height(self, rows: int, below: int = 1) -> int:
        """Return the height of a page with blocks of so many rows below each other."""
        block = self.extent.head + rows * self.extent.row
        return self.extent.header + below * (block + self.extent.gap) + self.extent.margin

    def cost(self, *, rows: int, columns: int, below: int = 1, beside: int = 1) -> float:
        """Return how far the shape of a full page is from the best one; 0 is the best.

        Of the blocks, a page has as many as find room; of the rows of a block, if not all do.
        """
        room = min(self.limits.edge, self.limits.pixels // self.width(columns))
        while below > 1 and self.height(rows, below) > room:
            below -= 1
        height = min(self.height(rows, below), room)
        room = min(self.limits.edge, self.limits.pixels // height)
        while beside > 1 and self.width(columns, beside) > room:
            beside -= 1
        return abs(math.log(self.width(columns, beside) / height / _SHAPE))


# --- cuts ---------------------------------------------------------------------------------------


def _partitions(grid: Grid) -> Iterator[list[Grid]]:
    """Yield ever finer divisions of a shaped grid into pages: fewer blocks, then fewer rows.

    Rows of a block are divided before its columns, so that what is compared across stays together.
    """
    rows, columns = range(len(grid.rows)), range(len(grid.columns))
    if grid.fold:
        strips = pieces(len(rows), grid.fold)
        for some in _cuts(len(strips)):
            yield [grid.crop(_span(strips, part), columns) for part in some]
        return
    bands = pieces(len(columns), grid.wrap)
    for some in _cuts(len(bands)):
        yield [grid.crop(rows, _span(bands, part)) for part in some]
    for some in islice(_cuts(len(rows)), 1, None):
        yield [grid.crop(part, band) for band in bands for part in some]


def _can_be_cut(grid: Grid, measure: Measure, limits: Limits) -> bool:
    """Whether the smallest page that a shaped grid is cut into is within the limits."""
    rows, columns = grid.fold or 1, grid.wrap or len(grid.columns)
    return limits.hold(*size_of(grid.crop(range(rows), range(columns)), measure))


def _span(blocks: Sequence[range], part: range) -> range:
    return range(blocks[part.start].start, blocks[part.stop - 1].stop)


def _sizes(count: int) -> list[int]:
    """Return the sizes of the pieces of every even division of 0..count but the whole."""
    return [some[0].stop for some in _cuts(count)][1:]


def _cuts(count: int) -> Iterator[list[range]]:
    """Yield ever finer even divisions of 0..count, from one piece to pieces of one."""
    number = 1
    while True:
        size = math.ceil(count / number)
        yield pieces(count, size)
        if size <= 1:
            return
        # The next size down; faster where pieces are many, so that long axes take few tries.
        number = max(math.ceil(count / (size - 1)), number + number // 8)


def _lay_out_all(parts: Sequence[Grid], measure: Measure, limits: Limits) -> list[Layout] | None:
    """Return the layouts of all parts, or None once one is too large."""
    numbered = list(_numbered(parts))
    if all(limits.hold(*size_of(part, measure)) for part in numbered):
        return [lay_out(part, measure) for part in numbered]
    return None


def _numbered(parts: Sequence[Grid]) -> Iterator[Grid]:
    """Yield the parts of a sheet, each told which one it is if there are several."""
    for number, part in enumerate(parts, 1):
        yield part if len(parts) == 1 else dataclasses.replace(part, part=(number, len(parts)))
