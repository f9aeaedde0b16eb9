"""Proving, tidying and repairing a store, while others write to it.

- `verify` proves the promise of the commit protocol: a rendered row has its image, bit by bit.
- `compact` replaces many small parts by few large ones, those of votes too. The new part is durable
  before any old one retires, so a crash at any point leaves rows twice, never none, and the winner
  rule makes twice harmless. Only a reader that does not apply the rule can see the copies.
- `gc` deletes what nothing names, once it is older than a grace period. It deletes no image that
  any row names, nothing it did not name itself, and no image at all while some part is
  unreadable, for that part may name it.
- `rebuild` writes the rows that the catalog lacks, from the records inside the images.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final, TypeAlias, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from farm.errors import StoreError
from farm.store import catalog, layout
from farm.store.files import Entry, Files
from farm.store.looks import measure_looks
from farm.store.metadata import RECORD, read_metadata, read_pixels
from farm.store.row import Row, StoredImage, from_record, with_looks
from farm.store.votes import compact_votes, read_votes
from farm.task import parse_task_id

Progress: TypeAlias = Callable[[int, int], None]
"""Called with how many images are done, of how many."""

SNAPSHOT_ROWS: Final = 1_000_000
"""Rows of one compacted part: some sixty megabytes."""
_REBUILT_ROWS = 50_000
_THREADS = 8
_SHOWN = 20

In = TypeVar("In")
Out = TypeVar("Out")


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What one of the commands found and did."""

    output: str

    def to_json(self) -> dict[str, Any]:
        """Return the report as plain JSON values."""
        return dataclasses.asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyReport(Report):
    """What `verify` found."""

    rendered: int
    """Tasks whose winning row is rendered."""
    failed: int
    """Tasks whose winning row is failed."""
    rows: int
    """All rows, those that do not win included."""
    parts: int
    images: int
    """Files below `images/`."""
    votes: int
    """Votes that people cast, those that later ones replaced included."""
    hashed: bool
    """Whether the bytes of every image were compared, or only their number."""
    problems: tuple[str, ...]
    """Broken promises, one sentence each."""
    orphans: tuple[str, ...]
    """Images that no row names: what a crash leaves. No problem; `gc` sweeps them."""

    @property
    def clean(self) -> bool:
        """Whether every promise holds."""
        return not self.problems

    def to_json(self) -> dict[str, Any]:
        """Return the report as plain JSON values."""
        return {"clean": self.clean, **Report.to_json(self)}

    def __str__(self) -> str:
        how = "every byte compared" if self.hashed else "sizes compared"
        lines = [
            (
                f"{self.output}: {self.rendered:,} rendered and {self.failed:,} failed tasks in "
                f"{_count(self.parts, 'part')}, {_count(self.images, 'image')}, {how}"
            )
        ]
        if self.votes:
            lines.append(f"{_count(self.votes, 'vote')}")
        lines += _shown("problem: ", self.problems)
        if self.orphans:
            lines.append(
                f"{_count(len(self.orphans), 'image')} that no row names; farm gc sweeps them"
            )
        lines.append("clean" if self.clean else f"{_count(len(self.problems), 'broken promise')}")
        return "\n".join(lines)


@dataclass(frozen=True, slots=True, kw_only=True)
class CompactReport(Report):
    """What `compact` did."""

    rows: int
    """Winning rows, all of which are still there."""
    dropped: int
    """Rows that did not win, now only in retired parts."""
    parts_before: int
    parts_after: int
    bytes_before: int
    bytes_after: int
    vote_parts_before: int
    vote_parts_after: int
    """All votes are kept, in fewer parts."""
    warnings: tuple[str, ...]
    """Files that could not be read, and were left alone."""

    def __str__(self) -> str:
        lines = [
            (
                f"{self.output}: {_count(self.rows, 'row')}; "
                f"{_count(self.parts_before, 'part')} of {_size(self.bytes_before)} before, "
                f"{self.parts_after:,} of {_size(self.bytes_after)} now"
            )
        ]
        if self.vote_parts_before:
            parts = _count(self.vote_parts_before, "part")
            lines.append(f"votes: {parts} before, {self.vote_parts_after:,} now")
        return "\n".join(lines + _shown("warning: ", self.warnings))


@dataclass(frozen=True, slots=True, kw_only=True)
class GcReport(Report):
    """What `gc` deleted, or would delete."""

    dry_run: bool
    parts: tuple[str, ...]
    """Retired parts."""
    temporaries: tuple[str, ...]
    images: tuple[str, ...]
    """Images that no row names."""
    thumbnails: tuple[str, ...]
    """Thumbnails whose image is gone, or goes with them."""
    bytes: int
    warnings: tuple[str, ...]
    """Why some things were left that might have gone."""

    def __str__(self) -> str:
        verb = "would delete" if self.dry_run else "deleted"
        lines = [
            (
                f"{self.output}: {verb} {_count(len(self.parts), 'retired part')}, "
                f"{_count(len(self.temporaries), 'temporary file')}, "
                f"{_count(len(self.images), 'image')} and "
                f"{_count(len(self.thumbnails), 'thumbnail')}, {_size(self.bytes)}"
            )
        ]
        return "\n".join(lines + _shown("warning: ", self.warnings))


@dataclass(frozen=True, slots=True, kw_only=True)
class RebuildReport(Report):
    """What `rebuild` restored."""

    images: int
    """Images that were read."""
    restored: int
    """Tasks that have a rendered row again."""
    retired: tuple[str, ...]
    """Damaged parts that were taken out of the catalog."""
    warnings: tuple[str, ...]
    """Images whose record could not be read, and files that could not be mended."""

    def __str__(self) -> str:
        lines = [
            (
                f"{self.output}: read {_count(self.images, 'image')}, "
                f"restored {_count(self.restored, 'row')}"
            )
        ]
        lines += _shown("retired: ", self.retired)
        return "\n".join(lines + _shown("warning: ", self.warnings))


# --- verify -------------------------------------------------------------------------------------


def verify(files: Files, *, quick: bool = False, progress: Progress | None = None) -> VerifyReport:
    """Compare the catalog with the images; with `quick`, only that they exist and their size.

    Raises:
        StoreError: the store cannot be read.
    """
    columns = ("image_path", "image_sha256", "image_bytes", *catalog.KEY_COLUMNS)
    reading = catalog.read_catalog(files, columns)
    # Images precede their rows, so a listing made after the rows has every image they name.
    names, sizes, _ = _list_images(files)
    table = catalog.winning_table(reading, columns)
    rendered = table.filter(pa.array(catalog.is_rendered(table)))
    ballot = read_votes(files)
    problems = [*reading.warnings, *ballot.broken.values()]
    if rendered.num_rows and not files.exists(layout.JOB):
        problems.append(f"{layout.JOB} is missing: the job of these images is not known")

    place = pc.index_in(rendered["image_path"], value_set=names).combine_chunks()
    missing = place.is_null()
    problems += [
        f"{path}: the image is missing"
        for path in rendered.filter(missing)["image_path"].to_pylist()
    ]
    present = rendered.filter(pc.invert(missing))
    found = sizes[place.drop_null().to_numpy()]
    wrong = found != present["image_bytes"].to_numpy()
    problems += [
        f"{path}: has {size:,} bytes, not {wanted:,}"
        for path, size, wanted in zip(
            present.filter(pa.array(wrong))["image_path"].to_pylist(),
            found[wrong],
            present["image_bytes"].to_numpy()[wrong],
            strict=True,
        )
    ]
    if not quick:
        problems += _altered(files, present.filter(pa.array(~wrong)), progress)

    named = _chunked(part.table["image_path"] for part in reading.parts)
    orphans = names.filter(pc.invert(pc.is_in(names, value_set=named)))
    return VerifyReport(
        output=files.url,
        rendered=rendered.num_rows,
        failed=table.num_rows - rendered.num_rows,
        rows=sum(part.table.num_rows for part in reading.parts),
        parts=_count_parts(reading),
        images=len(names),
        votes=ballot.cast,
        hashed=not quick,
        problems=tuple(problems),
        orphans=tuple(orphans.to_pylist()),
    )


def _altered(files: Files, rows: catalog.Table, progress: Progress | None) -> Iterator[str]:
    """Yield a sentence for each image whose bytes are not those of its row."""

    def compare(row: tuple[str, str]) -> str | None:
        path, wanted = row
        try:
            digest = hashlib.sha256(files.get(path)).hexdigest()
        except FileNotFoundError:
            return f"{path}: the image is missing"
        except StoreError as error:
            return f"{path}: {error.message}"
        return None if digest == wanted else f"{path}: was altered, its SHA-256 differs"

    pairs = zip(rows["image_path"].to_pylist(), rows["image_sha256"].to_pylist(), strict=True)
    yield from filter(None, _in_parallel(compare, pairs, total=rows.num_rows, progress=progress))


def _list_images(files: Files) -> tuple[Any, np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Return names (Arrow strings), sizes and times of all files below `images/`."""
    entries = [
        (entry.name, entry.size, np.inf if entry.modified is None else entry.modified)
        for entry in files.scan(layout.IMAGES)
    ]
    names, sizes, times = zip(*entries, strict=True) if entries else ((), (), ())
    return pa.array(names, pa.string()), np.array(sizes, np.int64), np.array(times, np.float64)


# --- compact ------------------------------------------------------------------------------------


def compact(files: Files, *, rows_per_part: int = SNAPSHOT_ROWS) -> CompactReport:
    """Write the winning rows into few parts, then retire the parts they came from.

    Raises:
        StoreError: the store cannot be read or written; nothing is lost.
    """
    for _ in range(_THREADS):
        try:
            return _compact(files, rows_per_part)
        except FileNotFoundError:
            continue  # another compaction retired a part that this one was reading
    raise StoreError("other compactions keep retiring the parts", where=files.url)


def _compact(files: Files, rows_per_part: int) -> CompactReport:
    listed = set(catalog.list_parts(files))
    before = catalog.read_catalog(files, catalog.KEY_COLUMNS)
    for part in before.parts:  # finish what a crash interrupted: these rows are in `part`
        for name in listed.intersection(part.covers):
            files.move(name, layout.retired_file(name))
    left = set(catalog.list_parts(files))
    parts = [part for part in before.parts if part.name in left and part.table.num_rows]
    votes_before, votes_after = compact_votes(files)
    wins = catalog.winners(catalog.keys_of(parts))
    report = CompactReport(
        output=files.url,
        rows=int(wins.sum()),
        dropped=int(len(wins) - wins.sum()),
        parts_before=_count_parts(before),
        parts_after=len(parts),
        bytes_before=sum(part.size for part in before.parts if part.table.num_rows),
        bytes_after=sum(part.size for part in parts),
        vote_parts_before=votes_before,
        vote_parts_after=votes_after,
        warnings=before.warnings,
    )
    if wins.all() and (len(parts) <= 1 or all(map(layout.is_snapshot, (p.name for p in parts)))):
        return report
    sizes = _write_snapshot(files, parts, wins, rows_per_part)
    for part in parts:
        files.move(part.name, layout.retired_file(part.name))
    return dataclasses.replace(report, parts_after=len(sizes), bytes_after=sum(sizes))


def _write_snapshot(
    files: Files, parts: Sequence[catalog.Part], wins: catalog.Mask, rows_per_part: int
) -> list[int]:
    """Write the winning rows of `parts`, reading one part at a time; return the sizes written.

    Only the last file says which parts are covered: it appears when all rows are there.
    """
    token, sizes = secrets.token_hex(6), list[int]()
    waiting: list[catalog.Table] = []

    def write(table: catalog.Table, covers: Iterable[str] = ()) -> None:
        name = layout.snapshot_file(token=token, index=len(sizes))
        data = catalog.encode_part(table, covers=covers)
        catalog.publish_part(files, name, data)
        sizes.append(len(data))

    start = 0
    for part in parts:
        stop = start + part.table.num_rows
        rows = catalog.read_part(part.name, files.get(part.name)).table
        waiting.append(rows.filter(pa.array(wins[start:stop])))
        start = stop
        table = pa.concat_tables(waiting)
        waiting = [table]
        while table.num_rows > rows_per_part:
            write(table.slice(0, rows_per_part))
            table = table.slice(rows_per_part)
            waiting = [table]
    write(pa.concat_tables(waiting), covers=[part.name for part in parts])
    return sizes


def _count_parts(reading: catalog.Reading) -> int:
    """Return how many parts have rows: the empty one that shows the schema does not count."""
    return sum(part.table.num_rows > 0 for part in reading.parts)


# --- gc -----------------------------------------------------------------------------------------


def gc(files: Files, *, grace_s: float = layout.DEFAULT_GRACE_S, dry_run: bool = False) -> GcReport:
    """Delete retired parts, temporaries and images without a row, older than `grace_s` seconds.

    The grace period protects slow readers of retired parts, and images whose commit is still to
    come; 0 is safe only when nobody else uses the output.

    Raises:
        StoreError: the store cannot be read or written.
    """
    before = time.time() - grace_s
    temporaries = _older(files.scan(layout.TMP), before)
    retired = list(files.scan(layout.RETIRED))
    gone = _older(retired, before)
    # Images are listed before the rows are read, so that one committed meanwhile has its row.
    names, sizes, times = _list_images(files)
    reading = catalog.read_catalog(files, ["image_path"])
    warnings = list(reading.warnings)
    orphans: list[Entry] = []
    if reading.broken:
        warnings.append("no image was deleted: an unreadable part may name it")
    else:
        kept = {entry.name for entry in retired} - {entry.name for entry in gone}
        named = [part.table["image_path"] for part in reading.parts]
        named += _named_by(files, kept)
        old = pa.array(times <= before)
        unnamed = pc.invert(pc.is_in(names, value_set=_chunked(named)))
        chosen = pc.and_(old, unnamed)
        orphans = [
            Entry(name=name, size=int(size), modified=float(when))
            for name, size, when in zip(
                names.filter(chosen).to_pylist(),
                sizes[chosen.to_numpy(zero_copy_only=False)],
                times[chosen.to_numpy(zero_copy_only=False)],
                strict=True,
            )
            if layout.image_digest(name) is not None
        ]
        foreign = int(pc.sum(chosen).as_py() or 0) - len(orphans)
        if foreign:
            warnings.append(f"{foreign:,} files below images/ are not the farm's and were left")
    left = set(names.to_pylist()) - {entry.name for entry in orphans}
    thumbnails = [
        entry
        for entry in files.scan(layout.THUMBNAILS)
        if (image := layout.thumbnail_image(entry.name)) is not None and image not in left
    ]
    doomed = [*temporaries, *gone, *orphans, *thumbnails]
    if not dry_run:
        for entry in doomed:
            files.delete(entry.name)
    return GcReport(
        output=files.url,
        dry_run=dry_run,
        parts=tuple(entry.name for entry in gone),
        temporaries=tuple(entry.name for entry in temporaries),
        images=tuple(entry.name for entry in orphans),
        thumbnails=tuple(entry.name for entry in thumbnails),
        bytes=sum(entry.size for entry in doomed),
        warnings=tuple(warnings),
    )


def _older(entries: Iterable[Entry], before: float) -> list[Entry]:
    return [entry for entry in entries if entry.modified is not None and entry.modified <= before]


def _named_by(files: Files, parts: Iterable[str]) -> list[Any]:
    """Return the image columns of retired parts; an unreadable one names nothing any more."""
    found = []
    for name in parts:
        try:
            found.append(catalog.read_part(name, files.get(name), ["image_path"]).table)
        except (catalog.UnreadablePartError, FileNotFoundError):
            continue
    return [table["image_path"] for table in found]


def _chunked(columns: Iterable[Any]) -> Any:  # noqa: ANN401 - Arrow
    return pa.chunked_array([chunk for column in columns for chunk in column.chunks], pa.string())


# --- rebuild ------------------------------------------------------------------------------------


def rebuild(files: Files, *, progress: Progress | None = None) -> RebuildReport:
    """Write a row for every image whose task has no rendered row, from the image's own record.

    Parts that are damaged beyond reading retire once their rows are back. Rows of failed tasks have
    no image and are not restored: the next submit tries those tasks again.

    Raises:
        StoreError: the store cannot be read or written.
    """
    reading = catalog.read_catalog(files, catalog.KEY_COLUMNS)
    keys = catalog.keys_of(reading.parts)
    known = {digest.tobytes() for digest in keys.digests[keys.rendered]}
    names, _, _ = _list_images(files)
    warnings: list[str] = []
    best: dict[bytes, Row] = {}

    def read(name: str) -> Row | str:
        try:
            return _row_of(files, name)
        except (ValueError, FileNotFoundError) as error:
            return f"{name}: {error}"

    for found in _in_parallel(read, names.to_pylist(), total=len(names), progress=progress):
        if isinstance(found, str):
            warnings.append(found)
            continue
        digest = parse_task_id(found.task_id)
        if digest not in known and _order(found) > _order(best.get(digest)):
            best[digest] = found

    token = secrets.token_hex(6)
    rows = iter(best.values())
    for index, batch in enumerate(_batches(rows, _REBUILT_ROWS)):
        name = layout.rebuilt_file(token=token, index=index)
        table = catalog.build_table(batch, chunk=None, part=name.rpartition("/")[2])
        files.sync(layout.folders_above([row.image_path for row in batch if row.image_path]))
        catalog.publish_part(files, name, catalog.encode_part(table))
    for name in reading.damaged:
        files.move(name, layout.retired_file(name))
    mended = set(reading.damaged)
    warnings += [text for name, text in reading.broken.items() if name not in mended]
    return RebuildReport(
        output=files.url,
        images=len(names),
        restored=len(best),
        retired=tuple(reading.damaged),
        warnings=tuple(warnings),
    )


def _row_of(files: Files, name: str) -> Row:
    """Return the row that the image `name` says it has.

    Raises:
        ValueError: it is no image of ours, or not the one that was written.
    """
    digits = layout.image_digest(name)
    if digits is None:
        raise ValueError("not an image of the farm's")
    data = files.get(name)
    sha256 = hashlib.sha256(data).hexdigest()
    if not sha256.startswith(digits):
        raise ValueError("was altered, its SHA-256 differs from its name")
    try:
        record = read_metadata(data)[RECORD]
    except (KeyError, json.JSONDecodeError) as error:
        raise ValueError(f"carries no record: {error!r}") from error
    row = from_record(record, image=StoredImage(path=name, sha256=sha256, size=len(data)))
    # A farm that did not measure yet wrote this one: what it looks like can still be seen.
    return row if row.phash is not None else with_looks(row, measure_looks(read_pixels(data)))


def _order(row: Row | None) -> tuple[int, int, str]:
    """Return what decides between images of one task: the later attempt, then the digest."""
    return (-1, -1, "") if row is None else (row.run, row.attempt, row.image_sha256 or "")


# --- both ---------------------------------------------------------------------------------------


def _in_parallel(
    act: Callable[[In], Out], items: Iterable[In], *, total: int, progress: Progress | None
) -> Iterator[Out]:
    """Yield `act` of every item, in order, a bounded number at a time."""
    done = 0
    with ThreadPoolExecutor(_THREADS) as pool:
        for batch in _batches(iter(items), 64 * _THREADS):
            for found in pool.map(act, batch):
                done += 1
                yield found
            if progress is not None:
                progress(done, total)


def _batches(items: Iterator[In], size: int) -> Iterator[list[In]]:
    while batch := list(islice(items, size)):
        yield batch


def _shown(label: str, sentences: Sequence[str]) -> list[str]:
    lines = [label + sentence for sentence in sentences[:_SHOWN]]
    if more := len(sentences) - _SHOWN:
        lines += [f"... and {more:,} more"] if more > 0 else []
    return lines


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def _size(count: int) -> str:
    size = float(count)
    for unit in ("bytes", "KB", "MB", "GB"):
        if size < 1000:  # noqa: PLR2004 - SI units
            return f"{size:,.0f} {unit}"
        size /= 1000
    return f"{size:,.1f} TB"
