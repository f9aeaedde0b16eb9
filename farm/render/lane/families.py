"""Model families: how a prompt becomes conditioning and how latents become pixels.

Each follows diffusers' pipeline of the same family to the letter, because that pipeline is the
oracle: which layer of the text encoder is taken, where `clip_skip` applies (to the prompt, never to
the negative prompt), what an absent negative prompt means, and how a picture is rounded.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

import torch

from farm.render.batches import Refusal
from farm.render.lane.networks import (
    Conditioning,
    ModelDescription,
    Networks,
    Pictures,
    Runtime,
    Text,
)
from farm.task import RenderFacts, TaskSpec

_log = logging.getLogger(__name__)


class StableDiffusion:
    """Stable Diffusion 1 and 2: one CLIP text encoder, a UNet, a KL autoencoder.

    Epsilon- and v-prediction are the same here: what a prediction means is the sampler's table's
    business.
    """

    def __init__(self, model: ModelDescription, runtime: Runtime) -> None:
        self._model = model
        self._runtime = runtime
        self._facts = replace(runtime.facts, renderer="lane")
        self._mention_if_cut = lru_cache(maxsize=4096)(self._warn_if_cut)

    @property
    def facts(self) -> RenderFacts:
        """Device, dtype, versions and the model's hash."""
        return self._facts

    @property
    def device(self) -> torch.device:
        """Where samples are expected and answers come."""
        return self._runtime.device

    @property
    def scheduler(self) -> Any:  # noqa: ANN401 - diffusers' schedulers share no useful type
        """The scheduler that the model ships with."""
        return self._model.scheduler

    def size_of(self, task: TaskSpec) -> tuple[int, int]:
        """Return the height and width in pixels that `task` asks for, or the model's own."""
        height = task.height or self._model.own_height
        width = task.width or self._model.own_width
        unit = self._model.side_unit or self._model.pixels_per_latent
        if height % unit or width % unit:
            nearest = " x ".join(str(max(1, round(side / unit)) * unit) for side in (width, height))
            raise Refusal(
                f"this model makes pictures whose sides are multiples of {unit} pixels, "
                f"not {width} x {height}; the nearest is {nearest}"
            )
        sizes = self._model.sizes
        if sizes and (height, width) not in sizes:
            made_for = ", ".join(f"{width} x {height}" for height, width in sizes)
            words = ",".join(f"{one[1]}x{one[0]}" for one in (*sizes, (height, width)))
            raise Refusal(
                f"these networks were exported for pictures of {made_for}, not {width} x {height}; "
                f"change width and height, or export the model again with --sizes {words}"
            )
        return height, width

    def latent_shape(self, height: int, width: int) -> tuple[int, int, int]:
        """Return channels, height and width of the latents of a picture of this size."""
        unit = self._model.pixels_per_latent
        return self._model.latent_channels, height // unit, width // unit

    def check(self, task: TaskSpec) -> None:
        """Refuse a `clip_skip` that leaves nothing of an encoder."""
        layers = min(self._model.text_layers)
        if task.clip_skip is not None and task.clip_skip >= layers:
            raise Refusal(
                f"clip_skip {task.clip_skip} leaves nothing of the {layers} layers of the model's "
                f"text encoder; at most {layers - 1}"
            )

    def encode(self, texts: Sequence[Text]) -> Sequence[Conditioning]:
        """Return the conditioning of each text.

        One at a time: then a text's conditioning has the same bits whatever it is encoded with, and
        a unique text is encoded once in a run anyway.
        """
        with torch.inference_mode():
            return [self._encode(text) for text in texts]

    def denoise(
        self, sample: torch.Tensor, timestep: torch.Tensor, conditioning: Conditioning
    ) -> torch.Tensor:
        """Return the network's prediction."""
        return self._runtime.denoise(sample, timestep, conditioning)

    def decode(self, latents: torch.Tensor) -> Pictures:
        """Return pictures, rounded as diffusers rounds them: half to even."""
        with torch.inference_mode():
            images = self._runtime.decode(self._unscaled(latents))
            is_finite = images.isfinite().flatten(1).all(dim=1)
            levels = (images.float() * 0.5 + 0.5).clamp(0, 1).nan_to_num().mul(255).round()
            pixels = levels.to(torch.uint8).permute(0, 2, 3, 1).contiguous()
        return Pictures(pixels=pixels, is_finite=is_finite)

    def save_memory(self) -> bool:
        """Decode with less memory from here on; False if nothing is left to try."""
        return self._runtime.save_memory()

    def close(self) -> None:
        """Give the model's memory back."""
        self._runtime.close()

    # --- text -----------------------------------------------------------------------------------

    def _encode(self, text: Text) -> Conditioning:
        skipped = 0 if text.is_negative else text.clip_skip or 0
        tokens = self._tokens(0, text)
        encoded = self._runtime.encode_text(0, tokens, skipped=skipped, normalised=True)
        return {"encoder_hidden_states": encoded.hidden[0]}

    def _tokens(self, encoder: int, text: Text) -> torch.Tensor:
        """Return int64 `[1, tokens]` on the device, as one of the text encoders reads them."""
        self._mention_if_cut(text.prompt, encoder)
        tokenizer = self._model.tokenizers[encoder]
        encoded = tokenizer(
            [text.prompt],
            padding="max_length",
            max_length=tokenizer.model_max_length,
            truncation=True,
            return_tensors="pt",
        )
        tokens: torch.Tensor = encoded.input_ids
        return tokens.to(self.device)

    def _warn_if_cut(self, prompt: str, encoder: int) -> None:
        tokenizer = self._model.tokenizers[encoder]
        limit = tokenizer.model_max_length
        length = len(tokenizer([prompt]).input_ids[0])
        if length > limit:
            _log.warning(
                "prompt is longer than the model reads; its end is ignored",
                extra={"prompt": prompt, "tokens": length, "limit": limit},
            )

    # --- latents --------------------------------------------------------------------------------

    def _unscaled(self, latents: torch.Tensor) -> torch.Tensor:
        return latents / self._model.scaling_factor


class StableDiffusionXL(StableDiffusion):
    """Stable Diffusion XL: two text encoders, a pooled text and the picture's size beside them."""

    def _encode(self, text: Text) -> Conditioning:
        if text.is_negative and not text.prompt and self._model.zero_empty_negative:
            return self._encode_nothing(text)
        # SDXL was trained on the next-to-last layer, without the final norm; `clip_skip` counts
        # from there.
        skipped = 1 + (0 if text.is_negative else text.clip_skip or 0)
        encoded = [
            self._runtime.encode_text(
                number, self._tokens(number, text), skipped=skipped, normalised=False
            )
            for number in range(len(self._model.tokenizers))
        ]
        hidden = torch.cat([one.hidden for one in encoded], dim=-1)[0]
        pooled = encoded[-1].pooled
        assert pooled is not None, "the last text encoder of SDXL projects a summary"
        # Original size, corner of the crop, target size: section 2.2 of arXiv:2307.01952.
        sizes = (text.height, text.width, 0, 0, text.height, text.width)
        return {
            "encoder_hidden_states": hidden,
            "text_embeds": pooled[0],
            "time_ids": torch.tensor(sizes, dtype=hidden.dtype, device=hidden.device),
        }

    def _encode_nothing(self, text: Text) -> Conditioning:
        shapes = self._encode(replace(text, is_negative=False, clip_skip=None))
        return {
            **shapes,
            "encoder_hidden_states": torch.zeros_like(shapes["encoder_hidden_states"]),
            "text_embeds": torch.zeros_like(shapes["text_embeds"]),
        }

    def _unscaled(self, latents: torch.Tensor) -> torch.Tensor:
        mean, std = self._model.latents_mean, self._model.latents_std
        if mean is None or std is None:
            return super()._unscaled(latents)
        return latents * _per_channel(std, latents) / self._model.scaling_factor + _per_channel(
            mean, latents
        )


def _per_channel(values: Sequence[float], like: torch.Tensor) -> torch.Tensor:
    return torch.tensor(values, dtype=like.dtype, device=like.device).view(1, -1, 1, 1)


FAMILIES = {
    "stable-diffusion": StableDiffusion,
    "stable-diffusion-xl": StableDiffusionXL,
}
"""Adapter of every family, by the name a `ModelDescription` gives it."""


def join(model: ModelDescription, runtime: Runtime) -> Networks:
    """Return a model of a known family as a lane uses it."""
    return FAMILIES[model.family](model, runtime)
