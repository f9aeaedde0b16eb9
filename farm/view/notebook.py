"""The catalog in a notebook: frames that show their pictures, and pictures beside each other.

`CatalogFrame` is a pandas frame in everything but its look: where its rows name images, a notebook
shows each row's picture before it, also after filtering, sorting and choosing columns. `Gallery` is
for looking only. Both put small pictures into the HTML itself, so a notebook that is saved, mailed
or turned into a page keeps them, and escape whatever comes from the output.

pandas is needed to import this module, so nothing imports it before a frame is asked for.
"""

from __future__ import annotations

import base64
import html
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import pandas as pd

from farm.errors import FarmError, InputError
from farm.store.files import open_files
from farm.view.ranges import shortest
from farm.view.sheet import choose_axes
from farm.view.table import Table, display, show
from farm.view.thumbnails import Thumbnails, shrink

ROWS: Final = 20
"""Rows of a frame that a notebook shows with their pictures."""
PICTURES: Final = 60
"""Pictures of a gallery, unless more are asked for."""
_SIZE = 128
_IN_TABLE = 64
_IMAGE_FILE = "image_file"
_IMAGE_PATH = "image_path"


class CatalogFrame(pd.DataFrame):
    """A frame whose rows show their pictures in a notebook, if it has the column `image_file`."""

    @property
    def _constructor(self) -> type[CatalogFrame]:
        """Return what filtering, sorting and the like make of it (pandas' own way to subclass)."""
        return CatalogFrame

    def _repr_html_(self) -> str | None:
        if _IMAGE_FILE not in self.columns or not self.columns.is_unique or not len(self):
            return pd.DataFrame(self)._repr_html_()  # type: ignore[operator,no-any-return]
        shown = pd.DataFrame(self.head(ROWS))
        columns = _telling(shown)
        rows = _legible(shown[columns]).itertuples(index=False, name=None)
        body = "".join(
            f"<tr><td>{_picture(source)}</td>"
            + "".join(f"<td>{_text(_shown(value))}</td>" for value in values)
            + "</tr>"
            for source, values in zip(_sources(shown, _SIZE), rows, strict=True)
        )
        head = "".join(f"<th>{_text(name)}</th>" for name in ("", *columns))
        first = f"the first {len(shown)} of " if len(self) > len(shown) else ""
        note = f"{first}{len(self):,} rows, {len(self.columns)} columns"
        if len(columns) < len(self.columns) - 1:
            note += "; those that are the same in all rows shown are left out"
        return (
            f'<div style="overflow-x:auto"><table><thead><tr>{head}</tr></thead>'
            f"<tbody>{body}</tbody></table></div><p>{note}</p>"
        )


def _telling(frame: pd.DataFrame) -> list[str]:
    """Return the columns to show: all of few, which were chosen by hand; of many, what varies."""
    names = [name for name in frame.columns if name != _IMAGE_FILE]
    if len(names) <= _FEW or len(frame) == 1:
        return names
    texts = frame[names].astype(str)
    return [name for name in names if name not in _FOR_PROGRAMS and len(set(texts[name])) > 1]


def _legible(frame: pd.DataFrame) -> pd.DataFrame:
    """Return a frame whose numbers of 32 bits have no digits that were not stored."""
    single = frame.select_dtypes("float32")
    return frame.assign(**{name: shortest(single[name].to_numpy()) for name in single.columns})


def _picture(source: str) -> str:
    style = f"max-width:{_IN_TABLE}px;max-height:{_IN_TABLE}px"
    return f'<img src="{source}" style="{style}">' if source else ""


_FOR_PROGRAMS = frozenset({"task_id", _IMAGE_PATH, "image_sha256", "phash", "chunk", "part"})
"""Columns that nobody reads; a frame of few columns shows them all the same."""
_FEW = 12
"""A frame with at most as many columns was chosen by hand, and is shown whole."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gallery:
    """Pictures beside each other, each over its caption; a notebook shows it."""

    frame: pd.DataFrame
    columns: tuple[str, ...]
    """What the captions say."""
    size: int
    total: int
    """Rows there are, of which `frame` has the first."""

    def _repr_html_(self) -> str:
        figures = []
        rows = _legible(self.frame[list(self.columns)]).itertuples(index=False, name=None)
        for source, values in zip(_sources(self.frame, self.size), rows, strict=True):
            said = "<br>".join(
                f'<span style="opacity:.6">{_text(display(name))}</span> {_text(_shown(value))}'
                for name, value in zip(self.columns, values, strict=True)
            )
            picture = f'<img src="{source}" style="max-width:100%">' if source else "(no image)"
            figures.append(
                f'<figure style="margin:0;width:{self.size}px;font-size:.85em;'
                f'overflow-wrap:anywhere">{picture}<figcaption>{said}</figcaption></figure>'
            )
        more = self.total - len(self.frame)
        note = f"<p>and {more:,} more: farm.show(df, limit=...)</p>" if more else ""
        style = "display:flex;flex-wrap:wrap;gap:12px;align-items:flex-start"
        return f'<div style="{style}">{"".join(figures)}</div>{note}'


def gallery(
    frame: pd.DataFrame,
    *,
    columns: Sequence[str] | None = None,
    limit: int = PICTURES,
    size: int = _SIZE,
) -> Gallery:
    """Return the pictures of a frame for a notebook; by default captions say what varies.

    Raises:
        InputError: the frame has no column `image_file`, or none of a name in `columns`.
    """
    table = Table.of_frame(frame, where=None)
    if columns is None:
        chosen = choose_axes(table.rows, order=table.order).every if table.rows else ()
    else:
        chosen = tuple(table.resolve(name) or name for name in columns)
    if limit < 1 or size < 1:
        raise InputError("limit and size are at least 1")
    return Gallery(frame=frame.head(limit), columns=chosen, size=size, total=len(frame))


def _sources(frame: pd.DataFrame, size: int) -> Iterable[str]:
    """Yield a picture for each row, as an address that holds it; empty where there is none."""
    files = frame[_IMAGE_FILE]
    paths = frame[_IMAGE_PATH] if _IMAGE_PATH in frame.columns else [None] * len(frame)
    stores: dict[str, Thumbnails] = {}
    for file, path in zip(files, paths, strict=True):
        try:
            yield _inside(_thumbnail(file, path, size, stores)) if _is_text(file) else ""
        except (FarmError, OSError, ValueError):
            yield ""  # gone or unreadable: the row is shown all the same


def _thumbnail(file: str, path: object, size: int, stores: dict[str, Thumbnails]) -> bytes:
    if isinstance(path, str) and file.endswith(f"/{path}"):
        output = file.removesuffix(f"/{path}")
        store = stores.setdefault(output, Thumbnails.open(output))
        return store.get(path, size)
    folder, _, name = file.replace("\\", "/").rpartition("/")
    return shrink(open_files(folder or ".").get(name), size)


def _is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value)


def _inside(data: bytes) -> str:
    return f"data:image/webp;base64,{base64.b64encode(data).decode()}"


def _text(value: object) -> str:
    return html.escape(str(value), quote=True)


def _shown(value: Any) -> str:  # noqa: ANN401 - any cell
    is_gone = value is None or (pd.api.types.is_scalar(value) and pd.isna(value))
    return "" if is_gone else show(value)
