"""A table for what a task asks of a model: made once, proved against the sampler itself, kept.

A table is a pure function of the sampler, its schedule, the step count, eta and the model's own
scheduler configuration (how the model was trained), and is computed from nothing else. Compiling
one takes tens of milliseconds; the last 1024 are kept.
"""

from __future__ import annotations

from collections.abc import Hashable
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np

from farm.render.batches import Refusal
from farm.render.scheduling import build_scheduler, takes
from farm.render.tables.compact import tabulate
from farm.render.tables.table import Floats, SamplerTable
from farm.render.tables.tracing import NotATable, run_scheduler, trace
from farm.task import TaskSpec

LARGEST_RESIDUAL = 1e-9
"""Largest difference between a table and its sampler, both in float64, relative to the latents.

What is linear is within 1e-11; what is not is off by percents."""

_NONLINEAR = ("thresholding", "clip_sample")
"""Options of diffusers' schedulers that treat large values apart."""


def table_for(
    original: Any,  # noqa: ANN401 - diffusers' schedulers share no useful type
    *,
    sampler: str,
    sigma_schedule: str,
    steps: int,
    eta: float | None = None,
) -> SamplerTable:
    """Return the table of a sampler at `steps` steps for a model.

    Args:
        original: the scheduler that the model ships with; its class and configuration are read.
        sampler: a name of `farm samplers`.
        sigma_schedule: a name of `farm samplers`.
        steps: how many, at least 1.
        eta: None means diffusers' default, which is 0 where there is an eta.

    Raises:
        Refusal: the sampler cannot do this, or does something that no table can hold (dynamic
            thresholding, clipping); the message names it.
    """
    return _compile(
        _Request(
            kind=type(original),
            config=tuple(sorted((name, _frozen(value)) for name, value in original.config.items())),
            sampler=sampler,
            sigma_schedule=sigma_schedule,
            steps=steps,
            eta=eta,
        )
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Request:
    """Everything that a table is a function of."""

    kind: type[Any]
    config: tuple[tuple[str, Hashable], ...]
    sampler: str
    sigma_schedule: str
    steps: int
    eta: float | None


@lru_cache(maxsize=1024)
def _compile(request: _Request) -> SamplerTable:
    original = request.kind.from_config(dict(request.config))
    task = TaskSpec(sampler=request.sampler, sigma_schedule=request.sigma_schedule)
    scheduler = build_scheduler(original, task)
    name = type(scheduler).__name__
    has_eta = takes(type(scheduler).step, "eta")
    eta = request.eta
    if eta is not None and not has_eta:
        raise Refusal(f"sampler '{request.sampler}' ({name}) has no eta; ddim and tcd have")
    if has_eta and eta is None:
        eta = 0.0  # what the pipelines pass on; the schedulers' own defaults differ
    try:
        scheduler.set_timesteps(request.steps)
        untouched = deepcopy(scheduler)
        initial, evaluations = trace(scheduler, eta=eta)
        table = tabulate(evaluations, initial=initial)
        residual = _residual(table, untouched, eta=eta)
    except NotATable as verdict:
        raise Refusal(_message(request.sampler, name, str(verdict))) from verdict
    except Exception as error:
        reason = f"cannot do {request.steps} steps ({type(error).__name__}: {error})"
        raise Refusal(_message(request.sampler, name, reason)) from error
    if not residual < LARGEST_RESIDUAL:
        found = [option for option in _NONLINEAR if scheduler.config.get(option)]
        reason = f"is not linear (off by {residual:.1g} of the latents)"
        if found:
            reason = f"is not linear with {' and '.join(f'{option}: true' for option in found)}"
        raise Refusal(_message(request.sampler, name, reason))
    return replace(table, residual=residual)


def _message(sampler: str, scheduler: str, reason: str) -> str:
    return (
        f"sampler '{sampler}' cannot be compiled: {scheduler} {reason}; backend diffusers runs it "
        "as it is"
    )


def _residual(table: SamplerTable, scheduler: Any, *, eta: float | None) -> float:  # noqa: ANN401 - as above
    """Return the largest difference between a table and its scheduler, relative to the latents.

    On random values, with a network that is neither linear nor the same at two timesteps, so that
    nothing cancels and nothing is left out.
    """
    values = np.random.default_rng(0).standard_normal((4096, _PIXELS))
    expected = run_scheduler(scheduler, network=_trial_network, noises=iter(values), eta=eta)
    found = table.run(_trial_network, iter(values))
    if not (np.isfinite(expected).all() and np.isfinite(found).all()):
        return float("inf")
    return float(np.abs(found - expected).max() / max(1.0, np.abs(expected).max()))


_PIXELS = 32


def _trial_network(x: Floats, timestep: float) -> Floats:
    return 0.3 * x + np.sin(3.0 * x + timestep / 100.0)


def _frozen(value: object) -> Hashable:
    """Return a hashable value that stands for one of a configuration."""
    if isinstance(value, list | tuple):
        return tuple(_frozen(item) for item in value)
    assert isinstance(value, Hashable)
    return value
