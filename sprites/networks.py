"""The shapes of the model's parts, and the libraries' classes that they are made of.

Stable Diffusion's own architecture at a hundredth of its size. The classes of diffusers and
transformers have untyped bases, so they are ``Any`` to a type checker; this is the one module that
names them.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

Autoencoder: TypeAlias = Any
Denoiser: TypeAlias = Any
Pipeline: TypeAlias = Any
Scheduler: TypeAlias = Any
TextEncoder: TypeAlias = Any
Tokenizer: TypeAlias = Any

SIZE = 128
FACTOR = 8
LATENT_CHANNELS = 8
LATENT_SIZE = SIZE // FACTOR
TEXT_WIDTH = 192
TEXT_LENGTH = 32

_diffusers: Any = importlib.import_module("diffusers")
_transformers: Any = importlib.import_module("transformers")


def new_autoencoder() -> Autoencoder:
    """An untrained autoencoder of 2.7 M parameters, to latents of 8 x 16 x 16."""
    blocks = (16, 32, 64, 128)
    return _diffusers.AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * len(blocks),
        up_block_types=("UpDecoderBlock2D",) * len(blocks),
        block_out_channels=blocks,
        layers_per_block=1,
        latent_channels=LATENT_CHANNELS,
        norm_num_groups=8,
        sample_size=SIZE,
        scaling_factor=1.0,
    )


def new_denoiser() -> Denoiser:
    """An untrained UNet of 6.1 M parameters; text is attended to at 8 x 8 and 4 x 4."""
    return _diffusers.UNet2DConditionModel(
        sample_size=LATENT_SIZE,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        block_out_channels=(32, 64, 160),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        cross_attention_dim=TEXT_WIDTH,
        attention_head_dim=4,
        norm_num_groups=16,
    )


def new_text_encoder(tokenizer: Tokenizer) -> TextEncoder:
    """An untrained text encoder, 192 wide, two layers, for the tokenizer's ids."""
    config = _transformers.CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=TEXT_WIDTH,
        intermediate_size=4 * TEXT_WIDTH,
        num_hidden_layers=2,
        num_attention_heads=6,
        max_position_embeddings=TEXT_LENGTH,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        projection_dim=TEXT_WIDTH,
    )
    return _transformers.CLIPTextModel(config)


def new_tokenizer(vocabulary: Mapping[str, int], merges: list[tuple[str, str]]) -> Tokenizer:
    """CLIP's tokenizer with another vocabulary."""
    return _transformers.CLIPTokenizer(
        vocab=dict(vocabulary), merges=merges, model_max_length=TEXT_LENGTH
    )


def new_scheduler() -> Scheduler:
    """Stable Diffusion's noise schedule with velocity prediction."""
    return _diffusers.DDIMScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )


def new_pipeline(
    *,
    tokenizer: Tokenizer,
    text_encoder: TextEncoder,
    denoiser: Denoiser,
    autoencoder: Autoencoder,
) -> Pipeline:
    """The parts as one ``StableDiffusionPipeline``."""
    return _diffusers.StableDiffusionPipeline(
        vae=autoencoder,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=denoiser,
        scheduler=new_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def load_pipeline(folder: Path) -> Pipeline:
    """A model folder's pipeline in float32, without a progress bar."""
    pipeline = _diffusers.StableDiffusionPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline
