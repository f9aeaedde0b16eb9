"""What is exported, as data: each network of a pipeline, its inputs, its named axes, its tolerance.

A component is a thin module around one network of diffusers or transformers. It fixes what the
graph takes and gives (tensors only, float32 outside, token ids int64) and leaves out what rendering
never varies. Guidance, samplers and noise stay outside of every graph, shared with backend `torch`:
so a difference between the two can only come from a network.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import torch

from farm.render.lane.networks import ModelDescription
from farm.render.lane.onnx_runtime import size_of_axis
from farm.render.onnx_bundle import TEXT_ENCODERS, UNET, VAE_DECODER

Axis: TypeAlias = int | str
"""A fixed size, the name of an axis that varies, or a product of both such as `8*height`."""

VAE_ENCODER = "vae_encoder"
BATCH, HEIGHT, WIDTH = "batch", "height", "width"
"""Axes that vary; height and width are those of latents, also where a graph takes pixels."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tensor:
    """An input or output of a graph."""

    name: str
    axes: tuple[Axis, ...]
    dtype: Literal["float32", "int64"] = "float32"
    below: int = 0
    """Of token ids and times: values are below this. 0: unit normal values."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Component:
    """One network to export."""

    name: str
    module: torch.nn.Module
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    tolerance: float
    """Largest difference from torch that is accepted in float32, relative to the largest output
    (at least 1)."""
    side_unit: int = 1
    """What the height and width of latents must be multiples of."""
    attentions: int = 0
    """Attention layers without a mask in the network."""
    group_norms: int = 0

    def example(
        self, *, batch: int, height: int, width: int, generator: torch.Generator
    ) -> tuple[torch.Tensor, ...]:
        """Return inputs to trace or compare with: mixed times, unit normal values.

        Args:
            batch: at least 2 to trace with: a size of 1 would be taken for a constant.
            height: of the latents.
            width: likewise.
            generator: where the values come from.
        """
        sizes = {BATCH: batch, HEIGHT: height, WIDTH: width}
        return tuple(_values(one, sizes, generator) for one in self.inputs)


def _values(tensor: Tensor, sizes: Mapping[str, int], generator: torch.Generator) -> torch.Tensor:
    shape = [size_of_axis(axis, sizes) for axis in tensor.axes]
    if not tensor.below:
        return torch.randn(shape, generator=generator)
    whole = torch.randint(tensor.below, shape, generator=generator)
    return whole if tensor.dtype == "int64" else whole.float()


def components_of(
    pipe: Any,  # noqa: ANN401 - a diffusers pipeline has no useful type
    description: ModelDescription,
) -> tuple[Component, ...]:
    """Return the components of a pipeline that the lane knows."""
    encoders = [
        _text_encoder(name, getattr(pipe, name), is_xl=_is_xl(description), tokens=tokens)
        for name, tokens in zip(
            TEXT_ENCODERS,
            (tokenizer.model_max_length for tokenizer in description.tokenizers),
            strict=False,
        )
    ]
    return (
        *encoders,
        _unet(pipe, description, tokens=description.tokenizers[0].model_max_length),
        _decoder(pipe, description),
        _encoder(pipe, description),
    )


def gives_normalised_layers(description: ModelDescription) -> bool:
    """Return whether the text encoders' layers come with the final norm applied.

    Stable Diffusion 1 and 2 were trained on layers that went through it, SDXL on bare ones.
    """
    return not _is_xl(description)


def _is_xl(description: ModelDescription) -> bool:
    return description.family == "stable-diffusion-xl"


# --- text encoders ------------------------------------------------------------------------------


class _TextEncoder(torch.nn.Module):
    """Token ids to every layer at once, `[batch, layers + 1, tokens, width]`, last layer last.

    Every layer, so that `clip_skip` stays a choice of the task: picking one costs nothing.
    """

    def __init__(self, network: Any, *, normalised: bool) -> None:  # noqa: ANN401 - transformers'
        super().__init__()
        self.network = network
        self.norm = getattr(network, "text_model", network).final_layer_norm if normalised else None

    def forward(self, input_ids: torch.Tensor) -> tuple[torch.Tensor, ...]:
        said = self.network(input_ids, output_hidden_states=True)
        layers = torch.stack(tuple(said.hidden_states), dim=1)
        hidden = layers if self.norm is None else self.norm(layers)
        pooled = getattr(said, "text_embeds", None)
        return (hidden,) if pooled is None else (hidden, pooled)


def _text_encoder(name: str, network: Any, *, is_xl: bool, tokens: int) -> Component:  # noqa: ANN401 - transformers'
    config = network.config
    layers = config.num_hidden_layers + 1
    hidden = Tensor(name="hidden_states", axes=(BATCH, layers, tokens, config.hidden_size))
    projects = hasattr(network, "text_projection")
    pooled = (Tensor(name="text_embeds", axes=(BATCH, config.projection_dim)),)
    return Component(
        name=name,
        module=_TextEncoder(network, normalised=not is_xl),
        inputs=(
            Tensor(name="input_ids", axes=(BATCH, tokens), dtype="int64", below=config.vocab_size),
        ),
        outputs=(hidden, *(pooled if projects else ())),
        tolerance=1e-4,
    )


# --- the denoiser -------------------------------------------------------------------------------


class _Unet(torch.nn.Module):
    """Samples, a time per row and text embeddings to predictions."""

    def __init__(self, network: Any, *, added: tuple[str, ...]) -> None:  # noqa: ANN401 - diffusers'
        super().__init__()
        self.network = network
        self.added = added

    def forward(
        self,
        sample: torch.Tensor,
        timestep: torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        *added: torch.Tensor,
    ) -> torch.Tensor:
        [prediction] = self.network(
            sample,
            timestep,
            encoder_hidden_states=encoder_hidden_states,
            added_cond_kwargs=dict(zip(self.added, added, strict=True)) or None,
            return_dict=False,
        )
        return prediction  # type: ignore[no-any-return] # diffusers is untyped


def _unet(pipe: Any, description: ModelDescription, *, tokens: int) -> Component:  # noqa: ANN401 - see components_of
    network = pipe.unet
    config = network.config
    width = config.cross_attention_dim
    width = width if isinstance(width, int) else width[0]
    channels = config.in_channels
    added: tuple[Tensor, ...] = ()
    if _is_xl(description):
        pooled = pipe.text_encoder_2.config.projection_dim
        added = (
            Tensor(name="text_embeds", axes=(BATCH, pooled)),
            Tensor(name="time_ids", axes=(BATCH, 6), below=1024),
        )
    return Component(
        name=UNET,
        module=_Unet(network, added=tuple(one.name for one in added)),
        inputs=(
            Tensor(name="sample", axes=(BATCH, channels, HEIGHT, WIDTH)),
            Tensor(name="timestep", axes=(BATCH,), below=1000),
            Tensor(name="encoder_hidden_states", axes=(BATCH, tokens, width)),
            *added,
        ),
        outputs=(Tensor(name="prediction", axes=(BATCH, config.out_channels, HEIGHT, WIDTH)),),
        tolerance=1e-4,
        side_unit=2 ** (len(config.down_block_types) - 1),
        attentions=_count(network, "Attention"),
        group_norms=_count(network, "GroupNorm"),
    )


def _count(network: torch.nn.Module, kind: str) -> int:
    return sum(type(module).__name__ == kind for module in network.modules())


# --- the autoencoder ----------------------------------------------------------------------------


class _Decoder(torch.nn.Module):
    """Unscaled latents to images, -1 to 1."""

    def __init__(self, network: Any) -> None:  # noqa: ANN401 - diffusers'
        super().__init__()
        self.decoder = network.decoder
        self.before = network.post_quant_conv

    def forward(self, latents: torch.Tensor) -> torch.Tensor:
        ready = latents if self.before is None else self.before(latents)
        return self.decoder(ready)  # type: ignore[no-any-return] # diffusers is untyped


class _Encoder(torch.nn.Module):
    """Images, -1 to 1, to the mean and the logarithm of the variance of their latents."""

    def __init__(self, network: Any) -> None:  # noqa: ANN401 - diffusers'
        super().__init__()
        self.encoder = network.encoder
        self.after = network.quant_conv

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        moments = self.encoder(images)
        return moments if self.after is None else self.after(moments)  # type: ignore[no-any-return] # diffusers is untyped


def _decoder(pipe: Any, description: ModelDescription) -> Component:  # noqa: ANN401 - see components_of
    module = _Decoder(pipe.vae)
    unit = description.pixels_per_latent
    return Component(
        name=VAE_DECODER,
        module=module,
        inputs=(Tensor(name="latents", axes=(BATCH, description.latent_channels, HEIGHT, WIDTH)),),
        outputs=(Tensor(name="images", axes=(BATCH, 3, f"{unit}*{HEIGHT}", f"{unit}*{WIDTH}")),),
        tolerance=3e-4,
        attentions=_count(module, "Attention"),
        group_norms=_count(module, "GroupNorm"),
    )


def _encoder(pipe: Any, description: ModelDescription) -> Component:  # noqa: ANN401 - see components_of
    module = _Encoder(pipe.vae)
    unit = description.pixels_per_latent
    moments = 2 * description.latent_channels
    return Component(
        name=VAE_ENCODER,
        module=module,
        inputs=(Tensor(name="images", axes=(BATCH, 3, f"{unit}*{HEIGHT}", f"{unit}*{WIDTH}")),),
        outputs=(Tensor(name="moments", axes=(BATCH, moments, HEIGHT, WIDTH)),),
        tolerance=3e-4,
        attentions=_count(module, "Attention"),
        group_norms=_count(module, "GroupNorm"),
    )
