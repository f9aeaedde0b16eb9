"""What an export may be asked for, and what of it does not go together."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias, cast, get_args

from export_onnx.adapting import Embedding, Lora, parse_embedding, parse_lora
from farm.errors import InputError, suggest

Target: TypeAlias = Literal["any", "cpu", "cuda"]
Dtype: TypeAlias = Literal["float32", "float16"]
Quantize: TypeAlias = Literal["none", "dynamic", "static"]

OLDEST_OPSET = 18
"""The opset that torch's exporter writes by itself; it converts upwards only."""
STANDARD_OPSET = 23
"""The first with one operator for attention; without it there is nothing to optimise."""
ANY_SIZE = "any"
_SIZE = re.compile(r"(\d+)x(\d+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportOptions:
    """What kind of bundle to make."""

    opset: int = STANDARD_OPSET
    """Version of the standard's operators."""
    dtype: Dtype = "float32"
    """What the UNet computes in; the autoencoder and the text encoders keep float32."""
    sizes: tuple[tuple[int, int], ...] = ()
    """Heights and widths in pixels; empty for every size that the model can draw."""
    target: Target = "cpu"
    """What the graphs are written for."""
    quantize: Quantize = "none"
    """How the UNet's weights become 8-bit integers."""
    loras: tuple[Lora, ...] = ()
    """Fused into the weights, in this order."""
    embeddings: tuple[Embedding, ...] = ()
    has_encoder: bool = True
    """With the autoencoder's encoder, which pictures from text alone do not need."""


def parse_options(
    *,
    opset: int = STANDARD_OPSET,
    dtype: str = "float32",
    sizes: str = ANY_SIZE,
    optimize: str | None = None,
    quantize: str = "none",
    loras: Sequence[str] = (),
    embeddings: Sequence[str] = (),
    has_encoder: bool = True,
) -> ExportOptions:
    """Return options from the words of a command line.

    Raises:
        InputError: a word is unknown, or two of them do not go together.
    """
    _one_of("dtype", dtype, get_args(Dtype))
    _one_of("quantize", quantize, get_args(Quantize))
    target = optimize or (
        "cuda" if dtype == "float16" else "cpu" if opset >= STANDARD_OPSET else "any"
    )
    _one_of("optimize", target, get_args(Target))
    if opset < OLDEST_OPSET:
        raise InputError(
            f"opset {opset} is too old: torch's exporter writes {OLDEST_OPSET} and later",
            hint=f"leave out --opset for {STANDARD_OPSET}",
        )
    if target != "any" and opset < STANDARD_OPSET:
        raise InputError(
            f"--optimize {target} needs opset {STANDARD_OPSET} or later, where attention is one "
            "operator",
            hint="leave out --opset, or use --optimize any",
        )
    if dtype == "float16" and target != "cuda":
        raise InputError(
            "float16 is for CUDA: ONNX Runtime computes it on no CPU",
            hint="leave out --optimize, or use --dtype float32",
        )
    if quantize != "none" and target == "cuda":
        raise InputError(
            "8-bit graphs are for the CPU", hint="leave out --quantize, or use --optimize cpu"
        )
    return ExportOptions(
        opset=opset,
        dtype=cast("Dtype", dtype),
        sizes=_parse_sizes(sizes),
        target=cast("Target", target),
        quantize=cast("Quantize", quantize),
        loras=tuple(map(parse_lora, loras)),
        embeddings=tuple(map(parse_embedding, embeddings)),
        has_encoder=has_encoder,
    )


def _one_of(name: str, word: str, known: tuple[str, ...]) -> None:
    if word not in known:
        raise InputError(f"--{name} {word}: it takes {', '.join(known)}", hint=suggest(word, known))


def _parse_sizes(text: str) -> tuple[tuple[int, int], ...]:
    if text == ANY_SIZE:
        return ()
    sizes = []
    for word in text.split(","):
        if not (found := _SIZE.fullmatch(word.strip())):
            raise InputError(
                f"--sizes {text}: '{word.strip()}' is no size",
                hint=f"write WIDTHxHEIGHT, such as 512x512,512x768, or {ANY_SIZE}",
            )
        sizes.append((int(found[2]), int(found[1])))
    return tuple(dict.fromkeys(sizes))
