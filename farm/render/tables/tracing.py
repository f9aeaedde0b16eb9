"""From a diffusers scheduler to its coefficients, by running it on basis vectors.

A scheduler computes each value of an image by itself, from the same value of what it remembers, of
the network's output and of the noise. So an image whose values are basis vectors comes out as the
coefficients, all of them in one run. What a scheduler remembers is what it holds: after each step,
the tensors in its attributes that came from ours. They become the registers of the next step and
are replaced there by basis vectors again, so nothing has to be solved for, and no coefficient is a
product of the steps before.

Schedulers cast to float32 what they are given, and keep their own constants in it. Here the
constants are float64 copies of those float32 numbers, and the images refuse the cast.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.overrides import TorchFunctionMode

from farm.render.scheduling import takes
from farm.render.tables.table import Floats

_MOST_NOISES = 4
"""Noises that one step may draw; no scheduler draws more than one."""


class NotATable(Exception):  # noqa: N818 - a verdict on a scheduler; nothing went wrong
    """The scheduler does something that no table can hold; the message says what."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """One evaluation of the network and the step after it, over registers of its own."""

    timestep: float
    input: Floats
    """`[R]`, over the registers before."""
    step: Floats
    """`[R', R + 1 + N]`, from the registers before to the registers after."""
    draws: int


class _Kept(torch.Tensor):
    """A float64 tensor that stays one, and by whose type what came from it is recognised."""

    def to(self, *_: object, **__: object) -> _Kept:
        """Return the tensor itself: schedulers ask for float32 and for a device."""
        return self

    def float(self, *_: object, **__: object) -> _Kept:
        """Return the tensor itself."""
        return self


class _Draws(TorchFunctionMode):
    """Within it, noise is what the caller says, and is counted.

    diffusers' `randn_tensor` ends in `torch.randn`. Being a mode, this reaches the thread that
    entered it and no other, unlike a replaced function.
    """

    def __init__(self, noises: Iterator[torch.Tensor], generator: torch.Generator) -> None:
        super().__init__()
        self._noises = noises
        self._generator = generator
        self.count = 0

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401 - whatever torch returns
        kwargs = kwargs or {}
        if func is not torch.randn:
            if func in _OTHER_NOISE:
                raise NotATable(f"draws its noise with torch.{func.__name__}")
            return func(*args, **kwargs)
        if kwargs.get("generator") is not self._generator:
            raise NotATable("draws noise that is no function of the image's seed")
        self.count += 1
        return next(self._noises)


_OTHER_NOISE = frozenset({torch.randn_like, torch.rand, torch.rand_like, torch.normal})


def run_scheduler(
    scheduler: Any,  # noqa: ANN401 - diffusers' schedulers share no useful type
    *,
    network: Callable[[Floats, float], Floats],
    noises: Iterator[Floats],
    eta: float | None,
) -> Floats:
    """Return the final latents as a pipeline of diffusers computes them, but in float64.

    Args:
        scheduler: ready to begin, its timesteps set.
        network: as in `SamplerTable.run`.
        noises: one-dimensional, as in `SamplerTable.run`.
        eta: as the pipelines pass it on; None where the scheduler takes none.
    """
    keep_float64(scheduler)
    generator = torch.Generator()
    extra = {} if eta is None else {"eta": eta}
    images = (_image(noise) for noise in noises)
    x = next(images) * float(getattr(scheduler, "init_noise_sigma", 1.0))
    with _Draws(images, generator):
        for t in scheduler.timesteps:
            output = network(_values(_network_input(scheduler, x, t)), float(t))
            x = _step(scheduler, _image(output), t, x, generator=generator, extra=extra)
    return _values(x)


def trace(scheduler: Any, *, eta: float | None) -> tuple[float, list[Evaluation]]:  # noqa: ANN401 - as above
    """Return the first latents' standard deviation and the coefficients of every step.

    Args:
        scheduler: ready to begin, its timesteps set.
        eta: as the pipelines pass it on; None where the scheduler takes none.

    Raises:
        NotATable: it draws noise in a way that no table can hold.
        Exception: whatever the scheduler raises at what it is asked for.
    """
    keep_float64(scheduler)
    generator = torch.Generator()
    extra = {} if eta is None else {"eta": eta}
    initial = float(getattr(scheduler, "init_noise_sigma", 1.0))
    registers = 1
    found: list[Evaluation] = []
    for t in scheduler.timesteps:
        basis = [_image(row) for row in np.eye(registers + 1 + _MOST_NOISES)]
        scaled = _values(_network_input(scheduler, basis[0], t))
        with _Draws(iter(basis[registers + 1 :]), generator) as drawn:
            x = _step(scheduler, basis[registers], t, basis[0], generator=generator, extra=extra)
        held = _held(scheduler)
        rows, register_of = _distinct([x, *held])
        found.append(
            Evaluation(
                timestep=float(t),
                input=scaled[:registers],
                step=np.stack(rows)[:, : registers + 1 + drawn.count],
                draws=drawn.count,
            )
        )
        registers = len(rows)
        fresh = np.eye(registers + 1 + _MOST_NOISES)
        _replace(scheduler, {id(old): _image(fresh[register_of[id(old)]]) for old in held})
    return initial, found


def keep_float64(scheduler: Any) -> None:  # noqa: ANN401 - as above
    """Turn a scheduler's float32 constants into float64 ones of the same values.

    Its timesteps stay as they are: the network is told those very numbers.
    """
    for name, value in vars(scheduler).items():
        if name != "timesteps" and isinstance(value, torch.Tensor) and value.is_floating_point():
            setattr(scheduler, name, value.double())


def _image(values: Floats) -> torch.Tensor:
    """Return an image of one pixel, `[1, len(values), 1, 1]`."""
    return torch.from_numpy(values.copy()).reshape(1, -1, 1, 1).as_subclass(_Kept)


def _values(image: torch.Tensor) -> Floats:
    return image.detach().as_subclass(torch.Tensor).reshape(-1).numpy()


def _network_input(scheduler: Any, x: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:  # noqa: ANN401 - as above
    """Return what the pipelines show the network; flow-matching schedulers leave latents alone."""
    scale = getattr(scheduler, "scale_model_input", None)
    return x if scale is None else scale(x, timestep)


def _step(
    scheduler: Any,  # noqa: ANN401 - as above
    output: torch.Tensor,
    timestep: torch.Tensor,
    x: torch.Tensor,
    *,
    generator: torch.Generator,
    extra: dict[str, float],
) -> torch.Tensor:
    options: dict[str, Any] = {**extra, "return_dict": False}
    if takes(type(scheduler).step, "generator"):
        options["generator"] = generator
    result: torch.Tensor = scheduler.step(output, timestep, x, **options)[0]
    return result


_CONTAINERS = (list, tuple, deque)


def _held(scheduler: object) -> list[torch.Tensor]:
    """Return the images that a scheduler remembers, each object once."""
    found: dict[int, torch.Tensor] = {}
    for value in vars(scheduler).values():
        for item in value if isinstance(value, _CONTAINERS) else (value,):
            if isinstance(item, _Kept):
                found[id(item)] = item
    return list(found.values())


def _replace(scheduler: object, images: Mapping[int, torch.Tensor]) -> None:
    """Put other images where the scheduler remembers those of the given ids."""
    for name, value in list(vars(scheduler).items()):
        if isinstance(value, _Kept):
            setattr(scheduler, name, images[id(value)])
        elif isinstance(value, _CONTAINERS) and any(isinstance(item, _Kept) for item in value):
            replaced = (images[id(i)] if isinstance(i, _Kept) else i for i in value)
            setattr(scheduler, name, type(value)(replaced))


def _distinct(images: Sequence[torch.Tensor]) -> tuple[list[Floats], dict[int, int]]:
    """Return the different values among images, and which of them each image (by id) has."""
    rows: list[Floats] = []
    index: dict[bytes, int] = {}
    of: dict[int, int] = {}
    for image in images:
        values = _values(image)
        if (key := values.tobytes()) not in index:
            index[key] = len(rows)
            rows.append(values)
        of[id(image)] = index[key]
    return rows, of
