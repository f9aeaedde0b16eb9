"""Which model a reference means, without loading it, asking the network or importing torch.

A job file names a model in one of these ways, tried in this order:

- `builtin:NAME`: a diffusers folder that is part of this package;
- a name that ends in `.safetensors`: one file with a whole checkpoint;
- an existing folder with a `model_index.json`: a diffusers folder; with an `onnx_bundle.json`: an
  ONNX bundle, which backend `onnx` renders;
- `owner/name`, with an optional `@revision` and `#variant`: a repository of the Hugging Face hub.

Relative files and folders are looked for in the current folder, in `models/`, and in the folders
of `$FARM_MODELS` (separated as in `$PATH`), so that one job file fits machines that keep their
models in different places.

Pickles (`.ckpt`, `.pt`, `.bin`) are refused: loading one runs whatever code its author put in it.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import re
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from farm.errors import ModelError, suggest

Kind: TypeAlias = Literal["builtin", "file", "folder", "onnx", "hub"]

BUILTIN_PREFIX = "builtin:"
MODELS_VARIABLE = "FARM_MODELS"
"""Environment variable with folders that hold models."""
CONFIG_VARIABLE = "FARM_SINGLE_FILE_CONFIG"
"""Environment variable with the diffusers folder that describes single-file checkpoints."""
INDEX = "model_index.json"
"""The file that makes a folder a diffusers folder."""
ONNX_INDEX = "onnx_bundle.json"
"""The file that makes a folder an ONNX bundle."""

_BUILTIN = Path(__file__).parent / "builtin"
_PICKLES = frozenset({".ckpt", ".pt", ".pth", ".bin", ".pkl", ".pickle"})
_HUB_ID = re.compile(
    r"(?P<repository>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)"
    r"(?:@(?P<revision>[^@#\s]+))?(?:#(?P<variant>[\w.-]+))?"
)
_CONTENT = frozenset({".json", ".safetensors", ".txt", ".model", ".onnx", ".onnx_data"})
"""What a model's folder renders with: weights, configurations and vocabularies."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSource:
    """Where a model's weights come from."""

    reference: str
    """As the job file spells it."""
    kind: Kind
    path: Path | None = None
    """The file or folder; None for a hub repository."""
    repository: str | None = None
    revision: str | None = None
    variant: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelInfo:
    """One model that is on this machine, as `farm models` lists it."""

    reference: str
    """What to write in a job file."""
    kind: Kind
    path: Path
    size: int
    """Bytes on disk."""
    licence: str | None
    """As its model card says; None if it has no card or the card does not say."""
    made_from: str | None = None
    """Of an ONNX bundle: the model that was exported."""


def resolve_model(reference: str) -> ModelSource:
    """Return the source that `reference` means on this machine.

    A hub repository is not looked up: whether it exists shows when it is loaded.

    Raises:
        ModelError: nothing that can be loaded has that name; the hint says what to do.
    """
    if reference.startswith(BUILTIN_PREFIX):
        return _builtin(reference)
    suffix = Path(reference).suffix.lower()
    if suffix in _PICKLES:
        raise ModelError(
            f"model '{reference}' is a pickle, and loading a pickle runs the code inside it",
            hint="use the model's .safetensors file; most are published in both forms",
        )
    if "://" in reference:
        raise ModelError(
            f"model '{reference}' is a URL", hint="download it, and name the file or folder"
        )
    if suffix == ".safetensors":
        return _file(reference)
    return _folder(reference) or _hub(reference)


def _builtin(reference: str) -> ModelSource:
    name = reference.removeprefix(BUILTIN_PREFIX)
    path = _BUILTIN / name
    if name in _builtin_names():
        return ModelSource(reference=reference, kind="builtin", path=path)
    known = ", ".join(BUILTIN_PREFIX + known for known in _builtin_names())
    raise ModelError(
        f"no embedded model is called '{reference}'",
        note=f"embedded models: {known or 'none in this installation'}",
        hint=suggest(reference, (BUILTIN_PREFIX + known for known in _builtin_names())),
    )


def _builtin_names() -> list[str]:
    return sorted(index.parent.name for index in _BUILTIN.glob(f"*/{INDEX}"))


def _file(reference: str) -> ModelSource:
    for candidate in _candidates(reference):
        if candidate.is_file():
            return ModelSource(reference=reference, kind="file", path=candidate)
    raise _not_found(reference)


def _folder(reference: str) -> ModelSource | None:
    folders = [candidate for candidate in _candidates(reference) if candidate.is_dir()]
    for folder in folders:
        if (folder / INDEX).is_file():
            return ModelSource(reference=reference, kind="folder", path=folder)
        if (folder / ONNX_INDEX).is_file():
            return ModelSource(reference=reference, kind="onnx", path=folder)
    if folders:
        raise ModelError(
            f"folder '{folders[0]}' holds neither {INDEX} nor {ONNX_INDEX}, so it is no model",
            hint="name the folder that holds one, or a .safetensors file inside the folder",
        )
    return None


def _hub(reference: str) -> ModelSource:
    if _looks_like_a_path(reference) or not (match := _HUB_ID.fullmatch(reference)):
        raise _not_found(reference)
    return ModelSource(
        reference=reference,
        kind="hub",
        repository=match["repository"],
        revision=match["revision"],
        variant=match["variant"],
    )


def _looks_like_a_path(reference: str) -> bool:
    return Path(reference).is_absolute() or reference.startswith((".", "~"))


def _candidates(reference: str) -> Iterator[Path]:
    """Yield the places where a file or folder of that name may be, best first."""
    path = Path(reference).expanduser()
    yield path
    if not _looks_like_a_path(reference):
        for folder in _model_folders():
            yield folder / path


def _model_folders() -> list[Path]:
    listed = os.environ.get(MODELS_VARIABLE, "").split(os.pathsep)
    return [Path("models"), *(Path(folder).expanduser() for folder in listed if folder)]


def _not_found(reference: str) -> ModelError:
    looked_in = ", ".join(str(place.parent) for place in _candidates(reference))
    builtin = suggest(BUILTIN_PREFIX + reference, (BUILTIN_PREFIX + n for n in _builtin_names()))
    return ModelError(
        f"there is no model '{reference}'",
        note=f"looked in {looked_in}; a hub repository is written owner/name[@revision][#variant]",
        hint=builtin or "`farm models` lists the models on this machine",
    )


# --- content ------------------------------------------------------------------------------------


def model_sha256(source: ModelSource) -> str | None:
    """Return what identifies a model's content, or None if that is not known on this machine.

    A file: the SHA-256 of its bytes, as model sites print it. A folder: one over the names and
    hashes of its weights, configurations and vocabularies. A hub repository: the commit of the
    cached snapshot, which is Git's own hash of the content.

    Hashes of files are remembered under the user's cache folder by path, size and time of change.
    """
    if source.kind == "hub":
        return _cached_commit(source)
    assert source.path is not None, "only hub models have no path"
    if source.kind == "file":
        return file_sha256(source.path)
    whole = hashlib.sha256()
    for path in _content_of(source.path):
        name = path.relative_to(source.path).as_posix()
        whole.update(f"{name}\0{file_sha256(path)}\n".encode())
    return whole.hexdigest()


def _content_of(folder: Path) -> list[Path]:
    """Return the files a diffusers folder renders with, in the order of their names."""
    return sorted(
        path
        for path in folder.rglob("*")
        if path.suffix in _CONTENT
        and path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, remembered by path, size and time of change."""
    status = path.stat()
    key = f"{path.resolve()}\0{status.st_size}\0{status.st_mtime_ns}"
    memory = cache_folder() / "sha256" / hashlib.sha256(key.encode()).hexdigest()
    try:
        return memory.read_text("ascii")
    except (OSError, UnicodeDecodeError):
        pass
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    _remember(memory, digest)
    return digest


def _remember(memory: Path, digest: str) -> None:
    """Write a hash where other processes may be writing the same one; a failure costs only time."""
    try:
        memory.parent.mkdir(parents=True, exist_ok=True)
        handle, draft = tempfile.mkstemp(dir=memory.parent)
        with os.fdopen(handle, "w", encoding="ascii") as file:
            file.write(digest)
        Path(draft).replace(memory)
    except OSError:
        return


def cache_folder() -> Path:
    """Return the farm's folder in the user's cache: below `$XDG_CACHE_HOME`, or `~/.cache`."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "farm"


def bundles_folder() -> Path:
    """Return the folder of ONNX bundles that were made on first use."""
    return cache_folder() / "onnx"


def _cached_commit(source: ModelSource) -> str | None:
    if not _hub_library_is_installed():
        return None
    from huggingface_hub import try_to_load_from_cache

    assert source.repository is not None, "a hub model has a repository"
    index = try_to_load_from_cache(source.repository, INDEX, revision=source.revision)
    return Path(index).parent.name if isinstance(index, str) else None


def _hub_library_is_installed() -> bool:
    return importlib.util.find_spec("huggingface_hub") is not None


# --- what is here -------------------------------------------------------------------------------


def list_models() -> tuple[ModelInfo, ...]:
    """Return the models that are on this machine: embedded, local and cached.

    Local ones are those in `models/` and in the folders of `$FARM_MODELS`. Cached are what came
    from the hub, and the ONNX bundles that were made on first use. Nothing is loaded, and the
    network is not asked.
    """
    builtin = [
        _describe(BUILTIN_PREFIX + name, kind="builtin", path=_BUILTIN / name)
        for name in _builtin_names()
    ]
    return (*builtin, *_local_models(), *_hub_models(), *_cached_bundles())


def _describe(reference: str, *, kind: Kind, path: Path) -> ModelInfo:
    files = [path] if path.is_file() else _content_of(path)
    return ModelInfo(
        reference=reference,
        kind=kind,
        path=path,
        size=sum(file.stat().st_size for file in files),
        licence=_licence_of(path),
        made_from=_origin_of(path) if kind == "onnx" else None,
    )


def _cached_bundles() -> Iterator[ModelInfo]:
    # What is being written has another name until it is whole, and begins with a dot.
    for index in sorted(bundles_folder().glob(f"[!.]*/{ONNX_INDEX}")):
        yield _describe(str(index.parent), kind="onnx", path=index.parent)


def _origin_of(bundle: Path) -> str | None:
    try:
        reference = json.loads((bundle / ONNX_INDEX).read_text("utf-8"))["model"]["reference"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return str(reference)


def _local_models() -> Iterator[ModelInfo]:
    for base in _model_folders():
        folders = {index.parent for index in base.rglob(INDEX)}
        for folder in sorted(folders):
            yield _describe(_reference_below(base, folder), kind="folder", path=folder)
        for index in sorted(base.rglob(ONNX_INDEX)):
            folder = index.parent
            yield _describe(_reference_below(base, folder), kind="onnx", path=folder)
        for file in sorted(base.rglob("*.safetensors")):
            if folders.isdisjoint(file.parents):
                yield _describe(_reference_below(base, file), kind="file", path=file)


def _reference_below(base: Path, path: Path) -> str:
    """Return the shortest reference that `resolve_model` turns back into `path`."""
    relative = path.relative_to(base)
    return str(path if relative == Path() else relative)


def _hub_models() -> Iterator[ModelInfo]:
    if not _hub_library_is_installed():
        return
    from huggingface_hub import scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    try:
        repositories = scan_cache_dir().repos
    except CacheNotFound:
        return
    for repository in sorted(repositories, key=lambda entry: str(entry.repo_id)):
        for revision in repository.revisions:
            if (revision.snapshot_path / INDEX).is_file():
                name = min(revision.refs, key=lambda ref: (ref != "main", ref), default=None)
                at = "" if name == "main" else f"@{name or revision.commit_hash}"
                yield ModelInfo(
                    reference=f"{repository.repo_id}{at}",
                    kind="hub",
                    path=revision.snapshot_path,
                    size=revision.size_on_disk,
                    licence=_licence_of(revision.snapshot_path),
                )


def _licence_of(path: Path) -> str | None:
    """Return the `license` entry of a model card's YAML header."""
    card = path / "README.md"
    try:
        header = card.read_text("utf-8").split("---", 2)[1]
    except (OSError, UnicodeDecodeError, IndexError):
        return None
    line = re.search(r"^license:\s*(\S.*?)\s*$", header, re.MULTILINE)
    return line[1].strip("\"'") if line else None


# --- single files -------------------------------------------------------------------------------


def single_file_config(source: ModelSource) -> Path | None:
    """Return the diffusers folder that describes a single-file checkpoint, if one is at hand.

    A checkpoint holds weights only. The architecture, the scheduler and the tokenizer's vocabulary
    come from a diffusers folder, which needs no weights of its own: `$FARM_SINGLE_FILE_CONFIG`, or
    a folder beside the file with its name (`dream.safetensors`, `dream/`).

    Raises:
        ModelError: `$FARM_SINGLE_FILE_CONFIG` is set but is no such folder.
    """
    assert source.path is not None, "a file has a path"
    if named := os.environ.get(CONFIG_VARIABLE):
        folder = Path(named).expanduser()
        if not (folder / INDEX).is_file():
            raise ModelError(
                f"${CONFIG_VARIABLE} is '{folder}', which holds no {INDEX}",
                hint="set it to a diffusers folder of the checkpoint's kind, or unset it",
            )
        return folder
    beside = source.path.with_suffix("")
    return beside if (beside / INDEX).is_file() else None


def pipeline_class_name(folder: Path) -> str:
    """Return the pipeline class that a diffusers folder names.

    Raises:
        ModelError: the folder's index cannot be read, or asks for code of its own.
    """
    name = _read_index(folder).get("_class_name")
    if not isinstance(name, str):
        raise ModelError(
            f"{INDEX} names a pipeline of its own, {name}, and the farm runs no code from models",
            where=str(folder),
            hint="use a model whose pipeline is part of diffusers",
        )
    return name


def parts_left_out(folder: Path) -> list[str]:
    """Return the parts that a diffusers folder was saved without (SD3 without its T5, say).

    Raises:
        ModelError: the folder's index cannot be read.
    """
    return [name for name, part in _read_index(folder).items() if part == [None, None]]


def _read_index(folder: Path) -> dict[str, object]:
    try:
        index = json.loads((folder / INDEX).read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(
            f"{INDEX} cannot be read: {error}",
            where=str(folder),
            hint="save the model again with diffusers' save_pretrained",
        ) from error
    return index if isinstance(index, dict) else {}
