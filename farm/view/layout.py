"""Where everything on a contact sheet stands: numbers in, numbers out.

A `Grid` says what is to be seen: labelled rows and columns of cells, each a small block of picture
slots. `lay_out` turns it into a `Layout`, the boxes of every slot and every line of text in pixels,
given only a function that measures text. It opens no file and draws nothing, so a sheet can be
examined, and cut into pages that fit (`paginate`), before a single picture is read.

Labels are wrapped, then shrunk, and then given more room; they are never cut.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from typing import Literal, NamedTuple, TypeAlias


class Box(NamedTuple):
    """A rectangle in pixels; `left` and `top` are inside it, `right` and `bottom` are not."""

    left: int
    top: int
    width: int
    height: int

    @property
    def right(self) -> int:
        """The first pixel column right of the box."""
        return self.left + self.width

    @property
    def bottom(self) -> int:
        """The first pixel row below the box."""
        return self.top + self.height


class Style(StrEnum):
    """What a piece of text is for; its look is the painter's business."""

    TITLE = "title"
    FACT = "fact"
    AXIS = "axis"
    LABEL = "label"


Measure: TypeAlias = Callable[[str, int, Style], float]
"""Width in pixels of one line of text at a type size in pixels."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Text:
    """Lines of text in a box; they fill its height from the top, `leading(size)` pixels each."""

    box: Box
    lines: tuple[str, ...]
    size: int
    style: Style
    align: Literal["left", "center"] = "left"


@dataclass(frozen=True, slots=True, kw_only=True)
class Slot:
    """The place of one picture: the cell it belongs to, and its number within the cell."""

    box: Box
    strip: Box
    """Below the picture and as wide, for its score; without height if the sheet shows none."""
    row: int
    column: int
    number: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Neighbouring rows or columns that stand together under one label."""

    label: str
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Legend:
    """What the colours of the strips mean: a name, and the values at both ends of the scale."""

    name: str
    low: str
    high: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """What a sheet shows.

    `rows` and `columns` are labels, one each; their texts may be empty. `captions`, if there are
    any, stand above the cells, row by row. Every slot is a `tile` of the same width and height.
    """

    title: str
    facts: tuple[str, ...] = ()
    x_name: str = ""
    y_name: str = ""
    columns: tuple[str, ...]
    rows: tuple[str, ...]
    column_groups: tuple[Group, ...] = ()
    """Together as many columns as there are; none for a sheet without groups, as for rows."""
    row_groups: tuple[Group, ...] = ()
    captions: tuple[str, ...] = ()
    slots: int = 1
    across: int | None = None
    """Slots beside each other in a cell; by default what makes the squarest block."""
    tile: tuple[int, int]
    strip: int = 0
    """Height of the strip below every picture."""
    legend: Legend | None = None
    first_row: int = 0
    """Number of the first row in the grid that this one was cropped from."""
    first_column: int = 0

    @property
    def block(self) -> tuple[int, int]:
        """Columns and rows of the slots of one cell."""
        across = self.across or arrange(self.slots, self.tile)
        return across, math.ceil(self.slots / across)

    def crop(self, rows: range, columns: range) -> Grid:
        """Return the part of the grid with these rows and columns, numbered from its own start."""
        captions = self.captions and tuple(
            self.captions[row * len(self.columns) + column] for row in rows for column in columns
        )
        return dataclasses.replace(
            self,
            rows=tuple(self.rows[row] for row in rows),
            columns=tuple(self.columns[column] for column in columns),
            row_groups=_crop_groups(self.row_groups, rows),
            column_groups=_crop_groups(self.column_groups, columns),
            captions=captions,
            first_row=self.first_row + rows.start,
            first_column=self.first_column + columns.start,
        )


def _crop_groups(groups: Sequence[Group], part: range) -> tuple[Group, ...]:
    """Return the groups of the rows or columns in `part`."""
    found, start = [], 0
    for group in groups:
        stop = start + group.size
        if size := min(stop, part.stop) - max(start, part.start):
            found += [Group(label=group.label, size=size)] if size > 0 else []
        start = stop
    return tuple(found)


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """A sheet of `width` x `height` pixels with the place of everything on it.

    Rows and columns of slots are numbered as in the whole grid, also on a page of a part of it.
    """

    width: int
    height: int
    texts: tuple[Text, ...]
    slots: tuple[Slot, ...]
    rules: tuple[Box, ...] = ()
    """Thin lines below the labels of groups."""
    scale: Box | None = None
    """Where the colours of the strips are explained, from low on the left to high."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How large a page may be."""

    pixels: int
    edge: int

    def hold(self, layout: Layout) -> bool:
        """Whether a page of this layout is within the limits."""
        longest = max(layout.width, layout.height)
        return longest <= self.edge and layout.width * layout.height <= self.pixels


# --- sizes --------------------------------------------------------------------------------------

_SMALLEST = 10
"""Type size in pixels below which nobody reads."""
_LARGEST = 26
_TALL_HEAD = 0.6
"""A label above a column shrinks before it is taller than this much of a cell."""
_LINES_BESIDE = 5
"""A label beside a row is made wider before it takes more lines than this."""
_RULE = 2
"""Thickness of the line below the label of a group."""
_MIN_PAGE = 440
"""A page is at least as wide as this: its title needs the room even over one small picture."""


def leading(size: int) -> int:
    """Return the height of one line of text at a type size, both in pixels."""
    return math.ceil(size * 1.32)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Scale:
    """The sizes and distances of a sheet, all grown from the size of its tiles."""

    margin: int
    gap: int
    """Between cells."""
    seam: int
    """Between the tiles of one cell."""
    label: int
    fact: int
    title: int

    @classmethod
    def of(cls, grid: Grid) -> _Scale:
        across, down = grid.block
        unit = math.sqrt(across * grid.tile[0] * down * grid.tile[1])
        page = across * grid.tile[0] * (len(grid.columns) + 1)
        label = _clamp(round(min(unit / 9, page / 40)), 13, _LARGEST)
        return cls(
            margin=2 * label,
            gap=_clamp(round(unit / 20), 6, 28),
            seam=_clamp(round(max(grid.tile) / 60), 2, 6),
            label=label,
            # A very wide page is looked at from further away.
            fact=max(12, round(label * 0.9), min(22, page // 170)),
            title=max(round(label * 1.7), min(44, page // 90)),
        )


def _clamp(value: int, low: int, high: int) -> int:
    return max(low, min(high, value))


_SHAPE = 1.15
"""Width by height of the block one would like best: square, but rather wide than tall."""


def arrange(count: int, tile: tuple[int, int], choices: Sequence[int] = ()) -> int:
    """Return how many of `count` tiles go beside each other for a square block with few holes.

    `choices`, if there are any, are the only answers allowed.
    """

    def cost(columns: int) -> float:
        rows = math.ceil(count / columns)
        holes = columns * rows - count
        shape = columns * tile[0] / (rows * tile[1])
        return 1.2 * holes + abs(math.log(shape / _SHAPE))

    return min(choices or range(1, count + 1), key=cost)


# --- text ---------------------------------------------------------------------------------------


class _Wrapped(NamedTuple):
    lines: tuple[str, ...]
    is_broken: bool
    """Whether a word had to be broken where it has no seam."""


def wrap(text: str, width: int, measure: Callable[[str], float]) -> tuple[str, ...]:
    """Return `text` in lines at most `width` wide, nothing lost but the spaces at line breaks.

    Lines break at spaces, not at no-break spaces. A word that is wider than a line is broken, after
    one of `_-/.,` if it has one, but not inside a number.
    """
    return _wrap(text, width, measure).lines


def _wrap(text: str, width: int, measure: Callable[[str], float]) -> _Wrapped:
    lines: list[str] = []
    line = ""
    is_broken = False
    for word in _SPACES.split(text.strip()):
        if measure(joined := f"{line} {word}" if line else word) <= width:
            line = joined
            continue
        if line:
            lines.append(line)
        *pieces, line = _break(word, width, measure)
        is_broken = is_broken or any(piece[-1] not in _SEAMS for piece in pieces)
        lines.extend(pieces)
    lines.append(line)
    return _Wrapped(tuple(lines), is_broken)


_SPACES = re.compile(r"[ \t\r\n]+")
_SEAMS = "_-/.,\N{NO-BREAK SPACE}"
_NUMBER = re.compile(r"\d[.,]\d")


def _break(word: str, width: int, measure: Callable[[str], float]) -> list[str]:
    """Cut one word into pieces at most `width` wide; a piece has at least one character."""
    pieces = []
    while len(word) > 1 and measure(word) > width:
        low, high = 1, len(word) - 1  # the longest beginning that fits has low..high characters
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if measure(word[:middle]) <= width else (low, middle - 1)
        end = next((place for place in range(low, low // 3, -1) if _is_seam(word, place)), low)
        pieces.append(word[:end])
        word = word[end:]
    return [*pieces, word]


def _is_seam(word: str, place: int) -> bool:
    """Whether a word may be cut before `place`; a number, such as 56,400 or 7.5, may not."""
    return word[place - 1] in _SEAMS and not _NUMBER.match(word, place - 2)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Fitted:
    """Texts wrapped to one width, all at one type size."""

    size: int
    lines: tuple[tuple[str, ...], ...]

    @property
    def tallest(self) -> int:
        """The height of the tallest of them, in pixels; 0 if all are empty."""
        return max(map(self.height, range(len(self.lines))), default=0)

    def height(self, place: int) -> int:
        return leading(self.size) * len(self.lines[place]) if any(self.lines[place]) else 0


def _fit(texts: Sequence[str], width: int, *, size: int, tall: int, ruler: _Ruler) -> _Fitted:
    """Wrap texts to `width`, all at the largest size at which none is taller than `tall`.

    If there is none, they have the smallest size, broken words, and as many lines as it takes.
    """
    for candidate in range(size, _SMALLEST, -1):
        if fitted := _fit_at(texts, width, size=candidate, tall=tall, ruler=ruler):
            return fitted
    least = min(size, _SMALLEST)
    return _Fitted(size=least, lines=tuple(ruler.wrap(text, width, least).lines for text in texts))


def _fit_at(
    texts: Sequence[str], width: int, *, size: int, tall: int, ruler: _Ruler
) -> _Fitted | None:
    """Wrap texts at one size; None if a word would break or a text be taller than `tall`."""
    lines = []
    for text in texts:
        wrapped = ruler.wrap(text, width, size)
        if wrapped.is_broken or len(wrapped.lines) * leading(size) > tall:
            return None
        lines.append(wrapped.lines)
    return _Fitted(size=size, lines=tuple(lines))


class _Ruler:
    """Measures and wraps text of one style, and remembers what it measured."""

    def __init__(self, measure: Measure, style: Style) -> None:
        self._measure = measure
        self._style = style
        self.width = lru_cache(maxsize=65_536)(self._width)
        self.wrap = lru_cache(maxsize=65_536)(self._wrapped)

    def _width(self, text: str, size: int) -> float:
        return self._measure(text, size, self._style)

    def _wrapped(self, text: str, width: int, size: int) -> _Wrapped:
        return _wrap(text, width, lambda part: self.width(part, size))


# --- placing ------------------------------------------------------------------------------------


def lay_out(grid: Grid, measure: Measure) -> Layout:
    """Return where everything on the sheet of `grid` stands."""
    return _Sheet(grid, measure).layout()


class _Sheet:
    """The work of `lay_out`: widths first, then heights, then places from top to bottom."""

    def __init__(self, grid: Grid, measure: Measure) -> None:
        self.grid = grid
        self.measure = measure
        self.scale = _Scale.of(grid)
        self.labels = _Ruler(measure, Style.LABEL)
        across, down = grid.block
        self.block = (
            across * grid.tile[0] + (across - 1) * self.scale.seam,
            down * (grid.tile[1] + grid.strip) + (down - 1) * self.scale.seam,
        )
        self.rules: list[Box] = []
        self.bar: Box | None = None
        self.group_gap = self.scale.gap + self.scale.label
        self.breaks = _breaks(grid.column_groups, len(grid.columns))
        self.heads, self.cell_width = self._fit_above(grid.columns, self.block[0])
        self.captions, self.cell_width = self._fit_above(grid.captions, self.cell_width)
        self.sides, self.side_width = self._fit_beside()

    def _fit_above(self, texts: Sequence[str], width: int) -> tuple[_Fitted, int]:
        """Fit labels above cells, which become wider only if a label would be a tower."""
        size = self.scale.label
        tall = max(2 * leading(size), round(_TALL_HEAD * self.block[1]))
        widest = max(width, 22 * _SMALLEST)
        while True:
            fitted = _fit(texts, width, size=size, tall=tall, ruler=self.labels)
            if width >= widest or fitted.tallest <= 2 * tall:
                return fitted, width
            width = min(widest, width + 20)

    def _fit_beside(self) -> tuple[_Fitted, int]:
        """Fit the labels of the rows beside their cells, in as narrow a column as reads well."""
        texts, size = self.grid.rows, self.scale.label
        natural = math.ceil(max((self.labels.width(text, size) for text in texts), default=0))
        least = math.ceil(self.measure(self.grid.y_name, size, Style.AXIS)) if natural else 0
        narrowest = max(least, min(natural, 7 * size))
        widest = max(least, min(natural, max(24 * size, self.block[0])))
        tall = max(leading(size), self.block[1])
        for limit in (min(tall, _LINES_BESIDE * leading(size)), tall):
            for width in (*range(narrowest, widest, max(4, size // 2)), widest):
                if fitted := _fit_at(texts, width, size=size, tall=limit, ruler=self.labels):
                    return fitted, width
        return _fit(texts, widest, size=size, tall=tall, ruler=self.labels), widest

    def layout(self) -> Layout:
        """Place everything."""
        grid, scale = self.grid, self.scale
        left = scale.margin + (self.side_width + scale.gap + scale.label // 2) * bool(
            self.side_width
        )
        columns = len(grid.columns)
        right = self._cell_left(left, columns - 1) + self.cell_width
        width = max(right + scale.margin, _MIN_PAGE)
        texts = list(self._header(width - 2 * scale.margin))
        top = texts[-1].box.bottom + scale.label
        if grid.column_groups:
            texts += self._column_groups(left, top)
            top = self.rules[-1].bottom + scale.label // 2
        if heads := list(self._column_heads(left, top)):
            texts += heads
            top = max(text.box.bottom for text in heads) + max(4, scale.gap // 2)
        slots: list[Slot] = []
        headings = dict(zip(_starts(grid.row_groups), grid.row_groups, strict=True))
        for row in range(len(grid.rows)):
            if row in headings:
                top += self.group_gap if row else scale.gap
                texts.append(self._heading(headings[row].label, top, right - scale.margin))
                top = self.rules[-1].bottom + scale.gap
            captions = list(self._captions(row, left, top))
            top = max((text.box.bottom for text in captions), default=top - 4) + 4
            height = max(self.block[1], self.sides.height(row))
            texts += captions
            texts += self._side(row, top, height)
            for column in range(columns):
                cell = Box(self._cell_left(left, column), top, self.cell_width, height)
                slots += self._slots(cell, row, column)
            top += height + scale.gap
        return Layout(
            width=width, height=top - scale.gap + scale.margin, texts=tuple(texts),
            slots=tuple(slots), rules=tuple(self.rules), scale=self.bar,
        )  # fmt: skip

    def _cell_left(self, left: int, column: int) -> int:
        step = self.cell_width + self.scale.gap
        return left + column * step + self.breaks[column] * self.group_gap

    def _header(self, width: int) -> Iterator[Text]:
        top = self.scale.margin
        lines = [(Style.TITLE, self.scale.title, self.grid.title)]
        lines += [(Style.FACT, self.scale.fact, fact) for fact in self.grid.facts]
        for style, size, line in lines:
            wrapped = _Ruler(self.measure, style).wrap(line, width, size).lines
            box = Box(self.scale.margin, top, width, leading(size) * len(wrapped))
            yield Text(box=box, lines=wrapped, size=size, style=style)
            top = box.bottom + size // 4
        if self.grid.legend is not None:
            yield from self._legend(self.grid.legend, top)

    def _legend(self, legend: Legend, top: int) -> Iterator[Text]:
        """Place the name of the score, its lowest value, a bar of its colours, its highest."""
        size, height = self.scale.fact, leading(self.scale.fact)
        left, gap = self.scale.margin, size // 2
        for text in (f"{legend.name} {legend.low}", legend.high):
            width = math.ceil(self.measure(text, size, Style.FACT))
            box = Box(left, top, width, height)
            yield Text(box=box, lines=(text,), size=size, style=Style.FACT)
            left = box.right + gap
            if self.bar is None:
                self.bar = Box(left, top + height // 2 - size // 3, 8 * size, 2 * (size // 3))
                left = self.bar.right + gap

    def _column_groups(self, left: int, top: int) -> Iterator[Text]:
        """Place the labels above groups of columns, each over a line as wide as its group."""
        groups = self.grid.column_groups
        spans = [
            (self._cell_left(left, start), self._cell_left(left, start + group.size - 1))
            for start, group in zip(_starts(groups), groups, strict=True)
        ]
        widths = [last + self.cell_width - first for first, last in spans]
        texts = [group.label for group in groups]
        fitted = _fit(
            texts, min(widths), size=self.scale.label, tall=3 * leading(self.scale.label),
            ruler=self.labels,
        )  # fmt: skip
        bottom = top + fitted.tallest
        for place, (lines, (first, _), width) in enumerate(
            zip(fitted.lines, spans, widths, strict=True)
        ):
            tall = fitted.height(place)
            box = Box(first, bottom - tall, width, tall)
            yield Text(box=box, lines=lines, size=fitted.size, style=Style.LABEL)
            self.rules.append(Box(first, bottom + 3, width, _RULE))

    def _heading(self, label: str, top: int, width: int) -> Text:
        """Place the label above a group of rows, over a line as wide as the sheet."""
        size = self.scale.label
        lines = self.labels.wrap(label, width, size).lines
        box = Box(self.scale.margin, top, width, leading(size) * len(lines))
        self.rules.append(Box(self.scale.margin, box.bottom + 3, width, _RULE))
        return Text(box=box, lines=lines, size=size, style=Style.LABEL)

    def _column_heads(self, left: int, top: int) -> Iterator[Text]:
        """Place the names of the axes and, below them, the labels of the columns."""
        grid, scale = self.grid, self.scale
        size, height = scale.label, leading(scale.label)
        right = self._cell_left(left, len(grid.columns) - 1) + self.cell_width
        if grid.x_name:
            wrapped = _Ruler(self.measure, Style.AXIS).wrap(grid.x_name, right - left, size).lines
            box = Box(left, top, right - left, height * len(wrapped))
            yield Text(box=box, lines=wrapped, size=size, style=Style.AXIS)
            top = box.bottom + size // 4
        bottom = top + self.heads.tallest
        if grid.y_name and self.side_width:
            box = Box(scale.margin, max(top, bottom - height), self.side_width, height)
            yield Text(box=box, lines=(grid.y_name,), size=size, style=Style.AXIS)
        for column, lines in enumerate(self.heads.lines):
            tall = self.heads.height(column)
            box = Box(self._cell_left(left, column), bottom - tall, self.cell_width, tall)
            if tall:
                yield Text(
                    box=box, lines=lines, size=self.heads.size, style=Style.LABEL, align="center"
                )

    def _captions(self, row: int, left: int, top: int) -> Iterator[Text]:
        columns = len(self.grid.columns)
        places = range(row * columns, min((row + 1) * columns, len(self.captions.lines)))
        bottom = top + max(map(self.captions.height, places), default=0)
        for place in places:
            if tall := self.captions.height(place):
                cell_left = self._cell_left(left, place % columns)
                yield Text(
                    box=Box(cell_left, bottom - tall, self.cell_width, tall),
                    lines=self.captions.lines[place],
                    size=self.captions.size,
                    style=Style.LABEL,
                    align="center",
                )

    def _side(self, row: int, top: int, height: int) -> Iterator[Text]:
        if tall := self.sides.height(row):
            box = Box(self.scale.margin, top + (height - tall) // 2, self.side_width, tall)
            yield Text(
                box=box, lines=self.sides.lines[row], size=self.sides.size, style=Style.LABEL
            )

    def _slots(self, cell: Box, row: int, column: int) -> Iterator[Slot]:
        """Place the tiles of a cell, in reading order, in its middle."""
        grid, seam = self.grid, self.scale.seam
        across, _ = grid.block
        left = cell.left + (cell.width - self.block[0]) // 2
        top = cell.top + (cell.height - self.block[1]) // 2
        width, height = grid.tile
        for number in range(grid.slots):
            down, along = divmod(number, across)
            slot_top = top + down * (height + grid.strip + seam)
            box = Box(left + along * (width + seam), slot_top, width, height)
            yield Slot(
                box=box,
                strip=Box(box.left, box.bottom, width, grid.strip),
                row=grid.first_row + row,
                column=grid.first_column + column,
                number=number,
            )


def _starts(groups: Sequence[Group]) -> list[int]:
    """Return the number of the first row or column of each group."""
    starts, start = [], 0
    for group in groups:
        starts.append(start)
        start += group.size
    return starts


def _breaks(groups: Sequence[Group], count: int) -> list[int]:
    """Return how many groups end before each of `count` columns."""
    starts = set(_starts(groups)[1:])
    found, breaks = [], 0
    for column in range(count):
        breaks += column in starts
        found.append(breaks)
    return found


# --- pages --------------------------------------------------------------------------------------


def paginate(grid: Grid, measure: Measure, limits: Limits) -> tuple[Layout, ...]:
    """Return the pages that show all of `grid`, each within `limits`: as few as an even cut gives.

    Rows are divided first, so that what is compared across stays on one page; columns only if a
    single row is too wide. If even one cell is too large for a page, its tiles are made smaller.

    Only where labels alone are larger than a page, a page is larger than the limits.
    """
    while True:
        for across in _cuts(len(grid.columns)):
            first = grid.crop(range(1), across[0])
            if not limits.hold(lay_out(first, measure)) and len(across) < len(grid.columns):
                continue
            for down in _cuts(len(grid.rows)):
                parts = (grid.crop(rows, columns) for rows in down for columns in across)
                if pages := _lay_out_all(parts, measure, limits):
                    return pages
        width, height = grid.tile
        if max(grid.tile) == 1:
            cells = (grid.crop(rows, columns) for rows in down for columns in across)
            return tuple(lay_out(cell, measure) for cell in cells)
        grid = dataclasses.replace(grid, tile=(max(1, width * 3 // 4), max(1, height * 3 // 4)))


def _cuts(count: int) -> Iterator[list[range]]:
    """Yield ever finer even divisions of 0..count, from one piece to pieces of one."""
    pieces = 1
    while True:
        size = math.ceil(count / pieces)
        yield [range(start, min(start + size, count)) for start in range(0, count, size)]
        if size <= 1:
            return
        # The next size down; faster where pieces are many, so that long axes take few tries.
        pieces = max(math.ceil(count / (size - 1)), pieces + pieces // 8)


def _lay_out_all(
    parts: Iterable[Grid], measure: Measure, limits: Limits
) -> tuple[Layout, ...] | None:
    """Return the layouts of all parts, or None once one is too large."""
    pages = []
    for part in parts:
        page = lay_out(part, measure)
        if not limits.hold(page):
            return None
        pages.append(page)
    return tuple(pages)
