"""The autoencoder: 128 px pictures to latents of 8 x 16 x 16 and back.

It is trained in two parts. First encoder and decoder together; then, when the denoiser is trained
on its latents, the encoder is left as it is, and the decoder alone goes on, also on latents that
the denoiser drew.
"""

from __future__ import annotations

import logging
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from sprites.catalogue import STYLES, Shot, draw_shot
from sprites.data import Masters
from sprites.files import read_checkpoint
from sprites.networks import FACTOR, Autoencoder, new_autoencoder
from sprites.pictures import Bytes
from sprites.training import Budget, Part, Prefetch, fill, step_rng, train

log = logging.getLogger(__name__)

CROP = 64
CROPS = 16
WHOLE = 4
WHOLE_EVERY = 4
"""One step of four sees four whole pictures instead of sixteen crops: the same pixels."""

PARTS = 4

DIVERGENCE_WEIGHT = 1e-3

TAUGHT_SHARE = 0.6
"""How often a picture is of one of the subjects that the denoiser is taught."""


def to_tensor(pictures: Bytes) -> Tensor:
    """``uint8 [batch, height, width, 3]`` to ``float32 [batch, 3, height, width]`` in -1 to 1."""
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1


def to_pictures(images: Tensor) -> Bytes:
    """The inverse of :func:`to_tensor`, clipped."""
    scaled = ((images.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    return scaled.permute(0, 2, 3, 1).numpy()


def batch(masters: Masters, seed: int, step: int, subjects: int) -> Tensor:
    """A step's pictures, ``float32 [16, 3, 64, 64]`` or ``[4, 3, 128, 128]`` in -1 to 1.

    Crops start at multiples of eight, so that pixel art meets the latents' grid as in a whole
    picture; two are taken of each picture that is drawn. The first ``subjects`` are drawn more
    often than the others.
    """
    rng = step_rng(seed, step)
    is_whole = step % WHOLE_EVERY == 0
    pairs = masters.pairs
    pictures: list[Bytes] = []
    for _ in range(WHOLE if is_whole else CROPS // 2):
        count = subjects * len(STYLES) if rng.random() < TAUGHT_SHARE else len(pairs)
        subject, style = pairs[int(rng.integers(count))]
        picture = masters.draw(draw_shot(subject, style, rng))
        if is_whole:
            pictures.append(picture)
            continue
        for _ in range(2):
            top, left = (int(at) * FACTOR for at in rng.integers(0, CROP // FACTOR + 1, 2))
            pictures.append(picture[top : top + CROP, left : left + CROP])
    return to_tensor(np.stack(pictures))


def reconstruction_loss(output: Tensor, target: Tensor) -> Tensor:
    """Absolute and squared error, and the absolute error of both directions' differences."""
    error = output - target
    across = (error[..., 1:] - error[..., :-1]).abs().mean()
    down = (error[..., 1:, :] - error[..., :-1, :]).abs().mean()
    return error.abs().mean() + 2 * error.square().mean() + 0.5 * (across + down)


def train_autoencoder(
    masters: Masters, budget: Budget, model: Autoencoder, *, lr: float, subjects: int
) -> dict[str, float]:
    """Train encoder and decoder together within the budget."""
    batches = Prefetch(lambda step: batch(masters, budget.seed, step, subjects))

    def losses(images: Tensor) -> dict[str, Tensor]:
        posterior = model.encode(images).latent_dist
        found = _losses(model.decode(posterior.sample()).sample, images)
        divergence = (posterior.mean.square() + posterior.var - 1 - posterior.logvar).mean()
        return {**found, "loss": found["loss"] + DIVERGENCE_WEIGHT * 0.5 * divergence}

    def parts_of_step(step: int) -> list[Part]:
        return [partial(losses, images) for images in batches(step).chunk(PARTS)]

    return train({"autoencoder": model}, parts_of_step, budget, lr=lr)


def train_decoder(
    masters: Masters,
    budget: Budget,
    model: Autoencoder,
    redrawn: tuple[Tensor, list[Shot]],
    *,
    lr: float,
    subjects: int,
) -> dict[str, float]:
    """Train the decoder alone within the budget; the latents' meaning stays as it is.

    Half of every batch is encoded pictures, as before. The other half is crops of ``redrawn``,
    ``float32 [pictures, 8, 16, 16]`` and the shots they come from: latents as the denoiser draws
    them, with its mistakes, of which the decoder learns to make the picture that was meant.
    """
    latents, shots = redrawn

    def make(step: int) -> tuple[Tensor, Tensor, Tensor]:
        images = batch(masters, budget.seed, step, subjects)
        rng = step_rng(budget.seed + 1, step)
        crops: list[tuple[Tensor, Bytes]] = []
        for row in rng.integers(len(shots), size=CROPS // 4).tolist():
            picture = masters.draw(shots[row])
            for _ in range(2):
                top, left = (int(at) for at in rng.integers(0, CROP // FACTOR + 1, 2))
                rows, columns = (slice(at, at + CROP // FACTOR) for at in (top, left))
                pixels = picture[FACTOR * top :, FACTOR * left :][:CROP, :CROP]
                crops.append((latents[row, :, rows, columns], pixels))
        targets = to_tensor(np.stack([pixels for _, pixels in crops]))
        return images[: len(images) // 2], torch.stack([latent for latent, _ in crops]), targets

    batches = Prefetch(make)

    def losses_encoded(images: Tensor) -> dict[str, Tensor]:
        with torch.no_grad():
            given = model.encode(images).latent_dist.sample()
        return _losses(model.decode(given).sample, images)

    def losses_redrawn(given: Tensor, images: Tensor) -> dict[str, Tensor]:
        found = _losses(model.decode(given).sample, images)
        return {"loss": found["loss"], "psnr_redrawn": found["psnr"]}

    def parts_of_step(step: int) -> list[Part]:
        encoded, given, targets = batches(step)
        half = PARTS // 2
        pairs = zip(given.chunk(half), targets.chunk(half), strict=True)
        return [
            *(partial(losses_encoded, images) for images in encoded.chunk(half)),
            *(partial(losses_redrawn, *pair) for pair in pairs),
        ]

    trained: dict[str, torch.nn.Module] = {
        "decoder": model.decoder,
        "post_quant_conv": model.post_quant_conv,
    }
    return train(trained, parts_of_step, budget, lr=lr)


def _losses(output: Tensor, images: Tensor) -> dict[str, Tensor]:
    psnr = -10 * torch.log10(functional.mse_loss(output.detach(), images) / 4)
    return {"loss": reconstruction_loss(output, images), "psnr": psnr}


@torch.no_grad()
def psnr(
    masters: Masters,
    model: Autoencoder,
    seed: int,
    *,
    count: int = 128,
    subjects: int | None = None,
) -> dict[str, float]:
    """Peak signal to noise in dB on whole pictures, the mean over pictures by style.

    Of all the catalogue's subjects, or of the first ``subjects``.
    """
    rng = np.random.default_rng([seed, 1_000_003])
    names = list(masters.subjects)[:subjects]
    found: dict[str, list[float]] = {style: [] for style in STYLES}
    for index in range(count):
        style = STYLES[index % len(STYLES)]
        shot: Shot = draw_shot(names[int(rng.integers(len(names)))], style, rng)
        images = to_tensor(masters.draw(shot)[None])
        output = model.decode(model.encode(images).latent_dist.mean).sample.clamp(-1, 1)
        found[style].append(float(-10 * torch.log10((output - images).square().mean() / 4)))
    result = {style: float(np.mean(values)) for style, values in found.items()}
    return {**result, "all": float(np.mean(list(result.values())))}


def load_trained(work: Path, start: Autoencoder | None = None) -> Autoencoder:
    """The autoencoder of the work folder's checkpoints: moving averages, newest decoder.

    Where there is no checkpoint of the encoder, ``start`` is what was gone on from.
    """
    model = start
    if model is None or (work / "autoencoder.pt").exists():
        model = new_autoencoder()
        fill(list(model.parameters()), _average(work / "autoencoder.pt"))
    if (work / "decoder.pt").exists():
        decoder = [*model.decoder.parameters(), *model.post_quant_conv.parameters()]
        fill(decoder, _average(work / "decoder.pt"))
    return model.eval()


def _average(checkpoint: Path) -> list[Tensor]:
    values: list[Tensor] = read_checkpoint(checkpoint)["average"]["values"]
    return values
