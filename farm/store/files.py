"""The durable file protocol, behind the same few verbs for folders and object stores.

The promise: whoever sees a name sees all of its bytes, and `put_new` never replaces anything.

- A folder: write `tmp/<random>`, fsync, then publish with `os.link`, which fails if the name is
  taken and is atomic on NFS too. Directory entries last through a power cut once `sync` has run.
  Where a file system has no links, a rename after an existence check takes its place; names carry
  random or content digests, so the window between the two is only theoretical.
- An object store: the whole object in memory, one PUT, with `If-None-Match: *` where the backend
  offers it. Nothing is streamed to a final name (a broken stream leaves an object behind,
  apache/arrow#40502) and nothing is renamed (a rename is a copy and a delete).

fsspec is imported here and nowhere else.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol, TypeVar

from farm.errors import FarmError, InputError, MissingLibraryError, OutputError, StoreError
from farm.store import layout

_NO_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EACCES}
"""What `os.link` says on file systems without hard links: exFAT, some SMB and FUSE mounts."""
_FULL = {errno.ENOSPC, errno.EDQUOT}
Result = TypeVar("Result")
_LIBRARIES = {
    "s3": "s3fs",
    "s3a": "s3fs",
    "gs": "gcsfs",
    "gcs": "gcsfs",
    "az": "adlfs",
    "abfs": "adlfs",
}
"""The package that each protocol of fsspec needs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One file: its name relative to the output, its bytes, and when it last changed."""

    name: str
    size: int
    modified: float | None
    """Seconds since 1970, by the clock of whoever stores it; None where the backend hides it."""


class Files(Protocol):
    """Named bytes under one root. Every verb but `get` raises only `StoreError`."""

    @property
    def url(self) -> str:
        """Absolute path or URL of the root, without a trailing slash."""

    def put_new(self, name: str, data: bytes) -> bool:
        """Create `name`; return False, and change nothing, if it exists."""

    def put(self, name: str, data: bytes) -> None:
        """Create or replace `name`. For files that are no record: controls, `job.yaml`."""

    def put_cached(self, name: str, data: bytes) -> None:
        """Create or replace `name` at once, but without waiting for the disk.

        For what can be made again: after a power cut, the file may be there without its bytes.
        """

    def get(self, name: str) -> bytes:
        """Return the bytes of `name`.

        Raises:
            FileNotFoundError: there is no such file (any more).
            StoreError: it is there and cannot be read.
        """

    def exists(self, name: str) -> bool:
        """Return whether there is a file or a folder `name`."""

    def scan(self, folder: str) -> Iterator[Entry]:
        """Yield every file below `folder`; nothing if there is no such folder."""

    def delete(self, name: str) -> None:
        """Remove `name`; it is fine if it is gone already."""

    def move(self, name: str, to: str) -> None:
        """Give `name` a new name and a new time; it is fine if it is gone already."""

    def touch(self, name: str) -> None:
        """Give `name` a new time, so that `gc` takes it for fresh."""

    def sync(self, folders: Iterable[str]) -> None:
        """Make the entries of `folders` last through a power cut."""

    def tidy(self) -> None:
        """Remove the folder that writing needed, if it is empty; the next write makes it again."""


def open_files(output: str | os.PathLike[str]) -> Files:
    """Return the files of a folder or fsspec URL, which need not exist yet.

    Raises:
        OutputError: the protocol is unknown, or its settings are refused.
        MissingLibraryError: the protocol's library is not installed.
    """
    text = os.fspath(output)
    protocol, separator, rest = text.partition("://")
    if not separator:
        return LocalFiles(Path(text))
    if protocol in {"file", "local"}:
        return LocalFiles(Path(rest))
    return ObjectFiles(text.rstrip("/"))


class LocalFiles:
    """Files of a folder, on a local disk or a network mount."""

    def __init__(self, root: Path) -> None:
        # Workers have other working directories than the driver, so the root is absolute from here.
        self._root = Path(os.path.abspath(root.expanduser()))  # noqa: PTH100 - keeps symlinks

    @property
    def url(self) -> str:
        """See `Files.url`."""
        return str(self._root)

    def put_new(self, name: str, data: bytes) -> bool:
        """See `Files.put_new`."""
        target = self._root / name
        with _as_store_error("write", target), self._temporary(data) as temporary:
            return _in_folder(target, lambda: _publish(temporary, target))

    def put(self, name: str, data: bytes) -> None:
        """See `Files.put`."""
        target = self._root / name
        with _as_store_error("write", target), self._temporary(data) as temporary:
            _in_folder(target, lambda: temporary.replace(target))

    def put_cached(self, name: str, data: bytes) -> None:
        """See `Files.put_cached`."""
        target = self._root / name
        with _as_store_error("write", target), self._temporary(data, sync=False) as temporary:
            _in_folder(target, lambda: temporary.replace(target))

    def get(self, name: str) -> bytes:
        """See `Files.get`."""
        path = self._root / name
        try:
            return path.read_bytes()
        except FileNotFoundError:
            raise
        except OSError as error:
            raise _store_error("read", path, error) from error

    def exists(self, name: str) -> bool:
        """See `Files.exists`."""
        path = self._root / name
        with _as_store_error("read", path):
            return path.exists()

    def scan(self, folder: str) -> Iterator[Entry]:
        """See `Files.scan`."""
        with _as_store_error("list", self._root / folder):
            yield from self._scan(folder)

    def _scan(self, folder: str) -> Iterator[Entry]:
        try:
            listing = os.scandir(self._root / folder)
        except (FileNotFoundError, NotADirectoryError):
            return
        with listing:
            for entry in listing:
                name = f"{folder}/{entry.name}"
                if entry.is_dir(follow_symlinks=False):  # links may go round in circles
                    yield from self._scan(name)
                    continue
                with contextlib.suppress(FileNotFoundError):  # it vanished since it was listed
                    facts = entry.stat()
                    yield Entry(name=name, size=facts.st_size, modified=facts.st_mtime)

    def delete(self, name: str) -> None:
        """See `Files.delete`."""
        path = self._root / name
        with _as_store_error("delete", path):
            path.unlink(missing_ok=True)

    def move(self, name: str, to: str) -> None:
        """See `Files.move`."""
        path, target = self._root / name, self._root / to
        with _as_store_error("move", path), contextlib.suppress(FileNotFoundError):
            os.utime(path)
            target.parent.mkdir(parents=True, exist_ok=True)
            path.replace(target)

    def touch(self, name: str) -> None:
        """See `Files.touch`."""
        path = self._root / name
        with _as_store_error("write", path):
            os.utime(path)

    def sync(self, folders: Iterable[str]) -> None:
        """See `Files.sync`."""
        if os.name == "nt":  # Windows cannot open a directory, and journals its entries itself
            return
        for folder in folders:
            with _as_store_error("write", self._root / folder):
                handle = os.open(self._root / folder, os.O_RDONLY)
                try:
                    os.fsync(handle)
                finally:
                    os.close(handle)

    def tidy(self) -> None:
        """See `Files.tidy`."""
        with contextlib.suppress(OSError):  # somebody writes, or nobody ever did
            (self._root / layout.TMP).rmdir()

    @contextlib.contextmanager
    def _temporary(self, data: bytes, *, sync: bool = True) -> Iterator[Path]:
        """Yield a file that holds `data`, on disk; it is gone afterwards unless it was renamed."""
        path = self._root / layout.TMP / secrets.token_hex(16)
        try:
            with _in_folder(path, lambda: path.open("xb", buffering=0)) as handle:
                view = memoryview(data)
                while view:
                    view = view[handle.write(view) :]
                if sync:
                    os.fsync(handle.fileno())
            yield path
        finally:
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)


def _in_folder(path: Path, act: Callable[[], Result]) -> Result:
    """Return `act()`, with the folder of `path` made if that is what was missing."""
    try:
        return act()
    except FileNotFoundError:
        path.parent.mkdir(parents=True, exist_ok=True)
        return act()


def _publish(temporary: Path, target: Path) -> bool:
    try:
        target.hardlink_to(temporary)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        if target.exists():
            return False
        temporary.rename(target)
    return True


@contextlib.contextmanager
def _as_store_error(verb: str, path: Path) -> Iterator[None]:
    """Turn what the operating system refuses into `StoreError`."""
    try:
        yield
    except OSError as error:
        raise _store_error(verb, path, error) from error


def _store_error(verb: str, path: Path, error: OSError) -> StoreError:
    if error.errno in _FULL:
        hint = "free some space, then give the same command again: it goes on from here"
    elif error.errno == errno.EXDEV:
        hint = "keep images/, catalog/ and tmp/ of one output on one file system"
    else:
        hint = "check the disk or mount, then give the same command again"
    return StoreError(f"cannot {verb}: {error.strerror or error}", where=str(path), hint=hint)


class ObjectFiles:
    """Files of an object store, or of any other file system that fsspec knows."""

    def __init__(self, url: str) -> None:
        self._url = url
        protocol = url.partition("://")[0]
        try:
            from fsspec.core import url_to_fs

            # A listing must show what other processes wrote a moment ago.
            self._fs, self._root = url_to_fs(url, use_listings_cache=False)
        except ImportError as error:
            library = _LIBRARIES.get(protocol)
            raise MissingLibraryError(
                f"writing to {protocol}:// needs a library that is not installed: {error}",
                where=url,
                hint=f"pip install {library}" if library else None,
            ) from error
        except Exception as error:
            raise OutputError(
                f"cannot open this output: {error}",
                where=url,
                hint="give a folder, or a URL such as s3://bucket/folder",
            ) from error
        self._root = self._root.rstrip("/")

    @property
    def url(self) -> str:
        """See `Files.url`."""
        return self._url

    def put_new(self, name: str, data: bytes) -> bool:
        """See `Files.put_new`."""
        with self._as_store_error("write", name):
            try:
                self._fs.pipe_file(self._path(name), data, mode="create")
            except FileExistsError:
                return False
            except NotImplementedError:  # this backend cannot refuse to replace
                if self.exists(name):
                    return False
                self._fs.pipe_file(self._path(name), data)
        return True

    def put(self, name: str, data: bytes) -> None:
        """See `Files.put`."""
        with self._as_store_error("write", name):
            self._fs.pipe_file(self._path(name), data)

    def put_cached(self, name: str, data: bytes) -> None:
        """See `Files.put_cached`."""
        self.put(name, data)

    def get(self, name: str) -> bytes:
        """See `Files.get`."""
        try:
            with self._as_store_error("read", name):
                return bytes(self._fs.cat_file(self._path(name)))
        except StoreError as error:
            if isinstance(error.__cause__, FileNotFoundError):
                raise error.__cause__ from None
            raise

    def exists(self, name: str) -> bool:
        """See `Files.exists`."""
        with self._as_store_error("read", name):
            return bool(self._fs.exists(self._path(name)))

    def scan(self, folder: str) -> Iterator[Entry]:
        """See `Files.scan`."""
        with self._as_store_error("list", folder):
            self._fs.invalidate_cache()
            try:
                found = self._fs.find(self._path(folder), detail=True)
            except FileNotFoundError:
                return
        for path, facts in found.items():
            name = path[len(self._root) :].lstrip("/")
            yield Entry(name=name, size=int(facts["size"] or 0), modified=_modified(facts))

    def delete(self, name: str) -> None:
        """See `Files.delete`."""
        with self._as_store_error("delete", name), contextlib.suppress(FileNotFoundError):
            self._fs.rm_file(self._path(name))

    def move(self, name: str, to: str) -> None:
        """See `Files.move`."""
        with self._as_store_error("move", name), contextlib.suppress(FileNotFoundError):
            self._fs.pipe_file(self._path(to), self._fs.cat_file(self._path(name)))
            self._fs.rm_file(self._path(name))

    def touch(self, name: str) -> None:
        """See `Files.touch`. An object's time is that of its last PUT."""
        self.put(name, self.get(name))

    def sync(self, folders: Iterable[str]) -> None:
        """See `Files.sync`. A PUT that returned is durable, and there are no folders."""

    def tidy(self) -> None:
        """See `Files.tidy`. Objects are put whole, and there are no folders."""

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"

    @contextlib.contextmanager
    def _as_store_error(self, verb: str, name: str) -> Iterator[None]:
        try:
            yield
        except FarmError:
            raise
        except Exception as error:  # every backend has an exception tree of its own
            raise StoreError(
                f"cannot {verb}: {str(error) or type(error).__name__}",
                where=f"{self._url}/{name}",
                hint="check the address, the credentials and the network, then try again",
            ) from error


def _modified(facts: dict[str, Any]) -> float | None:
    """Return an object's time; each backend has its own word for it."""
    for key in ("LastModified", "last_modified", "mtime", "updated", "created"):
        match facts.get(key):
            case datetime() as moment:
                return moment.timestamp()
            case int() | float() as seconds:
                return float(seconds)
            case str() as text:
                return datetime.fromisoformat(text).timestamp()
    return None


def check_name(name: str) -> str:
    """Return `name` if it stays below the folder it will be put in.

    Raises:
        InputError: it is empty, absolute, or climbs with `..`.
    """
    pieces = name.replace("\\", "/").split("/")
    if not all(pieces) or {".", ".."} & set(pieces):
        raise InputError(f"{name!r} is no name for a file below the output")
    return name
