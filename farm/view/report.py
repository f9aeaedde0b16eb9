"""One HTML page about an output: what ran, how long it took, what failed, what came out best.

The page is one file that needs nothing else: pictures are inside it, nothing is fetched from
anywhere, and there is no script. So it can be mailed, archived, or attached to an issue. Everything
that comes from the output (prompts, messages, names) is escaped.
"""

from __future__ import annotations

import base64
import html
import io
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from PIL import Image

from farm.errors import InputError
from farm.manifest.job import SheetSettings
from farm.store import Store
from farm.store.files import open_files
from farm.store.layout import SHEETS
from farm.version import __version__
from farm.view import status as states
from farm.view.missing import MISSING
from farm.view.publish import publish
from farm.view.query import VIEWS, ask, show_value
from farm.view.sheet import choose_axes, make_sheet
from farm.view.table import Record, Table, display, show, show_number
from farm.view.thumbnails import Thumbnails
from farm.view.words import clock_time, count, data_size, rate

BEST: Final = 12
"""Cells that are shown as the best."""
_MOST_SHEETS = 4
_SHEET_WIDTH = 1600
_THUMBNAIL = 256
_DRAWN = (".png", ".jpg", ".jpeg", ".webp")
_MOST_LISTED = 40
"""Values of an axis, and rows of a table, that are listed."""


def make_report(
    output: str,
    *,
    score: str | None = None,
    where: str | None = None,
    out: str | os.PathLike[str] | None = None,
) -> str:
    """Write the page about an output and return its file.

    Args:
        output: folder or URL.
        score: column of numbers by which cells are best; by default people's ratings, if any.
        where: SQL expression; only rows for which it holds.
        out: file to write; by default `report.html` in the output.

    Raises:
        OutputError: there is no readable output at `output`, or `out` cannot be written.
        InputError: `score` or `where` cannot be answered, or there is nothing to report.
    """
    store = Store.open(output)
    text = write_report(output, score=score, where=where)
    path = Path(out) if out is not None else Path("report.html")
    folder = store.url if out is None else str(path.parent)
    return publish(folder, path.name, lambda file: _save(file, text), what="the report")


def _save(file: Path, text: str) -> None:
    file.write_text(text, encoding="utf-8")


def write_report(output: str, *, score: str | None = None, where: str | None = None) -> str:
    """Return the page about an output as HTML; see `make_report`."""
    store = Store.open(output)
    table = Table.read(store, where=where)
    done = [row for row in table.rows if row["status"] in {"rendered", "failed"}]
    if not done:
        raise InputError(
            "nothing has been rendered here yet", where=output, hint=f"farm status {output}"
        )
    chosen = table.resolve(score) or _voted(done)
    # The last run whose renderers measured it; a run that only filled gaps may not have.
    measured = next(
        (kept for kept in reversed(store.reports()) if kept.get("efficiency") is not None), None
    )
    sections = [
        _head(table, store, where),
        _numbers(done, states.status(output), measured),
        _what_ran(table, done),
        *(_asked(table, name) for name in ("failures", "timings")),
        _where_time_went(measured),
        _asked(table, "workers"),
        _best(table, store, chosen),
        _sheets(output, where),
    ]
    body = "\n".join(section for section in sections if section)
    return _PAGE.format(title=_text(table.title), body=body)


def _voted(rows: Sequence[Record]) -> str | None:
    """Return the column of people's ratings, if anybody gave one."""
    return "rating" if any(row.get("rating") is not None for row in rows) else None


# --- sections -----------------------------------------------------------------------------------


def _head(table: Table, store: Store, where: str | None) -> str:
    now = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    kept = f" · where <code>{_text(where)}</code>" if where else ""
    return (
        f"<header><h1>{_text(table.title)}</h1>"
        f"<p><code>{_text(store.url)}</code>{kept} · written {now} by farm {__version__}</p>"
        "</header>"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Span:
    """When work was done: between the first start and the last end, without idle time."""

    busy_s: float
    """Seconds that all workers together spent on batches."""
    wall_s: float
    """Seconds in which at least one of them did."""


def _span(rows: Sequence[Record]) -> _Span:
    batches = {(row["worker"], row["started_at"], row["finished_at"]) for row in rows}
    times = sorted((start, end) for _, start, end in batches)
    wall, reached = 0.0, times[0][0]
    for start, end in times:
        if end > reached:
            wall += (end - max(start, reached)).total_seconds()
            reached = end
    busy = sum(row["render_ms"] or 0.0 for row in rows) / 1000
    return _Span(busy_s=busy, wall_s=wall)


def _numbers(
    rows: Sequence[Record], state: states.Status, measured: Mapping[str, Any] | None
) -> str:
    rendered = [row for row in rows if row["status"] == "rendered"]
    failed = len(rows) - len(rendered)
    span = _span(rows)
    workers = len({row["worker"] for row in rows})
    tiles: list[tuple[str, str]] = [("images", f"{len(rendered):,}")]
    if failed:
        tiles.append(("failed", f"{failed:,}"))
    if state.to_do:
        tiles.append(("to do", f"{state.to_do:,}"))
    tiles.append(("time at work", clock_time(span.wall_s)))
    if span.wall_s and rendered:
        tiles.append(("speed", rate(len(rendered) / span.wall_s)))
        share = span.busy_s / (span.wall_s * workers)
        tiles.append((f"rendering, of {count(workers, 'worker')}", f"{min(share, 1):.0%}"))
    if measured is not None:
        tiles.append(("efficiency, of the last run", f"{measured['efficiency']:.0%}"))
    if evaluations := sum(row["denoiser_evaluations"] or 0 for row in rendered):
        tiles.append(("evaluations", f"{evaluations:,}"))
    tiles.append(("on disk", data_size(sum(row["image_bytes"] or 0 for row in rendered))))
    inner = "".join(f"<div><b>{_text(v)}</b><span>{_text(k)}</span></div>" for k, v in tiles)
    return f'<section class="tiles">{inner}</section>'


def _where_time_went(measured: Mapping[str, Any] | None) -> str:
    shares = (measured or {}).get("time_shares") or {}
    rows = [(name.replace("_", " "), f"{share:.1%}") for name, share in shares.items()]
    if not rows:
        return ""
    head = ("devices' time in the last run", "share")
    return f"<section><h2>Where the time went</h2>{_table(head, rows)}</section>"


def _what_ran(table: Table, rows: Sequence[Record]) -> str:
    varying, fixed = [], []
    # A prompt that follows from its variables is no axis of its own.
    axes = choose_axes(rows, order=table.order).every
    for name in table.order:
        levels = [level for level in table.levels(name) if level is not None]
        if len(levels) > 1 and name in axes:
            listed = ", ".join(map(show, levels[:_MOST_LISTED]))
            more = (
                f", and {len(levels) - _MOST_LISTED:,} more" if len(levels) > _MOST_LISTED else ""
            )
            varying.append((display(name), f"{len(levels):,}", listed + more))
        elif len(levels) == 1 and levels != [""]:
            fixed.append((display(name), show(levels[0])))
    fixed += [
        (name, ", ".join(values))
        for name in ("job", "device", "node", "farm_version", "torch_version", "diffusers_version")
        if (values := sorted({str(row[name]) for row in rows if row.get(name)}))
    ]
    parts = ["<section><h2>What ran</h2>"]
    if varying:
        parts.append(_table(("axis", "values", ""), varying))
    parts.append(_table(("fixed", ""), fixed))
    return "".join(parts) + "</section>"


_HEADINGS: Mapping[str, str] = {
    "failures": "Failures by kind",
    "timings": "Timings",
    "workers": "Workers",
}


def _asked(table: Table, view: str) -> str:
    """Return the answer of a view, without columns that say nothing; nothing if it has no rows."""
    answer = ask(table.arrow, VIEWS[view].sql, where=f"status <> '{MISSING}'")
    if not answer.num_rows:
        return ""
    rows = answer.slice(0, _MOST_LISTED).to_pylist()
    names = [name for name in answer.column_names if any(row[name] is not None for row in rows)]
    cells = [[show_value(row[name]) for name in names] for row in rows]
    more = answer.num_rows - len(rows)
    note = f"<p>and {more:,} more: <code>farm query OUTPUT {view}</code></p>" if more > 0 else ""
    return f"<section><h2>{_HEADINGS[view]}</h2>{_table(names, cells)}{note}</section>"


def _best(table: Table, store: Store, score: str | None) -> str:
    """Return the cells with the highest mean score; a cell is all settings but the seed."""
    if score is None:
        return (
            "<section><h2>Best</h2><p>Nobody has rated these images yet. Rate them in the "
            "explorer, or name a column: <code>farm report OUTPUT --score sharpness</code></p>"
            "</section>"
        )
    rows = [row for row in table.rows if row["status"] == "rendered" and row[score] is not None]
    if not rows or not all(isinstance(row[score], int | float) for row in rows):
        raise InputError(
            f"'{display(score)}' is no column of numbers with values here",
            hint="a score is a number, such as sharpness, brightness or rating",
        )
    axes = choose_axes(rows, order=table.order)
    names = [name for name in axes.every if name != "seed"]
    cells: dict[tuple[Any, ...], list[Record]] = {}
    for row in rows:
        cells.setdefault(tuple(row[name] for name in names), []).append(row)
    ranked = sorted(cells.items(), key=lambda cell: -_mean(cell[1], score))[:BEST]
    thumbnails = Thumbnails(open_files(store.url))
    best = [max(members, key=lambda row: row[score]) for _, members in ranked]
    pictures = thumbnails.each([row["image_path"] for row in best], _THUMBNAIL)
    figures = []
    for (key, members), picture in zip(ranked, pictures, strict=True):
        said = ", ".join(f"{display(n)} {show(v)}" for n, v in zip(names, key, strict=True))
        shown = (
            f'<img src="{_inside(picture.data, "webp")}" alt="{_text(said)}">'
            if picture.data
            else f"<p>{_text(picture.problem)}</p>"
        )
        mean = show_number(float(_mean(members, score)))
        figures.append(
            f"<figure>{shown}<figcaption><b>{mean}</b> of {count(len(members), 'image')}<br>"
            f"{_text(said)}</figcaption></figure>"
        )
    return (
        f"<section><h2>Best by {_text(display(score))}</h2>"
        f'<div class="best">{"".join(figures)}</div></section>'
    )


def _mean(rows: Sequence[Record], name: str) -> float:
    return sum(float(row[name]) for row in rows) / len(rows)


def _sheets(output: str, where: str | None) -> str:
    """Return the sheets that lie in the output, or one that is made for this page."""
    figures = [
        f'<figure><img src="{_inside(data, "jpeg")}" alt="{_text(name)}">'
        f"<figcaption>{_text(name)}</figcaption></figure>"
        for name, data in _sheet_files(output, where)
    ]
    return f'<section class="sheets"><h2>Sheets</h2>{"".join(figures)}</section>' if figures else ""


def _sheet_files(output: str, where: str | None) -> Iterator[tuple[str, bytes]]:
    files = open_files(output)
    names = sorted(
        entry.name
        for entry in files.scan(SHEETS)
        if entry.name.endswith(_DRAWN) and "/plot-" not in entry.name and "/." not in entry.name
    )
    if names and where is None:
        for name in names[:_MOST_SHEETS]:
            yield name, _smaller(files.get(name))
        return
    with tempfile.TemporaryDirectory() as folder:
        made = make_sheet(output, SheetSettings(where=where), out=Path(folder) / "sheet.png")
        for file in made[:_MOST_SHEETS]:
            yield Path(file).name, _smaller(Path(file).read_bytes())


def _smaller(data: bytes) -> bytes:
    """Return a sheet as a JPEG that a page can carry."""
    sink = io.BytesIO()
    with Image.open(io.BytesIO(data)) as image:
        plain = image.convert("RGB")
    plain.thumbnail((_SHEET_WIDTH, 4 * _SHEET_WIDTH), Image.Resampling.LANCZOS)
    plain.save(sink, "JPEG", quality=85)
    return sink.getvalue()


# --- HTML ---------------------------------------------------------------------------------------


def _text(value: object) -> str:
    """Return a value as text of the page, which no browser takes for markup."""
    return html.escape(str(value), quote=True)


def _inside(data: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    # Names of columns may be broken between their words.
    top = "".join(f"<th>{_text(name).replace('_', '_<wbr>')}</th>" for name in head)
    body = "".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in rows)
    inner = f"<thead><tr>{top}</tr></thead><tbody>{body}</tbody>"
    return f'<div class="table"><table>{inner}</table></div>'


_LONG = 40
"""Characters from which a value may be broken anywhere, as digests and paths have to be."""


def _cell(value: str) -> str:
    start = '<td class="long">' if len(value) > _LONG else "<td>"
    return f"{start}{_text(value)}</td>"


_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
  content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark; --paper: #f6f6f3; --card: #fff; --ink: #17171a; --soft: #62646c;
  --line: #dededa; }}
@media (prefers-color-scheme: dark) {{ :root {{ --paper: #18191c; --card: #222327; --ink: #f0f0f3;
  --soft: #a0a2aa; --line: #3a3b41; }} }}
* {{ box-sizing: border-box; }}
body {{ margin: 0 auto; max-width: 76rem; padding: 2rem 1.25rem 4rem; background: var(--paper);
  color: var(--ink); font: 15px/1.5 system-ui, sans-serif; overflow-wrap: break-word; }}
h1 {{ margin: 0; font-size: 1.9rem; }}
h2 {{ margin: 2.25rem 0 .75rem; font-size: 1.2rem; }}
header p, figcaption, .tiles span {{ color: var(--soft); }}
code {{ font: .92em ui-monospace, monospace; }}
.tiles {{ display: flex; flex-wrap: wrap; gap: .75rem; margin-top: 1.5rem; }}
.tiles div {{ flex: 1 1 8.5rem; padding: .8rem 1rem; background: var(--card);
  border: 1px solid var(--line); border-radius: .5rem; }}
.tiles b {{ display: block; font-size: 1.3rem; white-space: nowrap; }}
.table {{ overflow-x: auto; margin-bottom: 1rem; }}
table {{ border-collapse: collapse; font-variant-numeric: tabular-nums; }}
th, td {{ padding: .35rem .9rem .35rem 0; text-align: left; vertical-align: top;
  border-bottom: 1px solid var(--line); }}
th {{ color: var(--soft); font-weight: 500; }}
td.long {{ min-width: min(16rem, 42vw); overflow-wrap: anywhere; }}
td:first-child {{ white-space: nowrap; padding-right: 1.5rem; }}
figure {{ margin: 0; }}
img {{ max-width: 100%; height: auto; border-radius: .25rem; }}
.best {{ display: grid; grid-template-columns: repeat(auto-fill, minmax(9.5rem, 1fr));
  gap: 1.25rem; }}
.sheets figure {{ margin-bottom: 1.5rem; }}
</style>
</head>
<body>
{body}
</body>
</html>
"""
