"""Where everything on a contact sheet stands: numbers in, numbers out.

A `Grid` says what is to be seen: labelled rows and columns of cells, each a small block of picture
slots. `lay_out` turns it into a `Layout`, the boxes of every slot and every line of text in pixels,
given only a function that measures text. It opens no file and draws nothing, so a sheet can be
examined, and cut into pages that fit (`pages`), before a single picture is read.

Labels are wrapped, then shrunk, and then given more room; they are never cut.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import re
from collections.abc import Callable, Iterator, Sequence
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
    wrap: int | None = None
    """Columns beside each other; the next ones continue below, under labels of their own."""
    fold: int | None = None
    """Rows below each other; the next ones continue on the right. Not together with `wrap`."""
    slots: int = 1
    across: int | None = None
    """Slots beside each other in a cell; by default what makes the squarest block."""
    tile: tuple[int, int]
    strip: int = 0
    """Height of the strip below every picture."""
    legend: Legend | None = None
    part: tuple[int, int] | None = None
    """Which part of a sheet this is, and of how many, if it is divided."""
    first_row: int = 0
    """Number of the first row in the grid that this one was cropped from."""
    first_column: int = 0

    @property
    def block(self) -> tuple[int, int]:
        """Columns and rows of the slots of one cell."""
        across = self.across or arrange(self.slots, self.tile)
        return across, math.ceil(self.slots / across)

    @property
    def blocks(self) -> tuple[tuple[range, range], ...]:
        """The rows and columns that stand together, in reading order."""
        return tuple(
            itertools.product(
                pieces(len(self.rows), self.fold), pieces(len(self.columns), self.wrap)
            )
        )

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


def pieces(count: int, size: int | None) -> list[range]:
    """Return 0..count in pieces of one size; the last one may be smaller."""
    step = size or max(1, count)
    return [range(start, min(start + step, count)) for start in range(0, count, step)]


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
_MIN_PAGES = (440, 660, 880, 1100)
"""A page is at least as wide as one of these, because its header needs the room even over one small
picture: the first at which that is not a tower."""
_TALL_HEADER = 0.4
"""Share of a page's width from which its header is one."""


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
        blocks = grid.blocks
        beside = len(blocks) if grid.fold else 1
        page = across * grid.tile[0] * (len(blocks[0][1]) + 1) * beside
        # A very wide page is looked at from further away.
        label = _clamp(round(min(unit / 9, page / 40)), 13, max(_LARGEST, page // 160))
        return cls(
            margin=2 * label,
            gap=_clamp(round(unit / 20), 6, 28),
            seam=_clamp(round(max(grid.tile) / 60), 2, 6),
            label=label,
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


def size_of(grid: Grid, measure: Measure) -> tuple[int, int]:
    """Return how wide and high the sheet of `grid` is: what `lay_out` says, without placing tiles.

    A large sheet has a hundred thousand of them.
    """
    return _Sheet(grid, measure).place()


class Extent(NamedTuple):
    """The sizes, in pixels, that every shape of a sheet is made of; near the truth, not exact."""

    margin: int
    header: int
    head: int
    """Labels above a block of cells."""
    side: int
    """Labels beside a block of cells."""
    column: int
    """From one column of a block to the next."""
    row: int
    gap: int
    """Between blocks."""


def measure_extent(grid: Grid, measure: Measure, *, width: int) -> Extent:
    """Return what the sheet of `grid` measures; its header, if the page is about so wide."""
    sheet = _Sheet(grid, measure)
    gap, size = sheet.scale.gap, sheet.scale.label
    heads = [sheet.heads.tallest, *([leading(size)] if grid.x_name else [])]
    if grid.column_groups:
        heads.append(sheet.group_heads.tallest + size)
    header = list(sheet._header(width))  # noqa: SLF001 - of this module
    return Extent(
        margin=sheet.scale.margin,
        header=header[-1].box.bottom + size,
        head=sum(heads) + gap,
        side=sheet.side,
        column=sheet.cell_width + gap,
        row=max(sheet.block[1], sheet.sides.tallest) + gap,
        gap=sheet.block_gap,
    )


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
        self.texts: list[Text] = []
        self.cells: list[tuple[Box, int, int]] = []
        """Where each cell stands, and its row and column."""
        self.rules: list[Box] = []
        self.bar: Box | None = None
        self.group_gap = self.scale.gap + self.scale.label
        self.block_gap = self.scale.gap + 2 * self.scale.label
        self.breaks = _breaks(grid.column_groups, len(grid.columns))
        self.heads, self.cell_width = self._fit_above(grid.columns, self.block[0])
        self.captions, self.cell_width = self._fit_above(grid.captions, self.cell_width)
        self.sides, self.side_width = self._fit_beside()
        self.side = bool(self.side_width) * (
            self.side_width + self.scale.gap + self.scale.label // 2
        )
        self.spans = {columns: self._spans(columns) for _, columns in grid.blocks}
        self.group_heads = self._fit_groups()

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
        width, height = self.place()
        slots = itertools.chain.from_iterable(itertools.starmap(self._slots, self.cells))
        return Layout(
            width=width, height=height, texts=tuple(self.texts), slots=tuple(slots),
            rules=tuple(self.rules), scale=self.bar,
        )  # fmt: skip

    def place(self) -> tuple[int, int]:
        """Place the header, and below it block by block; return width and height of the whole."""
        grid, margin = self.grid, self.scale.margin
        widths = [self.side + self._cells_width(columns) for _, columns in grid.blocks]
        wide = sum(widths) + self.block_gap * (len(widths) - 1) if grid.fold else max(widths)
        width = self._page_width(wide + 2 * margin)
        self.texts += self._header(width - 2 * margin)
        top = self.texts[-1].box.bottom + self.scale.label
        left, bottom = margin, top
        for (rows, columns), its_width in zip(grid.blocks, widths, strict=True):
            end = self._block(rows, columns, left=left, top=top, width=its_width)
            bottom = max(bottom, end)
            if grid.fold:
                left += its_width + self.block_gap
            else:
                top = end + self.block_gap
        return width, bottom + margin

    def _block(self, rows: range, columns: range, *, left: int, top: int, width: int) -> int:
        """Place rows and columns that stand together, with their labels; return where they end."""
        scale, cells = self.scale, left + self.side
        if self.grid.column_groups:
            top = self._column_groups(cells, top, columns)
        if heads := list(self._column_heads(left, top, columns)):
            self.texts += heads
            top = max(text.box.bottom for text in heads) + max(4, scale.gap // 2)
        groups = _crop_groups(self.grid.row_groups, rows)
        headings = dict(zip(_starts(groups), groups, strict=True))
        for row in rows:
            if group := headings.get(row - rows.start):
                top += self.group_gap if row > rows.start else scale.gap
                self.texts.append(self._heading(group.label, left, top, width))
                top = self.rules[-1].bottom + scale.gap
            captions = list(self._captions(row, columns, cells, top))
            top = max((text.box.bottom for text in captions), default=top - 4) + 4
            height = max(self.block[1], self.sides.height(row))
            self.texts += captions
            self.texts += self._side(row, left, top, height)
            for column in columns:
                cell = Box(self._cell_left(cells, column, columns), top, self.cell_width, height)
                self.cells.append((cell, row, column))
            top += height + scale.gap
        return top - scale.gap

    def _cell_left(self, left: int, column: int, columns: range) -> int:
        """Return where a column stands in a block of columns whose cells begin at `left`."""
        step = self.cell_width + self.scale.gap
        gaps = self.breaks[column] - self.breaks[columns.start]
        return left + (column - columns.start) * step + gaps * self.group_gap

    def _cells_width(self, columns: range) -> int:
        return self._cell_left(0, columns[-1], columns) + self.cell_width

    def _page_width(self, wide: int) -> int:
        """Return the width of a page for cells so wide: more if its header were a tower else."""
        for least in _MIN_PAGES:
            width = max(wide, least)
            header = list(self._titles(width - 2 * self.scale.margin))
            if header[-1].box.bottom <= _TALL_HEADER * width:
                break
        return width

    def _header(self, width: int) -> Iterator[Text]:
        titles = list(self._titles(width))
        yield from titles
        if self.grid.legend is not None:
            last = titles[-1]
            yield from self._legend(self.grid.legend, last.box.bottom + last.size // 4)

    def _titles(self, width: int) -> Iterator[Text]:
        top = self.scale.margin
        lines = [(Style.TITLE, self.scale.title, self.grid.title)]
        lines += [(Style.FACT, self.scale.fact, fact) for fact in self._facts()]
        for style, size, line in lines:
            wrapped = _Ruler(self.measure, style).wrap(line, width, size).lines
            box = Box(self.scale.margin, top, width, leading(size) * len(wrapped))
            yield Text(box=box, lines=wrapped, size=size, style=style)
            top = box.bottom + size // 4

    def _facts(self) -> tuple[str, ...]:
        if self.grid.part is None:
            return self.grid.facts
        *before, last = self.grid.facts or ("",)
        part = "part {} of {}".format(*self.grid.part)
        return (*before, f"{last} · {part}" if last else part)

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

    def _spans(self, columns: range) -> list[tuple[Group, int, int]]:
        """Return the groups of a block of columns, with their left edge in it and their width."""
        found = []
        start = columns.start
        for group in _crop_groups(self.grid.column_groups, columns):
            left = self._cell_left(0, start, columns)
            last = self._cell_left(0, start + group.size - 1, columns)
            found.append((group, left, last + self.cell_width - left))
            start += group.size
        return found

    def _fit_groups(self) -> _Fitted:
        """Fit the labels of all groups of columns, block after block, at one size."""
        spans = [span for spans in self.spans.values() for span in spans]
        size = self.scale.label
        return _fit(
            [group.label for group, _, _ in spans],
            min((width for _, _, width in spans), default=0),
            size=size,
            tall=3 * leading(size),
            ruler=self.labels,
        )

    def _column_groups(self, left: int, top: int, columns: range) -> int:
        """Place the labels above groups of columns, each over a line as wide as its group."""
        fitted, first = self.group_heads, 0
        for before, spans in self.spans.items():
            if before == columns:
                break
            first += len(spans)
        places = range(first, first + len(self.spans[columns]))
        bottom = top + max(map(fitted.height, places))
        for place, (_, start, width) in zip(places, self.spans[columns], strict=True):
            tall = fitted.height(place)
            box = Box(left + start, bottom - tall, width, tall)
            lines = fitted.lines[place]
            self.texts.append(Text(box=box, lines=lines, size=fitted.size, style=Style.LABEL))
            self.rules.append(Box(box.left, bottom + 3, width, _RULE))
        return self.rules[-1].bottom + self.scale.label // 2

    def _heading(self, label: str, left: int, top: int, width: int) -> Text:
        """Place the label above a group of rows, over a line as wide as their block."""
        size = self.scale.label
        lines = self.labels.wrap(label, width, size).lines
        box = Box(left, top, width, leading(size) * len(lines))
        self.rules.append(Box(left, box.bottom + 3, width, _RULE))
        return Text(box=box, lines=lines, size=size, style=Style.LABEL)

    def _column_heads(self, left: int, top: int, columns: range) -> Iterator[Text]:
        """Place the names of the axes and, below them, the labels of the columns."""
        grid, scale = self.grid, self.scale
        size, height = scale.label, leading(scale.label)
        cells, width = left + self.side, self._cells_width(columns)
        if grid.x_name:
            wrapped = _Ruler(self.measure, Style.AXIS).wrap(grid.x_name, width, size).lines
            box = Box(cells, top, width, height * len(wrapped))
            yield Text(box=box, lines=wrapped, size=size, style=Style.AXIS)
            top = box.bottom + size // 4
        bottom = top + max(map(self.heads.height, columns))
        if grid.y_name and self.side_width:
            box = Box(left, max(top, bottom - height), self.side_width, height)
            yield Text(box=box, lines=(grid.y_name,), size=size, style=Style.AXIS)
        for column in columns:
            if tall := self.heads.height(column):
                at = self._cell_left(cells, column, columns)
                yield Text(
                    box=Box(at, bottom - tall, self.cell_width, tall),
                    lines=self.heads.lines[column],
                    size=self.heads.size,
                    style=Style.LABEL,
                    align="center",
                )

    def _captions(self, row: int, columns: range, left: int, top: int) -> Iterator[Text]:
        if not self.grid.captions:
            return
        places = [row * len(self.grid.columns) + column for column in columns]
        bottom = top + max(map(self.captions.height, places))
        for column, place in zip(columns, places, strict=True):
            if tall := self.captions.height(place):
                at = self._cell_left(left, column, columns)
                yield Text(
                    box=Box(at, bottom - tall, self.cell_width, tall),
                    lines=self.captions.lines[place],
                    size=self.captions.size,
                    style=Style.LABEL,
                    align="center",
                )

    def _side(self, row: int, left: int, top: int, height: int) -> Iterator[Text]:
        if tall := self.sides.height(row):
            box = Box(left, top + (height - tall) // 2, self.side_width, tall)
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
