"""What every renderer promises, tried on every renderer.

A new backend joins by one entry in `BACKENDS`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from farm.render import Renderer, open_renderer
from farm.render.difference import psnr
from farm.task import Failed, FailureKind, PipelineKey, Rendered, TaskSpec, task_id


@dataclass(frozen=True, kw_only=True)
class Backend:
    """A renderer under test, a task it can do, and one that it refuses if it refuses any."""

    renderer: Renderer
    task: TaskSpec
    impossible: TaskSpec | None


EXPORTED = [pytest.mark.xdist_group("onnx"), pytest.mark.timeout(900)]
"""Exported once a session, in the process of the tests of ONNX bundles."""
BACKENDS = [
    "pattern", "diffusers", "diffusers-xl", "diffusers-flow", "torch", "torch-xl",
    pytest.param("onnx", marks=EXPORTED),
    pytest.param("onnx-xl", marks=[*EXPORTED, pytest.mark.slow]),
]  # fmt: skip


@pytest.fixture(params=BACKENDS)
def backend(
    request: pytest.FixtureRequest,
    renderer_of: Callable[[Path, str], Renderer],
    tiny_sd: Path,
    tiny_sdxl: Path,
    tiny_flow: Path,
) -> Backend:
    task = TaskSpec(prompt="a red sword", num_inference_steps=2, guidance_scale=4.0, seed=1)
    if request.param == "pattern":
        task = replace(task, backend="pattern")
        renderer = open_renderer(PipelineKey("pattern", task.model, "auto"))
        return Backend(renderer=renderer, task=task, impossible=None)
    backend, _, family = request.param.partition("-")
    model = {"": tiny_sd, "xl": tiny_sdxl, "flow": tiny_flow}[family]
    if request.param == "onnx":
        request.getfixturevalue("tiny_bundle")
    task = replace(task, backend=backend, model=str(model))
    return Backend(
        renderer=renderer_of(model, backend),
        task=task,
        impossible=replace(task, clip_skip=60),
    )


def render(backend: Backend, *tasks: TaskSpec) -> dict[str, Rendered | Failed]:
    results = list(backend.renderer.render(iter(tasks)))
    assert len(results) == len(tasks)
    return {task_id(result.task): result for result in results}


def pixels_of(backend: Backend, *tasks: TaskSpec) -> list[np.ndarray]:
    results = render(backend, *tasks)
    found = [results[task_id(task)] for task in tasks]
    assert all(isinstance(result, Rendered) for result in found), found
    return [result.pixels for result in found if isinstance(result, Rendered)]


def test_every_task_has_exactly_one_result(backend: Backend) -> None:
    mixed = [
        replace(backend.task, seed=seed, num_inference_steps=steps, guidance_scale=guidance)
        for seed, steps, guidance in itertools.product(range(2), (1, 2), (1.0, 4.0))
    ]
    results = render(backend, *mixed)
    assert set(results) == {task_id(task) for task in mixed}


def test_an_empty_stream_has_no_results(backend: Backend) -> None:
    assert render(backend) == {}


def test_one_impossible_task_does_not_harm_its_neighbours(backend: Backend) -> None:
    if backend.impossible is None:
        pytest.skip("this renderer refuses nothing")
    tasks = [replace(backend.task, seed=seed) for seed in range(2)]
    results = render(backend, tasks[0], backend.impossible, tasks[1])
    failure = results[task_id(backend.impossible)]
    assert isinstance(failure, Failed)
    assert failure.kind is FailureKind.BAD_TASK
    assert "clip_skip" in failure.message
    assert all(isinstance(results[task_id(task)], Rendered) for task in tasks)


def test_a_stream_is_taken_a_bounded_number_ahead(backend: Backend) -> None:
    taken = 0

    def endless() -> Iterator[TaskSpec]:
        nonlocal taken
        while True:
            taken += 1
            # Settings change all the time, so nothing is gained by looking far ahead.
            yield replace(backend.task, seed=taken, num_inference_steps=1 + taken % 2)

    first = next(iter(backend.renderer.render(endless())))
    assert isinstance(first, Rendered)
    assert taken <= 1024


def test_the_same_task_gives_the_same_picture(backend: Backend) -> None:
    [first], [again] = pixels_of(backend, backend.task), pixels_of(backend, backend.task)
    assert np.array_equal(first, again)


def test_a_picture_does_not_depend_on_its_neighbours(backend: Backend) -> None:
    others = [replace(backend.task, seed=seed, prompt=f"bow {seed}") for seed in range(2, 5)]
    [alone] = pixels_of(backend, backend.task)
    *_, amid = pixels_of(backend, *others, backend.task)
    assert psnr(alone, amid) >= 40


@pytest.mark.parametrize("sampler", ["euler_a", "dpmpp_2m_sde", "ddpm", "lcm"])
def test_the_noise_of_each_step_belongs_to_the_picture(backend: Backend, sampler: str) -> None:
    if "sd3" in backend.task.model:
        pytest.skip("these samplers are not for flow models")
    task = replace(backend.task, sampler=sampler, num_inference_steps=4)
    others = [replace(task, seed=seed) for seed in range(2, 4)]
    [alone] = pixels_of(backend, task)
    *_, amid = pixels_of(backend, *others, task)
    assert psnr(alone, amid) >= 40


@pytest.mark.parametrize(
    "change",
    [{"seed": 2}, {"prompt": "a blue shield"}, {"guidance_scale": 9.0}, {"negative_prompt": "dim"}],
    ids=lambda change: next(iter(change)),
)
def test_seed_prompts_and_guidance_change_the_picture(
    backend: Backend, change: dict[str, str | float]
) -> None:
    changed = replace(backend.task, **change)  # type: ignore[arg-type] # one field by name
    before, after = pixels_of(backend, backend.task, changed)
    assert not np.array_equal(before, after)


@pytest.mark.parametrize(("height", "width"), [(32, 48), (64, 16)])
def test_the_picture_has_the_size_that_was_asked_for(
    backend: Backend, height: int, width: int
) -> None:
    [pixels] = pixels_of(backend, replace(backend.task, height=height, width=width))
    assert pixels.shape == (height, width, 3)


def test_pictures_are_contiguous_bytes_of_colour(backend: Backend) -> None:
    for pixels in pixels_of(backend, backend.task, replace(backend.task, seed=3)):
        assert pixels.dtype == np.uint8
        assert pixels.ndim == 3
        assert pixels.shape[2] == 3
        assert pixels.flags.c_contiguous


def test_a_result_says_what_it_cost(backend: Backend) -> None:
    [result] = backend.renderer.render(iter([backend.task]))
    assert isinstance(result, Rendered)
    assert result.render_ms > 0
    assert result.batch_size == 1
    assert result.denoiser_evaluations == (0 if backend.task.backend == "pattern" else 2 * 2)


def test_an_image_without_guidance_costs_one_evaluation_a_step(backend: Backend) -> None:
    [result] = backend.renderer.render(iter([replace(backend.task, guidance_scale=1.0)]))
    assert isinstance(result, Rendered)
    assert result.denoiser_evaluations == (0 if backend.task.backend == "pattern" else 2)
