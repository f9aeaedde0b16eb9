"""From the sampler table to a diffusers scheduler that carries a model's own training schedule.

The table (`farm.samplers`) says which class and options compute a sampler; the model says how it
was trained (betas, prediction type, shift). A scheduler is made from both, never from one alone.
"""

from __future__ import annotations

import importlib.util
import inspect
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import diffusers

from farm.render.batches import Refusal
from farm.samplers import DEFAULT, SAMPLERS, SIGMA_SCHEDULES, Option, refuse
from farm.task import TaskSpec

_SIGMA_FLAGS: Mapping[str, Option] = {
    "use_karras_sigmas": False,
    "use_exponential_sigmas": False,
    "use_beta_sigmas": False,
}
"""diffusers' exclusive choices of sigmas; a model may ship with one of them on."""


def build_scheduler(original: Any, task: TaskSpec) -> Any:  # noqa: ANN401 - diffusers' schedulers share no useful type
    """Return a fresh scheduler for the sampler and sigma schedule of `task`, for its pipeline.

    Args:
        original: the scheduler that the model ships with; it is not changed.
        task: names the sampler and schedule; its seed is used by samplers that draw their own
            noise.

    Raises:
        Refusal: diffusers has no such sampler, schedule or library, or the model is of a family
            that the sampler does not sample.
    """
    check_sampler(
        original, backend="diffusers", sampler=task.sampler, sigma_schedule=task.sigma_schedule
    )
    if library := _missing_library(task.sampler):
        raise Refusal(f"sampler '{task.sampler}' needs the library {library}: pip install torchsde")
    return configure_scheduler(
        original, sampler=task.sampler, sigma_schedule=task.sigma_schedule, noise_seed=task.seed
    )


def check_sampler(
    original: Any,  # noqa: ANN401 - as above
    *,
    backend: str,
    sampler: str,
    sigma_schedule: str,
) -> None:
    """Do nothing if a backend can run this pair on the model that ships with `original`.

    Raises:
        Refusal: there is no such sampler or schedule, the backend has not got it, or the model is
            of a family that the sampler does not sample.
    """
    if sampler not in SAMPLERS or sigma_schedule not in SIGMA_SCHEDULES:
        raise Refusal(
            f"there is no sampler '{sampler}' with sigma schedule '{sigma_schedule}'; "
            "`farm samplers` lists them"
        )
    if reason := refuse(backend=backend, sampler=sampler, sigma_schedule=sigma_schedule):
        raise Refusal(reason)
    family = "flow" if _is_flow(original) else "diffusion"
    if sampler not in (DEFAULT, *_of_family(family)):
        able = ", ".join(
            name
            for name in (DEFAULT, *_of_family(family))
            if _can(original, backend=backend, sampler=name, sigma_schedule=sigma_schedule)
        )
        raise Refusal(
            f"sampler '{sampler}' samples {SAMPLERS[sampler].family} models, and this is a "
            f"{family} model" + (f" (it can do: {able})" if able else "")
        )


def configure_scheduler(
    original: Any,  # noqa: ANN401 - as above
    *,
    sampler: str,
    sigma_schedule: str,
    noise_seed: int = 0,
) -> Any:  # noqa: ANN401 - as above
    """Return a fresh scheduler of the sampler's class, with the training schedule of `original`.

    Raises:
        Refusal: the class has no such sigma schedule.
    """
    entry = SAMPLERS[sampler]
    kind = getattr(diffusers, entry.scheduler) if entry.scheduler else type(original)
    options = {**entry.options, **_schedule_options(kind, sigma_schedule)}
    if entry.one_noise_per_batch:
        options["noise_sampler_seed"] = noise_seed
    return kind.from_config(original.config, **options)


@cache
def takes(function: Callable[..., object], name: str) -> bool:
    """Return whether a function or class of diffusers has a parameter called `name`."""
    return name in inspect.signature(function).parameters


def _of_family(family: str) -> list[str]:
    return [name for name, entry in SAMPLERS.items() if entry.family == family and name != DEFAULT]


def _can(
    original: Any,  # noqa: ANN401 - as above
    *,
    backend: str,
    sampler: str,
    sigma_schedule: str,
) -> bool:
    """Return whether a backend can run a sampler of the right family, with what is installed."""
    if refuse(backend=backend, sampler=sampler, sigma_schedule=sigma_schedule):
        return False
    if sampler == DEFAULT:
        try:
            _schedule_options(type(original), sigma_schedule)
        except Refusal:
            return False
    return backend != "diffusers" or _missing_library(sampler) is None


def _missing_library(sampler: str) -> str | None:
    """Return the library that diffusers needs for a sampler and that is not installed."""
    library = SAMPLERS[sampler].requires
    return library if library and importlib.util.find_spec(library) is None else None


def _is_flow(scheduler: Any) -> bool:  # noqa: ANN401 - as above
    config = scheduler.config
    return type(scheduler).__name__.startswith("FlowMatch") or bool(
        config.get("use_flow_sigmas") or config.get("prediction_type") == "flow_prediction"
    )


def _schedule_options(kind: type, sigma_schedule: str) -> dict[str, Option]:
    """Return the options that ask `kind` for a sigma schedule."""
    if sigma_schedule == DEFAULT:
        return {}
    wanted = {**_SIGMA_FLAGS, **SIGMA_SCHEDULES[sigma_schedule].options}
    known = {name: value for name, value in wanted.items() if takes(kind, name)}
    # The options that make this schedule what it is; the spacing under a curve of sigmas is not.
    essential = {name for name in wanted if name in _SIGMA_FLAGS and wanted[name]} or {
        "timestep_spacing"
    }
    if missing := essential - set(known):
        raise Refusal(
            f"the model's own scheduler, {kind.__name__}, has no sigma schedule "
            f"'{sigma_schedule}' (no option {', '.join(sorted(missing))}); "
            "name a sampler that has it (`farm samplers`)"
        )
    return known
