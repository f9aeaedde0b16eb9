"""The recipe's commands in their order, on two small drawings and for a few steps each."""

import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from sprites import __main__ as recipe
from sprites import autoencoder, denoiser, evaluate, networks
from sprites.catalogue import PIXEL_ART, SOURCES, STYLES, Subject
from sprites.files import write_array, write_json

SUBJECTS = [Subject("sword", "1f5e1", ("sword", "blade")), Subject("gem", "1f48e")]


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """A work folder as ``python -m sprites data`` leaves it: a bar and a square, in each source."""
    pixels = np.zeros((6, 128, 128, 4), np.uint8)
    pixels[:3, 56:72, 8:120] = (200, 200, 210, 255)
    pixels[3:, 24:104, 24:104] = (20, 120, 240, 255)
    write_array(tmp_path / "masters.npy", pixels)
    keys = [(subject.name, source) for subject in SUBJECTS for source in SOURCES]
    subjects = [asdict(subject) for subject in SUBJECTS]
    write_json(tmp_path / "masters.json", {"subjects": subjects, "keys": keys})
    return tmp_path


@pytest.mark.slow
def test_every_command_goes_on_from_the_one_before(
    work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(*words: str) -> None:
        monkeypatch.setattr(sys, "argv", ["sprites", *words, "--work", str(work), "--threads", "2"])
        recipe.main()

    run("autoencoder", "--minutes", "0.01", "--subjects", "1")
    run("encode", "--variants", "9", "--subjects", "2")
    latents, shots, _ = denoiser.read_latents(work)
    assert latents.shape == (72, networks.LATENT_CHANNELS, 16, 16)
    assert {(shot.subject, shot.style) for shot in shots} == {
        (subject.name, style) for subject in SUBJECTS for style in STYLES
    }
    plain = [shot for shot in shots if (shot.colour, shot.background) == (None, "white")]
    assert len(plain) >= denoiser.PLAIN_VARIANTS * len(SUBJECTS) * len(STYLES)
    assert not any(shot.is_mirrored for shot in shots)

    run("denoiser", "--minutes", "0.01")
    run("redraw")
    redrawn, of_shots = denoiser.read_redrawn(work)
    assert redrawn.shape == (len(of_shots), *latents.shape[1:])
    assert len(of_shots) == len(shots) // 2
    assert set(of_shots) <= set(shots)
    before = autoencoder.load_trained(work)
    run("decoder", "--minutes", "0.01", "--subjects", "2")
    after = autoencoder.load_trained(work)
    assert all(
        a.equal(b)
        for a, b in zip(before.encoder.parameters(), after.encoder.parameters(), strict=True)
    ), "a decoder's training leaves the latents' meaning alone"
    assert not all(
        a.equal(b)
        for a, b in zip(before.decoder.parameters(), after.decoder.parameters(), strict=True)
    )

    run("export", "--model", str(work / "model"))
    pipeline = networks.load_pipeline(work / "model")
    picture = evaluate.render(pipeline, [f"{PIXEL_ART} of a gem"], steps=1)
    assert picture.shape == (1, networks.SIZE, networks.SIZE, 3)
