"""The proof: what ONNX Runtime computes from a bundle, against what torch computes.

First each component by itself, at several batch sizes and with mixed times, so that a wrong graph
shows where it is wrong. Then whole pictures, drawn by the same lane from both, because an error
that is small at every step need not stay small. What was measured travels in the bundle.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from export_onnx.components import Component
from farm.errors import ModelError
from farm.render.difference import psnr, ssim
from farm.render.lane.onnx_runtime import Provider, open_session
from farm.render.onnx_bundle import OnnxBundle
from farm.render.protocol import Renderer
from farm.task import Rendered, TaskSpec, task_id

BATCHES = (1, 2, 5)
LEAST_PSNR = 40.0
"""dB that every picture of a float32 bundle must reach."""
LEAST_PSNR_REDUCED = 20.0
"""dB that the pictures of a float16 or 8-bit bundle must reach on average: below, it is broken."""
_PROMPTS = ("a red sword, white background", "a health potion")


@dataclass(frozen=True, slots=True, kw_only=True)
class ComponentParity:
    """One component at one batch size and picture size."""

    component: str
    output: str
    batch: int
    height: int
    """In pixels, of the picture it works for."""
    width: int
    max_abs: float
    """Largest difference from torch."""
    mean_abs: float
    largest: float
    """Largest absolute value that torch gives."""
    tolerance: float | None
    """Largest `max_abs` that is accepted; None where it is only reported."""

    @property
    def is_accepted(self) -> bool:
        """Within the tolerance, and a number."""
        return math.isfinite(self.max_abs) and (
            self.tolerance is None or self.max_abs <= self.tolerance
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageParity:
    """One picture drawn from both."""

    name: str
    prompt: str
    guidance_scale: float
    num_inference_steps: int
    height: int
    width: int
    psnr: float
    """dB; infinite for equal pictures."""
    ssim: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Parity:
    """All that was measured."""

    components: tuple[ComponentParity, ...]
    images: tuple[ImageParity, ...]
    least_psnr: float
    least_is_mean: bool
    """The least PSNR is asked of the mean, not of every picture."""
    provider: str

    @property
    def worst_psnr(self) -> float:
        """Of any picture, in dB."""
        return min((image.psnr for image in self.images), default=math.inf)

    @property
    def mean_psnr(self) -> float:
        """Over all pictures, in dB: of their mean squared error, so that one bad one shows."""
        errors = [10 ** (-image.psnr / 10) for image in self.images]
        mean = sum(errors) / len(errors) if errors else 0.0
        return -10 * math.log10(mean) if mean else math.inf

    @property
    def faults(self) -> tuple[str, ...]:
        """Every tolerance that was missed."""
        missed = [
            f"{one.component} at batch {one.batch}, {one.width} x {one.height}: differs by "
            f"{one.max_abs:.2g}, accepted {one.tolerance:.2g}"
            if one.tolerance is not None
            else f"{one.component} at batch {one.batch}: not a number"
            for one in self.components
            if not one.is_accepted
        ]
        found = self.mean_psnr if self.least_is_mean else self.worst_psnr
        if found < self.least_psnr:
            missed.append(f"pictures: PSNR {found:.1f} dB, accepted {self.least_psnr:.0f} dB")
        return tuple(missed)

    def to_json(self) -> dict[str, Any]:
        """Return the report as JSON values; an infinite PSNR is null."""
        return {
            "provider": self.provider,
            "accepted": not self.faults,
            "least_psnr": self.least_psnr,
            "least_is_mean": self.least_is_mean,
            "worst_psnr": _finite(self.worst_psnr),
            "mean_psnr": _finite(self.mean_psnr),
            "components": [{**asdict(one), "accepted": one.is_accepted} for one in self.components],
            "images": [{**asdict(one), "psnr": _finite(one.psnr)} for one in self.images],
        }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def require(parity: Parity, *, where: str) -> None:
    """Accept a bundle, or refuse it loudly.

    Raises:
        ModelError: a tolerance was missed; every one is named.
    """
    if parity.faults:
        raise ModelError(
            "the exported graphs do not compute what the model computes:\n    "
            + "\n    ".join(parity.faults),
            where=where,
            note="no bundle was written",
            hint="try --optimize any, --quantize none or another --opset; backend torch renders "
            "the model in any case",
        )


# --- components ---------------------------------------------------------------------------------


def compare_components(
    components: Iterable[Component],
    bundle: OnnxBundle,
    *,
    provider: Provider,
    sizes: Sequence[tuple[int, int]],
    threads: int | None,
) -> Iterator[ComponentParity]:
    """Yield the parity of every component at every batch size and picture size.

    Args:
        components: with torch's networks in them.
        bundle: the same as graphs.
        provider: what runs the graphs.
        sizes: heights and widths in pixels.
        threads: of ONNX Runtime.
    """
    unit = int(bundle.model["pixels_per_latent"])
    for component in components:
        session = open_session(
            bundle.components[component.name].file, provider=provider, threads=threads
        )
        # torch's older exporter leaves out an input that the network never looks at.
        asked = {entry.name for entry in session.get_inputs()}
        generator = torch.Generator().manual_seed(5)
        for height, width in sizes:
            for batch in BATCHES:
                feeds = component.example(
                    batch=batch, height=height // unit, width=width // unit, generator=generator
                )
                with torch.inference_mode():
                    said = component.module(*feeds)
                wanted = said if isinstance(said, tuple) else (said,)
                arrays = {
                    one.name: feed.numpy()
                    for one, feed in zip(component.inputs, feeds, strict=True)
                    if one.name in asked
                }
                found = session.run(None, arrays)
                for output, want, got in zip(component.outputs, wanted, found, strict=True):
                    yield _compared(
                        component, output.name, batch, (height, width), want.numpy(), got,
                        is_exact=bundle.dtype == "float32" or component.name != "unet",
                    )  # fmt: skip


def _compared(
    component: Component,
    output: str,
    batch: int,
    size: tuple[int, int],
    want: np.ndarray[Any, np.dtype[np.float32]],
    got: np.ndarray[Any, np.dtype[np.float32]],
    *,
    is_exact: bool,
) -> ComponentParity:
    if want.shape != got.shape:
        raise ModelError(
            f"the exported {component.name} gives {got.shape} where torch gives {want.shape}",
            hint="export with --sizes WIDTHxHEIGHT, for fixed sizes",
        )
    difference = np.abs(want.astype(np.float64) - got)
    largest = float(np.abs(want).max())
    return ComponentParity(
        component=component.name,
        output=output,
        batch=batch,
        height=size[0],
        width=size[1],
        max_abs=float(difference.max()) if np.isfinite(got).all() else math.inf,
        mean_abs=float(difference.mean()),
        largest=largest,
        tolerance=component.tolerance * max(1.0, largest) if is_exact else None,
    )


# --- pictures -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """One picture, drawn by torch and by ONNX Runtime; uint8 `[height, width, 3]`."""

    name: str
    by_torch: np.ndarray[Any, np.dtype[np.uint8]]
    by_onnx: np.ndarray[Any, np.dtype[np.uint8]]
    parity: ImageParity


def small_matrix(
    sizes: Sequence[tuple[int, int]], *, steps: int, words: Sequence[str] = ()
) -> tuple[TaskSpec, ...]:
    """Return the pictures that are compared: two prompts, without and with guidance, every size.

    `words` are in every prompt.
    """
    return tuple(
        TaskSpec(
            prompt=", ".join([prompt, *words]),
            guidance_scale=guidance,
            num_inference_steps=steps,
            height=height,
            width=width,
            seed=seed,
        )
        for height, width in sizes
        for seed, prompt in enumerate(_PROMPTS)
        for guidance in (1.0, 5.0)
    )


def compare_images(
    tasks: Sequence[TaskSpec], *, by_torch: Renderer, by_onnx: Renderer
) -> tuple[Pair, ...]:
    """Draw every task with both, and compare.

    Raises:
        ModelError: one of them cannot draw a task.
    """
    drawn = [_drawn(renderer.render, tasks) for renderer in (by_torch, by_onnx)]
    pairs = []
    for number, task in enumerate(tasks):
        one, other = (pictures[task_id(task)] for pictures in drawn)
        name = f"{number + 1:02}"
        parity = ImageParity(
            name=name,
            prompt=task.prompt,
            guidance_scale=task.guidance_scale,
            num_inference_steps=task.num_inference_steps,
            height=one.shape[0],
            width=one.shape[1],
            psnr=psnr(one, other),
            ssim=ssim(one, other),
        )
        pairs.append(Pair(name=name, by_torch=one, by_onnx=other, parity=parity))
    return tuple(pairs)


def _drawn(
    render: Callable[[Iterator[TaskSpec]], Iterator[Any]], tasks: Sequence[TaskSpec]
) -> dict[str, np.ndarray[Any, np.dtype[np.uint8]]]:
    found = {}
    for result in render(iter(tasks)):
        if not isinstance(result, Rendered):
            raise ModelError(
                f"the model draws no picture to compare: {result.message}",
                hint="`farm doctor` checks this machine; --debug shows the report",
            )
        found[str(task_id(result.task))] = result.pixels
    return found
