"""The networks of a loaded diffusers pipeline, run by torch.

Networks compute in the pipeline's own type; samples and predictions are float32 on both sides, so a
lane's registers never lose digits to float16. The decoder of Stable Diffusion XL overflows in
float16 and says so in its configuration (`force_upcast`); then it computes in float32.
"""

from __future__ import annotations

import gc
import logging
import os
from collections.abc import Hashable
from typing import Any

import torch

from farm.render.lane.networks import Conditioning, EncodedText, ModelDescription, padded
from farm.render.loading import LoadedPipeline
from farm.task import RenderFacts

_log = logging.getLogger(__name__)

COMPILE_VARIABLE = "FARM_COMPILE"
"""Environment variable that has the UNet's repeated blocks compiled, if it is `1`.

Compiling takes minutes, which pays only in long runs, and only their author knows how long they
are. Block by block it takes a fraction of what a whole UNet takes, for most of the gain."""

_FAMILIES = {
    "StableDiffusionPipeline": "stable-diffusion",
    "StableDiffusionXLPipeline": "stable-diffusion-xl",
}
_DENOISER_ARGUMENTS: dict[str, str | None] = {
    "stable-diffusion": None,
    "stable-diffusion-xl": "text_time",
}
"""What each family's UNet is told beside sample, time and text (`addition_embed_type`)."""
_UNKNOWN_OPTIONS = ("class_embed_type", "encoder_hid_dim_type", "time_cond_proj_dim")
"""Options of a UNet each of which makes it take another argument."""


class TorchRuntime:
    """A diffusers pipeline's text encoders, UNet and decoder."""

    def __init__(self, loaded: LoadedPipeline) -> None:
        self._loaded = loaded
        pipe = loaded.pipe
        self._encoders = [
            encoder
            for name in ("text_encoder", "text_encoder_2")
            if (encoder := getattr(pipe, name, None)) is not None
        ]
        self._unet = pipe.unet
        self._vae = pipe.vae
        if _overflows(pipe):
            self._vae.to(torch.float32)
        self._is_tiling = False
        self.is_compiled = os.environ.get(COMPILE_VARIABLE) == "1"
        """The UNet's repeated blocks are compiled."""
        if self.is_compiled:
            self._unet.compile_repeated_blocks()

    @property
    def facts(self) -> RenderFacts:
        """Device, dtype, versions and the model's hash."""
        return self._loaded.facts

    @property
    def device(self) -> torch.device:
        """Where the pipeline was loaded."""
        return self._loaded.device

    @torch.inference_mode()
    def encode_text(
        self, encoder: int, tokens: torch.Tensor, *, skipped: int, normalised: bool
    ) -> EncodedText:
        """Run a text encoder."""
        network = self._encoders[encoder]
        said = network(tokens, output_hidden_states=True)
        if normalised and not skipped:
            hidden = said.last_hidden_state
        else:
            hidden = said.hidden_states[-(skipped + 1)]
            if normalised:
                hidden = getattr(network, "text_model", network).final_layer_norm(hidden)
        return EncodedText(hidden=hidden, pooled=getattr(said, "text_embeds", None))

    @torch.inference_mode()
    def denoise(
        self, sample: torch.Tensor, timestep: torch.Tensor, conditioning: Conditioning
    ) -> torch.Tensor:
        """Run the UNet, every row at its own time.

        A compiled UNet sees powers of two rows only: every other number would be compiled anew.
        """
        rows = len(sample)
        if self.is_compiled:
            sample, timestep, conditioning = padded(sample, timestep, conditioning)
        others = {name: value for name, value in conditioning.items() if name != _HIDDEN}
        [prediction] = self._unet(
            sample.to(self._loaded.dtype),
            timestep,
            encoder_hidden_states=conditioning[_HIDDEN],
            added_cond_kwargs=others or None,
            return_dict=False,
        )
        return prediction[:rows].float()  # type: ignore[no-any-return] # diffusers is untyped

    @torch.inference_mode()
    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Run the decoder."""
        [images] = self._vae.decode(latents.to(self._vae.dtype), return_dict=False)
        return images  # type: ignore[no-any-return] # diffusers is untyped

    def save_memory(self) -> bool:
        """Decode in tiles, which blends their seams: pixels differ a little from then on."""
        if self._is_tiling:
            return False
        self._is_tiling = True
        self._vae.enable_tiling()
        _log.warning("out of memory for one picture: decoding in tiles from here on")
        return True

    def close(self) -> None:
        """Drop the networks."""
        self._encoders = []
        self._unet = self._vae = None
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


_HIDDEN = "encoder_hidden_states"


def why_unknown(pipe: Any) -> str | None:  # noqa: ANN401 - see LoadedPipeline
    """Return why no family's adapter knows `pipe`, or None if one does."""
    name = type(pipe).__name__
    if (family := _FAMILIES.get(name)) is None:
        return f"{name} is of no family that the lane knows"
    config = pipe.unet.config
    strange = [option for option in _UNKNOWN_OPTIONS if config.get(option) is not None]
    if config.get("addition_embed_type") != _DENOISER_ARGUMENTS[family]:
        strange.append("addition_embed_type")
    if strange:
        return f"its UNet takes arguments that the lane does not know ({', '.join(strange)})"
    if config.in_channels != pipe.vae.config.latent_channels:
        return f"its UNet takes {config.in_channels} channels, which are not latents alone"
    encoder = getattr(pipe.text_encoder, "config", None)
    if encoder is None or getattr(encoder, "use_attention_mask", False):
        return "its text encoder is none that the lane knows"
    if getattr(pipe, "safety_checker", None) or getattr(pipe, "watermark", None):
        return "it changes its pictures after they are decoded"
    return None


def describe(pipe: Any) -> ModelDescription:  # noqa: ANN401 - see LoadedPipeline
    """Return what a family must know of a pipeline that `why_unknown` has nothing against."""
    family = _FAMILIES[type(pipe).__name__]
    encoders = (pipe.text_encoder, getattr(pipe, "text_encoder_2", None))
    tokenizers = (pipe.tokenizer, getattr(pipe, "tokenizer_2", None))
    side = pipe.unet.config.sample_size
    height, width = side if isinstance(side, list | tuple) else (side, side)
    vae = pipe.vae.config
    return ModelDescription(
        family=family,
        scheduler=pipe.scheduler,
        tokenizers=tuple(one for one in tokenizers if one is not None),
        text_layers=tuple(one.config.num_hidden_layers for one in encoders if one is not None),
        own_height=height * pipe.vae_scale_factor,
        own_width=width * pipe.vae_scale_factor,
        pixels_per_latent=pipe.vae_scale_factor,
        latent_channels=vae.latent_channels,
        scaling_factor=vae.scaling_factor,
        latents_mean=_channels(vae.get("latents_mean")),
        latents_std=_channels(vae.get("latents_std")),
        zero_empty_negative=bool(pipe.config.get("force_zeros_for_empty_prompt")),
    )


def build_of(loaded: LoadedPipeline) -> Hashable:
    """Return what is equal for models whose networks do the same work on the same device."""
    networks = (loaded.pipe.unet, loaded.pipe.vae)
    configurations = [
        sorted((name, repr(value)) for name, value in one.config.items() if name[0] != "_")
        for one in networks
    ]
    return repr(configurations), str(loaded.device), *(str(one.dtype) for one in networks)


def _channels(values: Any) -> tuple[float, ...] | None:  # noqa: ANN401 - from a JSON configuration
    return None if values is None else tuple(float(value) for value in values)


def _overflows(pipe: Any) -> bool:  # noqa: ANN401 - see LoadedPipeline
    return (
        _FAMILIES[type(pipe).__name__] == "stable-diffusion-xl"
        and pipe.vae.dtype is torch.float16
        and bool(pipe.vae.config.get("force_upcast"))
    )
