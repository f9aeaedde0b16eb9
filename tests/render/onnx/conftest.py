"""One bundle of the small Stable Diffusion, made once, as first use makes it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from farm.render.exporting import bundle_of
from farm.render.onnx_bundle import OnnxBundle

pytest.importorskip("onnxruntime")


@pytest.fixture(scope="session")
def tiny_bundle(tiny_sd: Path, tmp_path_factory: pytest.TempPathFactory) -> OnnxBundle:
    """In the cache that all tests of the session share, where a renderer finds it too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))
        assert "cache" in os.environ["XDG_CACHE_HOME"]
        return bundle_of(str(tiny_sd), dtype="float32", threads=1)
