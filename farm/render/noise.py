"""The noise of an image: a function of its seed and of nothing else.

Each image has one generator of its own, on the CPU, and every draw from it is float32, whatever the
networks compute in and wherever they run. Then an image has the same noise alone and in a batch, on
a CPU and on a GPU, in float32 and in float16, and it is the noise that diffusers' users know for a
seed.

diffusers draws in the networks' own type instead, and torch's half-precision noise for a seed is
another one: always before torch 2.13 (pytorch/pytorch#166853), and still where the number of values
is no multiple of 16. `float32_noise` mends that for the length of a call, without touching what is
drawn in float32.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import ModuleType

import torch

from farm.task import TaskSpec


def generators_of(tasks: Sequence[TaskSpec]) -> list[torch.Generator]:
    """Return a fresh generator for each task: CPU, seeded with the task's seed."""
    return [torch.Generator("cpu").manual_seed(task.seed) for task in tasks]


def draw_float32(
    shape: Sequence[int],
    generator: list[torch.Generator] | torch.Generator | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    layout: torch.layout | None = None,  # noqa: ARG001 - images are strided
) -> torch.Tensor:
    """Return unit normal noise of `shape`, drawn in float32 on the CPU and then cast and moved.

    Stands in for `diffusers.utils.torch_utils.randn_tensor`, hence the signature. With a list of
    generators, row i comes from generator i alone.
    """
    if isinstance(generator, list):
        rows = [torch.randn(1, *shape[1:], generator=one) for one in generator]
        noise = torch.cat(rows)
    else:
        noise = torch.randn(*shape, generator=generator)
    return noise.to(device or "cpu", dtype or torch.float32)


@contextmanager
def float32_noise(*parts: object) -> Iterator[None]:
    """Make the modules that define `parts` draw their noise with `draw_float32`, within the block.

    A part is a pipeline or a scheduler. diffusers' modules import `randn_tensor` by name, so it is
    replaced where it is used: in the modules of the part's class and of its base classes.
    """
    modules = {
        module.__name__: module
        for part in parts
        for base in type(part).__mro__
        if (module := _drawing_module(base)) is not None
    }
    originals = {name: vars(module)["randn_tensor"] for name, module in modules.items()}
    for module in modules.values():
        vars(module)["randn_tensor"] = draw_float32
    try:
        yield
    finally:
        for name, module in modules.items():
            vars(module)["randn_tensor"] = originals[name]


def _drawing_module(base: type) -> ModuleType | None:
    module = sys.modules.get(base.__module__)
    return module if module is not None and "randn_tensor" in vars(module) else None
