"""Measure an exported model folder: words obeyed, subjects found again, speed, picture quality.

Everything is measured on the pictures' pixels and by the same code on real pictures first: a
number for the model means little where the measure itself fails on the truth.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from sprites.autoencoder import psnr, to_pictures, to_tensor
from sprites.catalogue import (
    BACKGROUNDS,
    COLOURS,
    DEFAULT_BACKGROUND,
    PIXEL_ART,
    STYLES,
    Shot,
    is_held_out,
    plain_caption,
)
from sprites.data import Masters
from sprites.networks import SIZE, Autoencoder, Pipeline, load_pipeline
from sprites.pictures import Bytes, Floats, border, nearest_background, nearest_colour

GUIDANCE, STEPS = 4.0, 20
GUIDANCES, STEP_COUNTS = (1.0, 2.0, 4.0, 7.0), (5, 10, 20, 40)
BATCH = 16
TOP = 5
CELL, ANGLES = 8, 9
"""Side of a histogram's cell in pixels, and its number of directions."""

RELATED_STYLES = {style: frozenset([style]) for style in STYLES} | {
    style: frozenset(["cartoon", PIXEL_ART]) for style in ("cartoon", PIXEL_ART)
}
"""The styles that are made of the same drawing: pixel art is a cartoon with fewer pixels."""

KNOWN_SUBJECTS = (
    "sword", "shield", "axe", "potion", "gem", "crown", "key", "castle",
    "dragon", "mushroom", "cat", "apple", "heart", "skull", "ghost", "tree",
)  # fmt: skip
"""What the sheet for people's eyes shows: well-known things that a game needs."""

SHEET_SUBJECTS = 25
"""The fixed sheet shows so many subjects, from the catalogue's head, each in all four styles."""


@dataclass(frozen=True)
class Score:
    """Shares, 0 to 1, of pictures that show what was asked for.

    ``None`` where no colour was asked for, and where there was no gallery to look for subjects in.
    """

    pictures: int
    background: float
    colour: float | None
    top_1: float | None
    top_5: float | None


class Gallery:
    """Finds a picture's subject among all real drawings, those of strangers too.

    The feature is a histogram of oriented gradients (Dalal and Triggs, 2005) of the difference
    from the background, and a coarse mask of that difference: it knows shapes and no hues. A
    subject's distance is that of its nearest drawing, in any style, mirrored or not.
    """

    def __init__(self, *drawings: Masters) -> None:
        self.subjects = len({name for masters in drawings for name in masters.subjects})
        shots = [
            (masters, Shot(name, style, None, DEFAULT_BACKGROUND, is_mirrored))
            for masters in drawings
            for name, style in masters.pairs
            for is_mirrored in (False, True)
        ]
        self._names = np.array([shot.subject for _, shot in shots])
        self._styles = np.array([shot.style for _, shot in shots])
        self._features = np.stack([features(masters.draw(shot)) for masters, shot in shots])

    def nearest(self, picture: Bytes, without: frozenset[str] = frozenset()) -> list[str]:
        """All subjects, the most similar one first; no drawing in the styles ``without`` counts."""
        similarity = self._features @ features(picture)
        order = np.argsort(-similarity)
        order = order[~np.isin(self._styles[order], list(without))]
        return list(dict.fromkeys(self._names[order].tolist()))


def features(picture: Bytes) -> Floats:
    """``float32 [2304 + 256]`` of unit length, from ``uint8 [128, 128, 3]``."""
    ground = np.median(border(picture), axis=0).astype(np.float32)
    difference = (picture.astype(np.float32) - ground) / 255
    mask = np.minimum(np.abs(difference).max(-1) * 3, 1)
    light = difference @ np.array([0.35, 0.4, 0.25], np.float32)
    cells = SIZE // CELL
    rows, columns = np.indices((SIZE, SIZE)) // CELL
    cell = rows * cells + columns
    histogram = np.zeros(cells * cells * ANGLES)
    for plane in (light, mask):
        down, across = np.gradient(plane)
        strength = np.sqrt(np.hypot(down, across))
        angle = np.rint(np.arctan2(down, across) / np.pi * ANGLES).astype(int) % ANGLES
        bins = (cell * ANGLES + angle).ravel()
        histogram += np.bincount(bins, strength.ravel(), len(histogram))
    coarse = mask.reshape(cells, CELL, cells, CELL).mean((1, 3))
    parts = [histogram, (coarse - coarse.mean()).ravel()]
    weighted = [
        weight * part / (np.linalg.norm(part) + 1e-6)
        for weight, part in zip((0.8, 0.6), parts, strict=True)
    ]
    return np.concatenate(weighted).astype(np.float32)


def random_shots(names: Sequence[str], count: int, seed: int) -> list[Shot]:
    """Shots to ask for: half of them coloured, all backgrounds alike; held-out ones may occur."""
    rng = np.random.default_rng([seed, 2_000_003])
    return [
        Shot(
            subject=names[int(rng.integers(len(names)))],
            style=STYLES[index % len(STYLES)],
            colour=str(rng.choice(list(COLOURS))) if index // len(STYLES) % 2 else None,
            background=str(rng.choice(list(BACKGROUNDS))),
        )
        for index in range(count)
    ]


def sheet_shots(names: Sequence[str]) -> list[Shot]:
    """The fixed 100: 25 subjects in four styles, of which about a third were never seen.

    The flat icons are on white in their own colours; every other style turns them and changes the
    background, every second time to a combination that was held out.
    """
    rng = np.random.default_rng(100)
    shots: list[Shot] = []
    for row, subject in enumerate(names[:SHEET_SUBJECTS]):
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


def known_shots() -> list[Shot]:
    """The sheet for people's eyes: 16 well-known subjects in four styles, plain, on white."""
    return [
        Shot(subject, style, None, DEFAULT_BACKGROUND)
        for subject in KNOWN_SUBJECTS
        for style in STYLES
    ]


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


def score(
    gallery: Gallery | None, pictures: Bytes, shots: Sequence[Shot], *, by_others: bool = False
) -> Score:
    """How many of the pictures show their shot's background, colour and subject.

    ``by_others``: among drawings of other styles alone. That is how well the measure itself knows
    a subject that it has not seen drawn just so.
    """
    backgrounds: list[bool] = []
    colours: list[bool] = []
    ranks: list[int] = []
    for picture, shot in zip(pictures, shots, strict=True):
        backgrounds.append(nearest_background(picture) == shot.background)
        if shot.colour is not None:
            colours.append(nearest_colour(picture, shot.background) == shot.colour)
        if gallery is None:
            continue
        own = RELATED_STYLES[shot.style] if by_others else frozenset()
        ranks.append(gallery.nearest(picture, own).index(shot.subject))
    return Score(
        pictures=len(shots),
        background=float(np.mean(backgrounds)),
        colour=float(np.mean(colours)) if colours else None,
        top_1=float(np.mean(np.array(ranks) < 1)) if ranks else None,
        top_5=float(np.mean(np.array(ranks) < TOP)) if ranks else None,
    )


def evaluate(
    masters: Masters,
    strangers: Masters,
    folder: Path,
    *,
    subjects: int,
    count: int,
    seed: int = 0,
) -> dict[str, Any]:
    """All numbers of the model card, as plain JSON values.

    ``count`` pictures are asked for, of the first ``subjects`` of the catalogue, those that were
    taught; they are looked for among the drawings of all subjects and strangers. The sweeps of
    guidance and steps take a quarter of the prompts.
    """
    pipeline = load_pipeline(folder)
    gallery = Gallery(masters, strangers)
    taught = list(masters.subjects)[:subjects]
    shots = random_shots(taught, count, seed)
    prompts = [plain_caption(shot) for shot in shots]
    real = np.stack([masters.draw(shot) for shot in shots])
    started = time.monotonic()
    pictures = render(pipeline, prompts, seed=seed)
    seconds = time.monotonic() - started
    scores = {
        "real pictures": score(gallery, real, shots),
        "real pictures among drawings of other styles": score(gallery, real, shots, by_others=True),
        "real pictures through the autoencoder": score(
            gallery, reconstruct(pipeline.vae, real), shots
        ),
        "model": score(gallery, pictures, shots),
    }
    unseen = [is_held_out(shot.subject, shot.colour, shot.background) for shot in shots]
    groups = {
        "seen combinations": np.logical_not(unseen),
        "unseen combinations": np.array(unseen),
        **{style: np.array([shot.style == style for shot in shots]) for style in STYLES},
    }
    for name, is_in in groups.items():
        chosen = np.flatnonzero(is_in)
        scores[name] = score(gallery, pictures[chosen], [shots[index] for index in chosen])
    few = max(BATCH, count // 4 // BATCH * BATCH)
    sweep = {f"guidance {guidance:g}": (STEPS, guidance) for guidance in GUIDANCES}
    sweep |= {f"steps {steps}": (steps, GUIDANCE) for steps in STEP_COUNTS}
    for name, (steps, guidance) in sweep.items():
        is_default = (steps, guidance) == (STEPS, GUIDANCE)
        made = (
            pictures[:few]
            if is_default
            else render(pipeline, prompts[:few], steps=steps, guidance=guidance, seed=seed)
        )
        scores[name] = score(gallery, made, shots[:few])
    return {
        "guidance": GUIDANCE,
        "steps": STEPS,
        "subjects taught": taught,
        "subjects in the gallery": gallery.subjects,
        "autoencoder PSNR dB": psnr(masters, pipeline.vae, seed),
        "autoencoder PSNR dB, subjects taught": psnr(
            masters, pipeline.vae, seed, subjects=subjects
        ),
        "seconds a picture": seconds / count,
        "scores": {name: asdict(found) for name, found in scores.items()},
    }


def table(scores: Mapping[str, Score]) -> str:
    """The scores as the model card's Markdown table, shares in per cent."""

    def cell(share: float | None) -> str:
        return "-" if share is None else f"{share:.0%}".replace("%", " %")

    lines = ["| | pictures | background | colour | top 1 | top 5 |", "| --- |" + " ---: |" * 5]
    for name, found in scores.items():
        shares = (found.background, found.colour, found.top_1, found.top_5)
        lines.append(f"| {name} | {found.pictures} | {' | '.join(map(cell, shares))} |")
    return "\n".join(lines)


@torch.no_grad()
def reconstruct(autoencoder: Autoencoder, pictures: Bytes) -> Bytes:
    """Pictures encoded and decoded, ``uint8 [pictures, 128, 128, 3]``."""
    made: list[Bytes] = []
    for start in range(0, len(pictures), BATCH):
        posterior = autoencoder.encode(to_tensor(pictures[start : start + BATCH])).latent_dist
        made.append(to_pictures(autoencoder.decode(posterior.mean).sample))
    return np.concatenate(made)


def sheet(folder: Path, shots: Sequence[Shot], image: Path, *, columns: int) -> None:
    """Render shots' plain captions as one JPEG, a row after another."""
    pictures = render(load_pipeline(folder), [plain_caption(shot) for shot in shots])
    rows = [np.hstack(list(pictures[i : i + columns])) for i in range(0, len(pictures), columns)]
    image.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.vstack(rows)).save(image, quality=85)
