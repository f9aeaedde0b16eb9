"""References to models: what each spelling means, without loading anything."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from farm.errors import ModelError
from farm.render import models
from farm.render.models import ModelSource, list_models, model_sha256, resolve_model


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A diffusers folder, as far as naming one goes."""
    path = tmp_path / "shelf" / "dream"
    path.mkdir(parents=True)
    (path / "model_index.json").write_text(json.dumps({"_class_name": "StableDiffusionPipeline"}))
    (path / "README.md").write_text("---\nlicense: cc0-1.0\ntags: [a]\n---\n# Dream\n")
    (path / "weights.safetensors").write_bytes(b"weights")
    return path


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("reference", "repository", "revision", "variant"),
    [
        ("owner/name", "owner/name", None, None),
        ("owner/name@main", "owner/name", "main", None),
        ("owner/name@refs/pr/3#fp16", "owner/name", "refs/pr/3", "fp16"),
        ("own-er/na.me-2#fp16", "own-er/na.me-2", None, "fp16"),
    ],
)
@pytest.mark.usefixtures("here")
def test_a_hub_id_may_carry_a_revision_and_a_variant(
    reference: str, repository: str, revision: str | None, variant: str | None
) -> None:
    assert resolve_model(reference) == ModelSource(
        reference=reference, kind="hub", repository=repository, revision=revision, variant=variant
    )


@pytest.mark.parametrize("name", ["x.ckpt", "x.PT", "dir/pytorch_model.bin", "owner/model.pth"])
def test_a_pickle_is_refused_with_the_reason(name: str) -> None:
    with pytest.raises(ModelError, match="runs the code inside it") as caught:
        resolve_model(name)
    assert ".safetensors" in str(caught.value.hint)


def test_a_url_is_refused() -> None:
    with pytest.raises(ModelError, match="is a URL"):
        resolve_model("https://example.org/model.safetensors")


def test_an_unknown_embedded_model_is_suggested_a_known_one(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models, "_BUILTIN", folder.parent)
    assert resolve_model("builtin:dream").path == folder
    with pytest.raises(ModelError, match="builtin:draem") as caught:
        resolve_model("builtin:draem")
    assert caught.value.hint == "did you mean 'builtin:dream'?"
    with pytest.raises(ModelError) as bare:
        resolve_model("dream")
    assert bare.value.hint == "did you mean 'builtin:dream'?"


def test_a_name_cannot_climb_out_of_the_embedded_models() -> None:
    with pytest.raises(ModelError):
        resolve_model("builtin:../builtin/sprites")


def test_files_and_folders_are_found_here_in_models_and_in_farm_models(
    folder: Path, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert resolve_model("shelf/dream").path == Path("shelf/dream")
    assert resolve_model(str(folder)).path == folder
    monkeypatch.setenv("FARM_MODELS", f"{here / 'nothing'}:{folder.parent}")
    assert resolve_model("dream").path == folder
    assert resolve_model("dream/weights.safetensors").kind == "file"
    local = here / "models" / "dream"
    local.parent.mkdir()
    folder.rename(local)
    assert resolve_model("dream").path == Path("models/dream")


@pytest.mark.usefixtures("here")
def test_what_is_not_there_says_where_it_was_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FARM_MODELS", "/mnt/models")
    with pytest.raises(ModelError) as caught:
        resolve_model("dreem.safetensors")
    assert caught.value.note is not None
    assert "looked in ., models, /mnt/models" in caught.value.note


def test_a_folder_without_an_index_is_no_model(folder: Path) -> None:
    (folder / "model_index.json").unlink()
    with pytest.raises(ModelError, match=r"holds neither model_index\.json nor"):
        resolve_model(str(folder))


def test_the_hash_of_a_file_is_that_of_its_bytes(folder: Path) -> None:
    source = resolve_model(str(folder / "weights.safetensors"))
    assert model_sha256(source) == hashlib.sha256(b"weights").hexdigest()


def test_the_hash_of_a_folder_is_of_what_it_renders_with(folder: Path) -> None:
    source = resolve_model(str(folder))
    before = model_sha256(source)
    (folder / "README.md").write_text("another card")
    (folder / ".hidden").mkdir()
    (folder / ".hidden" / "x.json").write_text("{}")
    assert model_sha256(source) == before
    (folder / "weights.safetensors").rename(folder / "others.safetensors")
    renamed = model_sha256(source)
    assert renamed != before
    (folder / "others.safetensors").write_bytes(b"weight!")
    assert model_sha256(source) not in {before, renamed}


def test_a_hash_is_remembered_until_the_file_changes(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = resolve_model(str(folder / "weights.safetensors"))
    first = model_sha256(source)
    monkeypatch.setattr("hashlib.file_digest", None)  # reading again would fail
    assert model_sha256(source) == first


def test_an_uncached_hub_model_has_no_known_hash() -> None:
    assert model_sha256(resolve_model("no-such-owner/no-such-model")) is None


def test_the_models_on_this_machine_are_listed_without_loading_them(
    folder: Path, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FARM_MODELS", str(folder.parent))
    (here / "models" / "sub").mkdir(parents=True)
    (here / "models" / "sub" / "one.safetensors").write_bytes(b"12345")
    found = {model.reference: model for model in list_models()}
    assert found["dream"].licence == "cc0-1.0"
    assert found["dream"].kind == "folder"
    assert found["sub/one.safetensors"].size == 5
    assert "dream/weights.safetensors" not in found
    for model in found.values():
        assert resolve_model(model.reference).kind == model.kind


def test_a_cached_hub_model_is_listed_and_known_by_its_commit(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = "0123456789abcdef0123456789abcdef01234567"
    cache = here / "hub"
    repository = cache / "models--owner--name"
    (repository / "blobs").mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    snapshot = repository / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (snapshot / "model_index.json").write_text("{}")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    monkeypatch.setattr("huggingface_hub.utils._cache_manager.HF_HUB_CACHE", str(cache))
    assert [model.reference for model in list_models() if model.kind == "hub"] == ["owner/name"]
    assert model_sha256(resolve_model("owner/name")) == commit
