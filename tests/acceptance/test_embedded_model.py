"""The main job on the model that the repository carries, through diffusers, as `make demo` does."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
import pytest

if TYPE_CHECKING:
    from tests.acceptance.conftest import Farm

pytestmark = [pytest.mark.model, pytest.mark.xdist_group("model")]

JOB = """\
name: one_impossible
output: {output}
model: builtin:sprites
defaults: {{num_inference_steps: 3, guidance_scale: 4.0}}
matrix:
  prompt: ["3d render of a sword, white background", "pixel art of a red dragon"]
  clip_skip: [0, 60]      # the text encoder has no sixty layers to skip
  seed: 1..2
exclude:
  - "clip_skip == 60 and (seed == 2 or prompt == 'pixel art of a red dragon')"
"""
INLINE = ("--executor", "inline", "--json")


@pytest.fixture
def job_file(tmp_path: Path) -> Path:
    path = tmp_path / "job.yaml"
    path.write_text(JOB.format(output=tmp_path / "out"))
    return path


def test_an_impossible_task_is_one_failed_row_and_harms_no_other(
    farm: Farm, job_file: Path, tmp_path: Path
) -> None:
    done = farm("submit", job_file, *INLINE)
    assert (done.code, done.json["rendered"], done.json["failed"]) == (1, 4, 1)
    rows = pd.read_parquet(tmp_path / "out" / "catalog")
    [failed] = rows[rows["status"] == "failed"].to_dict("records")
    assert failed["error_kind"] == "bad_task"
    assert "clip_skip" in failed["error_message"]
    assert set(rows[rows["status"] == "rendered"]["width"]) == {128}

    again = farm("submit", job_file, *INLINE)
    assert (again.code, again.json["rendered"]) == (1, 0), "an old failure is not success"
    retried = farm("submit", job_file, *INLINE, "--retry-failed")
    assert (retried.code, retried.json["rendered"], retried.json["failed"]) == (1, 0, 1)
    assert farm("verify", tmp_path / "out").code == 0
