"""What the explorer's page is told of an output: every row and every column, coded for a browser.

The rows are those of the catalog, rendered or failed, and the cells of the job that no row answers
yet. A column that repeats itself is stored as *levels* and a code a row, levels in the order of the
job's axis; other numbers and texts as they are. So a hundred thousand rows are a few typed arrays
in the page, and laying them out along another axis is counting, not comparing texts.

An exhibit can follow another one of the same output: then every row keeps its place, and
`changed_since` tells which rows differ.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from farm.grid import TaskSpace
from farm.manifest.job import VAR_PREFIX, Job
from farm.store import Store
from farm.store.catalog import SCHEMA
from farm.store.votes import CHOICES
from farm.task import FIELDS, Scalar
from farm.view.missing import compare_with_job
from farm.view.orders import Orders
from farm.view.query import read_catalog
from farm.view.ranges import Numbers, Ranges, divide, shortest

_MOST_LEVELS = 20_000
"""A setting with more values than this is no axis; a page cannot list it."""
_FEW_LEVELS = 64
"""A whole number or text of a fact with at most this many values is listed value by value."""
_SAFE_INTEGER = 2**53
"""JavaScript's numbers are exact up to here."""
_ID_LENGTH = 12
"""Digits of a task's digest in the page's addresses; more if two tasks should agree in them."""
_HIDDEN = frozenset({"image_file", "task_id", "image_sha256", "chunk"})
"""Columns that are of no use in the page, or told apart from the rows, in `details`."""

Codes: TypeAlias = "np.ndarray[Any, np.dtype[np.int32]]"
Kind: TypeAlias = Literal["level", "number", "time", "text", "set"]
"""`level`: a code a row into the levels, -1 for none. `number`: float64, NaN for none. `time`: a
number, milliseconds since 1970. `text`: a text or None. `set`: a list of codes a row."""
Group: TypeAlias = Literal["variable", "setting", "choice", "fact"]
"""`choice` is what people said about an image: stars, tags, comparisons."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PageColumn:
    """One column as the page holds it."""

    name: str
    kind: Kind
    group: Group
    doc: str
    levels: tuple[Any, ...]
    """JSON values, for the kinds with codes; else empty."""
    values: Any
    """`[rows]`: Codes, Numbers, or a list, by kind."""
    ranges: Ranges | None = None
    """What its numbers are divided into where it is laid out by; None if that means nothing."""

    @property
    def label(self) -> str:
        """The name as people wrote it in the job."""
        return self.name.removeprefix(VAR_PREFIX)


@dataclass(frozen=True, slots=True, kw_only=True)
class Exhibit:
    """All that the page knows of an output."""

    title: str
    url: str
    ids: tuple[str, ...]
    """The start of each row's task digest, unique here and stable in links."""
    columns: tuple[PageColumn, ...]
    axes: tuple[str, ...]
    """Columns that tell rows apart which those before them do not, the slowest of the job first."""
    x: str | None
    y: str | None
    unseen: int
    """Cells still to do that are not among the rows, because there are too many."""
    table: pa.Table
    """The rows as they were read; for details."""
    versions: tuple[int, ...]
    """A number a row that changes with what the row says."""

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def place(self) -> str:
        """Where the output is, as far as that may be published: of a folder, its name alone."""
        return self.url if "://" in self.url else Path(self.url).name

    def count(self, status: str) -> int:
        """Return how many rows are `rendered`, `failed` or `missing`."""
        return int((pc.equal(self.table["status"], status).to_numpy()).sum())

    def changed_since(self, before: Exhibit) -> list[int] | None:
        """Return the rows that are new or differ; None if the page has to be loaded anew.

        That is so when a column came, went or changed its kind, or rows moved.
        """
        kinds = [(column.name, column.kind) for column in self.columns]
        if kinds != [(column.name, column.kind) for column in before.columns]:
            return None
        if self.ids[: len(before)] != before.ids:
            return None
        known = zip(self.versions, before.versions, strict=False)
        changed = [place for place, (now, then) in enumerate(known) if now != then]
        return [*changed, *range(len(before), len(self))]


def read_exhibit(store: Store, *, after: Exhibit | None = None) -> Exhibit:
    """Return what there is to show of an output now.

    Args:
        store: the output.
        after: an earlier exhibit of the same output, whose rows keep their places.

    Raises:
        StoreError: the output cannot be read.
    """
    return make_exhibit(
        read_catalog(store).table,
        url=store.url,
        job=store.last_job(),
        earlier=store.earlier_jobs(),
        after=after,
    )


def make_exhibit(
    catalog: pa.Table,
    *,
    url: str,
    job: Job | None,
    earlier: Iterable[Job] = (),
    after: Exhibit | None = None,
    rated: bool = False,
) -> Exhibit:
    """Return the exhibit of a catalog with its `var_*` columns, and of what its job lacks.

    `earlier` jobs of the output tell the order of values that `job` does not know. With `rated`,
    the columns of votes are there before anybody voted.
    """
    found = compare_with_job(catalog, job)
    space, orders = found.space, Orders(found.space, earlier)
    digests = _digits(found.table)
    order = _order(digests, found.places, after)
    catalog, places = found.table.take(pa.array(order)), found.places[order]
    digests = [digests[place] for place in order.tolist()]
    columns = tuple(_columns(catalog, orders, rated=rated))
    axes = _independent(columns, _axis_order(columns, space))
    x, y = _first_axes([column for column in columns if column.name in axes])
    return Exhibit(
        title=_title(catalog, url=url, job=job),
        url=url,
        ids=_short(digests),
        columns=(*columns, _place_column(places)),
        axes=axes,
        x=x,
        y=y,
        unseen=found.unseen,
        table=catalog,
        versions=_versions(catalog),
    )


_MOST_NAMES = 3
"""An output of more jobs than this is titled by its own name, as its sheets are."""


def _title(catalog: pa.Table, *, url: str, job: Job | None) -> str:
    """Return the jobs whose cells are shown, in the order of the rows; or the output's name."""
    names = list(dict.fromkeys(pc.unique(catalog["job"]).to_pylist()))
    if job is not None and job.name not in names:
        names.append(job.name)
    return " + ".join(names) if 0 < len(names) <= _MOST_NAMES else Path(url).name


# --- rows ---------------------------------------------------------------------------------------


def _order(digests: Sequence[str], places: Numbers, after: Exhibit | None) -> Any:  # noqa: ANN401 - an array
    """Return the rows in order: as before if there was a before, then as the job has them."""
    mine = np.argsort(places, kind="stable")  # NaN, the rows of other jobs, comes last
    if after is None:
        return mine
    known = {digest: place for place, digest in enumerate(_digits(after.table))}
    before = np.array([known.get(digest, len(known)) for digest in digests])
    return mine[np.argsort(before[mine], kind="stable")]


def _digits(catalog: pa.Table) -> list[str]:
    return [text.partition(":")[2] for text in catalog["task_id"].to_pylist()]


def _short(digests: Sequence[str]) -> tuple[str, ...]:
    for length in range(_ID_LENGTH, 2 * _ID_LENGTH):
        ids = tuple(digest[:length] for digest in digests)
        if len(set(ids)) == len(ids):
            return ids
    return tuple(digests)


def _versions(catalog: pa.Table) -> tuple[int, ...]:
    telling = ("part", "status", "image_path", *CHOICES.names)
    columns = [catalog[name].to_pylist() for name in telling if name in catalog.column_names]
    return tuple(
        hash(tuple(tuple(value) if isinstance(value, list) else value for value in row))
        for row in zip(*columns, strict=True)
    )


# --- columns ------------------------------------------------------------------------------------


def _columns(catalog: pa.Table, orders: Orders, *, rated: bool) -> Iterator[PageColumn]:
    for name in catalog.column_names:
        if name in _HIDDEN:
            continue
        column = catalog[name]
        if pa.types.is_dictionary(column.type):
            column = column.cast(column.type.value_type)
        is_kept = name == "status" or (rated and name in CHOICES.names)
        if column.null_count == len(column) and not is_kept:
            continue  # it says nothing of any row
        make = functools.partial(PageColumn, name=name, group=_group(name), doc=_doc(name))
        kind, levels, values = _coded(name, column, orders)
        # A setting is a number only where its values are too many for an axis.
        is_measured = kind == "number" and _group(name) != "setting"
        ranges = divide(values) if is_measured else None
        yield make(kind=kind, levels=levels, values=values, ranges=ranges)


def _group(name: str) -> Group:
    if name.startswith(VAR_PREFIX):
        return "variable"
    if name in CHOICES.names:
        return "choice"
    return "setting" if name in FIELDS else "fact"


def _doc(name: str) -> str:
    if name.startswith(VAR_PREFIX):
        return "A template variable of the job."
    if name in FIELDS:
        return FIELDS[name].doc
    if name in SCHEMA.names:
        return _doc_of(SCHEMA.field(name))
    return _doc_of(CHOICES.field(name)) if name in CHOICES.names else ""


def _doc_of(field: Any) -> str:  # noqa: ANN401 - Arrow
    return str((field.metadata or {}).get(b"doc", b"").decode())


def _coded(name: str, column: Any, orders: Orders) -> tuple[Kind, tuple[Any, ...], Any]:  # noqa: ANN401 - Arrow
    """Return how the page holds a column: kind, levels, values."""
    kind = column.type
    if pa.types.is_list(kind):
        return _set_of(column.to_pylist())
    if pa.types.is_timestamp(kind):
        stamps = column.cast(pa.timestamp("ms", kind.tz), safe=False).cast(pa.int64())
        return "time", (), _numbers(stamps)
    if pa.types.is_floating(kind) and _group(name) == "fact":
        return "number", (), _numbers(column)  # measured, so hardly two are the same
    coded = column.combine_chunks().dictionary_encode()
    if isinstance(coded, pa.ChunkedArray):
        coded = coded.combine_chunks() if coded.num_chunks else pa.array([], kind)
    found = coded.dictionary.to_pylist()
    is_asked = name in FIELDS or name.startswith(VAR_PREFIX)
    is_number = pa.types.is_floating(kind) or pa.types.is_integer(kind)
    if is_number and len(found) > (_MOST_LEVELS if is_asked else _FEW_LEVELS):
        return "number", (), _numbers(column)
    if not is_number and len(found) > max(_FEW_LEVELS, min(_MOST_LEVELS, len(column) // 2)):
        return "text", (), column.to_pylist()
    levels = orders.levels(name, {value for value in found if value is not None})
    rank = {value: place for place, value in enumerate(levels)}
    recode = np.array([*(rank[value] for value in found), -1], dtype=np.int32)
    codes = coded.indices.fill_null(len(found)).to_numpy(zero_copy_only=False)
    return "level", tuple(map(_plain, levels)), recode[codes]


def _numbers(column: Any) -> Numbers:  # noqa: ANN401 - Arrow
    if column.type == pa.float32():
        return shortest(column.to_numpy())
    numbers: Numbers = column.cast(pa.float64(), safe=False).to_numpy()
    return numbers


def _set_of(lists: Sequence[list[str] | None]) -> tuple[Kind, tuple[Any, ...], Any]:
    levels = sorted({one for values in lists for one in values or ()})
    rank = {value: place for place, value in enumerate(levels)}
    return "set", tuple(levels), [[rank[one] for one in values or ()] for values in lists]


def _plain(value: Scalar) -> Scalar:
    """Return a level as JSON that a browser reads back exactly."""
    if isinstance(value, int) and abs(value) > _SAFE_INTEGER:
        return str(value)
    return value


def _place_column(places: Numbers) -> PageColumn:
    return PageColumn(
        name="place", kind="number", group="fact", doc="Place of the cell in the job, from 0.",
        levels=(), values=places,
    )  # fmt: skip


# --- axes ---------------------------------------------------------------------------------------


def _axis_order(columns: Sequence[PageColumn], space: TaskSpace | None) -> list[str]:
    """Return the columns that may tell cells apart, the slowest axis of the job first."""
    variables = [column.name for column in columns if column.group == "variable"]
    return list(dict.fromkeys([*(space.axes if space else ()), *variables, *FIELDS, "job"]))


def _independent(columns: Sequence[PageColumn], order: Sequence[str]) -> tuple[str, ...]:
    """Return, in order, the columns that tell rows apart which those before them do not.

    A prompt that follows from its variables is none of them.
    """
    by_name: Mapping[str, PageColumn] = {column.name: column for column in columns}
    found: list[str] = []
    keys: Any = None
    distinct = 1
    for name in order:
        column = by_name.get(name)
        if column is None or column.kind != "level":
            continue
        codes = column.values.astype(np.int64) + 1
        longer = codes if keys is None else keys * (len(column.levels) + 1) + codes
        values, inverse = np.unique(longer, return_inverse=True)
        if len(values) > distinct:
            keys, distinct = inverse, len(values)
            found.append(name)
    return tuple(found)


_LEAST_AXES = 2


def _first_axes(axes: Sequence[PageColumn]) -> tuple[str | None, str | None]:
    """Choose what stands across and down when the page opens.

    What pictures show (variables and prompts) goes down, the one with the longest texts first,
    because labels have room there; of the other settings, the one with most values goes across.
    Seeds come last.
    """
    if len(axes) < _LEAST_AXES:
        return None, None

    def length(column: PageColumn) -> int:
        texts = (level for level in column.levels if isinstance(level, str))
        return max(map(len, islice(texts, _FEW_LEVELS)), default=0)

    shown = [column for column in axes if column.group == "variable" or "prompt" in column.name]
    settings = [column for column in axes if column.name != "seed"]
    down = max(shown or settings or axes, key=length)
    others = [column for column in settings if column not in shown and column is not down]
    rest = others or [column for column in settings if column is not down] or axes
    across = max((one for one in rest if one is not down), key=lambda one: len(one.levels))
    return across.name, down.name
