"""Contact sheets: the pictures of an output beside each other, labelled by what made them differ.

The idea is one table. The rows are those of the catalog, rendered or failed, and besides them the
cells of the job that no row answers yet. Up to five columns of it are laid out: across and down,
each in groups if wanted, and page by page; what else varies is tiled inside the cells. So every
axis can be any column, a sheet can be drawn before, during and after a run, and axes are swapped
without rendering anything.

This module decides *what* is shown where. `layout` turns that into pixels and `paint` into a file.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import itertools
import math
import os
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from PIL import Image

from farm.errors import InputError, StoreError, suggest
from farm.manifest.job import LEAST_TILE, VAR_PREFIX, SheetSettings
from farm.store import Store
from farm.store.files import Files, open_files
from farm.store.layout import SHEETS
from farm.task import FIELDS, Scalar
from farm.view import layout, paint
from farm.view.layout import Grid, Group, Layout, Legend
from farm.view.missing import MISSING
from farm.view.orders import sort_key
from farm.view.pages import Limits, columns_of_page, paginate
from farm.view.publish import publish
from farm.view.table import NUMBERS, Record, Table, display, show, show_number
from farm.view.thumbnails import SIZES, THREADS, Thumbnails
from farm.view.typeface import measure
from farm.view.words import count

if TYPE_CHECKING:
    import pandas as pd

_NATURAL_EDGE = 512
"""Pictures are shown pixel for pixel up to this size, and reduced to it beyond."""
_MOST_TILES = 16
"""If a cell would hold more pictures than this, what varies most gets pages of its own."""
_DELETED = "deleted"
"""What becomes of an image whose file is gone, and the mark of its row."""
_BATCH = 64
"""Images that one thread looks for before it takes the next."""
MOST_FILES = 1000
"""A sheet of more pages goes into one file."""
MOST_VALUES = 1000
"""An axis with more values than this is no sheet any more."""
_WORTH_A_THUMBNAIL = 1.5
"""From this reduction on, a kept thumbnail is read instead of the image."""
_PICTURE = Limits(pixels=180_000_000, edge=65_535)
"""How large a sheet may be that is returned as one picture: half a gigabyte."""


def make_sheet(
    output: str,
    settings: SheetSettings | None = None,
    *,
    out: str | os.PathLike[str] | None = None,
    max_pixels: int | None = None,
) -> list[str]:
    """Write contact sheets of an output and return their files.

    Args:
        output: folder or URL.
        settings: what to show; by default everything, on axes that are chosen.
        out: file to write, `.png`, `.jpg`, `.webp`, `.pdf` or `.tif`; in the first three a number
            is added if there are several pages. By default it is in the output, as `settings` say.
        max_pixels: a page with more is divided; by default what suits the format.

    Raises:
        OutputError: there is no readable output at `output`, or `out` cannot be written.
        InputError: there is nothing to show, a column does not exist, an axis has too many values,
            or the format is unknown.
    """
    chosen = settings or SheetSettings()
    store = Store.open(output)
    target = _Target.of(store, chosen, out)
    limits = paint.limits_of(target.suffix, pixels=max_pixels)
    table = Table.read(store, where=chosen.where, asked=_asked(chosen))
    if not table.rows:
        raise _nothing(chosen, where=output, hint=f"farm status {output}")
    files = open_files(store.url)
    source = _Source(read=files.get, exists=files.exists, thumbnails=Thumbnails(files))
    source.mark_deleted(table.rows)
    theme = paint.theme_of(chosen.theme)
    parts = [
        (one, part)
        for one in _arrange(table, chosen, limits)
        for part in paginate(one.grid, measure, limits)
    ]
    if len(parts) > MOST_FILES and not paint.holds_pages(target.suffix):
        raise InputError(
            f"this sheet has {len(parts):,} pages, and would be as many files",
            hint=f"-o {target.stem}.pdf holds all pages; --where chooses some pictures, "
            "--tile 64 makes them smaller",
        )
    return target.write(
        len(parts),
        (paint.paint(part, one.contents(source, part), theme) for one, part in parts),
    )


def draw_sheet(frame: pd.DataFrame, settings: SheetSettings) -> Image.Image:
    """Return the contact sheet of a table such as `Catalog.to_pandas` gives, or of rows of it.

    It needs the column `image_file`, and the columns that it is laid out by.

    Raises:
        InputError: there is nothing to show, a column does not exist, an axis has too many values,
            or the sheet is larger than one picture should be.
    """
    table = Table.of_frame(frame, where=settings.where)
    if not table.rows:
        raise _nothing(settings, where="this table", hint=None)
    source = _Source(read=_read_anywhere, exists=_exists_anywhere, column="image_file")
    source.mark_deleted(table.rows)
    sheets = list(_arrange(table, settings, _PICTURE))
    if len(sheets) > 1:
        raise InputError(
            f"'{settings.page}' makes {len(sheets)} pages, and this is one picture",
            hint="choose one value of it first, or use make_sheet with a file",
        )
    [one] = sheets
    whole, *rest = paginate(one.grid, measure, _PICTURE)
    if rest:
        raise InputError(
            f"this sheet would have more than {_PICTURE.pixels:,} pixels",
            hint="choose fewer rows, or smaller pictures with tile",
        )
    return paint.paint(whole, one.contents(source, whole), paint.theme_of(settings.theme))


def _asked(settings: SheetSettings) -> list[str]:
    """Return the columns that settings name, in their spelling."""
    sort = (settings.sort or "").strip().partition(" ")[0]
    against = (settings.diff_against or "").partition("=")[0].strip()
    named = [*(getattr(settings, name) for name in AXES), settings.score, sort, against]
    return [name for name in named if name]


def _nothing(settings: SheetSettings, *, where: str, hint: str | None) -> InputError:
    asked = f" where {settings.where}" if settings.where else ""
    return InputError(f"there is nothing to show{asked}", where=where, hint=hint)


# --- axes ---------------------------------------------------------------------------------------

AXES = ("x", "y", "page", "super_x", "super_y")
"""The settings that name a column to lay out by."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Axes:
    """Which columns a sheet is laid out by."""

    x: str | None
    y: str | None
    page: str | None
    super_x: str | None = None
    super_y: str | None = None
    inside: tuple[str, ...]
    """What else varies, tiled inside the cells; the first varies slowest."""

    @property
    def across(self) -> tuple[str, ...]:
        """The columns whose values make one column of the sheet."""
        return tuple(name for name in (self.super_x, self.x) if name)

    @property
    def down(self) -> tuple[str, ...]:
        """The columns whose values make one row of the sheet."""
        return tuple(name for name in (self.super_y, self.y) if name)

    @property
    def every(self) -> tuple[str, ...]:
        """All columns that tell pictures apart."""
        page = (self.page,) if self.page else ()
        return (*page, *self.down, *self.across, *self.inside)


def choose_axes(
    rows: Sequence[Record],
    *,
    order: Sequence[str],
    x: str | None = None,
    y: str | None = None,
    page: str | None = None,
    super_x: str | None = None,
    super_y: str | None = None,
) -> Axes:
    """Complete the axes that a user asked for, so that every row finds a place of its own.

    Columns that follow from others (a prompt from its variables) are no axes. What reads longest
    goes down, because labels have room there; of the rest, what has most values goes across; seeds
    are tiled inside the cells as long as something else can be an axis. If too many pictures would
    share a cell, the axis with most values among them gets pages. What has more values than an axis
    has room for gets pages too, unless it is asked for.
    """
    given = [name for name in (x, y, page, super_x, super_y) if name is not None]
    if len(set(given)) < len(given):
        raise InputError("every axis of a sheet is another column", hint="name each only once")
    free = _independent(rows, order, given)
    count = {name: len({row[name] for row in rows}) for name in free}
    fitting = [name for name in free if count[name] <= MOST_VALUES]
    settings = [name for name in fitting if name != "seed"]
    seeds = [name for name in fitting if name == "seed"]

    def length(name: str) -> int:
        texts = {row[name] for row in rows if isinstance(row[name], str)}
        return max((len(show(text)) for text in texts), default=0)

    def take(candidates: list[str], key: Callable[[str], int]) -> str | None:
        chosen = max(candidates, key=key, default=None)
        if chosen in free:
            free.remove(chosen)
        if chosen in settings:
            settings.remove(chosen)
        return chosen

    alone = len(free) == 1 and not given
    if y is None and not alone and settings:
        texts = [name for name in settings if length(name)]
        y = take(texts or (settings if x else settings[:1]), length if texts else count.__getitem__)
    if x is None and not alone:
        x = take(settings or seeds, count.__getitem__)
    if y is None and not alone:
        y = take([name for name in seeds if name in free], count.__getitem__)
    found = Axes(x=x, y=y, page=None, super_x=super_x, super_y=super_y, inside=tuple(free))
    if page is None and max(_filled(rows, found).values(), default=0) > _MOST_TILES:
        page = take(settings or [name for name in free if name not in fitting], count.__getitem__)
    return dataclasses.replace(found, page=page, inside=tuple(free))


def _independent(rows: Sequence[Record], order: Sequence[str], given: Sequence[str]) -> list[str]:
    """Return, in order, the columns that tell rows apart which those before them do not."""
    keys: list[tuple[Any, ...]] = [tuple(row[name] for name in given) for row in rows]
    distinct = len(set(keys))
    found = []
    for name in order:
        if name in given:
            continue
        longer = [(*key, row[name]) for key, row in zip(keys, rows, strict=True)]
        if (count := len(set(longer))) > distinct:
            keys, distinct = longer, count
            found.append(name)
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class _Told:
    """What the labels of an axis tell besides its value: the settings that follow from it.

    `DPM++ 2M Karras` is one value of a job's axis and two settings, a sampler and a schedule; the
    schedule would stand nowhere, because it is no axis and not the same for all.
    """

    besides: Mapping[str, Mapping[Scalar, str]]
    """Axis -> its values that need words -> those words."""

    @classmethod
    def of(cls, table: Table, axes: Axes) -> _Told:
        """Return what follows from each axis, every column told on one of them."""
        left = [name for name in table.order if name not in axes.every]
        besides: dict[str, dict[Scalar, str]] = {}
        for axis in axes.every:
            if axis not in table.order:  # of what was measured, settings do not follow
                continue
            words: dict[Scalar, list[str]] = {}
            for name in list(left):
                found = _following(table.rows, axis, name)
                if found is None:
                    continue
                left.remove(name)
                for value, other in found.items():
                    if other is not None and other not in _UNSAID:
                        words.setdefault(value, []).append(_said(name, other))
            besides[axis] = {value: " · ".join(texts) for value, texts in words.items()}
        return cls(besides=besides)

    def label(self, name: str, value: Scalar) -> str:
        """Return the label of a value of an axis."""
        besides = self.besides.get(name, {}).get(value)
        return f"{show(value)} · {besides}" if besides else show(value)


def _said(name: str, value: Scalar) -> str:
    """Return a value that stands alone: a word says what it is, a number needs its column."""
    return show(value) if isinstance(value, str) else f"{display(name)} {show(value)}"


def _following(rows: Sequence[Record], axis: str, name: str) -> dict[Scalar, Scalar] | None:
    """Return the one value that `name` has at each of an axis' values.

    None if it has several, is the same for all, or contains the values of the axis, as a prompt
    does those of its variables: then it says nothing new.
    """
    found: dict[Scalar, Scalar] = {}
    for row in rows:
        if name in _USED and row[name] is None:
            continue
        if found.setdefault(row[axis], row[name]) != row[name]:
            return None
    says_it = all(isinstance(other, str) and show(value) in other for value, other in found.items())
    return None if says_it or len(set(found.values())) < 2 else found  # noqa: PLR2004


def _state(row: Record) -> str:
    """Return what there is of a cell: its status, or that its image was deleted."""
    return _DELETED if row.get(_DELETED) else str(row["status"])


def _values(row: Record, names: Iterable[str]) -> tuple[Any, ...]:
    return tuple(row[name] for name in names)


def _filled(rows: Sequence[Record], axes: Axes) -> Counter[tuple[Any, ...]]:
    """Return how many rows share each cell; empty ones do not count."""
    names = [name for name in axes.every if name not in axes.inside]
    return Counter(_values(row, names) for row in rows)


# --- what a slot shows --------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class _Source:
    """Where pictures come from."""

    read: Callable[[str], bytes]
    """Returns an image's bytes by what stands in `column`."""
    exists: Callable[[str], bool]
    column: str = "image_path"
    thumbnails: Thumbnails | None = None

    def mark_deleted(self, records: Iterable[Record]) -> None:
        """Mark the records of images whose files are gone."""

        def mark(some: Sequence[Record]) -> None:
            for record in some:
                with contextlib.suppress(StoreError):  # whether it can be read, shows when it is
                    if not self.exists(record[self.column]):
                        record[_DELETED] = True

        rendered = (record for record in records if record["status"] == "rendered")
        with ThreadPoolExecutor(THREADS) as pool:
            for _ in pool.map(mark, iter(lambda: list(itertools.islice(rendered, _BATCH)), [])):
                pass

    def reader(self, record: Record, tile: tuple[int, int]) -> paint.Read:
        """Return what reads the picture of a record, from a thumbnail if that is enough."""
        path, longest = record[self.column], max(tile)
        size = max(record.get("width") or 0, record.get("height") or 0)
        enough = next((edge for edge in SIZES if edge >= longest), None)
        if self.thumbnails and enough and size >= _WORTH_A_THUMBNAIL * enough:
            return functools.partial(self.thumbnails.get, path, enough)
        return functools.partial(self.read, path)


def _read_anywhere(place: str) -> bytes:
    """Return the bytes of a file at a path or URL."""
    return _files_of(place).get(_name_of(place))


def _exists_anywhere(place: str) -> bool:
    return _files_of(place).exists(_name_of(place))


def _files_of(place: str) -> Files:
    return open_files(place.replace("\\", "/").rpartition("/")[0] or ".")


def _name_of(place: str) -> str:
    return place.replace("\\", "/").rpartition("/")[2]


_RARE = 0.02
"""The share of numbers at either end that may be outliers."""
_FAR = 3
"""How many times the span of the others the whole span is, if there are outliers."""
_AT_MOST, _AT_LEAST = "\N{LESS-THAN OR EQUAL TO}", "\N{GREATER-THAN OR EQUAL TO}"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Scores:
    """The numbers of a column, and the range that colours span.

    An outlier, such as the first image of a run by its time, would leave one colour to all others.
    What lies beyond the range has the colour of its end.
    """

    name: str
    low: float
    high: float
    is_lowest: bool
    """Whether no number lies below the range."""
    is_highest: bool

    @classmethod
    def of(cls, table: Table, name: str | None) -> _Scores | None:
        """Return the scores in a column, if one is asked for.

        Raises:
            InputError: there is no such column, or it holds no numbers.
        """
        column = table.resolve(name)
        if column is None:
            return None
        table.require_numbers(column)
        found = [value for value in table.values(column) if isinstance(value, int | float)]
        if not found:
            raise InputError(f"'{display(column)}' has no values here", hint=NUMBERS)
        numbers = [row[column] for row in table.rows if row[column] is not None]
        finite = sorted(float(one) for one in numbers if math.isfinite(one)) or [0.0]
        last = len(finite) - 1
        low, high = finite[math.ceil(last * _RARE)], finite[math.floor(last * (1 - _RARE))]
        middle = high - low
        is_wide = 0 < _FAR * middle < finite[-1] - finite[0]
        # Only the end that outliers stretch is drawn in.
        is_lowest = not (is_wide and low - finite[0] > middle)
        is_highest = not (is_wide and finite[-1] - high > middle)
        return cls(
            name=column,
            low=finite[0] if is_lowest else low,
            high=finite[-1] if is_highest else high,
            is_lowest=is_lowest,
            is_highest=is_highest,
        )

    def score(self, record: Record) -> paint.Score | None:
        """Return what the strip of a record says."""
        value = record[self.name]
        if value is None or not math.isfinite(value):
            return None
        span = self.high - self.low
        share = (value - self.low) / span if span else 0.5
        return paint.Score(text=show_number(value), share=min(1.0, max(0.0, share)))

    def legend(self) -> Legend:
        """Return what explains the colours."""
        low, high = show_number(self.low), show_number(self.high)
        return Legend(
            name=display(self.name),
            low=low if self.is_lowest else f"{_AT_MOST}{low}",
            high=high if self.is_highest else f"{_AT_LEAST}{high}",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Difference:
    """What pictures are compared with: those that agree in every axis but one."""

    name: str
    value: Scalar
    others: tuple[str, ...]
    references: Mapping[tuple[Any, ...], Record]

    @classmethod
    def of(cls, table: Table, axes: Axes, asked: str | None) -> _Difference | None:
        """Read `column=value`.

        Raises:
            InputError: it has another form, or no axis of the sheet has that value.
        """
        if asked is None:
            return None
        name, equals, text = asked.partition("=")
        if not equals:
            raise InputError(
                f"'{asked}' does not say what to compare with",
                hint="write column=value, such as --diff-against sampler=euler",
            )
        column = table.resolve(name.strip())
        assert column is not None
        if column not in axes.every:
            raise InputError(
                f"'{display(column)}' is no axis of this sheet",
                note=f"axes: {', '.join(map(display, axes.every))}",
                hint=f"add --x {display(column)}",
            )
        known = {show(value): value for value in table.levels(column)}
        if (wanted := as_shown(text.strip(), known)) is None:
            raise InputError(
                f"'{display(column)}' has no value '{text.strip()}' here",
                note=f"values: {', '.join(known)}",
                hint=suggest(text.strip(), known),
            )
        others = tuple(one for one in axes.every if one != column)
        return cls(
            name=column,
            value=known[wanted],
            others=others,
            references={
                _values(row, others): row
                for row in table.rows
                if row[column] == known[wanted] and _state(row) == "rendered"
            },
        )

    def reference(self, record: Record) -> Record | None:
        """Return the picture to compare with; None for a picture that others are compared with."""
        return None if record[self.name] == self.value else self.references.get(self._key(record))

    def lacks(self, record: Record) -> bool:
        """Return whether there is nothing to compare a picture with."""
        return record[self.name] != self.value and self._key(record) not in self.references

    def _key(self, record: Record) -> tuple[Any, ...]:
        return _values(record, self.others)

    def describe(self) -> str:
        """Return, in words, what is shown."""
        return (
            f"difference to {display(self.name)} {show(self.value)}: black where equal, "
            "on a square-root scale"
        )


def as_shown(text: str, known: Iterable[str]) -> str | None:
    """Return which known label a user means: it itself, or the same number."""
    labels = list(known)
    if text in labels:
        return text
    with contextlib.suppress(ValueError):
        if (number := show(float(text))) in labels:
            return number
    return None


# --- one sheet ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class _One:
    """The sheet of one value of the page axis: its grid, and the row in each slot."""

    grid: Grid
    records: Mapping[tuple[int, int, int], Record]
    scores: _Scores | None
    difference: _Difference | None

    def contents(
        self, source: _Source, part: Layout
    ) -> dict[tuple[int, int, int], paint.Picture | paint.Missing]:
        """Return what the slots of one page hold."""
        found = {}
        for slot in part.slots:
            place = (slot.row, slot.column, slot.number)
            if place in self.records:
                tile = (slot.box.width, slot.box.height)
                found[place] = self._content(source, self.records[place], tile)
        return found

    def _content(
        self, source: _Source, record: Record, tile: tuple[int, int]
    ) -> paint.Picture | paint.Missing:
        match _state(record):
            case "rendered":
                score = self.scores.score(record) if self.scores else None
                if self.difference is None or record[self.difference.name] == self.difference.value:
                    return paint.Picture(read=source.reader(record, tile), score=score)
                if (other := self.difference.reference(record)) is None:
                    return paint.Missing(headline="nothing to compare with")
                # Thumbnails are lossy, and would differ where the images do not.
                return paint.Picture(
                    read=functools.partial(source.read, record[source.column]),
                    less=functools.partial(source.read, other[source.column]),
                    score=score,
                )
            case "failed":
                kind = str(record.get("error_kind") or "failed").replace("_", " ")
                reason = record.get("error_message") or ""
                return paint.Missing(headline=kind, reason=reason, is_failure=True)
            case status if status == _DELETED:
                return paint.Missing(
                    headline="image missing", reason="its file is gone", is_failure=True
                )
            case _:
                return paint.Missing(headline="to do")


def _arrange(table: Table, settings: SheetSettings, limits: Limits) -> Iterator[_One]:
    """Yield a sheet for every value of the page axis."""
    sorting = Sorting.of(table, settings.sort)
    given = {name: table.axis(getattr(settings, name)) for name in AXES}
    if sorting and not any(given.values()):
        # One ranking of everything: no axis may tear it apart.
        inside = tuple(_independent(table.rows, table.order, ()))
        axes = Axes(x=None, y=None, page=None, inside=inside)
    else:
        axes = choose_axes(table.rows, order=table.order, **given)
    _require_few_values(table, axes)
    rows = sorting.apply(table.rows) if sorting else table.rows
    inside_cells = _Inside.of(table, axes, is_sorted=sorting is not None)
    scores = _Scores.of(table, settings.score)
    difference = _Difference.of(table, axes, settings.diff_against)
    told = _Told.of(table, axes)
    style = _Style(
        title=table.title,
        facts=(
            *_facts(table, axes, inside_cells),
            *((difference.describe(),) if difference else ()),
            *((sorting.describe(),) if sorting else ()),
        ),
        scores=scores,
        difference=difference,
        unseen=table.unseen,
        told=told,
    )
    for page, shown in _by_page(table, rows, axes.page, told):
        # Pages may hold pictures of other sizes, as those of `page: width` do.
        size = _tile_size(shown, settings.tile)
        its_style = dataclasses.replace(style.on(page), tile=size)
        if axes.across or axes.down:
            yield _matrix(table, axes, inside_cells, rows=shown, style=its_style)
        else:
            yield _gallery(
                shown,
                inside_cells,
                style=its_style,
                sorting=sorting,
                most=columns_of_page(size, limits),
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Page:
    """A value of the page axis."""

    name: str
    value: str
    number: int
    of: int


_MOST_TITLE = 60
"""Characters of a value that still stand in a title; a longer one has a line below it."""


def _by_page(
    table: Table, rows: Sequence[Record], name: str | None, told: _Told
) -> Iterator[tuple[_Page | None, Sequence[Record]]]:
    """Yield the rows of each value of the page axis, in its order."""
    if name is None:
        yield None, rows
        return
    held: dict[Scalar, list[Record]] = {value: [] for value in table.levels(name)}
    for row in rows:
        held[row[name]].append(row)
    for number, (value, shown) in enumerate(held.items(), 1):
        page = _Page(name=display(name), value=told.label(name, value), number=number, of=len(held))
        yield page, shown


def _require_few_values(table: Table, axes: Axes) -> None:
    """Refuse axes that nobody could look along. Pages may be any number: each is a sheet."""
    for name in (axes.x, axes.y, axes.super_x, axes.super_y):
        if name is None or (count := len({row[name] for row in table.rows})) <= MOST_VALUES:
            continue
        label = display(name)
        raise InputError(
            f"'{label}' has {count:,} values, and an axis has room for {MOST_VALUES:,}",
            hint=f"--page {label} makes a sheet of each; --where chooses some",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Style:
    """What all pages of a sheet share, but for the size of their pictures."""

    title: str
    facts: tuple[str, ...]
    scores: _Scores | None
    difference: _Difference | None
    unseen: int
    told: _Told
    tile: tuple[int, int] = (_NATURAL_EDGE, _NATURAL_EDGE)
    """Width and height of a picture, which every page has of its own."""

    def on(self, page: _Page | None) -> _Style:
        """Return the style of one page, whose value is in the title, or below it if it is long."""
        if page is None:
            return self
        if len(page.value) <= _MOST_TITLE:
            return dataclasses.replace(self, title=f"{self.title} · {page.name} {page.value}")
        return dataclasses.replace(
            self,
            title=f"{self.title} · {page.name} {page.number} of {page.of}",
            facts=(f"{page.name}: {page.value}", *self.facts),
        )

    def sheet(
        self,
        shown: Sequence[Record],
        /,
        *,
        records: Mapping[tuple[int, int, int], Record],
        **places: Any,  # noqa: ANN401 - what a Grid has besides
    ) -> _One:
        """Return one sheet: what is common, and the places of its pictures."""
        return _One(
            grid=Grid(
                title=self.title,
                facts=(*self.facts, _count(records.values(), of=len(shown), unseen=self.unseen)),
                tile=self.tile,
                strip=min(20, max(5, round(self.tile[1] / 9))) if self.scores else 0,
                legend=self.scores.legend() if self.scores else None,
                **places,
            ),
            records=records,
            scores=self.scores,
            difference=self.difference,
        )


def _matrix(
    table: Table,
    axes: Axes,
    inside: _Inside,
    *,
    rows: Sequence[Record],
    style: _Style,
) -> _One:
    """Return a sheet of rows and columns."""
    across, down = _lines(table, rows, axes.across), _lines(table, rows, axes.down)
    told = style.told
    return style.sheet(
        rows,
        records=_place(rows, axes, inside, rows_at=down, columns_at=across),
        x_name=display(axes.x) if axes.x else "",
        y_name=display(axes.y) if axes.y else "",
        columns=tuple(told.label(axes.x, key[-1]) if axes.x else "" for key in across),
        rows=tuple(told.label(axes.y, key[-1]) if axes.y else "" for key in down),
        column_groups=_groups(axes.super_x, across, told),
        row_groups=_groups(axes.super_y, down, told),
        slots=inside.slots,
        across=inside.across(style.tile),
    )


def _lines(table: Table, rows: Sequence[Record], names: Sequence[str]) -> list[tuple[Any, ...]]:
    """Return the combinations of values that occur, in order: those of one row or column each."""
    ranks = [{value: rank for rank, value in enumerate(table.levels(name))} for name in names]
    return sorted(
        {_values(row, names) for row in rows},
        key=lambda key: [rank[value] for rank, value in zip(ranks, key, strict=True)],
    )


def _groups(name: str | None, lines: Sequence[tuple[Any, ...]], told: _Told) -> tuple[Group, ...]:
    if name is None:
        return ()
    return tuple(
        Group(label=f"{display(name)}: {told.label(name, value)}", size=len(list(same)))
        for value, same in itertools.groupby(lines, key=lambda key: key[0])
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Sorting:
    """An order of pictures: by the values of a column, those without one last."""

    column: str
    is_descending: bool

    @classmethod
    def of(cls, table: Table, asked: str | None) -> Sorting | None:
        """Read `column`, `column asc` or `column desc`.

        Raises:
            InputError: it has another form, or there is no such column.
        """
        if asked is None:
            return None
        name, _, way = asked.strip().partition(" ")
        if way.strip().lower() not in {"", "asc", "desc"}:
            raise InputError(f"'{asked}' is no order", hint="write a column, or a column and desc")
        column = table.resolve(name)
        assert column is not None
        return cls(column=column, is_descending=way.strip().lower() == "desc")

    def apply(self, rows: Sequence[Record]) -> list[Record]:
        """Return the rows in this order; rows that are equal in it stay in theirs."""
        known = [row for row in rows if row[self.column] is not None]
        rest = [row for row in rows if row[self.column] is None]
        ordered = sorted(
            known, key=lambda row: sort_key(row[self.column]), reverse=self.is_descending
        )
        return ordered + rest

    def describe(self) -> str:
        """Return, in words, what comes first."""
        return f"sorted by {display(self.column)}" + (
            ", the highest first" if self.is_descending else ""
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Inside:
    """What varies inside the cells, and which slot of a cell each combination has."""

    names: tuple[str, ...]
    levels: tuple[tuple[Scalar, ...], ...]
    """The values of each name."""
    combinations: tuple[tuple[Any, ...], ...]
    slots: int
    is_fixed: bool
    """Whether a combination has the same slot in every cell; else slots are filled as rows come."""
    is_sorted: bool
    """Whether rows come in an order that a user asked for."""

    @classmethod
    def of(cls, table: Table, axes: Axes, *, is_sorted: bool) -> _Inside:
        levels = tuple(tuple(table.levels(name)) for name in axes.inside)
        combinations = _lines(table, table.rows, axes.inside)
        filled = _filled(table.rows, axes)
        most = max(filled.values(), default=0)
        # Of a sampled or zipped matrix, or on an axis of ranges, a cell holds few of the many
        # combinations: a slot for each would be mostly holes.
        is_dense = 2 * len(table.rows) >= len(combinations) * len(filled)
        is_fixed = len(combinations) <= 2 * most and is_dense and not is_sorted
        return cls(
            names=axes.inside,
            levels=levels,
            combinations=tuple(combinations),
            slots=len(combinations) if is_fixed else most,
            is_fixed=is_fixed,
            is_sorted=is_sorted,
        )

    @property
    def is_product(self) -> bool:
        """Whether every combination of the values stands in a slot of its own."""
        return self.is_fixed and self.slots == math.prod(map(len, self.levels))

    def key(self, row: Record) -> tuple[Any, ...]:
        """Return the combination of one row."""
        return _values(row, self.names)

    def ordered(self, rows: Sequence[Record]) -> list[Record]:
        """Return rows as they follow each other in a cell."""
        if self.is_sorted:
            return list(rows)
        rank = {key: place for place, key in enumerate(self.combinations)}
        return sorted(rows, key=lambda row: rank[self.key(row)])

    def across(self, tile: tuple[int, int]) -> int | None:
        """Return how many slots stand beside each other, so that lines end where a value does."""
        if not self.is_product or len(self.names) < 2:  # noqa: PLR2004 - one axis wraps anywhere
            return None
        sizes = [len(values) for values in self.levels]
        ends = [math.prod(sizes[place:]) for place in range(1, len(sizes))]
        return layout.arrange(self.slots, tile, ends)

    def describe(self) -> str:
        """Return, in words, what stands in the slots of a cell."""
        if self.is_product:
            return f" {_TIMES} ".join(
                f"{_joined(display(name))} {_listed(values)}"
                for name, values in zip(self.names, self.levels, strict=True)
            )
        names = ", ".join(map(display, self.names))
        if not self.is_fixed or self.slots > _MOST_TILES:
            return f"different {names}"
        return f"{names}: " + ", ".join(
            _joined(" / ".join(map(show, key))) for key in self.combinations
        )


def _place(
    rows: Sequence[Record],
    axes: Axes,
    inside: _Inside,
    *,
    rows_at: Sequence[tuple[Any, ...]],
    columns_at: Sequence[tuple[Any, ...]],
) -> dict[tuple[int, int, int], Record]:
    """Give every row a slot: (row, column, number in the cell)."""
    down = {key: place for place, key in enumerate(rows_at)}
    across = {key: place for place, key in enumerate(columns_at)}
    rank = {key: place for place, key in enumerate(inside.combinations)}
    placed: dict[tuple[int, int, int], Record] = {}
    filled: Counter[tuple[int, int]] = Counter()
    for row in inside.ordered(rows):
        cell = (down[_values(row, axes.down)], across[_values(row, axes.across)])
        slot = (*cell, rank[inside.key(row)] if inside.is_fixed else filled[cell])
        filled[cell] += 1
        # Rows that no column of the sheet tells apart share a slot: a picture goes before one that
        # is gone, that before a failure, and a failure before a task that is still to do.
        if slot not in placed or _rank(row) < _rank(placed[slot]):
            placed[slot] = row
    return placed


def _rank(row: Record) -> int:
    return ("rendered", _DELETED, "failed", MISSING).index(_state(row))


def _gallery(
    rows: Sequence[Record],
    inside: _Inside,
    *,
    style: _Style,
    sorting: Sorting | None,
    most: int,
) -> _One:
    """Return a sheet of one axis, wrapped: every picture with its value above it.

    `most` pictures at most stand beside each other.
    """
    ordered = inside.ordered(rows)
    across = min(most, layout.arrange(len(ordered), style.tile))
    down = math.ceil(len(ordered) / across)
    captions = [
        ", ".join(style.told.label(name, row[name]) for name in inside.names) for row in ordered
    ]
    if sorting and not style.scores:
        values = [show_number(row[sorting.column]) for row in ordered]
        captions = [
            f"{value}: {caption}" if caption else value
            for value, caption in zip(values, captions, strict=True)
        ]
    captions += [""] * (across * down - len(ordered))
    return style.sheet(
        rows,
        records={(*divmod(place, across), 0): row for place, row in enumerate(ordered)},
        x_name=", ".join(map(display, inside.names)),
        columns=("",) * across,
        rows=("",) * down,
        captions=tuple(captions),
    )


def _tile_size(rows: Sequence[Record], tile: int | None) -> tuple[int, int]:
    """Return a box that every picture fits into, with sides in the proportion of the largest.

    Raises:
        InputError: `tile` asks for pictures that show nothing.
    """
    if tile is not None and tile < LEAST_TILE:
        raise InputError(
            f"pictures of {tile} pixels are too small to see",
            hint=f"let tile be at least {LEAST_TILE}",
        )
    width = max((row.get("width") or 0 for row in rows), default=0) or _NATURAL_EDGE
    height = max((row.get("height") or 0 for row in rows), default=0) or _NATURAL_EDGE
    longest = max(width, height)
    scale = tile / longest if tile else min(1.0, _NATURAL_EDGE / longest)
    return max(1, round(width * scale)), max(1, round(height * scale))


# --- words --------------------------------------------------------------------------------------


_TIMES = "\N{MULTIPLICATION SIGN}"
_UNSAID = frozenset({"", "default", "torch", "diffusers"})
"""Values that go without saying among the fixed settings."""
_USED = frozenset({"width", "height"})
"""Fields that a task may leave to the model: those still to do do not know them."""


def _joined(text: str) -> str:
    """Return `text` as one word, which no line break may divide."""
    return text.replace(" ", "\N{NO-BREAK SPACE}")


def _listed(values: Sequence[Scalar]) -> str:
    """Return values as a job file would have them: `1..4`, or one after the other."""
    numbers = [value for value in values if isinstance(value, int)]
    if len(numbers) == len(values) > 2 and numbers == list(range(numbers[0], numbers[-1] + 1)):  # noqa: PLR2004 - two are shorter said
        return f"{numbers[0]}..{numbers[-1]}"
    return ", ".join(_joined(show(value)) for value in values)


def _facts(table: Table, axes: Axes, inside: _Inside) -> tuple[str, ...]:
    """Return the lines below the title: what all pictures share, and what is inside a cell."""
    shared: dict[str, Any] = {}
    variables = [name for name in table.columns if name.startswith(VAR_PREFIX)]
    for name in (*FIELDS, *variables):
        values = table.values(name) if name in table.columns else set()
        if name in _USED:
            values -= {None}
        if name != "dtype" and len(values) == 1 and not values <= _UNSAID | {None}:
            [shared[name]] = values
    lines = [
        f"{name.replace('_', ' ')}: {shared.pop(name)}"
        for name in ("prompt", "negative_prompt")
        if name in shared
    ]
    size = [shared.pop(name, None) for name in ("width", "height")]
    # What the prompt says already is not said twice.
    settings = [
        f"{display(name)} {show(value)}"
        for name, value in shared.items()
        if name in FIELDS or not any(show(value) in line for line in lines)
    ]
    if None not in size:
        settings.append(f"{size[0]} {_TIMES} {size[1]}")
    if settings:
        lines.append(" · ".join(map(_joined, settings)))
    if inside.slots > 1 and (axes.across or axes.down):
        lines.append(f"in each cell: {inside.describe()}")
    return tuple(lines)


def _count(shown: Collection[Record], *, of: int, unseen: int) -> str:
    """Return how many pictures are shown, and of how many cells there is none, and why."""
    numbers = Counter(map(_state, shown))
    parts = [count(numbers["rendered"], "image")]
    parts += [f"{numbers[status]:,} {status}" for status in (_DELETED, "failed") if numbers[status]]
    if hidden := of - len(shown):
        parts.append(f"{hidden:,} of the same settings not shown")
    if to_do := numbers[MISSING] + unseen:
        parts.append(f"{to_do:,} not rendered yet")
    return " · ".join(parts)


# --- files --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class _Target:
    """Where pages go: beside each other in a folder of this machine, or into an output."""

    folder: str
    """A folder, or the URL of an output with the folder inside it."""
    stem: str
    suffix: str

    @classmethod
    def of(
        cls, store: Store, settings: SheetSettings, out: str | os.PathLike[str] | None
    ) -> _Target:
        """Return the file that was asked for, or one in the output."""
        if out is not None:
            path = Path(out)
            return cls(folder=str(path.parent), stem=path.stem, suffix=path.suffix)
        name = file_of(settings)
        suffix = paint.suffix_of(name)
        return cls(folder=f"{store.url}/{SHEETS}", stem=name.removesuffix(suffix), suffix=suffix)

    def write(self, count: int, pages: Iterator[Image.Image]) -> list[str]:
        """Write pages and return their files. Each appears whole: no viewer sees half a picture.

        Raises:
            OutputError: they cannot be written.
        """
        if paint.holds_pages(self.suffix):
            return [self._put(self.stem + self.suffix, pages)]
        if count == 1:
            return [self._put(self.stem + self.suffix, pages)]
        digits = max(2, math.ceil(math.log10(count + 1)))
        return [
            self._put(f"{self.stem}-{number:0{digits}}{self.suffix}", [page])
            for number, page in enumerate(pages, 1)
        ]

    def _put(self, name: str, pages: Iterable[Image.Image]) -> str:
        return publish(self.folder, name, lambda path: paint.save(path, pages), what="the sheet")


def file_of(settings: SheetSettings) -> str:
    """Return the name of a sheet's file: what is asked for, or one that says what it shows."""
    if settings.file is not None:
        return settings.file if paint.suffix_of(settings.file) else f"{settings.file}.png"
    axes = (settings.x, settings.y, settings.page, settings.super_x, settings.super_y)
    words = [
        *axes,
        settings.sort and f"by-{settings.sort}",
        settings.score and f"score-{settings.score}",
        settings.diff_against and f"against-{settings.diff_against}",
        settings.where and f"where-{settings.where}",
        settings.theme if settings.theme != "light" else None,
    ]
    return ("-".join(_slug(word) for word in words if word)[:_LONGEST_NAME] or "sheet") + ".png"


_LONGEST_NAME = 120


_ORDERS = MappingProxyType(
    {"<=": "to", ">=": "from", "<>": "not", "!=": "not", "<": "below", ">": "above"}
)
"""What a comparison is called in a name: `seed < 3` and `seed > 3` are two sheets."""
_ORDER = re.compile("|".join(_ORDERS))


def _slug(text: str) -> str:
    said = _ORDER.sub(lambda found: f"-{_ORDERS[found[0]]}-", text)
    return re.sub(r"[^0-9A-Za-z_]+", "-", said).strip("-") or "x"
