"""Files that people asked for: in a folder of this machine, or inside an output anywhere.

A file appears whole or not at all, so whoever watches it never sees half a picture.
"""

from __future__ import annotations

import contextlib
import secrets
import tempfile
from collections.abc import Callable
from pathlib import Path

from farm.errors import OutputError
from farm.store.files import open_files


def publish(folder: str, name: str, write: Callable[[Path], None], *, what: str) -> str:
    """Have `write` make a file, put it into a folder or below a URL, and return where it is.

    `write` is given a path that ends with `name`'s suffix. `what` names the file in an error: `the
    sheet`.

    Raises:
        OutputError: the folder cannot be written to.
        StoreError: the URL cannot be written to.
    """
    if "://" in folder:
        with tempfile.TemporaryDirectory() as place:
            file = Path(place) / f"file{Path(name).suffix}"
            write(file)
            open_files(folder).put(name, file.read_bytes())
        return f"{folder}/{name}"
    path = Path(folder) / name
    temporary = path.with_name(f".{secrets.token_hex(4)}-{name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(temporary)
        temporary.replace(path)
    except OSError as error:
        raise OutputError(
            f"cannot write {what}: {error.strerror or error}",
            where=str(path),
            hint="choose another place with --out FILE",
        ) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()
    return str(path)
