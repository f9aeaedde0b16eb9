"""A bundle is read whole and unaltered, or not at all; and it is written whole, or not at all."""

from __future__ import annotations

import errno
import json
import os
import resource
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from export_onnx.saving import drafting, write_index
from farm.errors import ModelError, OutputError
from farm.render import open_renderer
from farm.render.lane.families import FAMILIES
from farm.render.lane.onnx_runtime import describe_bundle
from farm.render.models import ONNX_INDEX, list_models, resolve_model
from farm.render.onnx_bundle import ENCODERS_OF_FAMILY, OnnxBundle, open_bundle
from farm.task import PipelineKey
from farm.version import __version__

pytestmark = [pytest.mark.xdist_group("onnx"), pytest.mark.timeout(900)]


@pytest.fixture
def copy(tiny_bundle: OnnxBundle, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_bundle.folder, tmp_path / "bundle"))


def rewrite(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    index = json.loads((folder / ONNX_INDEX).read_text())
    change(index)
    (folder / ONNX_INDEX).write_text(json.dumps(index))


def test_a_copy_is_the_same_bundle(tiny_bundle: OnnxBundle, copy: Path) -> None:
    opened = open_bundle(copy)
    assert opened.model == tiny_bundle.model
    assert opened.model_sha256 == tiny_bundle.model_sha256
    assert set(opened.components) == {"text_encoder", "unet", "vae_decoder"}


def test_the_index_vouches_for_every_file(copy: Path) -> None:
    named = set(json.loads((copy / ONNX_INDEX).read_text())["files"])
    there = {path.relative_to(copy).as_posix() for path in copy.rglob("*") if path.is_file()}
    assert there - named == {ONNX_INDEX}


def test_a_newer_format_is_refused(copy: Path) -> None:
    rewrite(copy, lambda index: index.update(format=2))
    with pytest.raises(ModelError, match=r"format 2, and this farm reads up to 1") as caught:
        open_bundle(copy)
    assert "farm" in str(caught.value.note)


@pytest.mark.parametrize("name", ["unet/model.onnx", "tokenizer/tokenizer_config.json"])
def test_a_missing_file_is_named(copy: Path, name: str) -> None:
    (copy / name).unlink()
    with pytest.raises(ModelError, match=f"{name} is missing"):
        open_bundle(copy)


def test_a_longer_file_is_named(copy: Path) -> None:
    with (copy / "unet/model.onnx").open("ab") as file:
        file.write(b"\0")
    with pytest.raises(ModelError, match=r"unet/model\.onnx has [\d,]+ bytes instead of"):
        open_bundle(copy)


def test_one_altered_byte_is_found(copy: Path) -> None:
    path = copy / "vae_decoder/model.onnx"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(ModelError, match=r"vae_decoder/model\.onnx has been altered"):
        open_bundle(copy)


@pytest.mark.parametrize(
    "change",
    [
        lambda index: index.update(format="one"),
        lambda index: index["components"]["unet"].update(file="../elsewhere.onnx"),
        lambda index: index["files"].pop("unet/model.onnx"),
        lambda index: index.update(files=["unet/model.onnx"]),
    ],
)
def test_an_index_that_makes_no_sense_is_refused(
    copy: Path, change: Callable[[dict[str, Any]], object]
) -> None:
    rewrite(copy, change)
    with pytest.raises(ModelError, match=f"{ONNX_INDEX} cannot be read"):
        open_bundle(copy)


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda index: index.pop("opset"), "it lacks opset"),
        (lambda index: index["components"].pop("unet"), r"it lacks components\.unet"),
        (lambda index: index["components"]["unet"].pop("file"), r"components\.unet\.file"),
        (lambda index: index["components"].clear(), r"\.text_encoder, .*\.unet, .*\.vae_decoder"),
        (lambda index: _described(index).pop("normalised"), r"model\.description\.normalised"),
        (lambda index: _described(index).pop("family"), r"it lacks model\.description\.family"),
        (lambda index: index["files"]["unet/model.onnx"].pop("sha256"), "it lacks sha256"),
        (
            lambda index: _described(index).update(family="stable-diffusion-xl"),
            r"it lacks components\.text_encoder_2",
        ),
        (
            lambda index: _described(index).update(family="flux"),
            "family 'flux', and this farm knows stable-diffusion, stable-diffusion-xl",
        ),
        (
            lambda index: _described(index).update(normalised=[]),
            "normalised is not one value for each of text_encoder",
        ),
    ],
)
def test_what_an_index_lacks_is_named_with_who_wrote_it_and_what_to_do(
    copy: Path, change: Callable[[dict[str, Any]], object], fault: str
) -> None:
    rewrite(copy, change)
    with pytest.raises(ModelError, match=fault) as caught:
        open_bundle(copy)
    assert caught.value.where == str(copy)
    assert caught.value.note == f"made by farm {__version__}"
    assert "export the model again" in str(caught.value.hint)


def _described(index: dict[str, Any]) -> dict[str, Any]:
    described: dict[str, Any] = index["model"]["description"]
    return described


def test_every_family_that_a_lane_draws_may_come_as_a_bundle() -> None:
    assert set(ENCODERS_OF_FAMILY) == set(FAMILIES)


def test_what_the_installed_libraries_do_not_know_is_said_with_who_made_it(copy: Path) -> None:
    config = copy / "scheduler/scheduler_config.json"
    config.write_text(config.read_text().replace("DDIMScheduler", "FutureScheduler"))
    with pytest.raises(ModelError, match=r"cannot be used: .*FutureScheduler") as caught:
        describe_bundle(replace(_trusted(copy), made_by={"diffusers": "99.0"}))
    assert caught.value.note == "made with diffusers 99.0"


def _trusted(folder: Path) -> OnnxBundle:
    """Open a bundle that was changed on purpose."""
    write_index(folder, json.loads((folder / ONNX_INDEX).read_text()))
    return open_bundle(folder)


def test_a_folder_without_an_index_is_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="is no ONNX bundle"):
        open_bundle(tmp_path)


def test_models_lists_it_as_a_job_names_it(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FARM_MODELS", str(copy.parent))
    monkeypatch.setenv("XDG_CACHE_HOME", str(copy.parent / "empty"))
    [found] = [model for model in list_models() if model.kind == "onnx"]
    assert resolve_model(found.reference).path == copy
    assert found.size > 0


def test_models_lists_those_of_first_use_with_their_origin(
    copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    place = Path(shutil.copytree(copy, tmp_path / "farm/onnx/abc-float32"))
    shutil.copytree(copy, tmp_path / "farm/onnx/.abc-float32.draft-1")
    [found] = [model for model in list_models() if model.kind == "onnx"]
    assert resolve_model(found.reference).path == found.path == place
    assert found.made_from == json.loads((copy / ONNX_INDEX).read_text())["model"]["reference"]


@pytest.mark.parametrize("backend", ["diffusers", "torch"])
def test_other_backends_say_who_renders_it(copy: Path, backend: str) -> None:
    with pytest.raises(ModelError, match="which backend onnx renders"):
        open_renderer(PipelineKey(backend, str(copy), "float32"), device="cpu", threads=1)


# --- writing ------------------------------------------------------------------------------------


def test_a_draft_becomes_the_folder(tmp_path: Path) -> None:
    with drafting(tmp_path / "new") as draft:
        (draft / "file").write_text("content")
        assert not (tmp_path / "new").exists()
    assert (tmp_path / "new" / "file").read_text() == "content"
    assert [path.name for path in tmp_path.iterdir()] == ["new"]


def test_what_is_there_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("precious")
    with pytest.raises(OutputError, match="something at this place"), drafting(tmp_path):
        pytest.fail("the block must not run")
    assert (tmp_path / "file").read_text() == "precious"


@pytest.mark.parametrize("error", [KeyboardInterrupt, ModelError("missed")])
def test_nothing_half_written_stays(tmp_path: Path, error: BaseException) -> None:
    with pytest.raises((KeyboardInterrupt, ModelError)):
        _write_half(tmp_path / "new", error)
    assert not list(tmp_path.iterdir())


def _write_half(folder: Path, error: BaseException) -> None:
    with drafting(folder) as draft:
        (draft / "file").write_text("half")
        raise error


def test_a_full_disk_leaves_nothing(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        with pytest.raises(OutputError, match="cannot be written") as caught:
            _write_too_much(tmp_path / "new", hard)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "nothing is left" in str(caught.value)
    assert not list(tmp_path.iterdir())


def _write_too_much(folder: Path, hard: int) -> None:
    with drafting(folder) as draft:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
        (draft / "graph").write_bytes(bytes(2000))


@pytest.mark.parametrize(
    ("number", "step"),
    [
        (errno.ENOSPC, "make room there"),
        (errno.EDQUOT, "make room there"),
        (errno.EACCES, "that you may write to"),
        (errno.EROFS, "that you may write to"),
        (errno.ENOTDIR, "name another folder"),
    ],
)
def test_the_next_step_is_that_of_the_reason(tmp_path: Path, number: int, step: str) -> None:
    refusal = OSError(number, os.strerror(number))
    with pytest.raises(OutputError, match=os.strerror(number)) as caught:
        _write_half(tmp_path / "new", refusal)
    assert step in str(caught.value.hint)


def test_what_a_killed_export_left_is_swept(tmp_path: Path) -> None:
    (tmp_path / ".new.draft-abc").mkdir()
    with drafting(tmp_path / "new"):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["new"]


def test_an_index_is_written_twice_without_naming_itself(tmp_path: Path) -> None:
    (tmp_path / "one").write_text("1")
    write_index(tmp_path, {})
    write_index(tmp_path, {})
    assert list(json.loads((tmp_path / ONNX_INDEX).read_text())["files"]) == ["one"]
