"""A lane's pictures are those of diffusers' own pipelines, whatever shares the batch with them."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import diffusers
import numpy as np
import pytest
import torch

from farm.render import Renderer
from farm.render.difference import psnr
from farm.samplers import SAMPLERS, refuse
from farm.task import Failed, Rendered, RenderResult, TaskSpec

# diffusers' own dpm2_a in the installed NumPy.
pytestmark = pytest.mark.filterwarnings("ignore:__array_wrap__ must:DeprecationWarning")

LATENTS = 1e-3
"""Largest difference of latents, as a share of the largest latent."""
DECIBELS = 40.0

OpenRenderer = Callable[[Path | str, str], Renderer]


@pytest.fixture
def decoded() -> Iterator[list[torch.Tensor]]:
    """What every decoder is given while the test runs, one entry a picture."""
    seen: list[torch.Tensor] = []
    original = diffusers.AutoencoderKL.decode

    def decode(vae: object, latents: torch.Tensor, **options: object) -> object:
        seen.extend(latents.detach().clone())
        return original(vae, latents, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(diffusers.AutoencoderKL, "decode", decode)
        yield seen


def draw(
    renderer: Renderer, tasks: list[TaskSpec], decoded: list[torch.Tensor]
) -> dict[TaskSpec, tuple[np.ndarray, torch.Tensor]]:
    """Render and return pixels and final latents of every task."""
    decoded.clear()
    results: list[RenderResult] = list(renderer.render(iter(tasks)))
    failed = [result for result in results if isinstance(result, Failed)]
    assert not failed
    return {
        result.task: (result.pixels, latents)
        for result, latents in zip(results, decoded, strict=True)
        if isinstance(result, Rendered)
    }


def assert_equal_pictures(
    tasks: list[TaskSpec], lane: Renderer, oracle: Renderer, decoded: list[torch.Tensor]
) -> None:
    """Render `tasks` together in the lane and one by one with the oracle, and compare."""
    together = draw(lane, tasks, decoded)
    assert len(together) == len(tasks)
    for task in tasks:
        [(expected, expected_latents)] = draw(oracle, [task], decoded).values()
        pixels, latents = together[task]
        error = (latents - expected_latents).abs().max() / expected_latents.abs().max()
        assert error < LATENTS, task
        assert psnr(pixels, expected) >= DECIBELS, task


def every_sampler(model: Path, *, schedules: str, steps: int) -> list[TaskSpec]:
    pairs = [
        (sampler.name, schedule)
        for sampler in SAMPLERS.values()
        for schedule in (sampler.schedules if schedules == "all" else sampler.schedules[:1])
        if sampler.family == "diffusion"
        and not sampler.one_noise_per_batch  # other noise of the same law; see its own test
        and not refuse(backend="diffusers", sampler=sampler.name, sigma_schedule=schedule)
    ]
    return [
        TaskSpec(
            model=str(model), prompt="a red sword", negative_prompt="rust", seed=seed,
            sampler=sampler, sigma_schedule=schedule, num_inference_steps=steps + seed % 3,
            guidance_scale=(1.0, 3.0, 7.5)[seed % 3],
        )
        for seed, (sampler, schedule) in enumerate(pairs)
    ]  # fmt: skip


def test_one_batch_of_every_sampler_draws_what_the_pipeline_draws(
    renderer_of: OpenRenderer, tiny_sd: Path, decoded: list[torch.Tensor]
) -> None:
    tasks = every_sampler(tiny_sd, schedules="default", steps=4)
    assert len(tasks) > 12
    oracle = renderer_of(tiny_sd, "diffusers")
    assert_equal_pictures(tasks, renderer_of(tiny_sd, "torch"), oracle, decoded)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["sd", "xl"])
def test_every_sampler_and_schedule_draws_what_the_pipeline_draws(
    family: str,
    renderer_of: OpenRenderer,
    tiny_sd: Path,
    tiny_sdxl: Path,
    decoded: list[torch.Tensor],
) -> None:
    model = {"sd": tiny_sd, "xl": tiny_sdxl}[family]
    tasks = [
        task
        for task in every_sampler(model, schedules="all", steps=20)
        # The scheduler that a model ships with need not have every schedule: both refuse then.
        if task.sampler != "default" or task.sigma_schedule == "default"
    ]
    oracle = renderer_of(model, "diffusers")
    assert_equal_pictures(tasks, renderer_of(model, "torch"), oracle, decoded)


@pytest.mark.parametrize("family", ["sd", "xl"])
def test_every_setting_means_what_it_means_to_the_pipeline(
    family: str,
    renderer_of: OpenRenderer,
    tiny_sd: Path,
    tiny_sdxl: Path,
    decoded: list[torch.Tensor],
) -> None:
    model = {"sd": tiny_sd, "xl": tiny_sdxl}[family]
    base = TaskSpec(model=str(model), prompt="shield", num_inference_steps=3, seed=11)
    tasks = [
        base,
        replace(base, prompt=""),
        replace(base, negative_prompt="blue"),
        replace(base, guidance_scale=1.0),
        replace(base, guidance_scale=0.5),
        replace(base, guidance_rescale=0.7),
        replace(base, guidance_rescale=0.0),
        replace(base, clip_skip=0),
        replace(base, clip_skip=1, negative_prompt="blue"),
        replace(base, sampler="ddim", eta=0.0),
        replace(base, sampler="ddim", eta=0.6),
        replace(base, num_inference_steps=1),
        replace(base, height=16, width=48),
        replace(base, height=48, width=16, guidance_scale=1.0),
    ]
    oracle = renderer_of(model, "diffusers")
    assert_equal_pictures(tasks, renderer_of(model, "torch"), oracle, decoded)


@pytest.mark.model
def test_the_embedded_model_draws_the_same_sprites(
    renderer_of: OpenRenderer, decoded: list[torch.Tensor]
) -> None:
    prompts, samplers = ("a red sword", "a wooden shield"), ("default", "euler_a")
    tasks = [
        TaskSpec(prompt=prompt, sampler=sampler, guidance_scale=guidance, num_inference_steps=4)
        for prompt, sampler, guidance in itertools.product(prompts, samplers, (1.0, 5.0))
    ]
    oracle = renderer_of("builtin:sprites", "diffusers")
    assert_equal_pictures(tasks, renderer_of("builtin:sprites", "torch"), oracle, decoded)
