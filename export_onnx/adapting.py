"""LoRAs and textual inversions, made part of a model's weights before it is exported.

A graph has no place to put a LoRA in later, so it is fused: the weights are what they would be with
it, at no cost a step. An embedding becomes rows of the text encoder and words of the tokenizer; one
of several vectors is several words, written for one (`Expanding`).
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from farm.errors import InputError, ModelError
from farm.render.models import file_sha256

_ENCODERS = {"clip_l": "", "clip_g": "_2"}
"""Names of an SDXL embedding's halves, and what ends the names of the encoders they are for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lora:
    """A LoRA to fuse."""

    file: Path
    weight: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Embedding:
    """A textual inversion to add."""

    file: Path
    token: str
    """What prompts write for it."""


def parse_lora(word: str) -> Lora:
    """Return what `FILE` or `FILE:WEIGHT` means.

    Raises:
        InputError: the file is not there or no `.safetensors`, or the weight is no number.
    """
    name, colon, weight = word.rpartition(":")
    if not colon or _is_weights(word):
        return Lora(file=_file(word, "--lora"))
    try:
        return Lora(file=_file(name, "--lora"), weight=float(weight))
    except ValueError:
        raise InputError(
            f"--lora {word}: '{weight}' is no weight", hint=f"write {name}:0.8"
        ) from None


def parse_embedding(word: str) -> Embedding:
    """Return what `FILE` or `TOKEN=FILE` means; a file alone is written as its name.

    Raises:
        InputError: the file is not there or no `.safetensors`, or the token has a space.
    """
    token, equals, name = word.partition("=")
    file = _file(name if equals else word, "--embedding")
    token = token if equals else file.stem
    if not token or token.split() != [token]:
        raise InputError(
            f"--embedding {word}: '{token}' is not one word", hint=f"write TOKEN={file}"
        )
    return Embedding(file=file, token=token)


def _is_weights(name: str) -> bool:
    return Path(name).suffix.lower() == ".safetensors"


def _file(name: str, option: str) -> Path:
    file = Path(name).expanduser()
    if not _is_weights(name):
        raise InputError(
            f"{option} {name}: it takes .safetensors files",
            note="loading a pickle runs the code inside it",
            hint="look for the same weights as .safetensors",
        )
    if not file.is_file():
        raise InputError(f"{option} {name}: there is no such file", hint=f"ls {file.parent}")
    return file


# --- into the weights ---------------------------------------------------------------------------


def adapt(
    pipe: Any,  # noqa: ANN401 - a diffusers pipeline has no useful type
    *,
    loras: Sequence[Lora],
    embeddings: Sequence[Embedding],
) -> Mapping[str, str]:
    """Change a pipeline's weights in place; return what each embedding's token is expanded to.

    Raises:
        ModelError: a file does not fit the model, or changes nothing of it.
    """
    for lora in loras:
        with _fitting(lora.file):
            _fuse(pipe, lora)
    expansions = {}
    for embedding in embeddings:
        with _fitting(embedding.file):
            expansions[embedding.token] = _load_embedding(pipe, embedding)
    return expansions


def _fuse(pipe: Any, lora: Lora) -> None:  # noqa: ANN401 - see adapt
    pipe.load_lora_weights(str(lora.file.parent), weight_name=lora.file.name)
    components = list(pipe.get_list_adapters())
    if not components:
        raise ValueError("nothing in it is for this model")
    pipe.fuse_lora(components=components, lora_scale=lora.weight)
    pipe.unload_lora_weights()


def _load_embedding(pipe: Any, embedding: Embedding) -> str:  # noqa: ANN401 - see adapt
    with safe_open(embedding.file, "pt") as file:
        vectors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - no mapping
    halves = {key: vectors[key] for key in _ENCODERS if key in vectors}
    if not halves and hasattr(pipe, "text_encoder_2"):
        raise ValueError(f"an embedding for SDXL has {' and '.join(_ENCODERS)}")
    before = set(pipe.tokenizer.get_vocab())
    if not halves:
        pipe.load_textual_inversion(str(embedding.file), token=embedding.token)
    for key, vector in halves.items():
        end = _ENCODERS[key]
        pipe.load_textual_inversion(
            {embedding.token: vector},
            token=embedding.token,
            text_encoder=getattr(pipe, f"text_encoder{end}"),
            tokenizer=getattr(pipe, f"tokenizer{end}"),
        )
    count = len(set(pipe.tokenizer.get_vocab()) - before)
    # As diffusers names them: the token, then the token with a number.
    return " ".join([embedding.token, *(f"{embedding.token}_{n}" for n in range(1, count))])


@contextmanager
def _fitting(file: Path) -> Iterator[None]:
    logger = logging.getLogger("diffusers")
    before = logger.level
    logger.setLevel(logging.ERROR)  # what it would warn of is raised here
    try:
        yield
    except (OSError, ValueError, KeyError, RuntimeError, TypeError, SafetensorError) as error:
        raise ModelError(
            f"{file.name} does not fit this model: {str(error).splitlines()[0]}",
            where=str(file),
            hint="use one that was made for the same family of models",
        ) from error
    finally:
        logger.setLevel(before)


# --- what became of the model -------------------------------------------------------------------


def adapters_of(loras: Sequence[Lora], embeddings: Sequence[Embedding]) -> list[dict[str, Any]]:
    """Return what a bundle's index says of them."""
    return [
        *({"kind": "lora", "file": one.file.name, "sha256": file_sha256(one.file),
           "weight": one.weight} for one in loras),
        *({"kind": "embedding", "file": one.file.name, "sha256": file_sha256(one.file),
           "token": one.token} for one in embeddings),
    ]  # fmt: skip


def adapted_sha256(model: str | None, adapters: Sequence[Mapping[str, Any]]) -> str | None:
    """Return the hash of a model with adapters: its own without any, another one with them."""
    if not adapters or model is None:
        return model
    content = [{key: one[key] for key in one if key != "file"} for one in adapters]
    return hashlib.sha256(json.dumps([model, content], sort_keys=True).encode()).hexdigest()
