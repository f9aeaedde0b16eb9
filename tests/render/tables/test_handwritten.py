"""Handwritten tables against their publications, written out as loops over pictures.

The oracles below are k-diffusion's algorithms (`k_diffusion/sampling.py`; iPNDM as in ComfyUI's
copy of that file) in the plainest form: a denoiser, a list of sigmas, arrays. They share nothing
with the tables but the noise levels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate

from farm.render.scheduling import configure_scheduler
from farm.render.tables import table_for
from farm.samplers import SAMPLERS
from tests.render.tables.trials import difference, model, network, noises, run_table

Array = Any
Denoiser = Callable[[Array, float], Array]


class Wrapped:
    """A model as k-diffusion wraps it: sigma in, an image without noise out."""

    def __init__(self, scheduler: Any) -> None:
        self.prediction = scheduler.config.prediction_type
        alphas = scheduler.alphas_cumprod.double().numpy()
        self.log_sigmas = np.log(np.sqrt((1 - alphas) / alphas))

    def sigma_to_t(self, sigma: float) -> float:
        low = int(np.searchsorted(self.log_sigmas, math.log(sigma), side="right")) - 1
        low = min(max(low, 0), len(self.log_sigmas) - 2)
        a, b = self.log_sigmas[low], self.log_sigmas[low + 1]
        share = min(max((math.log(sigma) - a) / (b - a), 0.0), 1.0)
        return float(low + share)

    def __call__(self, x: Array, sigma: float) -> Array:
        output = network(x / math.sqrt(sigma**2 + 1), self.sigma_to_t(sigma))
        if self.prediction == "v_prediction":
            return x / (sigma**2 + 1) - output * sigma / math.sqrt(sigma**2 + 1)
        return x - output * sigma


def ancestral(sigma: float, to: float, eta: float) -> tuple[float, float]:
    up = min(to, eta * (to**2 * (sigma**2 - to**2) / sigma**2) ** 0.5)
    return (to**2 - up**2) ** 0.5, up


def to_d(x: Array, sigma: float, denoised: Array) -> Array:
    return (x - denoised) / sigma


def log_middle(a: float, b: float) -> float:
    return math.exp((math.log(a) + math.log(b)) / 2)


def sample_euler_ancestral(
    denoise: Denoiser, x: Array, sigmas: list[float], noise: Iterator[Array], eta: float
) -> Array:
    for sigma, to in pairwise(sigmas):
        down, up = ancestral(sigma, to, eta)
        x = x + to_d(x, sigma, denoise(x, sigma)) * (down - sigma)
        if to > 0:
            x = x + next(noise) * up
    return x


def sample_heun(
    denoise: Denoiser, x: Array, sigmas: list[float], _: Iterator[Array], __: float
) -> Array:
    for sigma, to in pairwise(sigmas):
        d = to_d(x, sigma, denoise(x, sigma))
        x_2 = x + d * (to - sigma)
        x = x_2 if to == 0 else x + (d + to_d(x_2, to, denoise(x_2, to))) / 2 * (to - sigma)
    return x


def sample_lms(
    denoise: Denoiser, x: Array, sigmas: list[float], _: Iterator[Array], __: float
) -> Array:
    ds: list[Array] = []
    for i in range(len(sigmas) - 1):
        ds.insert(0, to_d(x, sigmas[i], denoise(x, sigmas[i])))
        order = min(i + 1, 4)

        def basis(tau: float, j: int, i: int = i, order: int = order) -> float:
            return math.prod(
                (tau - sigmas[i - k]) / (sigmas[i - j] - sigmas[i - k])
                for k in range(order) if k != j
            )  # fmt: skip

        weights = [
            integrate.quad(basis, sigmas[i], sigmas[i + 1], args=(j,), epsabs=1e-12)[0]
            for j in range(order)
        ]
        x = x + sum(w * d for w, d in zip(weights, ds, strict=False))
    return x


def sample_dpm_2(
    denoise: Denoiser, x: Array, sigmas: list[float], noise: Iterator[Array], _: float
) -> Array:
    return sample_dpm_2_ancestral(denoise, x, sigmas, noise, 0.0)


def sample_dpm_2_ancestral(
    denoise: Denoiser, x: Array, sigmas: list[float], noise: Iterator[Array], eta: float
) -> Array:
    for sigma, to in pairwise(sigmas):
        down, up = ancestral(sigma, to, eta)
        d = to_d(x, sigma, denoise(x, sigma))
        if down == 0:
            x = x + d * (down - sigma)
        else:
            middle = log_middle(sigma, down)
            x_2 = x + d * (middle - sigma)
            x = x + to_d(x_2, middle, denoise(x_2, middle)) * (down - sigma)
            if eta:
                x = x + next(noise) * up
    return x


def sample_dpmpp_2s_ancestral(
    denoise: Denoiser, x: Array, sigmas: list[float], noise: Iterator[Array], eta: float
) -> Array:
    for sigma, to in pairwise(sigmas):
        denoised = denoise(x, sigma)
        down, up = ancestral(sigma, to, eta)
        if down == 0:
            x = x + to_d(x, sigma, denoised) * (down - sigma)
        else:
            t, t_next = -math.log(sigma), -math.log(down)
            h = t_next - t
            s = t + h / 2
            x_2 = math.exp(-s) / math.exp(-t) * x - math.expm1(-h / 2) * denoised
            denoised_2 = denoise(x_2, math.exp(-s))
            x = math.exp(-t_next) / math.exp(-t) * x - math.expm1(-h) * denoised_2
        if to > 0:
            x = x + next(noise) * up
    return x


def sample_dpmpp_sde(
    denoise: Denoiser, x: Array, sigmas: list[float], noise: Iterator[Array], eta: float
) -> Array:
    brownian = {sigmas[0]: np.zeros_like(x)}

    def walk(start: float, end: float) -> Array:
        """Extend the path from where it is known to `end`, and return the normalised increment."""
        last = min(brownian)
        if end < last:
            brownian[end] = brownian[last] + math.sqrt(last - end) * next(noise)
        return (brownian[end] - brownian[start]) / math.sqrt(start - end)

    for sigma, to in pairwise(sigmas):
        denoised = denoise(x, sigma)
        if to == 0:
            x = x + to_d(x, sigma, denoised) * (to - sigma)
            continue
        t, s = -math.log(sigma), -(math.log(sigma) + math.log(to)) / 2
        middle = math.exp(-s)
        down, up = ancestral(sigma, middle, eta)
        x_2 = down / sigma * x - math.expm1(t + math.log(down)) * denoised
        x_2 = x_2 + walk(sigma, middle) * up
        denoised_2 = denoise(x_2, middle)
        down, up = ancestral(sigma, to, eta)
        x = down / sigma * x - math.expm1(t + math.log(down)) * denoised_2
        x = x + walk(sigma, to) * up
    return x


def sample_ipndm(
    denoise: Denoiser, x: Array, sigmas: list[float], _: Iterator[Array], __: float
) -> Array:
    ds: list[Array] = []
    for i, (sigma, to) in enumerate(pairwise(sigmas)):
        denoised = denoise(x, sigma)
        ds.insert(0, to_d(x, sigma, denoised))
        order = min(4, i + 1)
        if to == 0:
            x = denoised
        elif order == 1:
            x = x + (to - sigma) * ds[0]
        elif order == 2:
            x = x + (to - sigma) * (3 * ds[0] - ds[1]) / 2
        elif order == 3:
            x = x + (to - sigma) * (23 * ds[0] - 16 * ds[1] + 5 * ds[2]) / 12
        else:
            x = x + (to - sigma) * (55 * ds[0] - 59 * ds[1] + 37 * ds[2] - 9 * ds[3]) / 24
    return x


ORACLES = {
    "euler_a": sample_euler_ancestral,
    "heun": sample_heun,
    "lms": sample_lms,
    "dpm2": sample_dpm_2,
    "dpm2_discard": sample_dpm_2,
    "dpm2_a": sample_dpm_2_ancestral,
    "dpm2_a_discard": sample_dpm_2_ancestral,
    "dpmpp_2s_a": sample_dpmpp_2s_ancestral,
    "dpmpp_sde": sample_dpmpp_sde,
    "ipndm": sample_ipndm,
}
HANDWRITTEN = [name for name, entry in SAMPLERS.items() if entry.handwritten]


def run_oracle(
    sampler: str, *, schedule: str, steps: int, prediction: str = "epsilon", eta: float = 1.0
) -> Array:
    discards = sampler.endswith("_discard")
    euler = configure_scheduler(model(prediction), sampler="euler", sigma_schedule=schedule)
    euler.set_timesteps(steps + discards)
    sigmas = euler.sigmas.double().tolist()
    if discards:
        del sigmas[-2]
    noise = noises()
    x = next(noise) * float(euler.init_noise_sigma)
    return ORACLES[sampler](Wrapped(euler), x, sigmas, noise, eta)


def test_every_handwritten_sampler_has_an_oracle() -> None:
    assert set(ORACLES) == set(HANDWRITTEN)


# The last is the one whose timesteps diffusers rounds for DPM2, and the tables with it.
CURVES = ("exponential", "beta", "normal", "ddim_uniform", "karras")


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("sampler", HANDWRITTEN)
def test_a_handwritten_table_is_its_publication(sampler: str, prediction: str) -> None:
    for schedule in CURVES[:-1] if sampler in {"dpm2", "dpm2_a"} else CURVES:
        for steps in (1, 2, 9):
            table = table_for(
                model(prediction), sampler=sampler, sigma_schedule=schedule, steps=steps
            )
            expected = run_oracle(sampler, schedule=schedule, steps=steps, prediction=prediction)
            assert difference(run_table(table), expected) < 3e-6, (schedule, steps)


ANCESTRAL = [name for name in HANDWRITTEN if SAMPLERS[name].handwritten_takes_eta]


@pytest.mark.parametrize("sampler", ANCESTRAL)
@given(eta=st.floats(0.01, 1), steps=st.integers(1, 30))
@settings(max_examples=10, deadline=None)
def test_eta_scales_the_ancestral_noise(sampler: str, eta: float, steps: int) -> None:
    asked: dict[str, Any] = {"sampler": sampler, "sigma_schedule": "exponential", "steps": steps}
    table = table_for(model(), **asked, eta=eta)
    expected = run_oracle(sampler, schedule="exponential", steps=steps, eta=eta)
    assert difference(run_table(table), expected) < 3e-6


@pytest.mark.parametrize("sampler", ANCESTRAL)
def test_without_eta_nothing_is_random(sampler: str) -> None:
    table = table_for(model(), sampler=sampler, sigma_schedule="karras", steps=6, eta=0.0)
    assert not table.steps[:, :, table.registers + 1 :].any()


def test_euler_ancestral_without_noise_is_euler() -> None:
    asked: dict[str, Any] = {"sigma_schedule": "karras", "steps": 12}
    euler = table_for(model(), sampler="euler", **asked)
    calm = table_for(model(), sampler="euler_a", eta=0.0, **asked)
    assert difference(run_table(calm), run_table(euler)) < 1e-9


def test_discarding_a_sigma_is_another_picture_and_the_same_work() -> None:
    asked: dict[str, Any] = {"sigma_schedule": "karras", "steps": 10}
    kept = table_for(model(), sampler="dpm2", **asked)
    discarded = table_for(model(), sampler="dpm2_discard", **asked)
    assert kept.evaluations == discarded.evaluations == SAMPLERS["dpm2"].count_evaluations(10)
    assert difference(run_table(discarded), run_table(kept)) > 1e-3


def test_the_brownian_pieces_have_the_law_that_diffusers_asks_its_tree_for() -> None:
    """diffusers' own scheduler, with the tree replaced by a path of the image's noises."""
    pytest.importorskip("torchsde")
    steps = 7
    scheduler = diffusers.DPMSolverSDEScheduler.from_config(model().config)
    scheduler.set_timesteps(steps)
    noise = noises()
    x = next(noise) * float(scheduler.init_noise_sigma)
    path = {float(scheduler.sigmas[0]): np.zeros_like(x)}

    def at(sigma: float) -> Array:
        known = min(path, key=lambda level: abs(level - sigma))
        if abs(known - sigma) > 1e-4 * sigma:
            last = min(path)
            path[sigma] = path[last] + math.sqrt(last - sigma) * next(noise)
            return path[sigma]
        return path[known]

    def tree(start: Any, end: Any) -> Any:
        start, end = float(start), float(end)
        return torch.from_numpy((at(end) - at(start)) / math.sqrt(start - end))

    scheduler.noise_sampler = tree
    x = torch.from_numpy(x)
    for t in scheduler.timesteps:
        x = scheduler.step(network(scheduler.scale_model_input(x, t), float(t)), t, x)[0]
    table = table_for(model(), sampler="dpmpp_sde", sigma_schedule="default", steps=steps)
    assert difference(run_table(table), x.numpy()) < 1e-5
