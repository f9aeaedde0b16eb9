"""The folder that `farm export-onnx` writes and backend `onnx` reads: an ONNX bundle.

A bundle is a model as ONNX graphs, with all that rendering needs beside them and the proof that the
graphs compute what the model computes. Its index, `onnx_bundle.json`, names every file with its
size and hash; what the index does not name is not read. The folder is the whole contract between
the exporter (`export_onnx`, which writes it) and this module, which opens it.

Every graph takes and gives float32 (token ids: int64), whatever it computes in. Names of axes:
`batch`, and `height` and `width` in latents; in pixels they are products such as `8*height`.

Knows neither torch nor ONNX Runtime: whether a bundle is whole shows without either.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from farm.errors import ModelError
from farm.render.models import ONNX_INDEX, file_sha256

FORMAT = 1
"""Version of the folder's format. Readers refuse what is newer than they are."""
VAE_DECODER = "vae_decoder"
UNET = "unet"
TEXT_ENCODERS = ("text_encoder", "text_encoder_2")
"""Names of components, those of diffusers' parts where it has them."""
ENCODERS_OF_FAMILY: Mapping[str, tuple[str, ...]] = {
    "stable-diffusion": TEXT_ENCODERS[:1],
    "stable-diffusion-xl": TEXT_ENCODERS,
}
"""Text encoders of a family, which is named as in `ModelDescription`."""
_PER_ENCODER = ("tokenizers", "text_layers", "normalised")
_DESCRIPTION = (
    *("family", *_PER_ENCODER, "own_height", "own_width", "pixels_per_latent", "latent_channels"),
    *("scaling_factor", "latents_mean", "latents_std", "zero_empty_negative"),
)
"""What every description of a model holds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OnnxComponent:
    """One graph of a bundle."""

    name: str
    file: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class OnnxBundle:
    """An opened bundle: whole, unaltered, and of a format that this version reads."""

    folder: Path
    components: Mapping[str, OnnxComponent]
    model: Mapping[str, Any]
    """What a family must know of the model, by the names of `ModelDescription`'s fields."""
    model_sha256: str | None
    """Of that model: the same as every other backend records."""
    opset: int
    dtype: str
    """What the UNet computes in: `float32`, `float16` or `int8`."""
    target: str
    """What its graphs are written for: `any` runtime, or ONNX Runtime's `cpu` or `cuda`."""
    sizes: tuple[tuple[int, int], ...]
    """Heights and widths in pixels that it draws; empty for all multiples of `side_unit`."""
    side_unit: int
    """Pixels that the sides of its pictures must be multiples of."""
    made_by: Mapping[str, str]
    """Versions of the farm and of the libraries that took part."""


def open_bundle(folder: Path) -> OnnxBundle:
    """Open a bundle: read its index, and compare every file with it.

    Hashes of files that have not changed since they were last hashed are remembered.

    Raises:
        ModelError: this is no bundle, it was made by a newer farm, its index lacks something that
            rendering needs, or a file is missing or altered.
    """
    index = _read_index(folder)
    found = index.get("format")
    if not isinstance(found, int) or found < 1:
        raise _unreadable(folder, "its format has no number")
    if found > FORMAT:
        raise ModelError(
            f"this ONNX bundle has format {found}, and this farm reads up to {FORMAT}",
            where=str(folder),
            note=_maker(index),
            hint="update the farm here, or export the model again with this one",
        )
    try:
        _require_complete(folder, index)
        bundle = _parse(folder, index)
        for name, facts in index["files"].items():
            _check_file(folder, name, size=facts["bytes"], sha256=facts["sha256"])
    except KeyError as error:
        raise _unreadable(folder, f"it lacks {error.args[0]}", made_by=_maker(index)) from error
    except (TypeError, ValueError, AttributeError) as error:
        why = f"{type(error).__name__}: {error}"
        raise _unreadable(folder, why, made_by=_maker(index)) from error
    return bundle


def _read_index(folder: Path) -> dict[str, Any]:
    try:
        index = json.loads((folder / ONNX_INDEX).read_text("utf-8"))
    except FileNotFoundError:
        raise ModelError(
            f"folder '{folder}' holds no {ONNX_INDEX}, so it is no ONNX bundle",
            hint="farm export-onnx MODEL DIR makes one",
        ) from None
    except (OSError, ValueError) as error:
        raise _unreadable(folder, str(error)) from error
    if not isinstance(index, dict):
        raise _unreadable(folder, "it is no JSON object")
    return index


def _unreadable(folder: Path, why: str, *, made_by: str | None = None) -> ModelError:
    return ModelError(
        f"{ONNX_INDEX} cannot be read: {why}",
        where=str(folder),
        note=made_by,
        hint="export the model again with farm export-onnx",
    )


def _maker(index: Mapping[str, Any]) -> str:
    """Return which farm wrote an index, in words; one that makes no sense is of no known farm."""
    made_by = index.get("made_by")
    known = made_by.get("farm") if isinstance(made_by, dict) else None
    return f"made by farm {known or 'of another version'}"


def _require_complete(folder: Path, index: Mapping[str, Any]) -> None:
    """Require of an index all that is read of it after it has been opened.

    Raises:
        ModelError: something is missing, or the model is of a family that no lane draws.
    """
    described, components = index["model"]["description"], index["components"]
    family = described.get("family")
    if family is not None and family not in ENCODERS_OF_FAMILY:
        raise ModelError(
            f"the model of this ONNX bundle is of family '{family}', and this farm knows "
            f"{', '.join(ENCODERS_OF_FAMILY)}",
            where=str(folder),
            note=_maker(index),
            hint="update the farm here, or export the model again with this one",
        )
    encoders = ENCODERS_OF_FAMILY.get(family, ())
    needed = (*encoders, UNET, VAE_DECODER)
    lacking = [
        *(f"model.description.{name}" for name in _DESCRIPTION if name not in described),
        *(f"components.{name}" for name in needed if name not in components),
        *(f"components.{name}.file" for name, one in components.items() if "file" not in one),
    ]
    if lacking:
        raise _unreadable(folder, f"it lacks {', '.join(lacking)}", made_by=_maker(index))
    for name in _PER_ENCODER:
        if len(described[name]) != len(encoders):
            why = f"model.description.{name} is not one value for each of {', '.join(encoders)}"
            raise _unreadable(folder, why, made_by=_maker(index))


def _parse(folder: Path, index: Mapping[str, Any]) -> OnnxBundle:
    model = dict(index["model"])
    components = {
        name: OnnxComponent(
            name=name,
            file=_inside(folder, entry["file"]),
        )
        for name, entry in index["components"].items()
    }
    unlisted = [
        one.file for one in components.values() if _name_in(folder, one) not in _files(index)
    ]
    if unlisted:
        raise ValueError(f"{unlisted[0]} is not among its files")
    return OnnxBundle(
        folder=folder,
        components=components,
        model=dict(model["description"]),
        model_sha256=model["sha256"],
        opset=int(index["opset"]),
        dtype=str(index["dtype"]),
        target=str(index["target"]),
        sizes=tuple((int(height), int(width)) for height, width in index["sizes"]),
        side_unit=int(index["side_unit"]),
        made_by=dict(index["made_by"]),
    )


def _files(index: Mapping[str, Any]) -> Mapping[str, Any]:
    files: Mapping[str, Any] = index["files"]
    return files


def _name_in(folder: Path, component: OnnxComponent) -> str:
    return component.file.relative_to(folder).as_posix()


def _inside(folder: Path, name: str) -> Path:
    """Return a file of the bundle, which no name can place outside of it."""
    if Path(name).is_absolute() or ".." in Path(name).parts:
        raise ValueError(f"{name} lies outside the bundle")
    return folder / name


def _check_file(folder: Path, name: str, *, size: int, sha256: str) -> None:
    path = _inside(folder, name)
    if not path.is_file():
        fault = f"{name} is missing"
    elif path.stat().st_size != size:
        fault = f"{name} has {path.stat().st_size:,} bytes instead of {size:,}"
    elif file_sha256(path) != sha256:
        fault = f"{name} has been altered: its hash is not the one in {ONNX_INDEX}"
    else:
        return
    raise ModelError(
        f"this ONNX bundle is damaged: {fault}",
        where=str(folder),
        hint="copy the folder again from where it came, or export the model again",
    )
