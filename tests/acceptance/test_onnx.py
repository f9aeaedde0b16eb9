"""The embedded model on ONNX Runtime: exported with proof, and compared as an axis."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

pytest.importorskip("onnxruntime")

if TYPE_CHECKING:
    from tests.acceptance.conftest import Farm

pytestmark = [
    pytest.mark.slow,
    pytest.mark.model,
    pytest.mark.xdist_group("model"),
    pytest.mark.timeout(1800),
]

JOB = """\
name: backends
output: {output}
defaults: {{num_inference_steps: 6, guidance_scale: 4.0}}
matrix:
  prompt: ["3d render of a sword, white background"]
  seed: 1..2
  backend: [torch, onnx]
"""


def test_an_exported_model_draws_what_the_model_draws(
    farm: Farm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    job = tmp_path / "job.yaml"
    job.write_text(JOB.format(output=tmp_path / "out"))

    first = farm("submit", job, "--executor", "inline", "--json")
    assert first.code == 0, first.err
    assert first.json["rendered"] == 4
    assert "exporting builtin:sprites to ONNX, once" in first.err

    asked = farm(
        "query", tmp_path / "out", "SELECT min(psnr) AS worst FROM catalog",
        "--compare", "backend=torch", "--format", "json",
    )  # fmt: skip
    assert asked.json[0]["worst"] is None or asked.json[0]["worst"] >= 40

    shown = farm("sheet", tmp_path / "out", "--x", "backend", "--y", "seed")
    assert shown.code == 0
    assert Path(shown.out.split()[0]).is_file()

    [bundle] = [path for path in (tmp_path / "cache/farm/onnx").iterdir() if path.is_dir()]
    report = json.loads((bundle / "report/parity.json").read_text())
    assert report["accepted"]
    assert report["worst_psnr"] is None or report["worst_psnr"] >= 40

    again = farm("submit", job, "--executor", "inline", "--force", "--json")
    assert "exporting" not in again.err
