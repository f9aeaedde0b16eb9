"""Loading: every kind of source draws the same, and what cannot be loaded says what to do."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from huggingface_hub import errors as hub_errors

from farm.errors import InputError, ModelError
from farm.render import open_renderer
from farm.task import PipelineKey, Rendered, TaskSpec


def render_one(task: TaskSpec) -> Rendered:
    renderer = open_renderer(PipelineKey("diffusers", task.model, task.dtype), device="cpu")
    [result] = renderer.render(iter([task]))
    renderer.close()
    assert isinstance(result, Rendered), result
    return result


def task_of(model: Path | str, **fields: object) -> TaskSpec:
    settings = {"prompt": "a red sword", "num_inference_steps": 2, "guidance_scale": 4.0, "seed": 5}
    return TaskSpec(model=str(model), **{**settings, **fields})  # type: ignore[arg-type] # fields by name


def test_a_folder_loads_and_says_what_rendered(tiny_sd: Path) -> None:
    result = render_one(task_of(tiny_sd))
    assert result.pixels.shape == (32, 32, 3)
    assert result.facts.dtype == "float32"
    assert result.facts.device == "cpu"
    assert result.facts.torch_version == torch.__version__
    assert result.facts.model_sha256 is not None


def test_a_single_file_draws_what_its_folder_draws(
    tiny_sd: Path, tiny_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FARM_SINGLE_FILE_CONFIG", str(tiny_sd))
    single = render_one(task_of(tiny_file))
    assert np.array_equal(single.pixels, render_one(task_of(tiny_sd)).pixels)
    assert single.facts.model_sha256 == hashlib.sha256(tiny_file.read_bytes()).hexdigest()


def test_a_single_file_takes_the_folder_beside_it_which_needs_no_weights(
    tiny_sd: Path, tiny_file: Path, tmp_path: Path
) -> None:
    shutil.copy(tiny_file, tmp_path / "dream.safetensors")
    shutil.copytree(tiny_sd, tmp_path / "dream", ignore=shutil.ignore_patterns("*.safetensors"))
    single = render_one(task_of(tmp_path / "dream.safetensors"))
    assert np.array_equal(single.pixels, render_one(task_of(tiny_sd)).pixels)


def test_a_single_file_without_a_description_says_how_to_get_one(tiny_file: Path) -> None:
    error = refusal_of(tiny_file)
    assert "a single file holds weights only" in error.message
    assert error.hint is not None
    assert error.hint.startswith(
        "hf download stable-diffusion-v1-5/stable-diffusion-v1-5 --include"
    )
    assert "FARM_SINGLE_FILE_CONFIG" in str(error.note)


def test_a_wrong_description_folder_is_named(
    tiny_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FARM_SINGLE_FILE_CONFIG", str(tmp_path))
    assert "FARM_SINGLE_FILE_CONFIG" in refusal_of(tiny_file).message


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_the_dtype_is_the_one_asked_for(tiny_sd: Path, dtype: str) -> None:
    result = render_one(task_of(tiny_sd, dtype=dtype))
    assert result.facts.dtype == dtype
    exact = render_one(task_of(tiny_sd)).pixels.astype(float)
    assert np.abs(result.pixels - exact).mean() < 8


def refusal_of(model: Path | str, *, device: str = "cpu") -> ModelError:
    with pytest.raises(ModelError) as caught:
        open_renderer(PipelineKey("diffusers", str(model), "auto"), device=device)
    return caught.value


def test_a_hub_model_that_is_not_cached_says_what_to_run_without_network() -> None:
    error = refusal_of("no-such-owner/no-such-model@v2")
    assert "no-such-owner/no-such-model@v2" in error.message
    assert error.note == "HF_HUB_OFFLINE=1 forbids downloads"
    assert "`hf download no-such-owner/no-such-model --revision v2`" in str(error.hint)


def test_a_cached_hub_model_renders_without_network(
    tiny_sd: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = tmp_path / "models--owner--tiny"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    shutil.copytree(tiny_sd, repository / "snapshots" / commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(
        "diffusers.pipelines.pipeline_utils.HF_HUB_CACHE", str(tmp_path), raising=False
    )
    result = render_one(task_of("owner/tiny"))
    assert result.facts.model_sha256 == commit
    assert np.array_equal(result.pixels, render_one(task_of(tiny_sd)).pixels)


@pytest.mark.parametrize(
    ("kind", "message", "hint"),
    [
        (hub_errors.GatedRepoError, "is gated", "hf auth login"),
        (hub_errors.RepositoryNotFoundError, "the hub has no model", "spelling"),
        (hub_errors.RevisionNotFoundError, "has no such revision", "leave out @revision"),
    ],
)
def test_what_the_hub_refuses_is_told_apart(
    kind: type[hub_errors.HfHubHTTPError],
    message: str,
    hint: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def download(*_: object, **__: object) -> None:
        raise OSError("Cannot load model") from kind("no", response=Mock())

    monkeypatch.setattr("diffusers.DiffusionPipeline.download", download)
    error = refusal_of("owner/name")
    assert message in error.message
    assert hint in str(error.hint)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ValueError("no such modeling files for variant=fp16"), "variant=fp16"),
        (OSError("Could not find the necessary `safetensors` weights"), "pickles only"),
    ],
)
def test_a_repository_without_the_right_weights_says_so(
    error: Exception, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def download(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("diffusers.DiffusionPipeline.download", download)
    assert message in refusal_of("owner/name#fp16").message


@pytest.fixture
def broken(tiny_sd: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_sd, tmp_path / "broken"))


def rewrite_index(folder: Path, **entries: object) -> None:
    index = folder / "model_index.json"
    index.write_text(json.dumps({**json.loads(index.read_text()), **entries}))


def test_weights_that_are_only_a_pickle_are_refused(broken: Path) -> None:
    weights = broken / "unet" / "diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_suffix(".bin"))
    error = refusal_of(broken)
    assert "safetensors" in f"{error.message} {error.hint}"


def test_a_damaged_file_is_named(broken: Path) -> None:
    (broken / "vae" / "diffusion_pytorch_model.safetensors").write_bytes(b"damaged")
    error = refusal_of(broken)
    assert str(broken) in str(error)


def test_a_damaged_index_is_named(broken: Path) -> None:
    (broken / "model_index.json").write_text("{")
    assert "model_index.json cannot be read" in refusal_of(broken).message


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("StableDiffusionInpaintPipeline", "does not make an image from text alone"),
        ("StableDiffusionImg2ImgPipeline", "does not make an image from text alone"),
        ("StableDiffusionControlNetPipeline", "does not make an image from text alone"),
        ("AnimateDiffPipeline", "does not make an image from text alone"),
        ("MadeUpPipeline", "has no pipeline 'MadeUpPipeline'"),
        (["my_code", "MyPipeline"], "runs no code from models"),
    ],
)
def test_what_is_no_text_to_image_pipeline_is_refused(
    name: object, reason: str, broken: Path
) -> None:
    rewrite_index(broken, _class_name=name)
    assert reason in refusal_of(broken).message


def test_code_that_comes_with_a_model_is_not_run(broken: Path) -> None:
    rewrite_index(broken, unet=["my_unet", "MyUNet"])
    (broken / "unet" / "my_unet.py").write_text("raise SystemExit('ran')\nclass MyUNet: pass\n")
    refusal_of(broken)


def test_a_device_that_is_not_here_is_bad_input(tiny_sd: Path) -> None:
    with pytest.raises(InputError, match="device 'cuda:99' cannot be used here"):
        open_renderer(PipelineKey("diffusers", str(tiny_sd), "auto"), device="cuda:99")
    with pytest.raises(InputError, match="device 'gpu' cannot be used here"):
        open_renderer(PipelineKey("diffusers", str(tiny_sd), "auto"), device="gpu")
