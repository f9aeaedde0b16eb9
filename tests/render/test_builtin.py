"""The embedded model: here, whole, and rendering what it is asked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from farm.render import Renderer
from farm.render.models import list_models, model_sha256, resolve_model
from farm.task import Rendered, TaskSpec

pytestmark = pytest.mark.model

MODEL = "builtin:sprites"
TASK = TaskSpec(
    model=MODEL, prompt="a red sword", guidance_scale=4.0, num_inference_steps=2, seed=1
)


@pytest.fixture
def renderer(renderer_of: Callable[[str], Renderer]) -> Renderer:
    return renderer_of(MODEL)


def pixels_of(renderer: Renderer, task: TaskSpec) -> np.ndarray:
    [result] = renderer.render(iter([task]))
    assert isinstance(result, Rendered), result
    return result.pixels


def test_it_is_listed_with_its_size() -> None:
    [model] = [model for model in list_models() if model.reference == MODEL]
    assert model.kind == "builtin"
    assert 1_000_000 < model.size < 60_000_000


def test_it_makes_pictures_of_128_pixels_by_itself(renderer: Renderer) -> None:
    assert pixels_of(renderer, TASK).shape == (128, 128, 3)


def test_prompt_and_seed_change_the_picture(renderer: Renderer) -> None:
    picture = pixels_of(renderer, TASK)
    for change in (replace(TASK, prompt="a potion"), replace(TASK, seed=2)):
        assert not np.array_equal(picture, pixels_of(renderer, change))


def test_a_result_names_the_model_by_its_content(renderer: Renderer) -> None:
    [result] = renderer.render(iter([TASK]))
    assert isinstance(result, Rendered)
    assert result.facts.model_sha256 == model_sha256(resolve_model(MODEL))
