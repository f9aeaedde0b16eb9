"""The denoiser: a text encoder and a UNet, trained together on latents.

Training never touches pixels: a fixed set of augmented pictures is encoded once, and each step
takes some of them, writes a fresh caption for each and learns to predict the velocity
(Salimans and Ho, "Progressive distillation", 2022) on Stable Diffusion's noise schedule.
"""

from __future__ import annotations

import json
import logging
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from sprites.autoencoder import to_tensor
from sprites.catalogue import DEFAULT_BACKGROUND, STYLES, Shot, caption, draw_shot
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

BATCH = 64
PARTS = 4
TIME_EXPONENT = 0.7
ENCODED_AT_ONCE = 8
PLAIN_VARIANTS = 8
CAPTION_DROPOUT = 0.1

REDRAWN = 640
REDRAWN_FROM = 0.3, 0.7
REDRAW_STEPS, REDRAW_GUIDANCE = 4, 4.0
"""A redrawn picture starts from a time between these shares of all, and takes so many steps."""


def encode(
    masters: Masters,
    autoencoder: Autoencoder,
    work: Path,
    *,
    subjects: int,
    variants: int,
    seed: int,
) -> None:
    """Encode ``variants`` shots in every style of the catalogue's first ``subjects`` for training.

    The first :data:`PLAIN_VARIANTS` of each are the plain drawing on white, which is asked for
    most; no drawing is mirrored, since one way round is soonest learnt.

    Writes ``latents.npy``, ``float16 [pictures, 8, 16, 16]``, the posterior's means divided by
    their standard deviation, and ``latents.json`` with that deviation and the shots.
    """
    taught = masters.pairs[: subjects * len(STYLES)]
    shots = [
        Shot(subject, style, None, DEFAULT_BACKGROUND)
        if variant < PLAIN_VARIANTS
        else replace(
            draw_shot(subject, style, step_rng(seed, variant * len(masters.pairs) + index)),
            is_mirrored=False,
        )
        for variant in range(variants)
        for index, (subject, style) in enumerate(taught)
    ]

    different = list(dict.fromkeys(shots))

    def encode_some(start: int) -> Tensor:
        chosen = different[start : start + ENCODED_AT_ONCE]
        pictures = np.stack([masters.draw(shot) for shot in chosen])
        with torch.no_grad():
            mean: Tensor = autoencoder.encode(to_tensor(pictures)).latent_dist.mean
        return mean

    starts = range(0, len(different), ENCODED_AT_ONCE)
    encoded = torch.cat(Workers().map(encode_some, starts)).numpy()
    row_of = {shot: row for row, shot in enumerate(different)}
    means = encoded[[row_of[shot] for shot in shots]]
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


def redraw(
    masters: Masters,
    work: Path,
    *,
    tokenizer: Tokenizer,
    text_encoder: TextEncoder,
    unet: Denoiser,
    seed: int,
) -> None:
    """Let the denoiser redraw some encoded pictures from noisy versions of them.

    Writes ``redrawn.npy``, ``float16 [pictures, 8, 16, 16]``, in the scale of ``latents.npy``, and
    ``redrawn.json`` with its rows there: near enough to the pictures to say what was meant, and
    with the denoiser's own mistakes. DDIM (Song et al., 2021) with guidance, from times of
    :data:`REDRAWN_FROM`.
    """
    latents, shots, _ = read_latents(work)
    rows = step_rng(seed, 0).permutation(len(shots))[:REDRAWN].tolist()
    latents, shots = latents[rows], [shots[row] for row in rows]
    alphas: Tensor = new_scheduler().alphas_cumprod

    def levels(times: Tensor) -> tuple[Tensor, Tensor]:
        alpha = alphas[times][:, None, None, None]
        return alpha.sqrt(), (1 - alpha).sqrt()

    @torch.no_grad()  # a thread has a switch of its own
    def redraw_some(start: int) -> Tensor:
        chosen = slice(start, start + ENCODED_AT_ONCE)
        rng = step_rng(seed, start)
        captions = [caption(shot, masters.subjects[shot.subject], rng) for shot in shots[chosen]]
        text = text_encoder(_ids(tokenizer, [""] * len(captions) + captions)).last_hidden_state
        clean = torch.from_numpy(latents[chosen].astype(np.float32))
        first = torch.from_numpy(rng.uniform(*REDRAWN_FROM, len(clean)))
        times = (first * (len(alphas) - 1)).long()
        signal, spread = levels(times)
        noisy = signal * clean + spread * torch.from_numpy(
            rng.standard_normal(clean.shape, np.float32)
        )
        for step in reversed(range(REDRAW_STEPS)):
            without, with_text = unet(
                torch.cat([noisy] * 2), torch.cat([times] * 2), text
            ).sample.chunk(2)
            velocity = without + REDRAW_GUIDANCE * (with_text - without)
            drawn, noise = signal * noisy - spread * velocity, spread * noisy + signal * velocity
            times = (first * step / REDRAW_STEPS * (len(alphas) - 1)).long()
            signal, spread = levels(times)
            noisy = signal * drawn + spread * noise
        result: Tensor = drawn
        return result

    starts = range(0, len(shots), ENCODED_AT_ONCE)
    redrawn = torch.cat(Workers().map(redraw_some, starts)).numpy()
    error = redrawn - latents.astype(np.float32)
    log.info("redrawn: mean square of the change %.3f", float(np.square(error).mean()))
    write_array(work / "redrawn.npy", redrawn.astype(np.float16))
    write_json(work / "redrawn.json", {"rows": rows})


def read_redrawn(work: Path) -> tuple[Tensor, list[Shot]]:
    """What :func:`redraw` wrote, as the decoder takes it: in the encoder's own scale.

    Only the half that is nearest to the originals: a decoder that is asked to guess learns to blur.
    """
    latents, shots, deviation = read_latents(work)
    rows = json.loads((work / "redrawn.json").read_text("utf-8"))["rows"]
    redrawn = np.load(work / "redrawn.npy").astype(np.float32)
    error = np.square(redrawn - latents[rows].astype(np.float32)).mean((1, 2, 3))
    kept = np.argsort(error)[: max(1, len(rows) // 2)]
    log.info("redrawn: mean square of the change up to %.3f", float(error[kept[-1]]))
    return torch.from_numpy(redrawn[kept] * deviation), [shots[rows[at]] for at in kept]


def load_trained(work: Path, tokenizer: Tokenizer) -> tuple[TextEncoder, Denoiser]:
    """Text encoder and UNet of the work folder's checkpoint: moving averages."""
    text_encoder, unet = new_text_encoder(tokenizer), new_denoiser()
    average = read_checkpoint(work / "denoiser.pt")["average"]["values"]
    fill([*text_encoder.parameters(), *unet.parameters()], average)
    return text_encoder.eval(), unet.eval()


def rows_of_step(count: int, seed: int, step: int, size: int) -> NDArray[np.int64]:
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
    lr: float,
) -> dict[str, float]:
    """Train text encoder and UNet within the budget on what :func:`encode` wrote."""
    latents, shots, _ = read_latents(work)
    alphas: Tensor = new_scheduler().alphas_cumprod

    def losses(ids: Tensor, noisy: Tensor, times: Tensor, velocity: Tensor) -> dict[str, Tensor]:
        text = text_encoder(ids).last_hidden_state
        return {"loss": functional.mse_loss(unet(noisy, times, text).sample, velocity)}

    def parts_of_step(step: int) -> list[Part]:
        rows = rows_of_step(len(latents), budget.seed, step, min(BATCH, len(latents)))
        rng = step_rng(budget.seed, step)
        captions = [
            ""
            if rng.random() < CAPTION_DROPOUT
            else caption(shots[row], masters.subjects[shots[row].subject], rng)
            for row in rows
        ]
        ids = _ids(tokenizer, captions)
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


def _ids(tokenizer: Tokenizer, captions: list[str]) -> Tensor:
    ids: Tensor = tokenizer(
        captions,
        padding="max_length",
        max_length=TEXT_LENGTH,
        truncation=True,
        return_tensors="pt",
    ).input_ids
    return ids
