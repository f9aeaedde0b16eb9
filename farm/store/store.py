"""The store: images and their catalog in one output, with no server and no lock.

The protocol is three steps: `put_image` each image, then `commit` their rows, and only a commit
that returned counts. Any number of processes may do so at once; a second driver, a retry or a
worker thought dead can add rows, never take any away. What is finished is asked of the rows, so
nothing else has to survive a crash.

Arrow is imported by what reads or writes the catalog, not with this module: an output that does not
exist yet is planned without it.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np

from farm.errors import FarmError, OutputError, StoreError
from farm.store import images, layout
from farm.store.files import Files, check_name, open_files
from farm.store.row import Row, StoredImage
from farm.task import DIGEST_BYTES, TaskSpec, parse_task_id

if TYPE_CHECKING:
    from farm.manifest import Job
    from farm.store import catalog, maintenance, votes


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """Tasks that need no work, by their winning rows: uint8 `[n, 16]` digests, in no order."""

    rendered: catalog.Digests
    failed: catalog.Digests
    unreadable: tuple[str, ...] = ()
    """Files of the catalog that could not be read, and why: tasks in them are missing above."""

    def has_all(self, digests: Collection[bytes]) -> bool:
        """Whether every one of a few tasks has a row, rendered or failed."""
        missing = set(digests)
        for found in (self.rendered, self.failed):
            for digest in tuple(missing):
                if (found == np.frombuffer(digest, np.uint8)).all(axis=1).any():
                    missing.remove(digest)
        return not missing


@dataclass(frozen=True, slots=True, kw_only=True)
class CommittedFailure:
    """What a failed row says."""

    kind: str
    message: str


class Control:
    """Small texts by name, for leases, progress and requests; no record of results."""

    def __init__(self, files: Files) -> None:
        self._files = files

    def read(self, name: str) -> str | None:
        """Return the text of `name`, or None if there is none."""
        try:
            return self._files.get(_control(name)).decode()
        except FileNotFoundError:
            return None

    def write(self, name: str, text: str) -> None:
        """Create or replace `name`, at once: no reader sees half of it."""
        self._files.put(_control(name), text.encode())

    def create(self, name: str, text: str) -> bool:
        """Create `name`; return False, and change nothing, if it exists."""
        return self._files.put_new(_control(name), text.encode())

    def names(self, prefix: str = "") -> list[str]:
        """Return all names that begin with `prefix`, sorted."""
        start = f"{layout.CONTROL}/"
        found = (entry.name.removeprefix(start) for entry in self._files.scan(layout.CONTROL))
        return sorted(name for name in found if name.startswith(prefix))

    def delete(self, name: str) -> None:
        """Remove `name`; it is fine if it is gone already."""
        self._files.delete(_control(name))


def _control(name: str) -> str:
    return f"{layout.CONTROL}/{check_name(name)}"


class Store:
    """The images and the catalog of one output.

    It holds no state but its place: pickle it, or open it again anywhere from `url`.
    """

    def __init__(self, files: Files) -> None:
        self._files = files
        self._warnings: tuple[str, ...] = ()
        self.control = Control(files)

    @classmethod
    def open(cls, output: str | os.PathLike[str], *, create: bool = False) -> Store:
        """Return the store of a folder or fsspec URL; with `create`, make it ready for writing.

        Raises:
            OutputError: there is no output here, or with `create`, none can be made or written to.
            MissingLibraryError: the URL needs a library that is not installed.
        """
        files = open_files(output)
        store = cls(files)
        try:
            if create:
                store._prepare()
            elif not any(map(files.exists, (layout.CATALOG, layout.IMAGES, layout.JOB))):
                raise OutputError(
                    "there is no farm output here",
                    where=files.url,
                    hint="farm submit JOB makes one; check the path",
                )
        except (StoreError, FileNotFoundError) as error:
            raise _unusable(files, error) from error
        return store

    @classmethod
    def peek(cls, output: str | os.PathLike[str]) -> Finished:
        """Return what an output has finished, nothing if it does not exist yet.

        Raises:
            OutputError: it exists and cannot be read.
            MissingLibraryError: the URL needs a library that is not installed.
        """
        files = open_files(output)
        try:
            if not any(files.scan(layout.CATALOG)):
                nothing = np.empty((0, DIGEST_BYTES), dtype=np.uint8)
                return Finished(rendered=nothing, failed=nothing)
            return cls(files).finished()
        except StoreError as error:
            raise _unusable(files, error) from error

    def _prepare(self) -> None:
        """Write and remove a probe, then make the catalog readable before its first row."""
        from farm.store import catalog

        probe = f"{layout.TMP}/probe-{secrets.token_hex(8)}"
        self._files.put_new(probe, b"")
        self._files.delete(probe)
        empty = catalog.build_table((), chunk=None, part="")
        name = layout.schema_file(catalog.SCHEMA_VERSION)
        if not self._files.exists(name):
            self._files.put_new(name, catalog.encode_part(empty))

    def __reduce__(self) -> tuple[object, ...]:
        return (_reopen, (self.url,))

    @property
    def url(self) -> str:
        """Absolute path or URL of the output."""
        return self._files.url

    @property
    def warnings(self) -> tuple[str, ...]:
        """Files in the catalog that the latest read could not use, and why."""
        return self._warnings

    # --- runs and jobs ---

    def begin_run(self) -> int:
        """Claim the next run number: 1 for the first submit, never the same twice."""
        token = secrets.token_hex(16).encode()
        taken = [entry.name.rpartition("/")[2] for entry in self._files.scan(layout.RUNS)]
        number = max((int(name) for name in taken if name.isdigit()), default=0)
        while True:
            number += 1
            name = layout.run_file(number)
            # A PUT may succeed and still be reported as a conflict: then the token is ours.
            if self._files.put_new(name, token) or self._files.get(name) == token:
                self._files.sync(layout.folders_above([name]))
                return number

    def write_job(self, text: str, *, name: str) -> None:
        """Keep the resolved job as `job.yaml`, and in the history under its name.

        Two jobs may share an output: `job.yaml` is the last submit's.
        """
        history = layout.job_file(name, text)
        if not self._files.put_new(history, text.encode()):
            self._files.touch(history)  # its time tells which job was submitted when
        self._files.put(layout.JOB, text.encode())
        self._files.sync(layout.folders_above([history]))

    def read_job(self) -> str | None:
        """Return the resolved job of the last submit, or None if there was none."""
        try:
            return self._files.get(layout.JOB).decode()
        except FileNotFoundError:
            return None

    def last_job(self) -> Job | None:
        """Return the job of the last submit; None if there was none that this version can read."""
        text = self.read_job()
        return None if text is None else _read_resolved(text)

    def earlier_jobs(self) -> Iterator[Job]:
        """Yield what else was ever submitted here, the latest first, reading one after the other.

        A job that was changed between two submits is two jobs. Those that this version cannot read
        are left out.
        """
        last = self.read_job()
        kept = sorted(self._files.scan(layout.JOBS), key=lambda one: (one.modified or 0, one.name))
        for entry in reversed(kept):
            with contextlib.suppress(FileNotFoundError, UnicodeDecodeError):
                text = self._files.get(entry.name).decode()
                if text != last and (job := _read_resolved(text)) is not None:
                    yield job

    def keep_report(self, report: Mapping[str, Any]) -> None:
        """Keep what a run says it did: JSON values, for people who ask later."""
        moment = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%f")
        name = f"{layout.REPORTS}/{moment}-{secrets.token_hex(4)}.json"
        self.control.write(name, json.dumps(report))

    def reports(self) -> list[Mapping[str, Any]]:
        """Return what was kept by `keep_report`, the latest last; damaged ones are left out."""
        found: list[Mapping[str, Any]] = []
        for name in self.control.names(f"{layout.REPORTS}/"):
            with contextlib.suppress(ValueError):
                kept = json.loads(self.control.read(name) or "")
                found += [kept] if isinstance(kept, dict) else []
        return found

    # --- the commit protocol ---

    def put_image(
        self, task: TaskSpec, data: bytes, *, suffix: str, file_name: str | None = None
    ) -> StoredImage:
        """Write an image under a name of its own and return its place; see `images.put_image`."""
        return images.put_image(self._files, task, data, suffix=suffix, file_name=file_name)

    def commit(self, rows: Sequence[Row], *, run: int, chunk: str, attempt: int) -> str:
        """Make rows part of the catalog, all or none; return the name of their part.

        Raises:
            StoreError: nothing was committed, as far as is known; to repeat is always safe.
        """
        from farm.store import catalog

        assert rows, "a commit without rows"
        assert len({row.task_id for row in rows}) == len(rows), "a task twice in one part"
        paths = [row.image_path for row in rows if row.image_path is not None]
        assert len(paths) == sum(row.is_rendered for row in rows), "rendered without an image"
        name = layout.part_file(
            job=rows[0].job, run=run, chunk=chunk, attempt=attempt, token=secrets.token_hex(6)
        )
        table = catalog.build_table(rows, chunk=chunk, part=name.rpartition("/")[2])
        self._files.sync(layout.folders_above(paths))
        catalog.publish_part(self._files, name, catalog.encode_part(table))
        return name

    # --- reading ---

    def committed_by(self, *, run: int, chunk: str) -> Mapping[bytes, CommittedFailure | None]:
        """Return what the parts of one chunk hold, whichever of its attempts committed them.

        By task digest: None for a rendered task, else its failure. Parts that a compaction has
        replaced meanwhile are not looked for: to a caller who asks what is left to render, a missed
        row costs work, never correctness.
        """
        from farm.store import catalog

        wanted = ("task_id", "error_kind", "error_message")
        reading = catalog.read_catalog(
            self._files,
            (*wanted, *catalog.KEY_COLUMNS),
            mark=layout.part_mark(run=run, chunk=chunk),
        )
        return {
            parse_task_id(row["task_id"]): None
            if row["error_kind"] is None
            else CommittedFailure(kind=row["error_kind"], message=row["error_message"])
            for row in catalog.winning_table(reading, wanted).to_pylist()
        }

    def finished(self) -> Finished:
        """Return which tasks have a winning row, rendered and failed."""
        from farm.store import catalog

        reading = self._read(catalog.KEY_COLUMNS)
        keys = catalog.keys_of(reading.parts)
        wins = catalog.winners(keys)
        return Finished(
            rendered=keys.digests[wins & keys.rendered],
            failed=keys.digests[wins & ~keys.rendered],
            unreadable=reading.warnings,
        )

    def table(self, columns: Sequence[str] | None = None) -> catalog.Table:
        """Return the winning rows as a `pyarrow.Table`; order of rows is not promised."""
        from farm.store import catalog

        wanted = catalog.SCHEMA.names if columns is None else list(columns)
        return catalog.winning_table(self._read((*wanted, *catalog.KEY_COLUMNS)), wanted)

    def follow(self) -> Following:
        """Return a reader for whoever reads the catalog again and again."""
        return Following(self)

    def _read(self, columns: Sequence[str]) -> catalog.Reading:
        from farm.store import catalog

        reading = catalog.read_catalog(self._files, columns)
        self._warnings = reading.warnings
        return reading

    # --- votes ---

    def vote(self, cast: Sequence[votes.Vote]) -> str:
        """Keep votes for ever, all or none; return the name of their part.

        Raises:
            StoreError: nothing was kept, as far as is known; to repeat is always safe.
        """
        from farm.store import votes

        return votes.commit_votes(self._files, cast)

    def ballot(self) -> votes.Ballot:
        """Return the votes that people cast."""
        from farm.store import votes

        return votes.read_votes(self._files)

    # --- maintenance ---

    def verify(
        self, *, quick: bool = False, progress: maintenance.Progress | None = None
    ) -> maintenance.VerifyReport:
        """Prove that every rendered task has its image; see `maintenance.verify`."""
        from farm.store import maintenance

        return maintenance.verify(self._files, quick=quick, progress=progress)

    def compact(self) -> maintenance.CompactReport:
        """Merge the catalog's parts; see `maintenance.compact`."""
        from farm.store import maintenance

        return maintenance.compact(self._files)

    def gc(
        self, *, grace_s: float = layout.DEFAULT_GRACE_S, dry_run: bool = False
    ) -> maintenance.GcReport:
        """Delete what nothing names; see `maintenance.gc`."""
        from farm.store import maintenance

        return maintenance.gc(self._files, grace_s=grace_s, dry_run=dry_run)

    def rebuild(self, *, progress: maintenance.Progress | None = None) -> maintenance.RebuildReport:
        """Restore missing rows from the images; see `maintenance.rebuild`."""
        from farm.store import maintenance

        return maintenance.rebuild(self._files, progress=progress)


class Following:
    """The catalog of a store, for whoever reads it again and again: what was read stays at hand."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._files = open_files(store.url)
        self._parts: dict[str, catalog.Part] = {}

    def names(self) -> tuple[str, ...]:
        """Return the names of all parts of rows and votes: they differ once anything is committed.

        Raises:
            StoreError: the store cannot be listed.
        """
        folders = (layout.CATALOG, layout.RATINGS)
        return tuple(sorted(entry.name for folder in folders for entry in self._files.scan(folder)))

    def table(self) -> catalog.Table:
        """Return the winning rows, all columns, reading only the parts that are new.

        Raises:
            StoreError: the store cannot be read.
        """
        from farm.store import catalog

        columns = catalog.SCHEMA.names
        reading = catalog.read_catalog(self._files, columns, held=self._parts)
        return catalog.winning_table(reading, columns)


def _read_resolved(text: str) -> Job | None:
    """Return a job from the text that was kept of it; None if this version cannot read it."""
    from farm import manifest

    try:
        return manifest.load(layout.JOB, read=lambda _: text)
    except FarmError:
        return None


def _unusable(files: Files, error: StoreError | FileNotFoundError) -> OutputError:
    reason = error.message if isinstance(error, StoreError) else str(error)
    return OutputError(
        f"this output is not usable: {reason}",
        where=files.url,
        hint="give a folder that you may write to, or a URL such as s3://bucket/folder",
    )


def _reopen(url: str) -> Store:
    return Store(open_files(url))
