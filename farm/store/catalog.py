"""The catalog: one Arrow schema, parts that only ever gain company, and the rule of the winner.

A part is a whole Parquet file with the rows of one chunk's attempt; its appearance is the commit.
A task may have several rows, from retries, second drivers and workers thought dead. One of them
wins: `rendered` beats `failed`, then the highest (run, attempt, part). The rule depends on nothing
but the rows, so any reader may apply it to any set of parts in any order and get the same answer.
A row keeps the name of the part it was first committed in, so compaction does not change it either.

A version of the schema is a set of columns. A newer one only adds columns that can be null, so
every older part opens, with nulls there; a part of a version to come is named and left alone.
Compaction writes the present version. Version 2 added what `looks` measures.

Arrow is tamed in this module: the rest of the room sees `Part`s, arrays and tables.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Mapping, MutableMapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from operator import attrgetter
from types import MappingProxyType
from typing import Any, Final, TypeAlias, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from farm.errors import StoreError
from farm.store import layout
from farm.store.files import Files
from farm.store.row import ASKED, RESULT_FIELDS, Row
from farm.task import DIGEST_BYTES, FIELDS, IDENTITY_TAG

Table: TypeAlias = Any
"""A `pyarrow.Table`; Arrow has no types of its own."""
Digests: TypeAlias = "np.ndarray[Any, np.dtype[np.uint8]]"
"""uint8 `[n, 16]`: task digests."""
Mask: TypeAlias = "np.ndarray[Any, np.dtype[np.bool_]]"

SCHEMA_VERSION: Final = 2
_READABLE: Final = frozenset(str(version).encode() for version in range(1, SCHEMA_VERSION + 1))
_VERSION_KEY = "farm_schema_version"
_COVERS_KEY = "farm_covers"

_TYPES: Mapping[str, Any] = MappingProxyType(
    {
        "text": pa.string(),
        "word": pa.string(),
        "int32": pa.int32(),
        "int64": pa.int64(),
        "float32": pa.float32(),
        "float64": pa.float64(),
        "ms": pa.float32(),
        "time": pa.timestamp("us", tz="UTC"),
        "words": pa.map_(pa.string(), pa.string()),
    }
)
_FIELD_KINDS: Mapping[type, str] = MappingProxyType({str: "word", int: "int32", float: "float64"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """One column of the catalog."""

    name: str
    kind: str
    """A `farm.store.row.Kind`."""
    doc: str
    read: Callable[[Row], Any] | None
    """Takes the value from a row; None for what only the part knows."""


def _columns() -> tuple[Column, ...]:
    found = {
        name: Column(name=name, kind=entry.metadata["kind"], doc=entry.metadata["doc"],
                     read=attrgetter(name))
        for name, entry in RESULT_FIELDS.items()
    }  # fmt: skip
    for name in ASKED:
        info = FIELDS[name]
        kind = "int64" if name == "seed" else _FIELD_KINDS[info.type]
        found[name] = Column(name=name, kind=kind, doc=info.doc, read=attrgetter(f"task.{name}"))
    found["vars"] = Column(
        name="vars", kind="words", doc="Template variables of the cell.", read=_variables
    )
    found["chunk"] = Column(
        name="chunk", kind="word", doc="The chunk it was committed with.", read=None
    )
    found["part"] = Column(
        name="part", kind="word", doc="The part file it was first committed in.", read=None
    )
    # What people look at first stands first; the rest follows in the order of its definition.
    first = ("task_id", "job", "status", "error_kind", "error_message", *FIELDS, "vars")
    return tuple(found[name] for name in dict.fromkeys((*first, *found)))


def _variables(row: Row) -> list[tuple[str, str]]:
    return list(row.task.vars.items())


COLUMNS: Final = _columns()
"""Every column, in the order of the file."""
SCHEMA: Final = pa.schema(
    [
        pa.field(column.name, _TYPES[column.kind], metadata={"doc": column.doc})
        for column in COLUMNS
    ],
    metadata={_VERSION_KEY: str(SCHEMA_VERSION)},
)
"""The schema of the catalog, with the text of every column."""
# A part of a few hundred rows should not carry pages of documentation: files have names and types.
_FILE_SCHEMA = pa.schema([field.remove_metadata() for field in SCHEMA])
# What is small on realistic rows, measured by benchmarks/catalog.py. Digests cannot shrink below
# the entropy of their digits: 55 bytes of a row's 66. Statistics of unique text would only bloat
# small parts.
_ENCODING_OF_KIND: Mapping[str, str] = MappingProxyType(
    {
        "text": "DELTA_LENGTH_BYTE_ARRAY",
        "int64": "DELTA_BINARY_PACKED",
        "time": "DELTA_BINARY_PACKED",
    }
)
_ENCODINGS = {
    column.name: _ENCODING_OF_KIND[column.kind]
    for column in COLUMNS
    if column.kind in _ENCODING_OF_KIND
} | {"task_id": "DELTA_BYTE_ARRAY"}  # shares the tag that begins every id
_REPEATING = [
    column.name for column in COLUMNS if column.kind != "words" and column.name not in _ENCODINGS
]
_WITH_STATISTICS = [column.name for column in COLUMNS if column.kind not in {"text", "words"}]
KEY_COLUMNS: Final = ("task_id", "status", "run", "attempt", "part")
"""What the winner rule reads."""


# --- writing ------------------------------------------------------------------------------------


def build_table(rows: Sequence[Row], *, chunk: str | None, part: str) -> Table:
    """Return rows as a table with the schema of a part."""
    arrays = []
    for column, entry in zip(COLUMNS, _FILE_SCHEMA, strict=True):
        if column.read is None:
            value = chunk if column.name == "chunk" else part
            arrays.append(pa.repeat(pa.scalar(value, entry.type), len(rows)))
        else:
            array = pa.array(list(map(column.read, rows)), entry.type)
            # A duration is no finer than 0.01 ms; the digits behind would be noise, and bytes.
            arrays.append(pc.round(array, 2) if column.kind == "ms" else array)
    return pa.Table.from_arrays(arrays, schema=_FILE_SCHEMA)


def encode_part(table: Table, *, covers: Iterable[str] = ()) -> bytes:
    """Return a table as the bytes of a part; `covers` names the parts that it makes superfluous."""
    metadata = {_VERSION_KEY: str(SCHEMA_VERSION)}
    if names := "\n".join(covers):
        metadata[_COVERS_KEY] = names
    out = io.BytesIO()
    with pq.ParquetWriter(
        out,
        _FILE_SCHEMA,
        compression="zstd",
        compression_level=1,  # higher ones are slower and, on digests, even a little larger
        use_dictionary=_REPEATING,
        column_encoding=_ENCODINGS,
        write_statistics=_WITH_STATISTICS,
        store_schema=False,  # Parquet's own types say it all
    ) as writer:
        writer.write_table(table)
        writer.add_key_value_metadata(metadata)
    return out.getvalue()


# --- the winner rule ----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Keys:
    """What decides between rows: one entry a row in each array."""

    digests: Digests
    rendered: Mask
    run: np.ndarray[Any, np.dtype[np.int32]]
    attempt: np.ndarray[Any, np.dtype[np.int32]]
    part: np.ndarray[Any, Any]
    """Any array that sorts as the part names do."""


def winners(keys: Keys) -> Mask:
    """Return which rows win: for each digest exactly one.

    Rows that agree in every key are copies of one row; the first of them wins.
    """
    count = len(keys.digests)
    halves = np.ascontiguousarray(keys.digests).view(np.uint64).reshape(count, 2)
    # Sorting values is several times faster than sorting rows, and usually shows that no task has
    # two. Two tasks that share 64 bits, if ever there are, are told apart below.
    ordered = np.sort(halves[:, 0])
    shared = ordered[1:][ordered[1:] == ordered[:-1]]
    wins = np.ones(count, dtype=np.bool_)
    if not len(shared):
        return wins
    shared = np.unique(shared)
    place = np.minimum(np.searchsorted(shared, halves[:, 0]), len(shared) - 1)
    rows = np.flatnonzero(shared[place] == halves[:, 0])
    ranked = rows[
        np.lexsort(
            (
                -rows,  # copies: the first comes last, and the last wins
                keys.part[rows],
                keys.attempt[rows],
                keys.run[rows],
                keys.rendered[rows],
                halves[rows, 1],
                halves[rows, 0],
            )
        )
    ]
    last = np.ones(len(ranked), dtype=np.bool_)
    last[:-1] = (halves[ranked[1:]] != halves[ranked[:-1]]).any(axis=1)
    wins[rows] = False
    wins[ranked[last]] = True
    return wins


# --- reading ------------------------------------------------------------------------------------


class UnreadablePartError(ValueError):
    """A file in the catalog that is no part of ours; the message says why."""


class DamagedPartError(UnreadablePartError):
    """A file in the catalog that is not whole Parquet: nothing can be read from it, ever."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One part as read: its name, its rows, and the parts it covers."""

    name: str
    table: Table
    digests: Digests
    """The task ids of the rows; empty if that column was not read."""
    covers: tuple[str, ...]
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """The catalog at one moment."""

    parts: tuple[Part, ...]
    broken: Mapping[str, str]
    """Files that could not be read: a sentence that names the file and says why."""
    damaged: tuple[str, ...]
    """Those among them that are not whole Parquet."""

    @property
    def warnings(self) -> tuple[str, ...]:
        """One sentence for each file that could not be read."""
        return tuple(self.broken.values())


def publish_part(files: Files, name: str, data: bytes) -> None:
    """Publish a part under a name that is its own, so that it lasts."""
    if not files.put_new(name, data):
        # A PUT may succeed and still be reported as a conflict, after a lost answer.
        assert files.get(name) == data, f"two parts named {name}"
    files.sync(layout.folders_above([name]))


_ATTEMPTS = 20
_THREADS = 8


def list_parts(files: Files, folder: str = layout.CATALOG) -> tuple[str, ...]:
    """Return the names of all files in the catalog, or another folder of parts, sorted.

    A listing that overlaps a compaction may miss both the old part and the new one, because entries
    come and go while it walks. So two listings are made until the second has all of the first:
    whatever was there when the first began and is not in the second was seen to go, and then its
    successor is in the next.
    """
    before: set[str] | None = None
    for _ in range(_ATTEMPTS):
        names = {entry.name for entry in files.scan(folder)}
        if before is not None and before <= names:
            return tuple(sorted(names))
        before = names
    raise StoreError(f"{folder}/ changes faster than it can be listed", where=files.url)


def read_catalog(
    files: Files,
    columns: Sequence[str] | None = None,
    *,
    mark: str = "",
    held: MutableMapping[str, Part] | None = None,
) -> Reading:
    """Return every part whose name holds `mark`, with the given columns (default: all).

    Files that are no parts are named in the reading, never skipped in silence.

    Args:
        files: the output.
        columns: columns to read.
        mark: what the names of the parts have in common.
        held: parts that were read before with the same columns, by name. A part never changes, so
            these are not read again; those that are read now are added, those that went removed.

    Raises:
        StoreError: the store cannot be read.
    """
    known = {} if held is None else held

    def read(name: str, data: bytes) -> Part:
        return read_part(name, data, columns)

    found, broken = read_folder(files, layout.CATALOG, read, mark=mark, held=known)
    return Reading(
        parts=tuple(found),
        broken=MappingProxyType({name: f"{name}: {why}" for name, why in broken.items()}),
        damaged=tuple(name for name, why in broken.items() if isinstance(why, DamagedPartError)),
    )


Read = TypeVar("Read")


def read_folder(
    files: Files,
    folder: str,
    read: Callable[[str, bytes], Read],
    *,
    mark: str = "",
    held: MutableMapping[str, Read] | None = None,
) -> tuple[list[Read], dict[str, UnreadablePartError]]:
    """Return what `read` makes of each part of a folder, and the files that it cannot use.

    Raises:
        StoreError: the store cannot be read.
    """
    known = {} if held is None else held
    for _ in range(_ATTEMPTS):
        # No reader of folders takes hidden files for data, so systems may leave theirs here.
        names = [
            name
            for name in list_parts(files, folder)
            if mark in name and not name.rpartition("/")[2].startswith((".", "_"))
        ]
        try:
            return _read_parts(files, names, read, known)
        except FileNotFoundError:
            continue  # a compaction retired it meanwhile: its rows are in a part not yet listed
    raise StoreError(f"{folder}/ changes faster than it can be read", where=files.url)


def _read_parts(
    files: Files,
    names: Sequence[str],
    read: Callable[[str, bytes], Read],
    held: MutableMapping[str, Read],
) -> tuple[list[Read], dict[str, UnreadablePartError]]:
    broken: dict[str, UnreadablePartError] = {}

    def one(name: str) -> Read | UnreadablePartError:
        try:
            return held[name] if name in held else read(name, files.get(name))
        except UnreadablePartError as error:
            return error

    with ThreadPoolExecutor(_THREADS) as pool:
        found = dict(zip(names, pool.map(one, names), strict=True))
    for name in held.keys() - found.keys():
        del held[name]
    parts: list[Read] = []
    for name, part in found.items():
        if isinstance(part, UnreadablePartError):
            broken[name] = part
        else:
            held[name] = part
            parts.append(part)
    return parts, broken


def read_part(name: str, data: bytes, columns: Sequence[str] | None = None) -> Part:
    """Return a part from its bytes.

    Raises:
        UnreadablePartError: the bytes are no part that this version can read.
    """
    if not name.endswith(layout.PART_SUFFIX):
        raise UnreadablePartError("not a part: only Parquet files belong here")
    try:
        # Parts are read in parallel, so none needs threads of its own.
        file = pq.ParquetFile(pa.BufferReader(data))
        metadata = file.metadata.metadata or {}
        version = metadata.get(_VERSION_KEY.encode())
        if version is None:
            raise UnreadablePartError("a Parquet file that no farm wrote")
        if version not in _READABLE:
            raise UnreadablePartError(
                f"written with schema version {version.decode(errors='replace')}; this farm knows "
                f"1 to {SCHEMA_VERSION}"
            )
        if strange := set(file.schema_arrow.names) - set(SCHEMA.names):
            raise UnreadablePartError(
                f"has columns of a newer farm, which this one would lose: {', '.join(strange)}"
            )
        wanted = SCHEMA.names if columns is None else list(dict.fromkeys(columns))
        table = _completed(file.read(columns=wanted, use_threads=False), wanted)
        digests = _digests_of(
            table["task_id"] if "task_id" in wanted else pa.chunked_array([], pa.string())
        )
    except (pa.ArrowException, OSError, KeyError) as error:
        raise DamagedPartError(f"truncated or damaged: {error}") from error
    covers = metadata.get(_COVERS_KEY.encode(), b"").decode().split("\n")
    return Part(
        name=name,
        table=table,
        digests=digests,
        covers=tuple(filter(None, covers)),
        size=len(data),
    )


def _completed(table: Table, names: Sequence[str]) -> Table:
    """Return the named columns; null where the part is older than the column."""
    schema = pa.schema([_FILE_SCHEMA.field(name) for name in names])
    rows, known = table.num_rows, set(table.column_names)
    arrays = [
        table[name] if name in known else pa.nulls(rows, schema.field(name).type) for name in names
    ]
    return pa.Table.from_arrays(arrays, schema=schema)


def keys_of(parts: Sequence[Part]) -> Keys:
    """Return the keys of all rows of `parts`, which hold `KEY_COLUMNS`, in their order."""
    names = [part.table["part"].unique().to_pylist() for part in parts]
    rank = {name: index for index, name in enumerate(sorted(set().union(*names)))}
    return Keys(
        digests=_gather(np.uint8, (part.digests for part in parts), (DIGEST_BYTES,)),
        rendered=_gather(np.bool_, (is_rendered(part.table) for part in parts)),
        run=_gather(np.int32, (part.table["run"].to_numpy() for part in parts)),
        attempt=_gather(np.int32, (part.table["attempt"].to_numpy() for part in parts)),
        part=_gather(np.int64, (_ranks(part.table["part"], rank) for part in parts)),
    )


def _gather(
    kind: type[np.generic], arrays: Iterable[np.ndarray[Any, Any]], shape: tuple[int, ...] = ()
) -> np.ndarray[Any, Any]:
    return np.concatenate([np.empty((0, *shape), kind), *arrays]).astype(kind, copy=False)


def _ranks(column: Any, rank: Mapping[str, int]) -> np.ndarray[Any, Any]:  # noqa: ANN401 - Arrow
    coded = column.combine_chunks().dictionary_encode()
    codes = np.array([rank[name] for name in coded.dictionary.to_pylist()], dtype=np.int64)
    ranks: np.ndarray[Any, Any] = codes[coded.indices.to_numpy()]
    return ranks


def is_rendered(table: Table) -> Mask:
    """Return which rows of `table` are rendered."""
    found: Mask = pc.equal(table["status"], "rendered").to_numpy()
    return found


_NIBBLES = np.full(256, 255, dtype=np.uint8)
_NIBBLES[np.frombuffer(b"0123456789abcdef", dtype=np.uint8)] = np.arange(16)
_TAG = f"{IDENTITY_TAG}:"
_ID_LENGTH = len(_TAG) + 2 * DIGEST_BYTES


def _digests_of(column: Any) -> Digests:  # noqa: ANN401 - Arrow
    """Return task ids as digests, without a Python object a row."""
    column = column.combine_chunks()
    count = len(column)
    offsets = np.frombuffer(column.buffers()[1], np.int32)[column.offset :][: count + 1]
    text = np.frombuffer(column.buffers()[2] or b"", np.uint8)[offsets[0] : offsets[-1]]
    if (np.diff(offsets) != _ID_LENGTH).any():
        raise UnreadablePartError("holds task ids of another version")
    nibbles = _NIBBLES[text.reshape(count, _ID_LENGTH)[:, len(_TAG) :]]
    return nibbles[:, 0::2] * np.uint8(16) + nibbles[:, 1::2]


def winning_table(reading: Reading, columns: Sequence[str]) -> Table:
    """Return the winning rows of a reading that holds `columns` and `KEY_COLUMNS`."""
    wins = winners(keys_of(reading.parts))
    kept, start = [_FILE_SCHEMA.empty_table().select(columns)], 0
    for part in reading.parts:
        stop = start + part.table.num_rows
        mask = wins[start:stop]
        rows = part.table.select(columns)
        kept.append(rows if mask.all() else rows.filter(pa.array(mask)))
        start = stop
    return pa.concat_tables(kept)
