"""The denoiser: a text encoder and a UNet, trained together on latents.

Training never touches pixels: a fixed set of augmented pictures is encoded once, and each step
takes some of them, writes a fresh caption for each and learns to predict the velocity
(Salimans and Ho, "Progressive distillation", 2022) on Stable Diffusion's noise schedule.
"""

from __future__ import annotations

import json
import logging
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from sprites.autoencoder import to_tensor
from sprites.catalogue import Shot, caption, draw_shot
from sprites.data import Masters
from sprites.files import read_checkpoint, write_array, write_json
from sprites.networks import (
    TEXT_LENGTH,
    Autoencoder,
    Denoiser,
    TextEncoder,
    Tokenizer,
    new_denoiser,
    new_scheduler,
    new_text_encoder,
)
from sprites.training import Budget, Part, Workers, fill, step_rng, train

log = logging.getLogger(__name__)

BATCH = 32
PARTS = 4
TIME_EXPONENT = 0.7
ENCODED_AT_ONCE = 8
CAPTION_DROPOUT = 0.1


def encode(
    masters: Masters, autoencoder: Autoencoder, work: Path, *, variants: int, seed: int
) -> None:
    """Encode ``variants`` shots of every (subject, style) for training.

    Writes ``latents.npy``, ``float16 [pictures, 8, 16, 16]``, the posterior's means divided by
    their standard deviation, and ``latents.json`` with that deviation and the shots.
    """
    shots = [
        draw_shot(subject, style, step_rng(seed, variant * len(masters.pairs) + index))
        for variant in range(variants)
        for index, (subject, style) in enumerate(masters.pairs)
    ]

    def encode_some(start: int) -> Tensor:
        pictures = np.stack([masters.draw(shot) for shot in shots[start : start + ENCODED_AT_ONCE]])
        with torch.no_grad():
            mean: Tensor = autoencoder.encode(to_tensor(pictures)).latent_dist.mean
        return mean

    starts = range(0, len(shots), ENCODED_AT_ONCE)
    means = torch.cat(Workers().map(encode_some, starts)).numpy()
    deviation = float(means.std())
    log.info("latents: mean %.3f, deviation %.3f", float(means.mean()), deviation)
    write_array(work / "latents.npy", (means / deviation).astype(np.float16))
    facts = {"deviation": deviation, "shots": [asdict(shot) for shot in shots]}
    write_json(work / "latents.json", facts)


def read_latents(work: Path) -> tuple[NDArray[np.float16], list[Shot], float]:
    """Latents, their shots and the deviation that they were divided by."""
    facts = json.loads((work / "latents.json").read_text("utf-8"))
    shots = [Shot(**shot) for shot in facts["shots"]]
    return np.load(work / "latents.npy"), shots, facts["deviation"]


def load_trained(work: Path, tokenizer: Tokenizer) -> tuple[TextEncoder, Denoiser]:
    """Text encoder and UNet of the work folder's checkpoint: moving averages."""
    text_encoder, unet = new_text_encoder(tokenizer), new_denoiser()
    average = read_checkpoint(work / "denoiser.pt")["average"]["values"]
    fill([*text_encoder.parameters(), *unet.parameters()], average)
    return text_encoder.eval(), unet.eval()


def rows_of_step(count: int, seed: int, step: int, size: int = BATCH) -> NDArray[np.int64]:
    """Which latents a step takes: every epoch is a fresh permutation of all, cut into batches."""
    steps_per_epoch = count // size
    epoch, position = divmod(step, steps_per_epoch)
    order = np.random.default_rng([seed, epoch, count]).permutation(count)
    return order[position * size : (position + 1) * size]


def train_denoiser(
    masters: Masters,
    work: Path,
    budget: Budget,
    *,
    tokenizer: Tokenizer,
    text_encoder: TextEncoder,
    unet: Denoiser,
    subjects: int,
    lr: float,
) -> dict[str, float]:
    """Train text encoder and UNet within the budget, on the first ``subjects`` of the catalogue.

    Mirrored pictures are for the autoencoder: one way round is soonest learnt.
    """
    latents, shots, _ = read_latents(work)
    taken = set(list(masters.subjects)[:subjects])
    kept = [row for row, shot in enumerate(shots) if shot.subject in taken and not shot.is_mirrored]
    latents, shots = latents[kept], [shots[row] for row in kept]
    alphas: Tensor = new_scheduler().alphas_cumprod

    def losses(ids: Tensor, noisy: Tensor, times: Tensor, velocity: Tensor) -> dict[str, Tensor]:
        text = text_encoder(ids).last_hidden_state
        return {"loss": functional.mse_loss(unet(noisy, times, text).sample, velocity)}

    def parts_of_step(step: int) -> list[Part]:
        rows = rows_of_step(len(latents), budget.seed, step)
        rng = step_rng(budget.seed, step)
        captions = [
            ""
            if rng.random() < CAPTION_DROPOUT
            else caption(shots[row], masters.subjects[shots[row].subject], rng)
            for row in rows
        ]
        ids = tokenizer(
            captions,
            padding="max_length",
            max_length=TEXT_LENGTH,
            truncation=True,
            return_tensors="pt",
        ).input_ids
        clean = torch.from_numpy(latents[rows].astype(np.float32))
        noise = torch.from_numpy(rng.standard_normal(clean.shape, np.float32))
        # One time from each of as many slices: less noise in the gradient than free draws. The
        # exponent prefers the noisier times, where shapes are decided.
        slices = (rng.permutation(len(rows)) + rng.random(len(rows))) / len(rows)
        times = torch.from_numpy((slices**TIME_EXPONENT * len(alphas)).astype(np.int64))
        signal = alphas[times].sqrt()[:, None, None, None]
        spread = (1 - alphas[times]).sqrt()[:, None, None, None]
        whole = (ids, signal * clean + spread * noise, times, signal * noise - spread * clean)
        chunks = zip(*(tensor.chunk(PARTS) for tensor in whole), strict=True)
        return [partial(losses, *chunk) for chunk in chunks]

    modules: dict[str, torch.nn.Module] = {"text_encoder": text_encoder, "unet": unet}
    return train(modules, parts_of_step, budget, lr=lr, weight_decay=0.01)
