"""Compiled tables against the schedulers they were compiled from."""

from __future__ import annotations

from typing import Any

import diffusers
import numpy as np
import pytest
import torch

from farm.render.batches import Refusal
from farm.render.scheduling import build_scheduler
from farm.render.tables import table_for
from farm.task import TaskSpec

SD = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


@pytest.mark.parametrize("sampler", ["euler", "ddim", "dpmpp_2m"])
def test_a_table_draws_what_the_scheduler_draws(sampler: str) -> None:
    original = diffusers.DDIMScheduler(**SD)
    table = table_for(original, sampler=sampler, sigma_schedule="normal", steps=8)
    scheduler = build_scheduler(original, TaskSpec(sampler=sampler, sigma_schedule="normal"))
    scheduler.set_timesteps(8)
    noise = torch.randn(1, 4, 4, 4, generator=torch.Generator().manual_seed(3))
    x = noise * scheduler.init_noise_sigma
    for t in scheduler.timesteps:
        x = scheduler.step(torch.sin(scheduler.scale_model_input(x, t) + t / 100), t, x)[0]

    def network(image: Any, timestep: float) -> Any:
        return np.sin(image + timestep / 100)

    found = table.run(network, iter([noise.double().numpy()]))
    assert np.abs(found - x.numpy()).max() < 1e-5 * np.abs(x.numpy()).max()


def test_what_is_not_linear_is_refused_by_name() -> None:
    original = diffusers.DDIMScheduler(thresholding=True)
    with pytest.raises(Refusal, match="not linear with thresholding: true"):
        table_for(original, sampler="default", sigma_schedule="default", steps=4)
