"""A catalog as what people look at: the cells of its job, rendered, failed or still to do.

Rows are plain mappings, because everything that lays out, plots or reports them asks for one value
at a time. What repeats from row to row is held once, so that hundreds of thousands of rows fit.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from farm.errors import InputError
from farm.manifest.job import VAR_PREFIX
from farm.store import Store
from farm.task import FIELDS, Scalar
from farm.view.missing import MISSING, compare_with_job
from farm.view.orders import Orders
from farm.view.query import ask, read_catalog, resolve_column
from farm.view.ranges import divide

if TYPE_CHECKING:
    import pandas as pd

Record: TypeAlias = "dict[str, Any]"
"""One row of the table: column -> value."""

NUMBERS = "a score is a number, such as sharpness, render_ms or guidance_scale"
"""The next step where a column of numbers is asked for."""
_ALWAYS = (
    "status", "error_kind", "error_message", "image_path", "image_file", "width", "height",
)  # fmt: skip
"""Columns that every row holds: what a cell shows."""
_RANGED = "in ranges"
_SEPARATOR = " + "
_MOST_NAMES = 3
"""A sheet of more jobs than this is titled by its output."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Every cell there is something to say about, and what the job knows of its columns."""

    title: str
    arrow: pa.Table
    """The rows once more, all columns, to ask questions of."""
    rows: list[Record]
    columns: tuple[str, ...]
    """All columns; rows may hold fewer."""
    order: tuple[str, ...]
    """Columns that may become axes, the slowest of the job first; rows hold them."""
    orders: Orders
    unseen: int = 0
    """Cells still to do that are not among the rows, because there are too many."""
    ranges: dict[str, list[str]] = field(default_factory=dict)
    """Columns that were divided into ranges, with their labels in order."""
    _levels: dict[str, list[Scalar]] = field(default_factory=dict, repr=False)
    """What `levels` returned: a sheet of a thousand pages asks as often."""

    @classmethod
    def read(cls, store: Store, *, where: str | None, asked: Iterable[str] | None = None) -> Table:
        """Return the table of an output.

        Args:
            store: the output.
            where: SQL expression; only rows for which it holds.
            asked: columns, in any spelling, that rows hold besides those that cells show or differ
                in; by default all.

        Raises:
            InputError: `where` cannot be answered, or there is no column of an asked name.
        """
        found = compare_with_job(read_catalog(store).table, store.last_job())
        names = pc.unique(found.table["job"]).to_pylist()
        return cls.of_catalog(
            found.table,
            where=where,
            asked=asked,
            title=_title(names) or Path(store.url).name,
            orders=Orders(found.space, store.earlier_jobs()),
            axes=tuple(found.space.axes) if found.space else (),
            unseen=found.unseen,
        )

    @classmethod
    def of_frame(cls, frame: pd.DataFrame, *, where: str | None) -> Table:
        """Return the table of a frame: every row with an image, and failures."""
        table = pa.Table.from_pandas(frame, preserve_index=False)
        if "image_file" not in table.column_names:
            raise InputError(
                "this table has no column 'image_file', which says where the images are",
                hint="take it along, as farm.catalog(...).to_pandas() has it",
            )
        names = pc.unique(table["job"]).to_pylist() if "job" in table.column_names else []
        made = cls.of_catalog(table, where=where, title=_title(names) or "images")
        for row in made.rows:
            row.setdefault("status", "rendered" if row["image_file"] else MISSING)
        return made

    @classmethod
    def of_catalog(
        cls,
        table: pa.Table,
        *,
        where: str | None = None,
        asked: Iterable[str] | None = None,
        title: str = "",
        orders: Orders | None = None,
        axes: tuple[str, ...] = (),
        unseen: int = 0,
    ) -> Table:
        """Return the table of a catalog at hand; `axes` are its job's, the slowest first."""
        kept = ask(table, where=where) if where else table
        names = table.column_names
        variables = [name for name in names if name.startswith(VAR_PREFIX)]
        order = [name for name in dict.fromkeys([*axes, *variables, *FIELDS]) if name in names]
        held = names
        if asked is not None:
            order = [
                name for name in order if pc.count_distinct(kept[name], mode="all").as_py() > 1
            ]
            wanted = {*_ALWAYS, *order, *(resolve_column(name, names) for name in asked)}
            held = [name for name in names if name in wanted]
        return cls(
            title=title,
            arrow=kept,
            rows=_records(kept, held),
            columns=tuple(names),
            order=tuple(order),
            orders=orders or Orders(None),
            unseen=unseen,
        )

    def resolve(self, name: str | None) -> str | None:
        """Return the column that a user means by `name`."""
        return None if name is None else resolve_column(name, self.columns)

    def require_numbers(self, column: str) -> None:
        """Refuse a column that holds no numbers.

        Raises:
            InputError: it is of another type.
        """
        kind = self.arrow[column].type
        if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_null(kind)):
            raise InputError(f"'{display(column)}' is no column of numbers", hint=NUMBERS)

    def axis(self, name: str | None) -> str | None:
        """Return the column to lay out by: the one that is meant, or ranges of what it measures."""
        column = self.resolve(name)
        if column is None or column in FIELDS or column.startswith(VAR_PREFIX):
            return column
        values = [row[column] for row in self.rows]
        if not all(isinstance(value, float | None) for value in values):
            return column
        numbers = np.array(values, np.float64)
        parts = divide(numbers)
        if parts.are_single:
            return column
        divided = f"{column} {_RANGED}"
        if divided not in self.ranges:
            self.ranges[divided] = list(parts.labels)
            for row, place in zip(self.rows, parts.places(numbers).tolist(), strict=True):
                row[divided] = None if place < 0 else parts.labels[place]
        return divided

    def values(self, name: str) -> set[Scalar]:
        """Return the different values of a column."""
        if name in self.ranges:
            return {row[name] for row in self.rows}
        column = self.arrow[name]
        return set(_values(column if pa.types.is_nested(column.type) else pc.unique(column)))

    def levels(self, name: str) -> Sequence[Scalar]:
        """Return the values of a column in the order of the jobs, or of its ranges."""
        if name not in self._levels:
            present = self.values(name)
            if name in self.ranges:
                known: list[Scalar] = [one for one in self.ranges[name] if one in present]
                self._levels[name] = [*known, *present.difference(known)]
            else:
                self._levels[name] = self.orders.levels(name, present)
        return self._levels[name]


def _title(jobs: Sequence[Any]) -> str:
    """Return the names of the jobs in the order of their rows; none if they are many."""
    return _SEPARATOR.join(map(str, jobs)) if len(jobs) <= _MOST_NAMES else ""


def _records(table: pa.Table, names: Sequence[str]) -> list[Record]:
    columns = [_values(table[name]) for name in names]
    return [dict(zip(names, values, strict=True)) for values in zip(*columns, strict=True)]


def _values(column: Any) -> list[Any]:  # noqa: ANN401 - Arrow
    """Return the values of a column, equal ones as one object; a list of texts becomes a text."""
    if pa.types.is_nested(column.type):
        listed = column.to_pylist(maps_as_pydicts="strict")
        return [", ".join(one) if isinstance(one, list) else one for one in listed]
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
        if isinstance(column, pa.ChunkedArray):  # an empty one combines to no chunk at all
            return list(column.to_pylist())
    if pa.types.is_dictionary(column.type):
        coded = column
    elif pa.types.is_timestamp(column.type):
        return list(column.to_pylist())
    else:
        coded = column.dictionary_encode()
    levels = [*coded.dictionary.to_pylist(), None]
    return [levels[-1 if code is None else code] for code in coded.indices.to_pylist()]


# --- words --------------------------------------------------------------------------------------


def display(name: str) -> str:
    """Return a column's name as a label: a template variable without its prefix."""
    return name.removeprefix(VAR_PREFIX).removesuffix(f" {_RANGED}")


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


def show_number(value: object) -> str:
    """Return a measured value with as many digits as one compares."""
    if not isinstance(value, float):
        return show(value)
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"  # noqa: PLR2004
