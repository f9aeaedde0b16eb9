"""What `farm --version` names."""

from __future__ import annotations

from importlib import metadata

import pytest
from typer.testing import CliRunner

from farm.cli import app


def versions() -> dict[str, str]:
    lines = CliRunner().invoke(app, ["--version"]).stdout.splitlines()
    return dict(line.split(" ", 1) for line in lines)


def test_what_renders_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    installed = {"torch": "2.99", "onnxruntime": "1.99"}
    monkeypatch.setattr(metadata, "version", lambda name: _version(name, installed))
    assert {name: versions()[name] for name in installed} == installed
    assert versions()["ray"] == "not installed"


def test_a_build_of_onnx_runtime_is_named_as_it_is_installed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    installed = {"onnxruntime-gpu": "1.99"}
    monkeypatch.setattr(metadata, "version", lambda name: _version(name, installed))
    assert versions()["onnxruntime-gpu"] == "1.99"
    assert "onnxruntime" not in versions()


def _version(name: str, installed: dict[str, str]) -> str:
    if name not in installed:
        raise metadata.PackageNotFoundError(name)
    return installed[name]
