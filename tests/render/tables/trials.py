"""What the tests of tables share: a model, a network, noises, and how diffusers runs them."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from typing import Any

import diffusers
import numpy as np
import torch

from farm.render.noise import float32_noise
from farm.render.scheduling import configure_scheduler, takes
from farm.render.tables import SamplerTable

SHAPE = (1, 4, 4, 4)
"""Latents of a test: 64 values."""
SD = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
"""How Stable Diffusion was trained."""


def model(prediction: str = "epsilon", **config: object) -> Any:  # the scheduler it ships with
    settings = {**SD, "clip_sample": False, "steps_offset": 1, "prediction_type": prediction}
    return diffusers.DDIMScheduler(**settings | config)


def flow_model() -> Any:
    return diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)


def network(x: Any, timestep: float) -> Any:
    """Answer like a network: nonlinear, another one at each timestep, of a slope about 1.

    A steeper one would be chaotic, and show how rounding grows instead of how samplers compare.
    """
    lib = torch if isinstance(x, torch.Tensor) else np
    return x + 0.6 * lib.sin(x + timestep / 150.0)


def noises(seed: int = 7) -> Iterator[Any]:
    """Yield what a lane draws for an image: one float32 CPU generator, in order."""
    generator = torch.Generator("cpu").manual_seed(seed)
    for _ in count():
        yield torch.randn(SHAPE, generator=generator).double().numpy()


def run_table(table: SamplerTable, seed: int = 7) -> Any:
    return table.run(network, noises(seed))


def run_diffusers(scheduler: Any, eta: float | None, seed: int = 7) -> Any:
    """Return what a pipeline of diffusers makes of the image with this seed, in float32."""
    return _run(scheduler, eta, torch.Generator("cpu").manual_seed(seed)).double().numpy()


def generator_after_diffusers(scheduler: Any, *, seed: int) -> torch.Generator:
    """Return the image's generator as a pipeline of diffusers leaves it."""
    generator = torch.Generator("cpu").manual_seed(seed)
    _run(scheduler, None, generator)
    return generator


def _run(scheduler: Any, eta: float | None, generator: torch.Generator) -> torch.Tensor:
    extra: dict[str, object] = {"return_dict": False}
    if takes(type(scheduler).step, "eta"):
        extra["eta"] = 0.0 if eta is None else eta
    if takes(type(scheduler).step, "generator"):
        extra["generator"] = [generator]
    scale = getattr(scheduler, "scale_model_input", lambda x, _: x)
    x = torch.randn(SHAPE, generator=generator) * getattr(scheduler, "init_noise_sigma", 1.0)
    with float32_noise(scheduler):
        for t in scheduler.timesteps:
            x = scheduler.step(network(scale(x, t), float(t)).float(), t, x, **extra)[0]
    return x


def scheduler_for(original: Any, *, sampler: str, sigma_schedule: str, steps: int) -> Any:
    scheduler = configure_scheduler(original, sampler=sampler, sigma_schedule=sigma_schedule)
    scheduler.set_timesteps(steps)
    return scheduler


def difference(found: Any, expected: Any) -> float:
    """Return the largest difference, relative to the scale of the latents."""
    assert np.isfinite(found).all()
    assert np.isfinite(expected).all()
    return float(np.abs(found - expected).max() / np.abs(expected).max())
