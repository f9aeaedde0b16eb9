"""Measure an exported model folder: words obeyed, subjects found again, speed, picture quality.

Everything is measured on the pictures' pixels and by the same code on real pictures first: a
number for the model means little where the measure itself fails on the truth.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from sprites.autoencoder import psnr, to_pictures, to_tensor
from sprites.catalogue import (
    BACKGROUNDS,
    COLOURS,
    DEFAULT_BACKGROUND,
    STYLES,
    Shot,
    is_held_out,
    plain_caption,
)
from sprites.data import Masters
from sprites.networks import SIZE, Pipeline, load_pipeline
from sprites.pictures import Bytes, Floats, border, nearest_background, nearest_colour

log = logging.getLogger(__name__)

GUIDANCE, STEPS = 4.0, 20
GUIDANCES, STEP_COUNTS = (1.0, 2.0, 4.0, 7.0), (5, 10, 20, 40)
BATCH = 16
TOP = 5

SHEET_SUBJECTS = [
    "sword",
    "shield",
    "gem",
    "crown",
    "key",
    "potion",
    "mushroom",
    "castle",
    "dragon",
    "coin",
    "bomb",
    "candle",
    "axe",
    "hammer",
    "apple",
    "rocket",
    "house",
    "tree",
    "cat",
    "fox",
    "frog",
    "fish",
    "ghost",
    "skull",
    "robot",
]
"""Subjects of the fixed sheet: 25, each in all four styles."""


@dataclass(frozen=True)
class Score:
    """Shares, 0 to 1, of pictures that show what was asked for; ``None`` where none was asked."""

    pictures: int
    background: float
    colour: float | None
    top_1: float
    top_5: float


class Gallery:
    """Finds a picture's subject among all real drawings.

    The feature is a histogram of oriented gradients (Dalal and Triggs, 2005) of the difference
    from the background, and a coarse mask of that difference: it knows shapes and no hues. A
    subject's distance is that of its nearest drawing, in any style, mirrored or not.
    """

    def __init__(self, masters: Masters) -> None:
        shots = [
            Shot(name, style, None, DEFAULT_BACKGROUND, is_mirrored)
            for name, style in masters.pairs
            for is_mirrored in (False, True)
        ]
        self._subjects = np.array([shot.subject for shot in shots])
        self._features = np.stack([features(masters.draw(shot)) for shot in shots])
        self._names = list(masters.subjects)

    def nearest(self, picture: Bytes) -> list[str]:
        """All subjects, the most similar one first."""
        similarity = self._features @ features(picture)
        order = self._subjects[np.argsort(-similarity)]
        return list(dict.fromkeys(order.tolist()))


def features(picture: Bytes) -> Floats:
    """``float32 [2304 + 256]`` of unit length, from ``uint8 [128, 128, 3]``."""
    ground = np.median(border(picture), axis=0).astype(np.float32)
    difference = (picture.astype(np.float32) - ground) / 255
    mask = np.minimum(np.abs(difference).max(-1) * 3, 1)
    light = difference @ np.array([0.35, 0.4, 0.25], np.float32)
    cells = SIZE // 8
    histogram = np.zeros((cells, cells, 9), np.float32)
    for plane in (light, mask):
        down, across = np.gradient(plane)
        strength = np.sqrt(np.hypot(down, across))
        angle = np.rint(np.arctan2(down, across) / np.pi * 9).astype(int) % 9
        for index in range(9):
            part = np.where(angle == index, strength, 0)
            histogram[..., index] += part.reshape(cells, 8, cells, 8).mean((1, 3))
    coarse = mask.reshape(cells, 8, cells, 8).mean((1, 3))
    parts = [histogram.ravel(), (coarse - coarse.mean()).ravel()]
    weighted = [
        weight * part / (np.linalg.norm(part) + 1e-6)
        for weight, part in zip((0.8, 0.6), parts, strict=True)
    ]
    return np.concatenate(weighted).astype(np.float32)


def random_shots(masters: Masters, count: int, seed: int) -> list[Shot]:
    """Shots to ask for: half of them coloured, all backgrounds alike; held-out ones may occur."""
    rng = np.random.default_rng([seed, 2_000_003])
    names = list(masters.subjects)
    return [
        Shot(
            subject=names[int(rng.integers(len(names)))],
            style=STYLES[index % len(STYLES)],
            colour=str(rng.choice(list(COLOURS))) if index // len(STYLES) % 2 else None,
            background=str(rng.choice(list(BACKGROUNDS))),
        )
        for index in range(count)
    ]


def sheet_shots() -> list[Shot]:
    """The fixed 100: 25 subjects in four styles, of which about a third were never seen.

    The flat icons are on white in their own colours; every other style turns them and changes the
    background, every second time to a combination that was held out.
    """
    rng = np.random.default_rng(100)
    shots: list[Shot] = []
    for row, subject in enumerate(SHEET_SUBJECTS):
        for style in STYLES:
            if style == "flat icon":
                shots.append(Shot(subject, style, None, DEFAULT_BACKGROUND))
                continue
            wants_held_out = (row + STYLES.index(style)) % 2 == 0
            while True:
                colour = str(rng.choice(list(COLOURS)))
                background = str(rng.choice(list(BACKGROUNDS)))
                if colour != background and wants_held_out == is_held_out(
                    subject, colour, background
                ):
                    break
            shots.append(Shot(subject, style, colour, background))
    return shots


def render(
    pipeline: Pipeline,
    prompts: Sequence[str],
    *,
    steps: int = STEPS,
    guidance: float = GUIDANCE,
    seed: int = 0,
) -> Bytes:
    """One picture a prompt, ``uint8 [prompts, 128, 128, 3]``; the first has seed ``seed``."""
    made: list[NDArray[np.float32]] = []
    for start in range(0, len(prompts), BATCH):
        part = list(prompts[start : start + BATCH])
        generators = [torch.Generator().manual_seed(seed + start + i) for i in range(len(part))]
        made.append(
            pipeline(
                part,
                height=SIZE,
                width=SIZE,
                num_inference_steps=steps,
                guidance_scale=guidance,
                generator=generators,
                output_type="np",
            ).images
        )
    return (np.concatenate(made) * 255 + 0.5).astype(np.uint8)


def score(gallery: Gallery, pictures: Bytes, shots: Sequence[Shot]) -> Score:
    """How many of the pictures show their shot's background, colour and subject."""
    backgrounds: list[bool] = []
    colours: list[bool] = []
    ranks: list[int] = []
    for picture, shot in zip(pictures, shots, strict=True):
        backgrounds.append(nearest_background(picture) == shot.background)
        if shot.colour is not None:
            colours.append(nearest_colour(picture, shot.background) == shot.colour)
        ranks.append(gallery.nearest(picture).index(shot.subject))
    return Score(
        pictures=len(shots),
        background=float(np.mean(backgrounds)),
        colour=float(np.mean(colours)) if colours else None,
        top_1=float(np.mean(np.array(ranks) < 1)),
        top_5=float(np.mean(np.array(ranks) < TOP)),
    )


def evaluate(masters: Masters, folder: Path, *, count: int, seed: int = 0) -> dict[str, object]:
    """All numbers of the model card, as plain JSON values."""
    pipeline = load_pipeline(folder)
    gallery = Gallery(masters)
    shots = random_shots(masters, count, seed)
    prompts = [plain_caption(shot) for shot in shots]
    result: dict[str, object] = {
        "guidance": GUIDANCE,
        "steps": STEPS,
        "subjects": len(masters.subjects),
    }
    real = np.stack([masters.draw(shot) for shot in shots])
    result["real pictures"] = vars(score(gallery, real, shots))
    with torch.no_grad():
        vae = pipeline.vae
        decoded = [
            to_pictures(vae.decode(vae.encode(to_tensor(real[i : i + 1])).latent_dist.mean).sample)
            for i in range(len(real))
        ]
    result["real pictures through the autoencoder"] = vars(
        score(gallery, np.concatenate(decoded), shots)
    )
    result["autoencoder PSNR dB"] = psnr(masters, vae, seed)
    started = time.monotonic()
    pictures = render(pipeline, prompts, seed=seed)
    result["seconds a picture"] = (time.monotonic() - started) / len(prompts)
    result["model"] = vars(score(gallery, pictures, shots))
    unseen = np.array([is_held_out(s.subject, s.colour, s.background) for s in shots])
    for name, chosen in (("seen combinations", ~unseen), ("unseen combinations", unseen)):
        part = [shot for shot, is_in in zip(shots, chosen, strict=True) if is_in]
        result[name] = vars(score(gallery, pictures[chosen], part))
    for style in STYLES:
        chosen = np.array([shot.style == style for shot in shots])
        part = [shot for shot in shots if shot.style == style]
        result[style] = vars(score(gallery, pictures[chosen], part))
    few = max(BATCH, count // 4 // BATCH * BATCH)
    for guidance in GUIDANCES:
        made = render(pipeline, prompts[:few], guidance=guidance, seed=seed)
        result[f"guidance {guidance:g}"] = vars(score(gallery, made, shots[:few]))
    for steps in STEP_COUNTS:
        made = render(pipeline, prompts[:few], steps=steps, seed=seed)
        result[f"steps {steps}"] = vars(score(gallery, made, shots[:few]))
    log.info("%s", json.dumps(result, indent=2))
    return result


def sheet(folder: Path, image: Path, *, columns: int = 10) -> None:
    """Render the fixed 100 prompts as one JPEG, a row of ten after another."""
    pictures = render(load_pipeline(folder), [plain_caption(shot) for shot in sheet_shots()])
    rows = [np.hstack(list(pictures[i : i + columns])) for i in range(0, len(pictures), columns)]
    image.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.vstack(rows)).save(image, quality=90)
