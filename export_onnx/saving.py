"""Writing the folder: all of it or nothing, and an index that vouches for every file.

The folder takes shape beside its place under a hidden name, and is renamed when it is whole. An
error, a full disk or Ctrl-C removes the draft; what a killed process leaves is removed by the next
export to the same place. What is in a bundle, and how it is read: `farm.render.onnx_bundle`.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir

from farm.errors import OutputError
from farm.render.models import ONNX_INDEX
from farm.render.onnx_bundle import FORMAT

GRAPH = "model.onnx"
WEIGHTS = "model.onnx_data"
LARGEST_GRAPH = 1 << 30
"""Bytes of weights that are kept inside a graph. Above, they lie in one file beside it: protobuf
ends at 2 GB."""
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_FORBIDDEN = {errno.EACCES, errno.EPERM, errno.EROFS}


@contextmanager
def drafting(folder: Path) -> Iterator[Path]:
    """Give a folder to write into, which becomes `folder` if the block ends well.

    Raises:
        OutputError: `folder` holds something already, or the disk refuses.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise OutputError(
            "there is something at this place already",
            where=str(folder),
            hint="name another folder, or remove this one first",
        )
    prefix = f".{folder.name}.draft-"
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        for stale in folder.parent.glob(f"{prefix}*"):
            shutil.rmtree(stale, ignore_errors=True)
        draft = Path(tempfile.mkdtemp(prefix=prefix, dir=folder.parent))
    except OSError as error:
        raise _refused(folder, error) from error
    try:
        yield draft
        draft.chmod(0o755)  # mkdtemp's are their owner's alone
        if folder.exists():
            folder.rmdir()
        draft.replace(folder)
    except OSError as error:
        raise _refused(folder, error) from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _refused(folder: Path, error: OSError) -> OutputError:
    return OutputError(
        f"the ONNX bundle cannot be written: {error.strerror or error}",
        where=str(folder),
        note="nothing is left of it",
        hint=_next_step(error),
    )


def _next_step(error: OSError) -> str:
    if error.errno in _FULL:
        return "make room there (df -h), or name a folder on another disk"
    if error.errno in _FORBIDDEN:
        return "name a folder that you may write to, or ask who owns this one (ls -ld)"
    return "name another folder"


def load_graph(file: Path) -> ir.Model:
    """Read a graph with all of its weights, wherever they lie, into memory."""
    return ir.from_proto(onnx.load(file))


def save_graph(model: ir.Model, file: Path) -> Path:
    """Write a graph in memory; large weights go to a file beside it. Return `file`.

    A graph that is there is replaced, and leaves no weights behind.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    values = model.graph.initializers.values()
    size = sum(one.const_value.nbytes for one in values if one.const_value is not None)
    is_large = size > LARGEST_GRAPH
    ir.save(model, file, external_data=WEIGHTS if is_large else None)
    if not is_large:
        file.with_name(WEIGHTS).unlink(missing_ok=True)
    return file


def write_index(draft: Path, facts: Mapping[str, Any]) -> None:
    """Write the index over everything that `draft` holds, as the last of its files."""
    files = {}
    for path in sorted(draft.rglob("*")):
        if path.is_file() and path != draft / ONNX_INDEX:
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            name = path.relative_to(draft).as_posix()
            files[name] = {"bytes": path.stat().st_size, "sha256": digest}
    text = json.dumps({"format": FORMAT, **facts, "files": files}, indent=1, ensure_ascii=False)
    with (draft / ONNX_INDEX).open("w", encoding="utf-8") as index:
        index.write(text + "\n")
        index.flush()
        os.fsync(index.fileno())
