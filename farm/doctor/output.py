"""The output: can it be written, and does its file system keep what the store relies on?"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Iterator
from pathlib import Path

from farm.doctor.finding import Finding, fail, ok, warn
from farm.doctor.machine import existing_parent
from farm.errors import FarmError
from farm.store.files import open_files

_ROOMY_NAME = 200
"""Bytes a file name may need: a readable image name, its digest, and a temporary's suffix."""
_SKEW_S = 60.0


def examine_output(output: str) -> Iterator[Finding]:
    """Check that a run from this machine could write to `output`, which need not exist yet."""
    if "://" not in output:
        folder = Path(output).expanduser().absolute()
        if not folder.exists():
            yield from _examine_place(folder)
            return
        if not folder.is_dir():
            yield fail("output", f"{folder} is a file", "name a folder")
            return
        yield from _examine_names(folder)
    yield _write_probe(output)


def _examine_place(folder: Path) -> Iterator[Finding]:
    """Check that a folder could be made."""
    parent = existing_parent(folder)
    if parent.is_dir() and os.access(parent, os.W_OK | os.X_OK):
        yield ok("output", f"{folder} does not exist yet and can be made")
        yield from _examine_names(parent)
    else:
        yield fail("output", f"{folder} cannot be made: {parent} is not writable", "choose another")


def _examine_names(folder: Path) -> Iterator[Finding]:
    if not hasattr(os, "pathconf"):
        return
    longest = os.pathconf(folder, "PC_NAME_MAX")
    if longest < _ROOMY_NAME:
        yield warn(
            "output",
            f"file names on this disk have at most {longest} bytes",
            "set a short file_name in the job, such as '${seed}'",
        )


def _write_probe(output: str) -> Finding:
    """Write a file, find it with its bytes and a time that makes sense, and remove it."""
    name, data = f"tmp/doctor-{secrets.token_hex(8)}", secrets.token_bytes(64)
    try:
        files = open_files(output)
        files.put_new(name, data)
        try:
            now = time.time()
            entry = next((entry for entry in files.scan("tmp") if entry.name == name), None)
            same = files.get(name) == data
        finally:
            files.delete(name)
    except (FarmError, OSError) as error:
        return fail(
            "output", f"cannot be written: {error}", "give a folder or URL you may write to"
        )
    if entry is None or not same:
        return fail(
            "output",
            "what was written is not there at once",
            "synchronised folders are no store; give a disk, a network mount or an object store",
        )
    if entry.modified is not None and abs(entry.modified - now) > _SKEW_S:
        skew = entry.modified - now
        return warn(
            "output",
            f"its server's clock is {skew:+.0f} s off from this one",
            "synchronise the clocks, or `farm gc` may take fresh files for old ones",
        )
    return ok("output", f"{files.url} can be written")
