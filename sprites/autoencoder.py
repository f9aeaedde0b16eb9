"""The autoencoder: 128 px pictures to latents of 8 x 16 x 16 and back.

It is trained in two parts. First encoder and decoder together; then the encoder is left as it is,
since the denoiser is trained on its latents, and the decoder alone goes on: that can happen at any
later time.
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
CROPS = 12
PARTS = 3
WHOLE_EVERY = 4
"""One step of four sees three whole pictures instead of twelve crops: the same pixels."""


def to_tensor(pictures: Bytes) -> Tensor:
    """``uint8 [batch, height, width, 3]`` to ``float32 [batch, 3, height, width]`` in -1 to 1."""
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1


def to_pictures(images: Tensor) -> Bytes:
    """The inverse of :func:`to_tensor`, clipped."""
    scaled = ((images.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    return scaled.permute(0, 2, 3, 1).numpy()


def batch(masters: Masters, seed: int, step: int) -> Tensor:
    """A step's pictures, ``float32 [12, 3, 64, 64]`` or ``[3, 3, 128, 128]`` in -1 to 1.

    Crops start at multiples of eight, so that pixel art meets the latents' grid as in a whole
    picture; two are taken of each picture that is drawn.
    """
    rng = step_rng(seed, step)
    is_whole = step % WHOLE_EVERY == 0
    pairs = masters.pairs
    pictures: list[Bytes] = []
    for _ in range(3 if is_whole else CROPS // 2):
        subject, style = pairs[int(rng.integers(len(pairs)))]
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
    masters: Masters, budget: Budget, model: Autoencoder, *, lr: float, part: str
) -> dict[str, float]:
    """Train ``part``, ``both`` or ``decoder``, within the budget."""
    batches = Prefetch(lambda step: batch(masters, budget.seed, step))

    def losses(images: Tensor) -> dict[str, Tensor]:
        with torch.set_grad_enabled(part == "both"):
            posterior = model.encode(images).latent_dist
            latents = posterior.sample()
        output = model.decode(latents).sample
        loss = reconstruction_loss(output, images)
        if part == "both":
            loss = (
                loss
                + 1e-3
                * 0.5
                * (posterior.mean.square() + posterior.var - 1 - posterior.logvar).mean()
            )
        psnr = -10 * torch.log10(functional.mse_loss(output.detach(), images) / 4)
        return {"loss": loss, "psnr": psnr}

    def parts_of_step(step: int) -> list[Part]:
        return [partial(losses, images) for images in batches(step).chunk(PARTS)]

    trained: dict[str, torch.nn.Module]
    if part == "both":
        trained = {"autoencoder": model}
    else:
        trained = {"decoder": model.decoder, "post_quant_conv": model.post_quant_conv}
    return train(trained, parts_of_step, budget, lr=lr)


@torch.no_grad()
def psnr(masters: Masters, model: Autoencoder, seed: int, count: int = 128) -> dict[str, float]:
    """Peak signal to noise in dB on whole pictures, the mean over pictures by style."""
    rng = np.random.default_rng([seed, 1_000_003])
    names = list(masters.subjects)
    found: dict[str, list[float]] = {style: [] for style in STYLES}
    for index in range(count):
        style = STYLES[index % len(STYLES)]
        shot: Shot = draw_shot(names[int(rng.integers(len(names)))], style, rng)
        images = to_tensor(masters.draw(shot)[None])
        output = model.decode(model.encode(images).latent_dist.mean).sample.clamp(-1, 1)
        found[style].append(float(-10 * torch.log10((output - images).square().mean() / 4)))
    result = {style: float(np.mean(values)) for style, values in found.items()}
    return {**result, "all": float(np.mean(list(result.values())))}


def load_trained(work: Path) -> Autoencoder:
    """The autoencoder of the work folder's checkpoints: moving averages, newest decoder."""
    model = new_autoencoder()
    fill(list(model.parameters()), _average(work / "autoencoder.pt"))
    if (work / "decoder.pt").exists():
        decoder = [*model.decoder.parameters(), *model.post_quant_conv.parameters()]
        fill(decoder, _average(work / "decoder.pt"))
    return model.eval()


def _average(checkpoint: Path) -> list[Tensor]:
    values: list[Tensor] = read_checkpoint(checkpoint)["average"]["values"]
    return values
