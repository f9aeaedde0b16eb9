"""What every renderer promises, and the one way to open one.

A renderer is a *stream*: tasks go in, results come out, in any order. So a renderer may look ahead,
group what can share a forward pass, and keep its batch full across the boundaries of cells and
chunks. It promises:

- Every task it takes yields exactly one result, `Rendered` or `Failed`, unless it is given back
  (`Withdrawable`).
- One bad task yields one `Failed`; its neighbours are unharmed.
- It takes tasks lazily, a bounded number ahead of its results, so a stream may be endless.
- An image is a function of its task: its seed, not its place in a batch or a stream, makes its
  noise. The last bits may vary with the batch, as kernels do; never more.

Backends are *entry points*, `module:callable`, imported when first opened; the farm's own stand in
`BACKENDS`. Whoever opens a renderer may name another entry point instead, which is how a test of
the engine brings a renderer that fails, dies or runs out of memory on purpose, without a line in
the product that exists for tests alone.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from types import MappingProxyType
from typing import Protocol, runtime_checkable

from farm.errors import InputError, MissingLibraryError, suggest
from farm.task import PipelineKey, RenderResult, TaskSpec


@runtime_checkable
class Renderer(Protocol):
    """A loaded model, or an instrument in place of one, that turns tasks into images."""

    def render(self, tasks: Iterator[TaskSpec]) -> Iterator[RenderResult]:
        """Yield one result for every task, in any order, taking tasks as it goes.

        Only failures that are nobody's task are raised: `KeyboardInterrupt`, and errors of the
        stream of tasks itself.
        """
        ...

    def close(self) -> None:
        """Give back what the renderer holds; it renders nothing afterwards. Harmless twice."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """What a renderer's networks had to do, and what it took. All in seconds of one device."""

    best_network: float = 0.0
    """What the evaluations made for the delivered pictures take at the best batch size."""
    best_decoder: float = 0.0
    """What decoding the delivered pictures takes at the best batch size."""
    network: float = 0.0
    """Spent in the denoiser."""
    decoder: float = 0.0
    """Spent in the decoder."""
    text: float = 0.0
    """Spent on encoding texts."""
    host: float = 0.0
    """Spent on everything else between two evaluations, where the device had to wait for it."""

    @property
    def best(self) -> float:
        """What the delivered pictures take at best: the numerator of efficiency."""
        return self.best_network + self.best_decoder

    def __add__(self, other: Effort) -> Effort:
        return Effort(
            **{
                entry.name: getattr(self, entry.name) + getattr(other, entry.name)
                for entry in fields(self)
            }
        )


@runtime_checkable
class Measured(Protocol):
    """A renderer that knows how well it uses its device."""

    @property
    def effort(self) -> Effort:
        """What all its streams so far took, held against its latest measurements."""
        ...


@runtime_checkable
class Hungry(Protocol):
    """A renderer that draws many tasks at once, in one batch that should stay full."""

    @property
    def appetite(self) -> int:
        """Tasks that it should be able to take before it has finished the first of them."""
        ...


@runtime_checkable
class Withdrawable(Protocol):
    """A renderer that takes tasks long before their turn."""

    def withdraw(self) -> Sequence[TaskSpec]:
        """Give back the tasks that were taken and not begun; they get no result."""
        ...


@runtime_checkable
class Remarkable(Protocol):
    """A renderer that its user should be told something about."""

    @property
    def remark(self) -> str | None:
        """A sentence for the person who runs the job."""
        ...


class RendererFactory(Protocol):
    """What an entry point names: a callable that loads what `key` asks for."""

    def __call__(self, key: PipelineKey, *, device: str, threads: int | None) -> Renderer:
        """Open a renderer; see `open_renderer`."""
        ...


BACKENDS: Mapping[str, str] = MappingProxyType(
    {
        "diffusers": "farm.render.pipelines:open_pipeline_renderer",
        "onnx": "farm.render.lane.onnx_renderer:open_onnx_renderer",
        "pattern": "farm.render.pattern:open_pattern_renderer",
        "torch": "farm.render.lane.renderer:open_torch_renderer",
    }
)
"""Entry point of every backend this version has, by the name job files use."""

_INSTALL: Mapping[str, str] = MappingProxyType(
    {
        **dict.fromkeys(
            ("accelerate", "diffusers", "huggingface_hub", "safetensors", "torch", "transformers"),
            "pip install '.[torch]' in the farm's folder",
        ),
        **dict.fromkeys(("filelock", "onnxruntime"), "pip install '.[onnx]' in the farm's folder"),
    }
)


def open_renderer(
    key: PipelineKey,
    *,
    device: str = "auto",
    threads: int | None = None,
    factory: str | None = None,
) -> Renderer:
    """Load what `key` asks for and return it ready to render.

    Args:
        key: backend, model and dtype, as `farm.task.pipeline_key` gives them.
        device: `auto`, `cpu`, `cuda`, `cuda:1`, `mps`; `auto` takes the best there is.
        threads: CPU threads the renderer may use; None leaves the library's default.
        factory: entry point, `module:callable`, of a `RendererFactory` to use in place of the
            backend's own.

    Raises:
        InputError: no backend has that name, or `factory` is not an entry point.
        ModelError: the model cannot be found, read or loaded.
        MissingLibraryError: a library that the backend needs is not installed.
    """
    entry_point = factory or _entry_point_of(key.backend)
    return _import_factory(entry_point)(key, device=device, threads=threads)


def _entry_point_of(backend: str) -> str:
    if entry_point := BACKENDS.get(backend):
        return entry_point
    known = ", ".join(sorted(BACKENDS))
    raise InputError(
        f"unknown backend '{backend}'; the backends are {known}", hint=suggest(backend, BACKENDS)
    )


def _import_factory(entry_point: str) -> RendererFactory:
    module_name, _, name = entry_point.partition(":")
    try:
        factory: RendererFactory = getattr(importlib.import_module(module_name), name)
    except ModuleNotFoundError as error:
        if install := _INSTALL.get(error.name or ""):
            raise MissingLibraryError(
                f"library '{error.name}' is not installed, and this backend needs it", hint=install
            ) from error
        raise InputError(
            f"renderer '{entry_point}' cannot be imported: {error}",
            hint="an entry point is written `package.module:callable`",
        ) from error
    except (AttributeError, ValueError) as error:
        raise InputError(
            f"renderer '{entry_point}' is not an entry point: {error}",
            hint="an entry point is written `package.module:callable`",
        ) from error
    return factory
