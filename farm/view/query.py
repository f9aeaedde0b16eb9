"""The catalog as a table: to pandas, to Arrow, or through SQL.

A `Catalog` is the store's winning rows with the map of template variables widened into `var_*`
columns and every image path resolved, which is what people ask questions of. `query` puts DuckDB
over it, as a table called `catalog`, in a database of its own that can see nothing else: no files,
no network, no variables of the calling program. So a query found on the web is safe to run.

DuckDB is known to this module alone.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import decimal
import io
import json
import logging
import math
import re
import shutil
import sys
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from rich.cells import cell_len

from farm.errors import InputError, suggest
from farm.manifest.job import VAR_PREFIX
from farm.store import Store
from farm.store.catalog import SCHEMA
from farm.store.row import RESULT_FIELDS
from farm.store.votes import CHOICES, Ballot, choices
from farm.task import ALIASES, FIELDS
from farm.view.duplicates import duplicates_table
from farm.view.words import shorten

if TYPE_CHECKING:
    import duckdb
    import pandas as pd

FORMATS = ("table", "csv", "json", "parquet")
"""How an answer is written: for eyes, for spreadsheets, for scripts, for the next program."""

TABLE = "catalog"
"""The one table that a query sees."""

_LOG = logging.getLogger(__name__)
_VARS = "vars"
_IMAGE_PATH = "image_path"
_IMAGE_FILE = "image_file"


@dataclass(frozen=True, slots=True, kw_only=True)
class Catalog:
    """One row for every task that finished, rendered or failed, in the output at `url`.

    Columns are the catalog schema's, in its order, with three changes: `image_file` (absolute path
    or URL; null where there is no image) follows `image_path`, what people voted follows in the
    columns of `farm.store.votes.CHOICES`, and the map `vars` has become one text column
    `var_<name>` for each template variable, sorted by name, at the end.
    """

    url: str
    table: pa.Table

    def __len__(self) -> int:
        return int(self.table.num_rows)

    def to_arrow(self) -> pa.Table:
        """Return the rows as an Arrow table."""
        return self.table

    def to_pandas(self) -> pd.DataFrame:
        """Return the rows as a pandas frame, which shows their pictures in a notebook."""
        from farm.view.notebook import CatalogFrame

        return CatalogFrame(self.table.to_pandas())

    def compare(self, column: str, to: str) -> Catalog:
        """Return the catalog with the columns `psnr` and `ssim`, from a look at every picture.

        They say how far a picture is from its counterpart: the same cell whose `column` is `to`, as
        in `compare("backend", "torch")`. Null where there is none.

        Raises:
            InputError: there is no such column, or nothing rendered has that value.
        """
        from farm.view.compare import add_differences

        compared = add_differences(self.table, url=self.url, column=column, value=to)
        return Catalog(url=self.url, table=compared)

    def _repr_html_(self) -> str | None:
        return self.to_pandas()._repr_html_()  # type: ignore[operator,no-any-return]


def catalog(output: str) -> Catalog:
    """Read the catalog of an output folder or URL.

    Raises:
        OutputError: there is no readable output at `output`.
    """
    return read_catalog(Store.open(output))


def read_catalog(store: Store, *, columns: Iterable[str] | None = None) -> Catalog:
    """Read the catalog of an open store, or only some of its columns.

    Files in it that are no use are named in the log.
    """
    wanted = None if columns is None else set(columns)
    table = store.table(None if wanted is None else _stored(wanted))
    for warning in store.warnings:
        _LOG.warning("left out of the catalog: %s", warning)
    if wanted is None or wanted.intersection(CHOICES.names):
        ballot = store.ballot()
        for warning in ballot.broken.values():
            _LOG.warning("left out of the votes: %s", warning)
        return complete(table, url=store.url, ballot=ballot)
    return Catalog(url=store.url, table=widen(_locate_images(table, store.url)))


def complete(table: pa.Table, *, url: str, ballot: Ballot) -> Catalog:
    """Return the catalog of winning rows and votes that were read already."""
    rated = _add_choices(_locate_images(table, url), ballot)
    return Catalog(url=url, table=widen(rated))


def _stored(columns: Iterable[str]) -> list[str]:
    """Return the columns of the store that these columns of the catalog are made of."""
    sources = {_VARS if name.startswith(VAR_PREFIX) else name for name in columns}
    if _IMAGE_FILE in sources:
        sources.add(_IMAGE_PATH)
    if sources.intersection(CHOICES.names):
        sources.add("task_id")
    return [name for name in SCHEMA.names if name in sources]


def _add_choices(table: pa.Table, ballot: Ballot) -> pa.Table:
    """Return `table`, which has `task_id`, with what people voted at its end."""
    found = choices(ballot.votes)
    place = pc.index_in(table["task_id"], value_set=found["task_id"].combine_chunks())
    for field in CHOICES:
        table = table.append_column(field, found[field.name].take(place))
    return table


def _locate_images(table: pa.Table, url: str) -> pa.Table:
    """Return `table` with the place of every image after its path."""
    if _IMAGE_PATH not in table.column_names:
        return table
    paths = table[_IMAGE_PATH].cast(pa.string())
    files = pc.binary_join_element_wise(pa.scalar(url.rstrip("/") + "/"), paths, "")
    return table.add_column(table.column_names.index(_IMAGE_PATH) + 1, _IMAGE_FILE, files)


def empty_table(variables: Iterable[str] = ()) -> pa.Table:
    """Return the table of a catalog without rows, with these `var_*` columns."""
    empty = _locate_images(SCHEMA.empty_table(), "").drop_columns([_VARS])
    for field in CHOICES:
        empty = empty.append_column(field, pa.array([], field.type))
    for name in variables:
        empty = empty.append_column(name, pa.array([], pa.string()))
    return empty


def widen(table: pa.Table) -> pa.Table:
    """Return `table` with its map column `vars` replaced by one text column a variable."""
    if _VARS not in table.column_names:
        return table
    maps = table[_VARS].combine_chunks()
    if isinstance(maps, pa.ChunkedArray):  # an empty table combines to no chunk at all
        maps = pa.concat_arrays(maps.chunks) if maps.num_chunks else pa.array([], maps.type)
    table = table.drop_columns([_VARS])
    # Offsets count from the start of the parent of a slice; its keys and items do not know that.
    offsets = np.asarray(maps.offsets)
    begin, end = (int(offsets[0]), int(offsets[-1])) if len(offsets) else (0, 0)
    keys = maps.keys[begin:end].dictionary_encode()
    items = maps.items[begin:end]
    owners = np.repeat(np.arange(len(maps)), np.diff(offsets))
    codes = keys.indices.to_numpy(zero_copy_only=False)
    names: list[str] = keys.dictionary.to_pylist()
    for code in sorted(range(len(names)), key=names.__getitem__):
        held = np.flatnonzero(codes == code)
        source = np.full(len(maps), -1, dtype=np.int64)
        source[owners[held]] = held
        column = items.take(pa.array(source, mask=source < 0))
        table = table.append_column(VAR_PREFIX + names[code], column)
    return table


# --- asking ------------------------------------------------------------------------------------


def query(
    output: str,
    sql: str | None = None,
    *,
    where: str | None = None,
    columns: Sequence[str] | None = None,
    limit: int | None = None,
    compare: str | None = None,
) -> pa.Table:
    """Return the answer to a question about the catalog of `output`.

    `where` is a SQL expression (`guidance_scale > 6 and sampler = 'ddim'`) that leaves out rows
    before `sql` sees them. Without `sql`, the answer is those rows, with `columns` if any are
    named. `limit` cuts the answer, not the rows it is computed from. `sql` may name a view, one of
    `VIEWS` or a saved one, and SQL may ask views as it asks the table. `compare` is `column=value`:
    the catalog gains `psnr` and `ssim`, as `Catalog.compare` has them.

    Raises:
        OutputError: there is no readable output at `output`.
        InputError: the SQL is not a question, or DuckDB cannot answer it.
    """
    store = Store.open(output)
    question = _Question(
        sql=sql,
        where=where,
        columns=tuple(columns or ()),
        limit=limit,
        views={
            **VIEWS,
            **{name: View(sql=text, doc=SAVED) for name, text in _saved(store).items()},
        },
    )
    if compare is not None:
        from farm.view.compare import parse_against

        column, value = parse_against(compare)
        return question.answer(read_catalog(store).compare(column, value).table)
    if needed := question.reads():
        # Most questions need a few of some forty columns. Should this one be wrong after all, the
        # whole catalog is asked, for an error that knows all columns.
        with suppress(InputError):
            return question.answer(read_catalog(store, columns=needed).table)
    return question.answer(read_catalog(store).table)


def ask(table: pa.Table, sql: str | None = None, *, where: str | None = None) -> pa.Table:
    """Answer a question, as `query` does, about a table at hand.

    Raises:
        InputError: the SQL is not a question, or DuckDB cannot answer it.
    """
    return _Question(sql=sql, where=where).answer(table)


# --- views -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """A question under a name, which other questions may ask like a table."""

    doc: str
    sql: str
    """Over `catalog`; of `duplicates`, which SQL cannot tell, it only names the rows."""


SAVED = "saved with --save"
_DUPLICATES = "duplicates"
VIEWS: Mapping[str, View] = MappingProxyType(
    {
        "failures": View(
            doc="Failures by kind and message, the most frequent first.",
            sql="SELECT error_kind, error_message, count(*) AS tasks, "
            "min(prompt) AS for_example, max(finished_at) AS latest "
            "FROM catalog WHERE status = 'failed' GROUP BY ALL ORDER BY tasks DESC, error_message",
        ),
        "timings": View(
            doc="What an image took, by model and settings, the slowest first.",
            sql="SELECT model, backend, dtype, device, sampler, num_inference_steps, width, "
            "height, count(*) AS images, round(avg(render_ms), 1) AS render_ms, "
            "round(avg(render_ms / nullif(denoiser_evaluations, 0)), 2) AS evaluation_ms, "
            "round(avg(encode_ms), 2) AS encode_ms, round(avg(batch_size), 1) AS batch_size "
            "FROM catalog WHERE status = 'rendered' GROUP BY ALL ORDER BY render_ms DESC",
        ),
        "workers": View(
            doc="What each worker did.",
            sql="SELECT worker, node, device, count(*) FILTER (status = 'rendered') AS rendered, "
            "count(*) FILTER (status = 'failed') AS failed, "
            "round(sum(render_ms) / 1000, 1) AS busy_s, min(started_at) AS first, "
            "max(finished_at) AS last FROM catalog GROUP BY ALL ORDER BY worker",
        ),
        "blank": View(
            doc="Pictures of hardly more than one tone.",
            sql="SELECT * FROM catalog WHERE contrast < 0.01 ORDER BY contrast",
        ),
        _DUPLICATES: View(
            doc="Pictures that look nearly the same, in groups, the largest first.",
            sql="SELECT * FROM catalog WHERE phash IS NOT NULL",
        ),
    }
)
"""Views that every catalog has."""
_VIEW_FILES = "views/"
_NAME = re.compile(r"[A-Za-z_][0-9A-Za-z_]{0,62}")


def save_view(output: str, name: str, sql: str | None, *, where: str | None = None) -> None:
    """Keep a question in the output, under a name that later questions may use.

    Without `sql`, it is for the rows for which `where` holds.

    Raises:
        OutputError: there is no writable output at `output`.
        InputError: the name is taken or cannot be one, or the SQL cannot be answered.
    """
    if not _NAME.fullmatch(name) or name.lower() in {TABLE, "every_row", *VIEWS}:
        raise InputError(
            f"'{name}' cannot name a view",
            hint=f"use letters, digits and underscores, and none of {', '.join((TABLE, *VIEWS))}",
        )
    if sql is None:
        kept = f" WHERE {where}" if where else ""
        sql = f"SELECT * FROM {TABLE}{kept}"  # noqa: S608 - see _connect
    query(output, sql, limit=0)
    Store.open(output).control.write(f"{_VIEW_FILES}{name}.sql", sql)


def list_views(output: str) -> pa.Table:
    """Return a table of the views of an output: `view`, `shows`, `sql`.

    Raises:
        OutputError: there is no readable output at `output`.
    """
    views = [(name, view.doc, view.sql) for name, view in VIEWS.items()]
    views += [(name, SAVED, sql) for name, sql in _saved(Store.open(output)).items()]
    names, docs, texts = zip(*views, strict=True)
    return pa.table({"view": names, "shows": docs, "sql": texts})


def _saved(store: Store) -> Mapping[str, str]:
    names = store.control.names(_VIEW_FILES)
    texts = {name: store.control.read(name) for name in names if name.endswith(".sql")}
    return {
        name.removeprefix(_VIEW_FILES).removesuffix(".sql"): text
        for name, text in texts.items()
        if text is not None
    }


# --- questions ---------------------------------------------------------------------------------

_VARIABLE = re.compile(rf'"({VAR_PREFIX}[^"]+)"|\b({VAR_PREFIX}\w+)')
_COLUMNS = re.compile(r"\bcolumns\s*\(", re.IGNORECASE)
"""DuckDB's way to choose columns by a pattern, which no other column can stand in for."""
_ANY_VARIABLE = f"{VAR_PREFIX}\N{ASTERISK}"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Question:
    """What is asked of a catalog; see `query`."""

    sql: str | None = None
    where: str | None = None
    columns: tuple[str, ...] = ()
    limit: int | None = None
    views: Mapping[str, View] = dataclasses.field(default_factory=lambda: VIEWS)

    def answer(self, table: pa.Table) -> pa.Table:
        """Return the answer about this table."""
        with self._posed(table) as (connection, sql):
            answer = connection.sql(sql).to_arrow_table()
        return answer if self.limit is None else answer.slice(0, self.limit)

    def reads(self) -> tuple[str, ...]:
        """Return the columns that are enough to answer; none if that is not known beforehand.

        DuckDB's optimiser knows: it plans the question over a table without rows, and its plan
        names the columns to scan. What the plan only mentions counts as well. Which variables a
        catalog has is not known yet, so one of no possible name stands for all that `*` may mean.
        """
        views = self._mentioned(self.sql or "")
        if _DUPLICATES in views:
            return ()  # they are whole rows, and found in Python
        asked = " ".join(self.views[name].sql for name in views)
        text = f"{self.sql or ''} {self.where or ''} {asked}"
        if _COLUMNS.search(text):
            return ()
        variables = {quoted or bare for quoted, bare in _VARIABLE.findall(text)}
        variables |= {VAR_PREFIX + name.removeprefix(VAR_PREFIX) for name in self.columns}
        empty = empty_table([*sorted(variables), _ANY_VARIABLE])
        try:
            with self._posed(empty) as (connection, sql):
                [[_, plan]] = connection.execute(f"EXPLAIN (FORMAT JSON) {sql}").fetchall()
        except (InputError, ValueError):
            return ()
        return tuple(name for name in empty.column_names if name in plan)

    @contextmanager
    def _posed(self, table: pa.Table) -> Iterator[tuple[duckdb.DuckDBPyConnection, str]]:
        """Give a database in which the question can be asked, and its SQL."""
        import duckdb

        view_name = (self.sql or TABLE).strip()
        if view_name in self.views and self.columns:
            # A view has columns of its own; it is for the database to say which.
            sql = f"SELECT {', '.join(map(_quote, self.columns))} FROM {_quote(view_name)}"  # noqa: S608 - see _connect
        elif view_name in self.views:
            sql = f"SELECT * FROM {_quote(view_name)}"  # noqa: S608 - see _connect
        elif self.sql is not None and self.columns:
            raise InputError(
                "columns are named either in the SQL or apart from it, not both",
                hint="put them after SELECT",
            )
        elif self.sql is not None:
            _refuse_unknown_view(view_name, self.views)
            sql = self.sql
        else:
            names = [resolve_column(name, table.column_names) for name in self.columns]
            sql = f"SELECT {', '.join(map(_quote, names)) or '*'} FROM {TABLE}"  # noqa: S608 - see _connect
        # The line break keeps a comment at the end of `where` from swallowing the parenthesis.
        kept = f"WHERE ({self.where}\n)" if self.where and self.where.strip() else ""
        view = f"CREATE VIEW {TABLE} AS SELECT * FROM every_row {kept}"  # noqa: S608 - see _connect
        with _connect() as connection:
            try:
                connection.register("every_row", table)
                _require_one(connection, view)
                connection.execute(view)
                for name in self._mentioned(sql):
                    self._create(connection, name)
                _require_question(connection, sql)
                yield connection, sql
            except duckdb.Error as error:
                raise _explain(error, table.column_names) from None

    def _mentioned(self, sql: str) -> list[str]:
        """Return the views that SQL needs, each after those that it needs itself."""
        found: dict[str, None] = {}

        def visit(text: str, above: tuple[str, ...]) -> None:
            for word in dict.fromkeys(re.findall(r"\w+", text)):
                if word in self.views and word not in above:
                    visit(self.views[word].sql, (*above, word))
                    found.setdefault(word)

        visit(sql, ())
        return list(found)

    def _create(self, connection: duckdb.DuckDBPyConnection, name: str) -> None:
        sql = self.views[name].sql
        _require_question(connection, sql)
        if name == _DUPLICATES:
            rows = connection.sql(sql).to_arrow_table()
            connection.register(name, duplicates_table(rows))
        else:
            connection.execute(f"CREATE VIEW {_quote(name)} AS {sql}")


def resolve_column(name: str, known: Sequence[str]) -> str:
    """Return the column that `name` means: itself, a field's alias (`cfg`), or a bare variable.

    Raises:
        InputError: none of the `known` columns is meant; the message suggests the nearest.
    """
    for spelling in (name, ALIASES.get(name, name), VAR_PREFIX + name):
        if spelling in known:
            return spelling
    hint = _nearest(name, known)
    raise InputError(
        f"the catalog has no column '{name}'", note=_known(known, is_whole=hint is None), hint=hint
    )


def _known(columns: Sequence[str], *, is_whole: bool) -> str:
    """Return which columns there are; where one is suggested, only how to see them all."""
    if is_whole:
        return f"columns: {', '.join(columns)}"
    return f'farm query OUTPUT "describe catalog" lists all {len(columns)} columns'


def _nearest(name: str, known: Sequence[str]) -> str | None:
    if (field := ALIASES.get(name)) in known:
        return f"the catalog calls it '{field}'"
    if VAR_PREFIX + name in known:
        return f"template variables carry a prefix: '{VAR_PREFIX}{name}'"
    return suggest(name, known)


def _connect() -> duckdb.DuckDBPyConnection:
    """Return a database in memory that reaches nothing but what is registered with it."""
    import duckdb

    return duckdb.connect(
        ":memory:",
        config={
            "enable_external_access": "false",
            "autoinstall_known_extensions": "false",
            "autoload_known_extensions": "false",
            "python_enable_replacements": "false",
        },
    )


def _quote(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _require_one(connection: duckdb.DuckDBPyConnection, sql: str) -> None:
    count = len(connection.extract_statements(sql))
    if count != 1:
        found = "nothing" if not count else f"{count} statements"
        raise InputError(f"expected one SQL statement, found {found}", where="SQL")


def _require_question(connection: duckdb.DuckDBPyConnection, sql: str) -> None:
    """Refuse what is not a question. The database could not harm anything; its user could err."""
    import duckdb

    kinds = duckdb.StatementType
    _require_one(connection, sql)
    [statement] = connection.extract_statements(sql)
    if statement.type not in {kinds.SELECT, kinds.EXPLAIN, kinds.MULTI}:  # MULTI is PIVOT
        raise InputError(
            f"{statement.type.name} is not a question, and a catalog is only read",
            where="SQL",
            hint="ask with SELECT, WITH, PIVOT, DESCRIBE or SUMMARIZE",
        )


_UNKNOWN_COLUMN = re.compile(
    r'column "(?P<name>[^"]+)" not found|not have a column named "(?P<of_table>[^"]+)"',
    re.IGNORECASE,
)
"""What DuckDB says of a column that is nowhere, and of one that is not in the table it is asked of.
"""


_TOO_EARLY = re.compile(r'syntax error at or near "\)"\s+LINE 2: \)\s+\^')
"""What it says of the parenthesis that closes a condition of ours, which lacks something."""


def _explain(error: duckdb.Error, columns: Sequence[str]) -> InputError:
    message = _TOO_EARLY.sub("the expression ends too early", str(error).strip())
    note = hint = None
    if found := _UNKNOWN_COLUMN.search(message):
        name = (found["name"] or found["of_table"]).rpartition(".")[2]
        # DuckDB adds its own guesses and the columns of our view; ours say more.
        message = message.partition("\n")[0]
        hint = _nearest(name, columns)
        note = _known(columns, is_whole=hint is None)
        hint = hint or f"text stands in single quotes: '{name}'"
    return InputError(message, where="SQL", note=note, hint=hint)


def _refuse_unknown_view(word: str, views: Iterable[str]) -> None:
    """Raise an InputError if SQL is one word, which can only be meant as a view's name."""
    if _NAME.fullmatch(word):
        raise InputError(
            f"there is no view '{word}'",
            note=f"views: {', '.join(views)}",
            hint=suggest(word, views) or "farm query OUTPUT --views lists them",
        )


# --- showing -----------------------------------------------------------------------------------

_MAX_ROWS = 40
"""A terminal shows at most this many rows; every other format shows all."""
_MAX_CELL = 44
"""Widest text in a terminal cell; the longest of a prompt that still leaves room for settings."""
_MIN_CELL = 14
"""What a longer text is shortened to when room is scarce."""
_GAP = "  "
_SECONDARY = frozenset({"error_kind", "error_message", "image_path", "render_ms"})
_BOOKKEEPING = frozenset({"task_id", *CHOICES.names, *RESULT_FIELDS, "image_file", "chunk", "part"})
_LAST_RANK = 2


def _rank(name: str) -> int:
    """Return how readily a column gives way on a narrow terminal; the settings stay longest."""
    if name in _SECONDARY:
        return 1
    return _LAST_RANK if name in _BOOKKEEPING - {*FIELDS, "status"} else 0


def render_table(table: pa.Table, *, format_: str = "table", width: int = 100) -> bytes:
    """Return `table` written in one of `FORMATS`; text is UTF-8 and ends with a line break.

    `csv`, `json` (an array with one object a line) and `parquet` hold everything. `table` is for a
    terminal `width` characters wide: long texts are shortened in the middle, columns that are the
    same in every row or that find no room are named below, and so is the number of rows not shown.

    Raises:
        InputError: there is no such format.
    """
    match format_:
        case "table":
            return _terminal_table(table, width).encode()
        case "csv":
            return _csv(table)
        case "json":
            return _json(table).encode()
        case "parquet":
            return _parquet(table)
        case _:
            raise InputError(
                f"unknown format '{format_}'; there are {', '.join(FORMATS)}",
                hint=suggest(format_, FORMATS),
            )


_WIDEST = 10_000
"""Characters of a line in a pipe or a file: nothing there says that it should be cut."""


def print_table(table: pa.Table, *, format_: str = "table") -> None:
    """Write `table` to stdout, as wide as the terminal is; as wide as it needs into a pipe.

    Raises:
        InputError: there is no such format, or it is not text and stdout is a terminal.
    """
    if format_ == "parquet" and sys.stdout.isatty():
        raise InputError("Parquet is not for reading on a terminal", hint="add `> FILE.parquet`")
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else _WIDEST
    data = render_table(table, format_=format_, width=width)
    sys.stdout.flush()
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


def _parquet(table: pa.Table) -> bytes:
    import pyarrow.parquet as pq

    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd")
    return sink.getvalue()


def _csv(table: pa.Table) -> bytes:
    import pyarrow.csv as pcsv

    for place, field in enumerate(table.schema):
        if pa.types.is_nested(field.type):
            texts = [
                _json_text(value) for value in table[place].to_pylist(maps_as_pydicts="strict")
            ]
            table = table.set_column(place, field.name, pa.array(texts, pa.string()))
        elif pa.types.is_dictionary(field.type):
            plain = table[place].cast(field.type.value_type)
            table = table.set_column(place, field.name, plain)
    sink = io.BytesIO()
    pcsv.write_csv(table, sink)
    return sink.getvalue()


def _json(table: pa.Table) -> str:
    lines = [
        json.dumps({name: _plain(value) for name, value in row.items()}, ensure_ascii=False)
        for row in _rows(table)
    ]
    return "[\n" + ",\n".join(lines) + "\n]\n" if lines else "[]\n"


def _rows(table: pa.Table) -> Iterator[dict[str, Any]]:
    for batch in table.to_batches(max_chunksize=10_000):
        yield from batch.to_pylist(maps_as_pydicts="strict")


def _json_text(value: object) -> str | None:
    return None if value is None else json.dumps(_plain(value), ensure_ascii=False)


def _plain(value: object) -> object:
    """Return `value` as JSON can write it; what JSON has no word for becomes null or text."""
    plain: object
    match value:
        case None | str() | bool() | int():
            plain = value
        case float():
            plain = value if math.isfinite(value) else None
        case decimal.Decimal():
            plain = int(value) if value == value.to_integral_value() else float(value)
        case dt.datetime() | dt.date() | dt.time():
            plain = value.isoformat()
        case Mapping():
            plain = {str(key): _plain(item) for key, item in value.items()}
        case list() | tuple():
            plain = [_plain(item) for item in value]
        case _:
            plain = str(value)
    return plain


def show_value(value: object) -> str:
    """Return a catalog value as people write it."""
    match value:
        case None:
            return "-"
        case float() if math.isfinite(value):
            return f"{value:.6g}"
        case dt.datetime():
            return value.strftime("%Y-%m-%d %H:%M:%S")
        case list() | tuple() | dict():
            return json.dumps(_plain(value), ensure_ascii=False)
        case _:
            return str(value)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Column:
    """A column as a terminal shows it: a name, its texts, and how wide they would like to be."""

    name: str
    texts: tuple[str, ...]
    is_number: bool

    @property
    def natural(self) -> int:
        widest = max(map(cell_len, (self.name, *self.texts)))
        return widest if self.is_number else min(_MAX_CELL, widest)

    @property
    def least(self) -> int:
        return self.natural if self.is_number else min(_MIN_CELL, self.natural)

    def line(self, text: str, width: int) -> str:
        text = shorten(text, width)
        space = " " * (width - cell_len(text))
        return space + text if self.is_number else text + space


def _terminal_table(table: pa.Table, width: int) -> str:
    total = table.num_rows
    shown = table.slice(0, _MAX_ROWS)
    columns = [
        _Column(
            name=field.name,
            texts=tuple(
                show_value(value) for value in shown[place].to_pylist(maps_as_pydicts="strict")
            ),
            is_number=pa.types.is_integer(field.type)
            or pa.types.is_floating(field.type)
            or pa.types.is_decimal(field.type),
        )
        for place, field in enumerate(table.schema)
    ]
    notes = []
    if total > 1 and _room(columns) > width:
        same = [column for column in columns if len(set(column.texts)) == 1]
        if len(same) < len(columns):
            scope = "in all rows" if total <= _MAX_ROWS else "in all rows shown"
            empty = [column.name for column in same if column.texts[0] in {"-", ""}]
            facts = [
                f"{column.name} {shorten(column.texts[0], 32)}"
                for column in same
                if column.name not in empty
            ]
            notes += [f"the same {scope}: {', '.join(facts)}"] if facts else []
            notes += [f"empty {scope}: {', '.join(empty)}"] if empty else []
            columns = [column for column in columns if column not in same]
    chosen = _choose(columns, width)
    if hidden := [column.name for column in columns if column not in chosen]:
        notes.append(f"no room for: {', '.join(hidden)}")
    count = f"{total:,} row{'' if total == 1 else 's'}"
    notes.append(count if total <= _MAX_ROWS else f"{count}, the first {_MAX_ROWS} shown")
    lines = _draw(chosen, _widths(chosen, width))
    folded = (textwrap.fill(note, max(width, 20), subsequent_indent="  ") for note in notes)
    return "\n".join((*lines, "", *folded)) + "\n"


def _room(columns: Sequence[_Column]) -> int:
    return sum(column.natural + len(_GAP) for column in columns) - len(_GAP)


def _choose(columns: Sequence[_Column], width: int) -> list[_Column]:
    """Return the columns that find room, the more telling ones first.

    Columns may be squeezed to their least width to make room for others, but not for bookkeeping.
    """
    kept: list[_Column] = []
    for column in sorted(columns, key=lambda column: _rank(column.name)):
        squeeze = _rank(column.name) < _LAST_RANK
        taken = sum((one.least if squeeze else one.natural) + len(_GAP) for one in kept)
        if taken + column.least <= width or not kept:
            kept.append(column)
    return [column for column in columns if column in kept]


def _widths(columns: Sequence[_Column], width: int) -> list[int]:
    """Return the width of each column: its least, and an even share of what is left over."""
    widths = [column.least for column in columns]
    left = width - sum(widths) - len(_GAP) * (len(columns) - 1)
    wanting = list(range(len(columns)))
    while left > 0 and (wanting := [i for i in wanting if widths[i] < columns[i].natural]):
        for place in wanting[:left]:
            widths[place] += 1
            left -= 1
    return widths


def _draw(columns: Sequence[_Column], widths: Sequence[int]) -> Iterator[str]:
    table = list(zip(columns, widths, strict=True))
    yield _GAP.join(column.line(column.name, width) for column, width in table).rstrip()
    yield _GAP.join("─" * width for width in widths)
    for row in range(len(columns[0].texts) if columns else 0):
        yield _GAP.join(column.line(column.texts[row], width) for column, width in table).rstrip()
