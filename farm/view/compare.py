"""Pictures against their counterparts: how far is one backend, or any one value, from another?

A picture's counterpart has the same task but for one column, in which it has a given value: the
same cell drawn by backend `torch`, say. Models are told apart by their content, so a model and the
ONNX bundle that was made from it are the same; the number type that was used is not asked.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from farm.errors import InputError, suggest
from farm.render.difference import psnr, ssim
from farm.store.files import open_files
from farm.task import FIELDS

PSNR, SSIM = "psnr", "ssim"
"""The columns that a comparison adds."""
_BESIDE = frozenset({"dtype", "model"})


def parse_against(text: str) -> tuple[str, str]:
    """Return column and value of `column=value`.

    Raises:
        InputError: it has another form.
    """
    name, equals, value = text.partition("=")
    if not equals or not name.strip():
        raise InputError(
            f"'{text}' does not say what to compare with",
            hint="write column=value, such as backend=torch",
        )
    return name.strip(), value.strip()


def add_differences(table: pa.Table, *, url: str, column: str, value: str) -> pa.Table:
    """Return a catalog's table with two more columns, after a look at every picture.

    - `psnr`: peak signal-to-noise ratio to the counterpart in dB; infinite for equal pictures.
    - `ssim`: structural similarity to it, at most 1.

    Both are null where there is no counterpart, where either has no picture, where the sizes
    differ, and for the pictures with that value themselves.

    Args:
        table: winning rows, as `farm.catalog` has them.
        url: of the output they are from.
        column: in which counterparts differ.
        value: of the counterparts, as text.

    Raises:
        InputError: there is no such column, or nothing rendered has that value.
    """
    if column not in table.column_names:
        raise InputError(
            f"the catalog has no column '{column}'", hint=suggest(column, table.column_names)
        )
    rows = [dict(row) for row in _rows(table, column)]
    counterparts = {
        _key(row, column): row
        for row in rows
        if str(row[column]) == value and row["status"] == "rendered"
    }
    if not counterparts:
        known = sorted({str(row[column]) for row in rows})
        raise InputError(
            f"nothing rendered has {column} '{value}'",
            note=f"values: {', '.join(known)}",
            hint=suggest(value, known),
        )
    files = open_files(url)

    def pixels(row: dict[str, Any]) -> np.ndarray[Any, np.dtype[np.uint8]]:
        with Image.open(io.BytesIO(files.get(row["image_path"]))) as image:
            return np.asarray(image.convert("RGB"))

    def measured() -> Iterator[tuple[float, float] | tuple[None, None]]:
        for row in rows:
            other = counterparts.get(_key(row, column))
            if other is None or row["status"] != "rendered" or other is row:
                yield None, None
                continue
            one, against = pixels(row), pixels(other)
            if one.shape != against.shape:
                yield None, None
            else:
                yield psnr(one, against), ssim(one, against)

    found = list(measured())
    for place, name in enumerate((PSNR, SSIM)):
        values = pa.array([pair[place] for pair in found], pa.float64())
        table = table.append_column(name, values)
    return table


def _rows(table: pa.Table, column: str) -> list[dict[str, Any]]:
    needed = {*FIELDS, column, "model_sha256", "status", "image_path"}
    rows: list[dict[str, Any]] = table.select(
        [name for name in table.column_names if name in needed]
    ).to_pylist()
    return rows


def _key(row: dict[str, Any], column: str) -> tuple[Any, ...]:
    """Return what a picture has in common with its counterpart."""
    content = row.get("model_sha256") or row.get("model")
    others = (row.get(name) for name in FIELDS if name != column and name not in _BESIDE)
    return (None if column == "model" else content, *others)
