"""The one place where the farm reaches the exporter: for the command, and for first use.

`export_bundle` makes the bundle that somebody asks for. `bundle_of` finds the bundle of a model for
a worker: the folder itself where the reference names a bundle, else one in the user's cache, which
is made on first use. Workers that start together wait for the one that exports.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from farm.errors import MissingLibraryError, ModelError, OutputError
from farm.render.models import bundles_folder, model_sha256, resolve_model
from farm.render.onnx_bundle import FORMAT, OnnxBundle, open_bundle
from farm.render.providers import choose_dtype, outlook

if TYPE_CHECKING:
    from export_onnx.export import ExportReport

INSTALL_ONNX = "pip install '.[onnx]' in the farm's folder"
_EXPORTERS = ("onnx", "onnxscript", "onnxruntime")
"""What exporting imports beyond what rendering with torch does."""
_AS_VERSIONED = ("farm", "torch", "diffusers", "transformers", "onnxscript")
"""Libraries of which a new version makes a new bundle in the cache."""
_log = logging.getLogger(__name__)


def export_bundle(
    model: str,
    folder: Path,
    *,
    threads: int | None = None,
    tell: Callable[[str], None] = lambda _line: None,
    **words: Any,  # noqa: ANN401 - as `export_onnx.options.parse_options` names them
) -> ExportReport:
    """Export a model to an ONNX bundle in `folder`, with the report of its parity.

    Raises:
        InputError: the options do not go together.
        ModelError: the model cannot be loaded or exported, or the graphs miss a tolerance.
        OutputError: the folder is taken, or cannot be written.
        MissingLibraryError: a library that exporting needs is not installed.
    """
    try:
        from export_onnx.export import export
        from export_onnx.options import parse_options
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in {*_EXPORTERS, "onnx_ir"}:
            raise
        raise MissingLibraryError(
            f"library '{error.name}' is not installed, and exporting needs it", hint=INSTALL_ONNX
        ) from error
    return export(model, folder, options=parse_options(**words), threads=threads, tell=tell)


def bundle_of(model: str, *, dtype: str, threads: int | None) -> OnnxBundle:
    """Return the bundle of a model, exporting it into the user's cache if it is not there.

    Args:
        model: a bundle's folder, or any other reference of a model.
        dtype: `float32`, or `float16` for CUDA.
        threads: CPU threads for the export.

    Raises:
        ModelError: the bundle is damaged, or the model cannot be loaded or exported.
        OutputError: the cache cannot be written.
        MissingLibraryError: a library that exporting needs is not installed.
    """
    source = resolve_model(model)
    if source.kind == "onnx":
        assert source.path is not None, "a bundle is a folder"
        return open_bundle(source.path)
    content = model_sha256(source)
    if content is None:
        raise ModelError(
            f"model '{model}' is not on this machine yet, so it cannot be exported",
            hint=f"hf download {source.repository}, or farm export-onnx {model} DIR and use DIR as "
            "the model",
        )
    folder = _place_of(content, dtype)
    with _alone_at(folder):
        if (found := _whole(folder)) is not None:
            return found
        _tell(f"exporting {model} to ONNX, once; the bundle is kept in {folder}")
        # Without what backend onnx never asks for.
        report = export_bundle(
            model, folder, threads=threads, tell=_tell, dtype=dtype, has_encoder=False
        )
        _tell(f"exported {model} in {report.seconds:.0f} s")
        return open_bundle(folder)


def awaits_export(model: str, dtype: str) -> bool:
    """Return whether `bundle_of` would have to export a model on this machine.

    False, too, of a model that is not here yet: then something else comes first.

    Args:
        model: any reference.
        dtype: as in a job.

    Raises:
        InputError: backend onnx could not run the model here; see `farm.render.providers.outlook`.
        ModelError: nothing has that name, or what would run it does not compute in that dtype.
        ModuleNotFoundError: ONNX Runtime is not installed.
    """
    source = resolve_model(model)
    if source.kind == "onnx" or (content := model_sha256(source)) is None:
        return False
    return not _place_of(content, choose_dtype(dtype, outlook())).exists()


@contextmanager
def _alone_at(folder: Path) -> Iterator[None]:
    """Hold a folder of the cache, so that one process at a time makes it.

    Raises:
        OutputError: the cache cannot be written.
    """
    from filelock import FileLock

    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        held = FileLock(folder.parent / f"{folder.name}.lock").acquire()
    except OSError as error:
        raise _unwritable(folder.parent, error) from error
    with held:
        yield


def _unwritable(place: Path, error: OSError) -> OutputError:
    return OutputError(
        f"backend onnx cannot keep bundles here: {error.strerror or error}",
        where=str(place),
        hint="set XDG_CACHE_HOME to a folder that you may write to, or export the model "
        "elsewhere (farm export-onnx MODEL DIR) and use DIR as the model",
    )


def _whole(folder: Path) -> OnnxBundle | None:
    """Return the bundle in the cache, None if there is none; a damaged one is removed.

    Raises:
        OutputError: it cannot be removed.
    """
    if not folder.exists():
        return None
    try:
        return open_bundle(folder)
    except ModelError as error:
        _log.warning("a bundle in the cache is made anew: %s", error)
    try:
        shutil.rmtree(folder)
    except OSError as error:
        raise _unwritable(folder, error) from error
    return None


def _place_of(content: str, dtype: str) -> Path:
    """Return the folder of a bundle in the cache: by all that its content depends on."""
    made_of = {
        "content": content,
        "dtype": dtype,
        "format": FORMAT,
        **{name: _version(name) for name in _AS_VERSIONED},
    }
    digest = hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()
    return bundles_folder() / f"{content[:12]}-{dtype}-{digest[:12]}"


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _tell(line: str) -> None:
    """Say what takes so long, where people look for it."""
    print(f"onnx: {line}", file=sys.stderr, flush=True)  # noqa: T201 - a worker's only way to a terminal
