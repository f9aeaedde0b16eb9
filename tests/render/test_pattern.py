"""The model-free renderer: the same bytes everywhere, and every axis shows."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from farm.render.pattern import paint
from farm.task import TaskSpec

# The backend is written out because the bytes below are a function of the whole task.
TASK = TaskSpec(
    backend="diffusers", prompt="a red sword", guidance_scale=4.0, num_inference_steps=20, seed=7
)


def test_the_same_task_gives_the_same_bytes_on_every_machine() -> None:
    sheet = [paint(replace(TASK, seed=seed, width=120 + 8 * seed)).tobytes() for seed in range(6)]
    digest = hashlib.sha256(b"".join(sheet)).hexdigest()
    assert digest == "9b349e0ea7d599d1aab97bdc5ea7175202c65b2c10c8c898dff03d99e248b078"


@pytest.mark.parametrize(
    "change",
    [
        {"prompt": "a blue shield"},
        {"negative_prompt": "blurry"},
        {"seed": 8},
        {"guidance_scale": 7.5},
        {"num_inference_steps": 4},
        {"sampler": "euler_a"},
        {"sigma_schedule": "karras"},
        {"model": "builtin:other"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_every_field_shows(change: dict[str, str | int | float]) -> None:
    assert not np.array_equal(paint(TASK), paint(replace(TASK, **change)))  # type: ignore[arg-type] # one field at a time


def test_the_seed_moves_the_figure_and_the_prompt_only_colours_it() -> None:
    def outline(task: TaskSpec) -> set[tuple[int, int]]:
        # The outline is the darkest colour of the palette, whatever its hue.
        dark = paint(task).max(axis=2) <= 60
        return set(zip(*map(tuple, np.nonzero(dark)), strict=True))

    same, other = (
        len(outline(TASK) ^ outline(changed))
        for changed in (replace(TASK, prompt="a blue shield"), replace(TASK, seed=8))
    )
    assert same < other / 4


@given(
    height=st.integers(1, 80).map(lambda n: n * 8),
    width=st.integers(1, 80).map(lambda n: n * 8),
    seed=st.integers(0, 2**63 - 1),
    guidance=st.floats(0, 1000),
    steps=st.integers(1, 10_000),
)
def test_any_size_and_setting_gives_a_picture_of_that_size(
    height: int, width: int, seed: int, guidance: float, steps: int
) -> None:
    pixels = paint(
        replace(
            TASK, height=height, width=width, seed=seed, guidance_scale=guidance,
            num_inference_steps=steps,
        )
    )  # fmt: skip
    assert pixels.shape == (height, width, 3)
    assert pixels.dtype == np.uint8
    assert pixels.flags.c_contiguous


def test_a_tall_picture_is_painted_in_strips_without_a_seam() -> None:
    tall = paint(replace(TASK, height=1024, width=64))
    steps = np.abs(np.diff(tall[:, 32].astype(int), axis=0)).max(axis=1)
    seams = steps[[255, 511, 767]]
    assert seams.max() <= 8
