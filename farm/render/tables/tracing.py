"""From a diffusers scheduler to its coefficients, by running it on basis vectors.

A scheduler computes each value of an image by itself, from the same value of what it remembers, of
the network's output and of the noise. So an image whose values are basis vectors comes out as the
coefficients, all of them in one run. What a scheduler remembers is what it holds: after each step,
the tensors in its attributes that came from ours. They become the registers of the next step and
are replaced there by basis vectors again, so nothing has to be solved for, and no coefficient is a
product of the steps before.

Beside the basis vectors each image has a few values that are left alone: a trial picture, which the
scheduler samples as ever. What a table makes of the same noises is compared with it.

Schedulers cast to float32 what they are given, and keep their own constants in it. Here the
constants are float64 copies of those float32 numbers, and the images refuse the cast.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import FunctionType
from typing import Any

import numpy as np
import torch

from farm.render.scheduling import takes
from farm.render.tables.table import Floats, Network

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """What a scheduler does, and what it made of the trial picture."""

    initial: float
    """Standard deviation of the first latents."""
    evaluations: Sequence[Evaluation]
    result: Floats
    """The final latents of the trial."""


class _Image(torch.Tensor):
    """A float64 tensor that stays one, and by whose type what came from it is recognised."""

    def to(self, *_: object, **__: object) -> _Image:
        """Return the tensor itself: schedulers ask for float32 and for a device."""
        return self

    def float(self, *_: object, **__: object) -> _Image:
        """Return the tensor itself."""
        return self


def trace(
    scheduler: Any,  # noqa: ANN401 - diffusers' schedulers share no useful type
    *,
    eta: float | None,
    network: Network,
    noises: Iterator[Floats],
) -> Trace:
    """Return the coefficients of every step of a scheduler.

    Args:
        scheduler: ready to begin, its timesteps set; it is used up.
        eta: as the pipelines pass it on; None where the scheduler takes none.
        network: of the trial, as in `SamplerTable.run`.
        noises: of the trial, one-dimensional, as in `SamplerTable.run`.

    Raises:
        NotATable: it draws noise in a way that no table can hold.
        Exception: whatever the scheduler raises at what it is asked for.
    """
    _keep_float64(scheduler)
    if hasattr(scheduler, "set_begin_index"):
        # Without it, schedulers that round their timesteps begin at the second of two equal ones
        # and run off their end; so they do in the pipelines of Stable Diffusion.
        scheduler.set_begin_index(0)
    drawn = _Drawn(noises)
    step = drawn.follow(scheduler)
    initial = float(getattr(scheduler, "init_noise_sigma", 1.0))
    registers = 1
    trial = initial * next(noises)
    evaluations: list[Evaluation] = []
    for t in scheduler.timesteps:
        basis = np.eye(registers + 1 + _MOST_NOISES)
        x = _image(basis[0], trial)
        scaled, trial_input = _parts(_network_input(scheduler, x, t), basis)
        drawn.begin(basis[registers + 1 :])
        x = step(_image(basis[registers], network(trial_input, float(t))), t, x, eta)
        row, trial = _parts(x, basis)
        held = {id(image): _parts(image, basis) for image in _held(scheduler)}
        rows, positions = _distinct([row, *(coefficients for coefficients, _ in held.values())])
        evaluations.append(
            Evaluation(
                timestep=float(t),
                input=scaled[:registers],
                step=np.stack(rows)[:, : registers + 1 + drawn.count],
                draws=drawn.count,
            )
        )
        registers = len(rows)
        basis = np.eye(registers + 1 + _MOST_NOISES)
        _replace(
            scheduler,
            {
                key: _image(basis[position], own)
                for (key, (_, own)), position in zip(held.items(), positions[1:], strict=True)
            },
        )
    return Trace(initial=initial, evaluations=evaluations, result=trial)


class _Drawn:
    """The noises of one step after another: basis vectors, and the trial's own beside them."""

    def __init__(self, noises: Iterator[Floats]) -> None:
        self.count = 0
        """How many this step has drawn."""
        self._noises = noises
        self._basis: Floats = np.zeros((0, 0))
        self._generator = torch.Generator()

    def begin(self, basis: Floats) -> None:
        """Begin a step; its noises are the rows of `basis`."""
        self.count = 0
        self._basis = basis

    def follow(
        self,
        scheduler: Any,  # noqa: ANN401 - as above
    ) -> Callable[[torch.Tensor, torch.Tensor, torch.Tensor, float | None], torch.Tensor]:
        """Return the scheduler's step (output, timestep, latents, eta), with these noises.

        diffusers' modules import `randn_tensor` by name. The step is a copy of the method that
        finds another function under that name, so nothing is replaced that anyone else uses.
        """
        method = type(scheduler).step
        copied = FunctionType(
            method.__code__,
            {**method.__globals__, "randn_tensor": self._draw},
            method.__name__,
            method.__defaults__,
            method.__closure__,
        )
        copied.__kwdefaults__ = method.__kwdefaults__
        options: dict[str, Any] = {"return_dict": False}
        if takes(method, "generator"):
            options["generator"] = self._generator

        def step(
            output: torch.Tensor, timestep: torch.Tensor, x: torch.Tensor, eta: float | None
        ) -> torch.Tensor:
            extra = options if eta is None else {**options, "eta": eta}
            result: torch.Tensor = copied(scheduler, output, timestep, x, **extra)[0]
            return result

        return step

    def _draw(
        self, _: object, generator: torch.Generator | None = None, **__: object
    ) -> torch.Tensor:
        """Stand in for `diffusers.utils.torch_utils.randn_tensor`."""
        if generator is not self._generator:
            raise NotATable("its noise is no function of the image's seed")
        self.count += 1
        return _image(self._basis[self.count - 1], next(self._noises))


def _keep_float64(scheduler: Any) -> None:  # noqa: ANN401 - as above
    """Turn a scheduler's float32 constants into float64 ones of the same values.

    Its timesteps stay as they are: the network is told those very numbers.
    """
    for name, value in vars(scheduler).items():
        if name != "timesteps" and isinstance(value, torch.Tensor) and value.is_floating_point():
            setattr(scheduler, name, value.double())


def _image(coefficients: Floats, trial: Floats) -> torch.Tensor:
    """Return an image of one pixel, its values in its channels: `[1, V, 1, 1]`."""
    values = torch.from_numpy(np.concatenate([coefficients, trial]))
    return values.reshape(1, -1, 1, 1).as_subclass(_Image)


def _parts(image: torch.Tensor, basis: Floats) -> tuple[Floats, Floats]:
    """Return the coefficients and the trial's values of an image."""
    values = image.as_subclass(torch.Tensor).reshape(-1).numpy()
    return values[: len(basis)], values[len(basis) :]


def _network_input(scheduler: Any, x: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:  # noqa: ANN401 - as above
    """Return what the pipelines show the network; flow-matching schedulers leave latents alone."""
    scale = getattr(scheduler, "scale_model_input", None)
    return x if scale is None else scale(x, timestep)


_CONTAINERS = (list, tuple, deque)


def _held(scheduler: object) -> list[torch.Tensor]:
    """Return the images that a scheduler remembers, each object once."""
    found: dict[int, torch.Tensor] = {}
    for value in vars(scheduler).values():
        for item in value if isinstance(value, _CONTAINERS) else (value,):
            if isinstance(item, _Image):
                found[id(item)] = item
    return list(found.values())


def _replace(scheduler: object, images: Mapping[int, torch.Tensor]) -> None:
    """Put other images where the scheduler remembers those of the given ids."""
    for name, value in list(vars(scheduler).items()):
        if isinstance(value, _Image):
            setattr(scheduler, name, images[id(value)])
        elif isinstance(value, _CONTAINERS) and any(isinstance(item, _Image) for item in value):
            replaced = (images[id(i)] if isinstance(i, _Image) else i for i in value)
            setattr(scheduler, name, type(value)(replaced))


def _distinct(rows: Sequence[Floats]) -> tuple[list[Floats], list[int]]:
    """Return the different rows, and for each row the position of its equal among them."""
    position: dict[bytes, int] = {}
    positions = [position.setdefault(row.tobytes(), len(position)) for row in rows]
    return [rows[positions.index(i)] for i in range(len(position))], positions
