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

ROOT = Path(__file__).parents[2]


def test_an_exported_model_draws_what_the_model_draws(
    farm: Farm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(ROOT)
    submit = (
        "submit", "jobs/compare_backends.yaml", "--set", f"output={tmp_path / 'out'}",
        "--set", "num_inference_steps=6", "--executor", "inline", "--json",
    )  # fmt: skip
    first = farm(*submit)
    assert first.code == 0, first.err
    assert first.json["rendered"] == 9
    assert {path.name for path in (tmp_path / "out/sheets").iterdir()} == {
        "backend-subject.png",
        "difference.png",
    }
    assert "backend onnx: builtin:sprites is exported first" in first.err
    assert "exporting builtin:sprites to ONNX, once" in first.err

    asked = farm(
        "query", tmp_path / "out",
        "SELECT backend, min(psnr) AS worst FROM catalog GROUP BY backend ORDER BY backend",
        "--compare", "backend=torch", "--format", "json",
    )  # fmt: skip
    worst = {row["backend"]: row["worst"] for row in asked.json}
    assert worst["onnx"] >= 40
    assert worst["diffusers"] >= 40
    assert worst["torch"] is None

    [bundle] = [path for path in (tmp_path / "cache/farm/onnx").iterdir() if path.is_dir()]
    report = json.loads((bundle / "report/parity.json").read_text())
    assert report["accepted"]
    assert report["worst_psnr"] is None or report["worst_psnr"] >= 40

    again = farm(*submit, "--force")
    assert again.json["rendered"] == 9
    assert "is exported first" not in again.err
    assert "exporting" not in again.err
