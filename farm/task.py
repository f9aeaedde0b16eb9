"""The nouns: what one image is asked to be, and what became of it.

A `TaskSpec` is one cell of a matrix with nothing left to default. Its identity is its content:
`task_id` is a hash of everything that is meant to change pixels and of nothing else, so the same
cell has the same id in every job, on every machine, in every year. `canonical_json` is therefore a
contract: changing a byte of it changes every id, and needs a new `IDENTITY_TAG`.

The fields of `TaskSpec` are the vocabulary of the whole farm. A field added here (with default
`None`, which means "not applied" and leaves old ids as they are) becomes an axis, a column, a
metadata entry and a line of the reference, with no second list to update.

Pure: no clock, no randomness, no file, no torch.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import (
    TYPE_CHECKING,
    Any,
    NamedTuple,
    NewType,
    TypeAlias,
    cast,
    get_args,
    get_type_hints,
)

if TYPE_CHECKING:
    import numpy as np

IDENTITY_TAG = "t1"
"""Version of the identity rules; the prefix of every task id."""

TaskId = NewType("TaskId", str)
"""`t1:` and 32 hexadecimal digits."""

Scalar: TypeAlias = "str | int | float | None"
"""The type of a task field's value."""

NO_VARS: Mapping[str, str] = MappingProxyType({})
MAX_SEED = 2**63 - 1
"""Seeds are signed 64-bit, the widest that both torch generators and Parquet's int64 hold."""


def _axis(
    doc: str,
    *,
    default: Scalar,
    aliases: tuple[str, ...] = (),
    minimum: float | None = None,
    maximum: float | None = None,
    multiple: int | None = None,
    choices: tuple[str, ...] = (),
) -> Any:  # noqa: ANN401 - dataclasses.field is typed as its default
    facts = {
        "doc": doc,
        "aliases": aliases,
        "minimum": minimum,
        "maximum": maximum,
        "multiple": multiple,
        "choices": choices,
    }
    return field(default=default, metadata=facts)


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskSpec:
    """One image to render: a cell of the matrix with every default filled in.

    Fields stand in the order of the canonical JSON: what usually varies slowest comes first, so
    that neighbouring cells share a long prefix and millions of ids can share its hash.
    """

    model: str = _axis(
        "Model: `builtin:NAME`, a hub id with optional `@revision`, a diffusers folder, or one "
        "`.safetensors` file.",
        default="builtin:sprites",
    )
    backend: str = _axis(
        "What renders: `torch` (mixed settings share one batch; a model of a family it does not "
        "know is left to `diffusers`), `onnx` (the same on ONNX Runtime), `diffusers` (the model's "
        "own pipeline) or `pattern` (no model).",
        default="torch",
        choices=("torch", "onnx", "diffusers", "pattern"),
    )
    dtype: str = _axis(
        "Number type of the networks. `auto`: float16 on a GPU, float32 on a CPU. The catalog "
        "records what was used.",
        default="auto",
        choices=("auto", "float32", "float16", "bfloat16"),
    )
    height: int | None = _axis(
        "Image height in pixels; absent means the model's own size.",
        default=None, minimum=8, maximum=16384, multiple=8,
    )  # fmt: skip
    width: int | None = _axis(
        "Image width in pixels; absent means the model's own size.",
        default=None, minimum=8, maximum=16384, multiple=8,
    )  # fmt: skip
    clip_skip: int | None = _axis(
        "Layers to skip from the end of the CLIP text encoder, as in diffusers: 1 takes the "
        "next-to-last layer (A1111's `Clip skip: 2`).",
        default=None, minimum=0, maximum=64,
    )  # fmt: skip
    prompt: str = _axis("What the picture shows.", default="")
    negative_prompt: str = _axis(
        "What the picture should not show.", default="", aliases=("negative",)
    )
    num_inference_steps: int = _axis(
        "Denoising steps.", default=30, aliases=("steps",), minimum=1, maximum=10_000
    )
    guidance_scale: float = _axis(
        "Classifier-free guidance weight w of arXiv:2207.12598 in diffusers' convention; 1 or less "
        "means no guidance.",
        default=7.5, aliases=("cfg", "cfg_scale"), minimum=0.0, maximum=1000.0,
    )  # fmt: skip
    guidance_rescale: float | None = _axis(
        "Rescaling factor phi of arXiv:2305.08891, section 3.4.",
        default=None, minimum=0.0, maximum=1.0,
    )  # fmt: skip
    eta: float | None = _axis(
        "Share of the noise that a step adds: eta of DDIM (arXiv:2010.02502, equation 16) and TCD, "
        "absent means 0; on `torch` and `onnx` also of the ancestral samplers, absent means 1.",
        default=None, minimum=0.0, maximum=1.0,
    )  # fmt: skip
    sampler: str = _axis(
        "Diffusion algorithm, see `farm samplers`. `default`: the one the model ships with.",
        default="default",
    )
    sigma_schedule: str = _axis(
        "Noise levels the sampler visits, see `farm samplers`. `default`: as the model's "
        "configuration says.",
        default="default", aliases=("schedule",),
    )  # fmt: skip
    seed: int = _axis(
        "Seed of the image's own noise generator.", default=0, minimum=0, maximum=MAX_SEED
    )
    vars: Mapping[str, str] = field(default_factory=lambda: NO_VARS, hash=False)
    """Template variables of the cell, for the catalog. Not part of the identity: they change pixels
    only through the prompt they were written into."""

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle through plain values: a mapping proxy cannot travel to a worker."""
        values = {name: getattr(self, name) for name in FIELDS}
        return (_unpickle, (values, dict(self.vars)))


def _unpickle(values: dict[str, Any], variables: dict[str, str]) -> TaskSpec:
    return TaskSpec(**values, vars=MappingProxyType(variables))


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldInfo:
    """What the farm knows of one task field; the single source for checks, schema and reference."""

    name: str
    type: type[str | int | float]
    optional: bool
    default: Scalar
    doc: str
    aliases: tuple[str, ...]
    minimum: float | None
    maximum: float | None
    multiple: int | None
    choices: tuple[str, ...]

    def coerce(self, value: object) -> Scalar:
        """Return `value` as this field's type: `7` and `7.0` become the same guidance.

        Raises:
            ValueError: the value has the wrong type or lies outside the field's range; the message
                is a sentence without the field's name.
        """
        if value is None and self.optional:
            return None
        typed = self._typed(value)
        if isinstance(typed, str):
            if self.choices and typed not in self.choices:
                raise ValueError(f"must be one of {', '.join(self.choices)}, not {typed!r}")
            return typed
        if self.minimum is not None and typed < self.minimum:
            raise ValueError(f"must be at least {_shown(self.minimum)}, not {_shown(typed)}")
        if self.maximum is not None and typed > self.maximum:
            raise ValueError(f"must be at most {_shown(self.maximum)}, not {_shown(typed)}")
        if self.multiple is not None and typed % self.multiple:
            raise ValueError(f"must be a multiple of {self.multiple}, not {_shown(typed)}")
        return typed

    def _typed(self, value: object) -> str | int | float:
        if self.type is str:
            return self._text(value)
        if isinstance(value, bool) or not isinstance(value, int | float):
            wanted = "a whole number" if self.type is int else "a number"
            raise ValueError(f"must be {wanted}, not {value!r}")  # noqa: TRY004 - one error type
        if not math.isfinite(value):
            raise ValueError(f"must be a finite number, not {value}")
        if self.type is float:
            return float(value) + 0.0  # -0.0 and 0.0 are the same guidance
        if value != int(value):
            raise ValueError(f"must be a whole number, not {value}")
        return int(value)

    @staticmethod
    def _text(value: object) -> str:
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise ValueError(f"must be text, not {value!r}")  # noqa: TRY004 - one error type
        text = str(value)
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise ValueError(f"holds a character that UTF-8 cannot write: {error.reason}") from None
        if "\x00" in text:
            raise ValueError("holds a NUL character")
        return text


def _shown(number: float) -> str:
    """Return a number with all its digits, as people write it: `4`, not `4.0`."""
    return repr(number).removesuffix(".0")


def _describe_fields() -> Mapping[str, FieldInfo]:
    hints = get_type_hints(TaskSpec)
    found: dict[str, FieldInfo] = {}
    for entry in dataclasses.fields(TaskSpec):
        if not entry.metadata:
            continue
        options = get_args(hints[entry.name]) or (hints[entry.name],)
        [kind] = [option for option in options if option is not type(None)]
        found[entry.name] = FieldInfo(
            name=entry.name,
            type=kind,
            optional=type(None) in options,
            default=cast("Scalar", entry.default),
            **entry.metadata,
        )
    return MappingProxyType(found)


FIELDS: Mapping[str, FieldInfo] = _describe_fields()
"""Every identity field of `TaskSpec`, in canonical order."""

ALIASES: Mapping[str, str] = MappingProxyType(
    {alias: info.name for info in FIELDS.values() for alias in info.aliases}
)
"""Short names that job files may use. They die in the manifest: nothing below knows them."""


class PipelineKey(NamedTuple):
    """What a worker must have loaded to render a task: the unit of model affinity."""

    backend: str
    model: str
    dtype: str


def pipeline_key(task: TaskSpec) -> PipelineKey:
    """Return the key of the pipeline that renders `task`."""
    return PipelineKey(task.backend, task.model, task.dtype)


# --- identity -----------------------------------------------------------------------------------


IDENTITY_HEAD = b'{"identity":"' + IDENTITY_TAG.encode() + b'"'
IDENTITY_TAIL = b"}"
_ENCODER = json.JSONEncoder(ensure_ascii=False)
"""Made once: `json.dumps` would make one for every value."""
DIGEST_BYTES = 16
"""128 bits: at ten billion tasks the chance of any collision is below 2e-19."""


def identity_fragment(name: str, value: Scalar) -> bytes:
    """Return the bytes that one field adds to the canonical JSON; none for `None`.

    The canonical JSON of a task is `IDENTITY_HEAD`, the fragments of `FIELDS` in their order, and
    `IDENTITY_TAIL`. Floats are written by `repr` (shortest text that reads back), text as UTF-8.
    """
    if value is None:
        return b""
    return f',"{name}":{_ENCODER.encode(value)}'.encode()


def canonical_json(task: TaskSpec) -> bytes:
    """Return the one JSON text of everything in `task` that is meant to change pixels."""
    parts = [identity_fragment(name, getattr(task, name)) for name in FIELDS]
    return b"".join((IDENTITY_HEAD, *parts, IDENTITY_TAIL))


def new_identity_hash() -> hashlib.blake2b:
    """Return the hash that turns canonical JSON into a digest; feed it bytes, copy it freely."""
    return hashlib.blake2b(digest_size=DIGEST_BYTES, person=b"farm task")


def task_digest(task: TaskSpec) -> bytes:
    """Return the 16 bytes that identify `task`."""
    state = new_identity_hash()
    state.update(canonical_json(task))
    return state.digest()


def format_task_id(digest: bytes) -> TaskId:
    """Return the readable id of a digest."""
    return TaskId(f"{IDENTITY_TAG}:{digest.hex()}")


def parse_task_id(text: str) -> bytes:
    """Return the digest of a readable id.

    Raises:
        ValueError: `text` is not an id of this identity version.
    """
    tag, _, digits = text.partition(":")
    if tag != IDENTITY_TAG or len(digits) != 2 * DIGEST_BYTES:
        raise ValueError(f"{text!r} is not a task id of version {IDENTITY_TAG}")
    return bytes.fromhex(digits)


def task_id(task: TaskSpec) -> TaskId:
    """Return the id of `task`: a tagged hash of its canonical JSON."""
    return format_task_id(task_digest(task))


# --- results ------------------------------------------------------------------------------------


class FailureKind(StrEnum):
    """Why a task has no image; the catalog's `error_kind`."""

    BAD_TASK = "bad_task"
    """The model or renderer refuses these settings. Deterministic: trying again cannot help."""
    BAD_OUTPUT = "bad_output"
    """The picture came out black, blank or not a number."""
    OUT_OF_MEMORY = "out_of_memory"
    """Does not fit this device, even alone."""
    LOAD_FAILED = "load_failed"
    """The model could not be loaded."""
    WORKER_DIED = "worker_died"
    """The process rendering it died, repeatedly, with this task alone in flight."""
    INTERNAL = "internal"
    """An exception that the renderer did not expect."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RenderFacts:
    """What actually rendered: recorded with every image, never part of its identity."""

    dtype: str
    device: str
    renderer: str | None = None
    """`lane`, `pipeline` or `pattern`: what drew, which the backend asked for need not say."""
    model_sha256: str | None = None
    torch_version: str | None = None
    diffusers_version: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Rendered:
    """A finished image.

    `pixels` is uint8 `[height, width, 3]`, sRGB. `render_ms` is this image's share of the time its
    batch took. `denoiser_evaluations` counts the network evaluations of one row each that the image
    takes, conditional and unconditional apart; `shared_evaluations` are those among them that had
    been made for another image already.
    """

    task: TaskSpec
    pixels: np.ndarray[Any, np.dtype[np.uint8]]
    render_ms: float
    batch_size: int
    denoiser_evaluations: int
    facts: RenderFacts
    shared_evaluations: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """A task without an image, and why. A value, so that it cannot take its neighbours along."""

    task: TaskSpec
    kind: FailureKind
    message: str
    facts: RenderFacts | None = None


RenderResult: TypeAlias = "Rendered | Failed"
