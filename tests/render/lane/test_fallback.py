"""What the lane does not know is rendered by diffusers' own pipeline, and said to be."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from farm.render import Remarkable, open_renderer
from farm.task import PipelineKey, Rendered, TaskSpec


def test_a_model_of_another_family_is_rendered_by_its_own_pipeline(
    tiny_flow: Path, caplog: pytest.LogCaptureFixture
) -> None:
    key = PipelineKey("torch", str(tiny_flow), "float32")
    with caplog.at_level(logging.WARNING, logger="farm"):
        renderer = open_renderer(key, device="cpu", threads=1)
    assert isinstance(renderer, Remarkable)
    remark = renderer.remark or ""
    assert "StableDiffusion3Pipeline is of no family that the lane knows" in remark
    assert remark in [record.getMessage() for record in caplog.records]
    task = TaskSpec(model=str(tiny_flow), backend="torch", prompt="a", num_inference_steps=1)
    [result] = renderer.render(iter([task]))
    assert isinstance(result, Rendered)
    assert result.facts.renderer == "pipeline"
