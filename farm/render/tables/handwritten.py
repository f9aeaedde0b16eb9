"""Samplers written out by hand: what diffusers has not, or computes too slowly to be asked.

Each is its published algorithm with linear forms in place of images: `x`, `output` and `noise` are
unit vectors, so the arithmetic of the publication leaves the coefficients. They are k-diffusion's
algorithms (crowsonkb/k-diffusion, `k_diffusion/sampling.py`, MIT) unless one says otherwise, on the
noise levels of diffusers' Euler, which are the same for every sampler that takes a schedule.

Where diffusers has the sampler too, a test holds the two together.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from types import MappingProxyType
from typing import Any, TypeAlias

import numpy as np

from farm.render.tables.table import Floats
from farm.render.tables.tracing import Evaluation, NotATable

Form: TypeAlias = Floats
"""A combination of registers, network output and noises: `[R + 1 + N]`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Levels:
    """The noise levels that a sampler visits, of one model at one step count."""

    sigmas: tuple[float, ...]
    """From the noisiest to 0; one more than steps."""
    timesteps: tuple[float, ...]
    """What the network is told at each but the last."""
    log_training_sigmas: Floats
    """`[T]`: log sigma at the timesteps 0, 1, ... of the training; ascending."""
    initial: float
    """Standard deviation of the first latents."""
    prediction: str
    """What the network predicts: `epsilon`, `v_prediction` or `sample`."""

    def timestep(self, sigma: float) -> float:
        """Return what the network is told at a level between those visited.

        Linear in log sigma between the timesteps of the training, as k-diffusion's `sigma_to_t`.
        """
        positions = np.arange(len(self.log_training_sigmas))
        return float(np.interp(math.log(sigma), self.log_training_sigmas, positions))

    def denoised(self, x: Form, output: Form, sigma: float) -> Form:
        """Return the network's estimate of the image without noise, from its output at `x`.

        Raises:
            NotATable: the model predicts something that has no meaning here.
        """
        match self.prediction:
            case "epsilon":
                return x - sigma * output
            case "v_prediction":  # arXiv:2202.00512, appendix D, in terms of sigma
                return x / (sigma**2 + 1) - sigma / math.sqrt(sigma**2 + 1) * output
            case "sample":
                return output
        raise NotATable(f"it does not sample models of prediction_type {self.prediction}")

    def derivative(self, x: Form, output: Form, sigma: float) -> Form:
        """Return dx/dsigma of the probability flow: `to_d` of k-diffusion."""
        return (x - self.denoised(x, output, sigma)) / sigma


Steps: TypeAlias = Iterator[Evaluation]


def levels_of(scheduler: Any) -> Levels:  # noqa: ANN401 - diffusers' schedulers share no useful type
    """Return the levels of an `EulerDiscreteScheduler` whose timesteps are set.

    Raises:
        NotATable: the model is told something else than timesteps of its training.
    """
    if scheduler.config.timestep_type != "discrete":
        raise NotATable(
            f"it does not sample models of timestep_type {scheduler.config.timestep_type}"
        )
    alphas = scheduler.alphas_cumprod.double().numpy()
    return Levels(
        sigmas=tuple(scheduler.sigmas.tolist()),
        timesteps=tuple(scheduler.timesteps.tolist()),
        log_training_sigmas=0.5 * np.log((1 - alphas) / alphas),
        initial=float(scheduler.init_noise_sigma),
        prediction=str(scheduler.config.prediction_type),
    )


def discard_penultimate(levels: Levels) -> Levels:
    """Return the levels without the smallest but 0, as A1111 and ComfyUI do for DPM2.

    A1111's `discard_next_to_last_sigma` (`modules/sd_samplers_kdiffusion.py`): ask for one step
    more, then leave out the last but one.
    """
    return replace(
        levels,
        sigmas=(*levels.sigmas[:-2], levels.sigmas[-1]),
        timesteps=levels.timesteps[:-1],
    )


def _evaluation(
    x: Form, after: Sequence[Form], *, sigma: float, timestep: float, draws: int = 0
) -> Evaluation:
    """Return the evaluation of the network at `x`; `after` are the registers it leaves.

    Forms are over the registers before, the output and `draws` noises, in this order.
    """
    registers = len(x) - 1 - draws
    # c_in of k-diffusion's DiscreteEpsDDPMDenoiser
    scaled = x[:registers] / math.sqrt(sigma**2 + 1)
    return Evaluation(timestep=timestep, input=scaled, step=np.stack(after), draws=draws)


def _ancestral_step(sigma: float, following: float, eta: float) -> tuple[float, float]:
    """Return the level to go down to and the noise to add: k-diffusion's `get_ancestral_step`."""
    variance = following**2 * (sigma**2 - following**2) / sigma**2
    up = min(following, eta * math.sqrt(variance))
    return math.sqrt(following**2 - up**2), up


def _middle(sigma: float, other: float) -> float:
    """Return the level halfway in log sigma."""
    return math.sqrt(sigma * other)


def euler_ancestral(levels: Levels, eta: float) -> Steps:
    """`sample_euler_ancestral`."""
    for (sigma, following), timestep in zip(pairwise(levels.sigmas), levels.timesteps, strict=True):
        down, up = _ancestral_step(sigma, following, eta)
        x, output, noise = np.eye(3)
        d = levels.derivative(x, output, sigma)
        step = x + d * (down - sigma) + noise * up
        yield _evaluation(x, [step], sigma=sigma, timestep=timestep, draws=1)


def heun(levels: Levels, _: float) -> Steps:
    """`sample_heun` without churn; algorithm 1 of arXiv:2206.00364."""
    ahead = (*levels.timesteps[1:], 0.0)
    for (sigma, following), timestep, next_timestep in zip(
        pairwise(levels.sigmas), levels.timesteps, ahead, strict=True
    ):
        x, output = np.eye(2)
        d = levels.derivative(x, output, sigma)
        dt = following - sigma
        if following == 0:
            yield _evaluation(x, [x + d * dt], sigma=sigma, timestep=timestep)
            return
        yield _evaluation(x, [x + d * dt, d], sigma=sigma, timestep=timestep)
        x_2, d, output = np.eye(3)
        d_2 = levels.derivative(x_2, output, following)
        step = x_2 - d * dt + (d + d_2) / 2 * dt
        yield _evaluation(x_2, [step], sigma=following, timestep=next_timestep)


def lms(levels: Levels, _: float) -> Steps:
    """`sample_lms` of order 4, its integrals of polynomials done exactly."""
    order = 4
    for i, timestep in enumerate(levels.timesteps):
        sigma, following = levels.sigmas[i], levels.sigmas[i + 1]
        history = min(i, order - 1)
        x, *before, output = np.eye(1 + history + 1)
        ds = [levels.derivative(x, output, sigma), *before]
        nodes = [levels.sigmas[i - j] - sigma for j in range(len(ds))]
        weights = [_lagrange_integral(nodes, j, following - sigma) for j in range(len(ds))]
        step = x + sum(w * d for w, d in zip(weights, ds, strict=True))
        kept = ds[: order - 1]
        yield _evaluation(x, [step, *kept], sigma=sigma, timestep=timestep)


def _lagrange_integral(nodes: Sequence[float], j: int, end: float) -> float:
    """Return the integral from 0 to `end` of the Lagrange polynomial that is 1 at `nodes[j]`.

    By Gauss' rule with two points, which is exact for the cubics that four nodes make.
    """
    assert len(nodes) <= 4  # noqa: PLR2004 - a cubic has four
    others = [node for k, node in enumerate(nodes) if k != j]
    points = [end / 2 * (1 - 1 / math.sqrt(3)), end / 2 * (1 + 1 / math.sqrt(3))]
    heights = [math.prod((p - other) / (nodes[j] - other) for other in others) for p in points]
    return end / 2 * sum(heights)


def dpm_2(levels: Levels, _: float) -> Steps:
    """`sample_dpm_2` without churn."""
    for (sigma, following), timestep in zip(pairwise(levels.sigmas), levels.timesteps, strict=True):
        yield from _dpm_2_step(levels, sigma, timestep, down=following, up=0.0, draws=0)


def dpm_2_ancestral(levels: Levels, eta: float) -> Steps:
    """`sample_dpm_2_ancestral`."""
    for (sigma, following), timestep in zip(pairwise(levels.sigmas), levels.timesteps, strict=True):
        down, up = _ancestral_step(sigma, following, eta)
        yield from _dpm_2_step(levels, sigma, timestep, down=down, up=up, draws=1)


def _dpm_2_step(
    levels: Levels, sigma: float, timestep: float, *, down: float, up: float, draws: int
) -> Steps:
    x, output = np.eye(2)
    d = levels.derivative(x, output, sigma)
    if down == 0:
        yield _evaluation(x, [x + d * (down - sigma)], sigma=sigma, timestep=timestep)
        return
    middle = _middle(sigma, down)
    after = [x + d * (middle - sigma), x]
    yield _evaluation(x, after, sigma=sigma, timestep=timestep)
    x_2, x, output, *noises = np.eye(3 + draws)
    d_2 = levels.derivative(x_2, output, middle)
    step = x + d_2 * (down - sigma) + sum(noise * up for noise in noises)
    yield _evaluation(x_2, [step], sigma=middle, timestep=levels.timestep(middle), draws=draws)


def dpmpp_2s_ancestral(levels: Levels, eta: float) -> Steps:
    """`sample_dpmpp_2s_ancestral`."""
    for (sigma, following), timestep in zip(pairwise(levels.sigmas), levels.timesteps, strict=True):
        down, up = _ancestral_step(sigma, following, eta)
        x, output = np.eye(2)
        denoised = levels.denoised(x, output, sigma)
        if following == 0:
            yield _evaluation(x, [denoised], sigma=sigma, timestep=timestep)
            return
        middle = _middle(sigma, down)
        x_2 = middle / sigma * x + (1 - middle / sigma) * denoised
        yield _evaluation(x, [x_2, x], sigma=sigma, timestep=timestep)
        x_2, x, output, noise = np.eye(4)
        denoised_2 = levels.denoised(x_2, output, middle)
        step = down / sigma * x + (1 - down / sigma) * denoised_2 + noise * up
        yield _evaluation(x_2, [step], sigma=middle, timestep=levels.timestep(middle), draws=1)


def dpmpp_sde(levels: Levels, eta: float) -> Steps:
    """`sample_dpmpp_sde` with r = 1/2, its Brownian motion drawn piece by piece.

    k-diffusion asks a Brownian motion W in sigma for its normalised increments from a level to the
    middle, and from the level to the next. The two overlap, so the second is the first and an
    independent piece, in the proportion of their variances: the same law, from noises of the
    image's own generator. The tree of torchsde draws other numbers, so the picture of a seed is
    another one.
    """
    for (sigma, following), timestep in zip(pairwise(levels.sigmas), levels.timesteps, strict=True):
        if following == 0:
            x, output = np.eye(2)
            denoised = levels.denoised(x, output, sigma)
            yield _evaluation(x, [denoised], sigma=sigma, timestep=timestep)
            return
        x, output, first = np.eye(3)
        denoised = levels.denoised(x, output, sigma)
        middle = _middle(sigma, following)
        down, up = _ancestral_step(sigma, middle, eta)
        x_2 = down / sigma * x + (1 - down / sigma) * denoised + up * first
        yield _evaluation(x, [x_2, x, first], sigma=sigma, timestep=timestep, draws=1)
        x_2, x, first, output, second = np.eye(5)
        denoised_2 = levels.denoised(x_2, output, middle)
        down, up = _ancestral_step(sigma, following, eta)
        share = (sigma - middle) / (sigma - following)
        increment = math.sqrt(share) * first + math.sqrt(1 - share) * second
        step = down / sigma * x + (1 - down / sigma) * denoised_2 + up * increment
        yield _evaluation(x_2, [step], sigma=middle, timestep=levels.timestep(middle), draws=1)


_ADAMS_BASHFORTH = (
    (1.0,),
    (3 / 2, -1 / 2),
    (23 / 12, -16 / 12, 5 / 12),
    (55 / 24, -59 / 24, 37 / 24, -9 / 24),
)
"""Weights of the derivatives, newest first, by order."""


def ipndm(levels: Levels, _: float) -> Steps:
    """Improved PNDM of order 4, in sigma: Adams-Bashforth on dx/dsigma, as if steps were equal.

    As in zju-pi/diff-sampler (`ipndm_sampler`, after arXiv:2204.13902) and in ComfyUI
    (`sample_ipndm`), on the model's own noise levels; diffusers' IPNDMScheduler has levels of its
    own.
    """
    order = len(_ADAMS_BASHFORTH)
    for i, timestep in enumerate(levels.timesteps):
        sigma, following = levels.sigmas[i], levels.sigmas[i + 1]
        x, *before, output = np.eye(1 + min(i, order - 1) + 1)
        ds = [levels.derivative(x, output, sigma), *before]
        weights = _ADAMS_BASHFORTH[0 if following == 0 else len(ds) - 1]
        step = x + (following - sigma) * sum(w * d for w, d in zip(weights, ds, strict=False))
        kept = ds[: order - 1]
        yield _evaluation(x, [step, *kept], sigma=sigma, timestep=timestep)


_ALGORITHMS: Mapping[str, Callable[[Levels, float], Steps]] = MappingProxyType(
    {
        "euler_a": euler_ancestral,
        "heun": heun,
        "lms": lms,
        "dpm2": dpm_2,
        "dpm2_discard": dpm_2,
        "dpm2_a": dpm_2_ancestral,
        "dpm2_a_discard": dpm_2_ancestral,
        "dpmpp_2s_a": dpmpp_2s_ancestral,
        "dpmpp_sde": dpmpp_sde,
        "ipndm": ipndm,
    }
)
"""By the name of the sampler; each takes its levels and eta, which only the ancestral ones use."""
_DISCARDING = frozenset({"dpm2_discard", "dpm2_a_discard"})
_ROUNDING = frozenset({"dpm2", "dpm2_a"})
"""Samplers of diffusers that round the timesteps of Karras' levels, and are followed in that."""


def write_out(
    sampler: str,
    levels_at: Callable[[int], Any],
    *,
    steps: int,
    eta: float | None,
) -> tuple[float, list[Evaluation]]:
    """Return the first latents' standard deviation and every evaluation of a sampler.

    Args:
        sampler: one that `farm.samplers` calls handwritten.
        levels_at: makes an `EulerDiscreteScheduler` whose timesteps are set to so many steps.
        steps: how many.
        eta: share of the ancestral noise; None means all of it, as in k-diffusion.

    Raises:
        NotATable: the model predicts or is told what these samplers do not know.
    """
    discards = sampler in _DISCARDING
    scheduler = levels_at(steps + discards)
    levels = levels_of(scheduler)
    if discards:
        levels = discard_penultimate(levels)
    if sampler in _ROUNDING and scheduler.config.use_karras_sigmas:
        levels = replace(levels, timesteps=tuple(map(float, np.round(levels.timesteps))))
    return levels.initial, list(_ALGORITHMS[sampler](levels, 1.0 if eta is None else eta))
