"""A table for what a task asks of a model: made once, proved against the sampler itself, kept.

A table is a pure function of the sampler, its schedule, the step count, eta and the model's own
scheduler configuration (how the model was trained), and is computed from nothing else. Compiling
one takes tens of milliseconds; the last 1024 are kept.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

import numpy as np

from farm.render.batches import Refusal
from farm.render.scheduling import check_sampler, configure_scheduler, takes
from farm.render.tables.compact import tabulate
from farm.render.tables.handwritten import write_out
from farm.render.tables.table import Floats, SamplerTable
from farm.render.tables.tracing import NotATable, trace
from farm.samplers import DEFAULT, SAMPLERS, TABLE_BACKENDS

LARGEST_RESIDUAL = 1e-9
"""Largest difference between a table and its sampler, both in float64, relative to the latents.

What is linear is within 1e-12; what is not is off by percents."""

_NONLINEAR = ("thresholding", "clip_sample")
"""Options of diffusers' schedulers that treat large values apart."""


def table_for(
    original: Any,  # noqa: ANN401 - diffusers' schedulers share no useful type
    *,
    sampler: str,
    sigma_schedule: str,
    steps: int,
    eta: float | None = None,
    backend: str = "torch",
) -> SamplerTable:
    """Return the table of a sampler at `steps` steps for a model.

    Args:
        original: the scheduler that the model ships with; its class and configuration are read.
        sampler: a name of `farm samplers`.
        sigma_schedule: a name of `farm samplers`.
        steps: how many, at least 1.
        eta: None means the sampler's usual one: 0 for ddim and tcd, 1 for the ancestral samplers.
        backend: who asks; refusals name it.

    Raises:
        Refusal: the sampler cannot do this, or does something that no table can hold (dynamic
            thresholding, clipping); the message names it.
    """
    check_sampler(original, backend=backend, sampler=sampler, sigma_schedule=sigma_schedule)
    entry = SAMPLERS[sampler]
    if eta is not None and sampler != DEFAULT and not entry.takes_eta_on(backend):
        raise Refusal(f"sampler '{sampler}' has no eta on backend {backend}; {_ETA_SAMPLERS} have")
    return _compile(
        _Request(
            original=original,
            kind=type(original),
            config=tuple(sorted((name, _frozen(value)) for name, value in original.config.items())),
            sampler=sampler,
            sigma_schedule=sigma_schedule,
            steps=steps,
            eta=eta,
        )
    )


_WITH_NOISE_OF_THEIR_OWN = {
    entry.scheduler: name for name, entry in SAMPLERS.items() if entry.one_noise_per_batch
}
_ETA_SAMPLERS = ", ".join(
    name for name, entry in SAMPLERS.items() if entry.takes_eta_on(TABLE_BACKENDS[0])
)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Request:
    """Everything that a table is a function of."""

    original: Any = field(compare=False)
    """What class and configuration are those of."""
    kind: type[Any]
    config: tuple[tuple[str, Hashable], ...]
    sampler: str
    sigma_schedule: str
    steps: int
    eta: float | None


@lru_cache(maxsize=1024)
def _compile(request: _Request) -> SamplerTable:
    written = bool(SAMPLERS[request.sampler].handwritten)
    scheduler = configure_scheduler(
        request.original,
        sampler="euler" if written else request.sampler,
        sigma_schedule=request.sigma_schedule,
    )
    try:
        with np.errstate(divide="raise", invalid="raise", over="raise"):
            if written:
                return _write_out(request, scheduler)
            return _trace(request, scheduler)
    except NotATable as verdict:
        runs = "" if written else "; backend diffusers runs it as it is"
        raise Refusal(f"sampler '{request.sampler}' has no table here: {verdict}{runs}") from None
    except Exception as error:
        raise Refusal(
            f"sampler '{request.sampler}' cannot do {request.steps} steps: "
            f"{type(scheduler).__name__} says {type(error).__name__}: {error}"
        ) from error


def _write_out(request: _Request, scheduler: Any) -> SamplerTable:  # noqa: ANN401 - as above
    """Return the table of a handwritten sampler; it is what it is, so nothing is left to measure.

    Args:
        request: what is asked.
        scheduler: diffusers' Euler with the noise levels of the request.
    """

    def levels_at(steps: int) -> Any:  # noqa: ANN401 - as above
        scheduler.set_timesteps(steps)
        return scheduler

    initial, evaluations = write_out(
        request.sampler, levels_at, steps=request.steps, eta=request.eta
    )
    return tabulate(evaluations, initial=initial)


def _trace(request: _Request, scheduler: Any) -> SamplerTable:  # noqa: ANN401 - as above
    """Return the table of a sampler of diffusers, proved against it."""
    name = type(scheduler).__name__
    if kin := _WITH_NOISE_OF_THEIR_OWN.get(name):
        raise NotATable(f"{name} draws noise of its own; name sampler {kin} for noise like it")
    eta = request.eta
    if not takes(type(scheduler).step, "eta"):
        if eta is not None:
            raise NotATable(f"{name} has no eta")
    elif eta is None:
        eta = 0.0  # what the pipelines pass on; the schedulers' own defaults differ
    scheduler.set_timesteps(request.steps)
    found = trace(scheduler, eta=eta, network=_trial_network, noises=_trial_noises())
    if not all(np.isfinite(one.step).all() for one in found.evaluations):
        raise NotATable(f"{name} divides by zero at {request.steps} steps")
    table = tabulate(found.evaluations, initial=found.initial)
    residual = _residual(table, found.result)
    if not residual < LARGEST_RESIDUAL:
        if options := [option for option in _NONLINEAR if scheduler.config.get(option)]:
            named = " and ".join(f"{option}: true" for option in options)
            raise NotATable(f"{name} is not linear with {named}")
        raise NotATable(f"{name} is not linear (off by {residual:.1g} of the latents)")
    return replace(table, residual=residual)


def _residual(table: SamplerTable, expected: Floats) -> float:
    """Return the largest difference between a table and its scheduler on the trial picture."""
    found = table.run(_trial_network, _trial_noises())
    return float(np.abs(found - expected).max() / max(1.0, np.abs(expected).max()))


def _trial_network(x: Floats, timestep: float) -> Floats:
    """Neither linear nor the same at two timesteps, so that nothing cancels or is left out.

    Like a network's, its slope is about 1: steeper, and rounding would grow from step to step.
    """
    return x + 0.6 * np.sin(x + timestep / 100.0)


def _trial_noises() -> Iterator[Floats]:
    values = np.random.default_rng(0)
    while True:
        yield values.standard_normal(_TRIAL_VALUES)


_TRIAL_VALUES = 32


def _frozen(value: object) -> Hashable:
    """Return a hashable value that stands for one of a configuration."""
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, Mapping):
        return tuple((key, _frozen(item)) for key, item in sorted(value.items()))
    if isinstance(value, list | tuple):
        return tuple(_frozen(item) for item in value)
    return value if isinstance(value, str | int | float | None) else repr(value)
