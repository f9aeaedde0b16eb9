"""The folder in the repository is what the recipe makes and what diffusers loads."""

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch

from sprites import evaluate, networks, tokens
from sprites.__main__ import MODEL
from sprites.catalogue import SUBJECTS, plain_caption, read_subjects
from sprites.export import LIMIT_BYTES

pytestmark = [pytest.mark.model, pytest.mark.xdist_group("model")]


def test_it_is_small_enough_for_the_repository() -> None:
    assert sum(path.stat().st_size for path in MODEL.rglob("*") if path.is_file()) < LIMIT_BYTES


def test_a_wheel_carries_it_whole(tmp_path: Path) -> None:
    root = Path(__file__).resolve().parents[2]
    built = subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", tmp_path],
        cwd=root,
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stderr
    [wheel] = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        packed = {
            name: archive.read(name)
            for name in archive.namelist()
            if name.startswith(f"{MODEL.relative_to(root).as_posix()}/")
        }
    assert packed == {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in MODEL.rglob("*")
        if path.is_file()
    }


def test_its_words_are_the_catalogues() -> None:
    labels = [line.partition(" = ")[0] for line in SUBJECTS.strip().splitlines()]
    subjects = read_subjects({"label": label, "hexcode": ""} for label in labels)
    vocabulary = json.loads((MODEL / "tokenizer" / "vocab.json").read_text("utf-8"))
    assert vocabulary == tokens.build(subjects).get_vocab()


def test_diffusers_alone_loads_it_and_draws() -> None:
    pipeline = networks.load_pipeline(Path(MODEL))
    parts = (pipeline.unet, pipeline.vae, pipeline.text_encoder)
    assert {part.dtype for part in parts} == {torch.float32}
    prompts = [plain_caption(shot) for shot in evaluate.sheet_shots(["sword"])[:2]]
    pictures = evaluate.render(pipeline, prompts, steps=2)
    assert pictures.shape == (2, networks.SIZE, networks.SIZE, 3)
    assert pictures.std() > 1
