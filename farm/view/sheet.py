"""Contact sheets: the pictures of an output beside each other, labelled by what made them differ.

The idea is one table. The rows are those of the catalog, rendered or failed, and besides them the
cells of the job that no row answers yet. Two columns of it are laid out across and down, a third
one page by page; what else varies is tiled inside the cells. So every axis can be any column, a
sheet can be drawn before, during and after a run, and axes are swapped without rendering anything.

This module decides *what* is shown where. `layout` turns that into pixels and `paint` into a file.
"""

from __future__ import annotations

import contextlib
import functools
import math
import os
import re
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import pyarrow as pa

from farm import grid, manifest
from farm.errors import FarmError, InputError, OutputError
from farm.grid import TaskSpace
from farm.manifest.job import VAR_PREFIX, Job
from farm.store import Store
from farm.store.files import Files, open_files
from farm.task import FIELDS, Scalar, format_task_id
from farm.view import layout, paint
from farm.view.layout import Grid, Layout
from farm.view.query import ask, read_catalog, resolve_column
from farm.view.typeface import measure

MISSING = "missing"
"""`status` of a cell of the job that the catalog has no row for."""

Record: TypeAlias = "dict[str, Any]"
"""One row of the table: column -> value."""

_NATURAL_EDGE = 512
"""Pictures are shown pixel for pixel up to this size, and reduced to it beyond."""
_MOST_TILES = 16
"""If a cell would hold more pictures than this, what varies most gets pages of its own."""
_MOST_ROWS = 50_000
_MOST_MISSING = 20_000
"""With more cells to do than this, a sheet shows what there is and tells the number."""


def make_sheet(
    output: str,
    *,
    x: str | None = None,
    y: str | None = None,
    page: str | None = None,
    where: str | None = None,
    out: str | os.PathLike[str] | None = None,
    tile: int | None = None,
    max_pixels: int = paint.PAGE_PIXELS,
) -> list[str]:
    """Write contact sheets of an output and return their files.

    Args:
        output: folder or URL.
        x: column whose values stand across; by default chosen, as is `y`.
        y: column whose values stand down.
        page: column with a sheet for each of its values.
        where: SQL expression; only rows for which it holds.
        out: file to write, `.png`, `.jpg` or `.webp`; a number is added if there are several.
            By default a PNG in the output's folder `sheets`.
        tile: longest side of a picture on the sheet, in pixels; by default its own, up to 512.
        max_pixels: a sheet with more is cut into pages.

    Raises:
        OutputError: there is no readable output at `output`, or `out` cannot be written.
        InputError: there is nothing to show, a column does not exist, or the format is unknown.
    """
    store = Store.open(output)
    target = _target(store, out, x=x, y=y, page=page)
    limits = paint.limits_of(target.suffix, pixels=max_pixels)
    table = _Table.read(store, where=where)
    if not table.rows:
        raise InputError(
            "there is nothing to show" + (f" where {where}" if where else ""),
            where=output,
            hint=f"farm query {output}" if where else f"farm status {output}",
        )
    axes = choose_axes(
        table.rows,
        order=table.order,
        x=table.resolve(x),
        y=table.resolve(y),
        page=table.resolve(page),
    )
    sheets = list(_arrange(table, axes, tile=tile))
    pages = [(one, part) for one in sheets for part in layout.paginate(one.grid, measure, limits)]
    names = _number(target, len(pages))
    files = open_files(store.url)
    for name, (one, part) in zip(names, pages, strict=True):
        _write(name, paint.encode(paint.paint(part, one.contents(files, part)), target.suffix))
    return [str(name) for name in names]


# --- the table ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class _Table:
    """Every cell there is something to say about, and what the job knows of its columns."""

    title: str
    rows: list[Record]
    columns: tuple[str, ...]
    order: tuple[str, ...]
    """Columns that may become axes, the slowest of the job first."""
    space: TaskSpace | None
    unseen: int
    """Cells still to do that are not among the rows, because there are too many."""

    @classmethod
    def read(cls, store: Store, *, where: str | None) -> _Table:
        catalog = read_catalog(store).table
        job = _job_of(store)
        space = grid.expand(job) if job else None
        lacking = list(_lacking(space, catalog)) if space else []
        unseen = len(lacking) if len(lacking) > _MOST_MISSING else 0
        if space and not unseen:
            catalog = pa.concat_tables(
                [catalog, _cells(space, lacking, job=job.name if job else "")],
                promote_options="permissive",
            )
        columns = tuple(catalog.column_names)
        kept = ask(catalog, where=where)
        if kept.num_rows > _MOST_ROWS:
            raise InputError(
                f"{kept.num_rows:,} cells are more than anybody looks at on sheets",
                where=store.url,
                hint="choose some with --where, such as --where 'seed < 10'",
            )
        rows: list[Record] = kept.to_pylist()
        listed = [name for name in (space.axes if space else ()) if name in catalog.column_names]
        variables = [name for name in catalog.column_names if name.startswith(VAR_PREFIX)]
        order = dict.fromkeys([*listed, *variables, *FIELDS])
        return cls(
            title=job.name if job else Path(store.url).name,
            rows=rows,
            columns=columns,
            order=tuple(name for name in order if name in catalog.column_names),
            space=space,
            unseen=unseen,
        )

    def resolve(self, name: str | None) -> str | None:
        """Return the column that a user means by `name`."""
        return None if name is None else resolve_column(name, self.columns)

    def levels(self, name: str) -> list[Scalar]:
        """Return the values of a column: those of the job in its order, then others, sorted."""
        present = dict.fromkeys(row[name] for row in self.rows)
        known: Iterable[Scalar] = ()
        if self.space is not None and (name in FIELDS or name in self.space.axes):
            known = [value for value in self.space.levels(name) if value in present]
        return [*known, *sorted(present.keys() - set(known), key=_sort_key)]


def _sort_key(value: Any) -> tuple[int, Any]:  # noqa: ANN401 - any column
    match value:
        case None:
            return (2, 0)
        case int() | float():
            return (0, value)
        case _:
            return (1, str(value))


def _job_of(store: Store) -> Job | None:
    """Return the job of the last submit, if this version can read it; a sheet does without."""
    text = store.read_job()
    if text is None:
        return None
    try:
        return manifest.load("job.yaml", read=lambda _: text)
    except FarmError:
        return None


def _lacking(space: TaskSpace, catalog: pa.Table) -> Iterator[int]:
    """Yield the numbers of the job's cells that have no row."""
    known = set(catalog["task_id"].to_pylist())
    for start, stop in space.blocks():
        for number, digest in enumerate(space.digests(start, stop), start):
            if format_task_id(digest.tobytes()) not in known:
                yield number


def _cells(space: TaskSpace, numbers: Sequence[int], *, job: str) -> pa.Table:
    """Return rows for cells of the job: what they ask for, and that they are missing."""
    rows = []
    for number in numbers:
        task = space[number]
        row: Record = {name: getattr(task, name) for name in FIELDS}
        row |= {VAR_PREFIX + name: value for name, value in task.vars.items()}
        rows.append(row | {"status": MISSING, "job": job})
    return pa.Table.from_pylist(rows)


# --- axes ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Axes:
    """Which columns a sheet is laid out by."""

    x: str | None
    y: str | None
    page: str | None
    inside: tuple[str, ...]
    """What else varies, tiled inside the cells; the first varies slowest."""


def choose_axes(
    rows: Sequence[Record],
    *,
    order: Sequence[str],
    x: str | None = None,
    y: str | None = None,
    page: str | None = None,
) -> Axes:
    """Complete the axes that a user asked for, so that every row finds a place of its own.

    Columns that follow from others (a prompt from its variables) are no axes. What reads longest
    goes down, because labels have room there; of the rest, what has most values goes across; seeds
    are tiled inside the cells as long as something else can be an axis. If too many pictures would
    share a cell, the axis with most values among them gets pages.
    """
    given = [name for name in (x, y, page) if name is not None]
    if len(set(given)) < len(given):
        raise InputError("x, y and page are three different columns")
    free = _independent(rows, order, given)
    count = {name: len({row[name] for row in rows}) for name in free}
    settings = [name for name in free if name != "seed"]
    seeds = [name for name in free if name == "seed"]

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
    if page is None and _slots(rows, Axes(x=x, y=y, page=None, inside=tuple(free))) > _MOST_TILES:
        page = take(settings, count.__getitem__)
    return Axes(x=x, y=y, page=page, inside=tuple(free))


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


def _cell_key(row: Record, axes: Axes) -> tuple[Any, ...]:
    return tuple(row[name] if name else None for name in (axes.page, axes.y, axes.x))


def _slots(rows: Sequence[Record], axes: Axes) -> int:
    """Return the most rows that share a cell."""
    counts: dict[tuple[Any, ...], int] = {}
    for row in rows:
        key = _cell_key(row, axes)
        counts[key] = counts.get(key, 0) + 1
    return max(counts.values(), default=0)


# --- one sheet ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class _One:
    """The sheet of one value of the page axis: its grid, and the row in each slot."""

    grid: Grid
    records: Mapping[tuple[int, int, int], Record]

    def contents(
        self, files: Files, part: Layout
    ) -> dict[tuple[int, int, int], paint.Picture | paint.Missing]:
        """Return what the slots of one page hold."""
        places = [(slot.row, slot.column, slot.number) for slot in part.slots]
        return {
            place: _content(files, self.records[place]) for place in places if place in self.records
        }


def _content(files: Files, record: Record) -> paint.Picture | paint.Missing:
    match record["status"]:
        case "rendered":
            return paint.Picture(read=functools.partial(files.get, record["image_path"]))
        case "failed":
            kind = str(record["error_kind"] or "failed").replace("_", " ")
            reason = record["error_message"] or ""
            return paint.Missing(headline=kind, reason=reason, is_failure=True)
        case _:
            return paint.Missing()  # the header tells how many; here hatching says enough


def _arrange(table: _Table, axes: Axes, *, tile: int | None) -> Iterator[_One]:
    """Yield a sheet for every value of the page axis."""
    columns = table.levels(axes.x) if axes.x else [None]
    down = table.levels(axes.y) if axes.y else [None]
    inside = _Inside.of(table, axes)
    size = _tile_size(table.rows, tile)
    facts = _facts(table, axes, inside)
    for value in table.levels(axes.page) if axes.page else [None]:
        rows = [row for row in table.rows if not axes.page or row[axes.page] == value]
        title = table.title + (f" · {display(axes.page)} {show(value)}" if axes.page else "")
        notes = (*facts, _count(rows, table.unseen))
        if not axes.x and not axes.y:
            yield _gallery(rows, inside, title=title, facts=notes, tile=size)
            continue
        here_x = [one for one in columns if not axes.x or any(row[axes.x] == one for row in rows)]
        here_y = [one for one in down if not axes.y or any(row[axes.y] == one for row in rows)]
        yield _One(
            grid=Grid(
                title=title,
                facts=notes,
                x_name=display(axes.x) if axes.x else "",
                y_name=display(axes.y) if axes.y else "",
                columns=tuple(show(one) if axes.x else "" for one in here_x),
                rows=tuple(show(one) if axes.y else "" for one in here_y),
                slots=inside.slots,
                across=inside.across(size),
                tile=size,
            ),
            records=_place(rows, axes, inside, rows_at=here_y, columns_at=here_x),
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

    @classmethod
    def of(cls, table: _Table, axes: Axes) -> _Inside:
        levels = tuple(tuple(table.levels(name)) for name in axes.inside)
        ranks = [{value: rank for rank, value in enumerate(values)} for values in levels]
        combinations = sorted(
            {tuple(row[name] for name in axes.inside) for row in table.rows},
            key=lambda key: [rank[value] for rank, value in zip(ranks, key, strict=True)],
        )
        most = _slots(table.rows, axes)
        # A sampled or zipped matrix has many combinations and few of them in any one cell: a slot
        # for each would be mostly holes.
        is_fixed = len(combinations) <= 2 * most
        return cls(
            names=axes.inside,
            levels=levels,
            combinations=tuple(combinations),
            slots=len(combinations) if is_fixed else most,
            is_fixed=is_fixed,
        )

    @property
    def is_product(self) -> bool:
        """Whether every combination of the values stands in a slot of its own."""
        return self.is_fixed and self.slots == math.prod(map(len, self.levels))

    def key(self, row: Record) -> tuple[Any, ...]:
        """Return the combination of one row."""
        return tuple(row[name] for name in self.names)

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
    rows_at: Sequence[Scalar],
    columns_at: Sequence[Scalar],
) -> dict[tuple[int, int, int], Record]:
    """Give every row a slot: (row, column, number in the cell)."""
    down = {value: place for place, value in enumerate(rows_at)}
    across = {value: place for place, value in enumerate(columns_at)}
    rank = {key: place for place, key in enumerate(inside.combinations)}
    placed: dict[tuple[int, int, int], Record] = {}
    filled: dict[tuple[int, int], int] = {}
    for row in sorted(rows, key=lambda row: rank[inside.key(row)]):
        cell = (down[row[axes.y] if axes.y else None], across[row[axes.x] if axes.x else None])
        number = filled[cell] = filled.get(cell, -1) + 1
        slot = (*cell, rank[inside.key(row)] if inside.is_fixed else number)
        # Rows that no column of the sheet tells apart share a slot: a picture goes before a
        # failure, and a failure before a task that is still to do.
        if slot not in placed or _rank(row) < _rank(placed[slot]):
            placed[slot] = row
    return placed


def _rank(row: Record) -> int:
    return ("rendered", "failed", MISSING).index(row["status"])


def _gallery(
    rows: Sequence[Record],
    inside: _Inside,
    *,
    title: str,
    facts: tuple[str, ...],
    tile: tuple[int, int],
) -> _One:
    """Return a sheet of one axis, wrapped: every picture with its value above it."""
    rank = {key: place for place, key in enumerate(inside.combinations)}
    ordered = sorted(rows, key=lambda row: rank[inside.key(row)])
    across = layout.arrange(len(ordered), tile)
    down = math.ceil(len(ordered) / across)
    captions = [", ".join(show(value) for value in inside.key(row)) for row in ordered]
    captions += [""] * (across * down - len(ordered))
    return _One(
        grid=Grid(
            title=title,
            facts=facts,
            x_name=", ".join(map(display, inside.names)),
            columns=("",) * across,
            rows=("",) * down,
            captions=tuple(captions),
            tile=tile,
        ),
        records={(*divmod(place, across), 0): row for place, row in enumerate(ordered)},
    )


def _tile_size(rows: Sequence[Record], tile: int | None) -> tuple[int, int]:
    """Return a box that every picture fits into, with sides in the proportion of the largest."""
    width = max((row["width"] or 0 for row in rows), default=0) or _NATURAL_EDGE
    height = max((row["height"] or 0 for row in rows), default=0) or _NATURAL_EDGE
    longest = max(width, height)
    scale = tile / longest if tile else min(1.0, _NATURAL_EDGE / longest)
    return max(1, round(width * scale)), max(1, round(height * scale))


# --- words --------------------------------------------------------------------------------------


def display(name: str) -> str:
    """Return a column's name as a label: a template variable without its prefix."""
    return name.removeprefix(VAR_PREFIX)


def show(value: object) -> str:
    """Return a value as a label: numbers without needless digits, and never nothing."""
    match value:
        case None:
            return "none"
        case float():
            return f"{value:.10g}"
        case str():
            return value.strip() or "(empty)"
        case _:
            return str(value)


_TIMES = "\N{MULTIPLICATION SIGN}"
_UNSAID = frozenset({"", "default", "diffusers"})
"""Values that go without saying among the fixed settings."""


def _joined(text: str) -> str:
    """Return `text` as one word, which no line break may divide."""
    return text.replace(" ", "\N{NO-BREAK SPACE}")


def _listed(values: Sequence[Scalar]) -> str:
    """Return values as a job file would have them: `1..4`, or one after the other."""
    numbers = [value for value in values if isinstance(value, int)]
    if len(numbers) == len(values) > 2 and numbers == list(range(numbers[0], numbers[-1] + 1)):  # noqa: PLR2004 - two are shorter said
        return f"{numbers[0]}..{numbers[-1]}"
    return ", ".join(_joined(show(value)) for value in values)


def _facts(table: _Table, axes: Axes, inside: _Inside) -> tuple[str, ...]:
    """Return the lines below the title: what all pictures share, and what is inside a cell."""
    shared: dict[str, Any] = {}
    for name in FIELDS:
        values = {row.get(name) for row in table.rows} - {None}
        if name != "dtype" and len(values) == 1 and not values <= _UNSAID:
            [shared[name]] = values
    lines = [
        f"{name.replace('_', ' ')}: {shared.pop(name)}"
        for name in ("prompt", "negative_prompt")
        if name in shared
    ]
    size = [shared.pop(name, None) for name in ("width", "height")]
    settings = [f"{name} {show(value)}" for name, value in shared.items()]
    if None not in size:
        settings.append(f"{size[0]} {_TIMES} {size[1]}")
    if settings:
        lines.append(" · ".join(map(_joined, settings)))
    if inside.slots > 1 and (axes.x or axes.y):
        lines.append(f"in each cell: {inside.describe()}")
    return tuple(lines)


def _count(rows: Sequence[Record], unseen: int) -> str:
    numbers = dict.fromkeys(("rendered", "failed", MISSING), 0)
    for row in rows:
        numbers[row["status"]] += 1
    parts = [f"{numbers['rendered']:,} image" + ("" if numbers["rendered"] == 1 else "s")]
    if numbers["failed"]:
        parts.append(f"{numbers['failed']:,} failed")
    if to_do := numbers[MISSING] + unseen:
        parts.append(f"{to_do:,} not rendered yet")
    return " · ".join(parts)


# --- files --------------------------------------------------------------------------------------


def _target(store: Store, out: str | os.PathLike[str] | None, **axes: str | None) -> Path:
    """Return the file to write: as asked, or a PNG named after the axes in the output."""
    if out is not None:
        return Path(out)
    named = "-".join(_slug(name) for name in axes.values() if name) or "sheet"
    if "://" in store.url:
        return Path(f"{_slug(store.url.rpartition('/')[2])}-{named}.png")
    return Path(store.url) / "sheets" / f"{named}.png"


def _slug(text: str) -> str:
    return re.sub(r"[^0-9A-Za-z_]+", "-", text).strip("-") or "x"


def _number(target: Path, count: int) -> list[Path]:
    if count == 1:
        return [target]
    digits = max(2, math.ceil(math.log10(count + 1)))
    return [
        target.with_name(f"{target.stem}-{number:0{digits}}{target.suffix}")
        for number in range(1, count + 1)
    ]


def _write(path: Path, data: bytes) -> None:
    """Write a file whole or not at all: a viewer that watches it never sees half a picture."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(data)
        temporary.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise OutputError(
            f"cannot write the sheet: {error.strerror or error}",
            where=str(path),
            hint="choose another place with --out FILE",
        ) from error
