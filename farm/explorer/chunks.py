"""An exhibit as files that a page loads with `<script>`: from a disk, where it may fetch nothing.

`meta.js` has everything that is said once: columns, levels, axes. `rows-N.js` has a range of rows,
column by column. `details-N.js` has what is asked for only when an image is opened. Each is one
call of a function of the page with JSON inside; row data is JSON within a JSON text, because
browsers read that several times faster than the same as program text. Everything is ASCII.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from typing import Any, Final

import numpy as np

from farm.explorer.exhibit import Exhibit, PageColumn
from farm.store.metadata import parameters_text
from farm.store.row import asked_tasks, row_from_columns
from farm.task import TaskSpec
from farm.version import __version__

ROWS_PER_CHUNK: Final = 20_000
ROWS_PER_DETAIL: Final = 1_000
THUMBNAIL_SIZE: Final = 256
"""Images with a longer edge are shown in the grid by their thumbnail of this size."""


def meta(
    exhibit: Exhibit, *, root: str, revision: int = 0, served: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Return what the page is told first.

    Args:
        exhibit: what is shown.
        root: where `images/` and `thumbnails/` are, as seen from the page; ends with a slash.
        revision: a number that the other chunks must agree in.
        served: what a server that takes votes says about itself; None in static files.
    """
    return {
        "title": exhibit.title,
        "output": exhibit.place,
        "farm": __version__,
        "rows": len(exhibit),
        "rowsPerChunk": ROWS_PER_CHUNK,
        "rowsPerDetail": ROWS_PER_DETAIL,
        "root": root,
        "thumbnailSize": THUMBNAIL_SIZE,
        "axes": list(exhibit.axes),
        "x": exhibit.x,
        "y": exhibit.y,
        "unseen": exhibit.unseen,
        "revision": revision,
        "served": served,
        "columns": [_described(column) for column in exhibit.columns],
    }


def _described(column: PageColumn) -> dict[str, Any]:
    return {
        "name": column.name,
        "label": column.label,
        "kind": column.kind,
        "group": column.group,
        "doc": column.doc,
        "levels": list(column.levels),
        "ranges": column.ranges
        and {"labels": list(column.ranges.labels), "edges": list(column.ranges.edges)},
    }


def rows(exhibit: Exhibit, places: Sequence[int] | range) -> dict[str, Any]:
    """Return the values of some rows: by column, and the ids."""
    values: dict[str, Any] = {"id": [exhibit.ids[place] for place in places]}
    picked = np.fromiter(places, np.int64, len(places))
    for column in exhibit.columns:
        if isinstance(column.values, np.ndarray):
            values[column.name] = compact(column.values[picked])
        else:
            values[column.name] = [column.values[place] for place in places]
    return values


def compact(values: np.ndarray[Any, Any]) -> Any:  # noqa: ANN401 - JSON
    """Return an array as JSON: one value if all are the same, null for NaN, whole numbers short."""
    if values.dtype.kind != "f":
        listed = values.tolist()
        return listed[0] if listed and (values == values[0]).all() else listed
    return [_number(value) for value in values.tolist()]


def _number(value: float) -> float | int | None:
    if math.isnan(value) or math.isinf(value):
        return None
    return int(value) if value.is_integer() else value


def details(exhibit: Exhibit, number: int) -> list[dict[str, Any]]:
    """Return the rest of what is known of the rows of one detail chunk."""
    part = exhibit.table.slice(number * ROWS_PER_DETAIL, ROWS_PER_DETAIL).to_pylist()
    return [
        {
            "task_id": row["task_id"],
            "image_sha256": row["image_sha256"],
            "parameters": parameters_text(row_from_columns(row))
            if row["status"] == "rendered"
            else None,
            "asked": task and _asked(task),
        }
        for row, task in zip(part, asked_tasks(part), strict=True)
    ]


def _asked(task: TaskSpec) -> dict[str, Any]:
    """Return the fields of a row's task that its columns in the page may have otherwise."""
    # A browser's numbers do not hold every seed.
    return {
        "dtype": task.dtype, "height": task.height, "width": task.width, "seed": str(task.seed)
    }  # fmt: skip


def scripts(exhibit: Exhibit, *, root: str) -> Iterator[tuple[str, bytes]]:
    """Yield the name and the bytes of every file of an exhibit."""
    for number in range(math.ceil(len(exhibit) / ROWS_PER_CHUNK)):
        yield f"rows-{number}.js", rows_script(exhibit, number)
    for number in range(math.ceil(len(exhibit) / ROWS_PER_DETAIL)):
        yield f"details-{number}.js", details_script(exhibit, number)
    # Last, so that whoever writes the files in this order never names what is not there yet.
    yield "meta.js", meta_script(meta(exhibit, root=root))


def meta_script(told: dict[str, Any]) -> bytes:
    """Return `meta.js`."""
    return f"farmData.meta({json.dumps(told)});\n".encode()


def rows_script(exhibit: Exhibit, number: int, *, revision: int = 0) -> bytes:
    """Return `rows-<number>.js`."""
    start = number * ROWS_PER_CHUNK
    told = rows(exhibit, range(start, min(len(exhibit), start + ROWS_PER_CHUNK)))
    text = json.dumps(json.dumps(told, separators=(",", ":")))
    return f"farmData.rows({revision}, {number}, {text});\n".encode()


def details_script(exhibit: Exhibit, number: int, *, revision: int = 0) -> bytes:
    """Return `details-<number>.js`."""
    text = json.dumps(json.dumps(details(exhibit, number), separators=(",", ":")))
    return f"farmData.details({revision}, {number}, {text});\n".encode()
