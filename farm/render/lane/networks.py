"""The seam between a lane and a model: two protocols, and what passes through them.

A lane knows `Networks`: text in, a row's conditioning out; samples, times and conditioning in,
predictions out; latents in, pixels out. It never looks inside a conditioning, so it carries
whatever a family puts there.

A family (`farm.render.lane.families`) implements `Networks` once for every runtime: it knows how a
prompt becomes conditioning and how latents are scaled. What it does not know is what runs the
networks themselves, and that is a `Runtime`: torch here, ONNX Runtime elsewhere.

Arrays are torch tensors, also where torch does not run the networks: an image's noise comes from
torch's generator whatever the backend (`farm.render.noise`), and on a CPU a tensor and a NumPy
array are views of one memory.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import torch

from farm.task import RenderFacts, TaskSpec

Conditioning: TypeAlias = Mapping[str, torch.Tensor]
"""What the denoiser is told beside sample and time, by the name of its argument.

Of one row: `encoder_hidden_states` `[tokens, width]` and whatever else the family has. Of a batch:
the same names, each tensor with one more dimension in front. Rows of one lane have equal shapes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Text:
    """What one conditioning is made from; equal texts have equal conditionings."""

    prompt: str
    is_negative: bool
    """The unconditional side of guidance, where an empty prompt may mean another thing."""
    clip_skip: int | None
    height: int
    width: int
    """Of the image, in pixels: some families condition on it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pictures:
    """What a decoder made of a batch of latents, on the device; nobody has waited for it yet."""

    pixels: torch.Tensor
    """uint8 `[batch, height, width, 3]`, contiguous."""
    is_finite: torch.Tensor
    """bool `[batch]`: every value of the picture was a number before it was rounded."""


class Networks(Protocol):
    """A loaded model of a known family, as a lane uses it."""

    @property
    def facts(self) -> RenderFacts:
        """Device, dtype, versions and the model's hash."""
        ...

    @property
    def device(self) -> torch.device:
        """Where samples are expected and answers come."""
        ...

    @property
    def scheduler(self) -> Any:  # noqa: ANN401 - diffusers' schedulers share no useful type
        """The scheduler that the model ships with: its training schedule and default sampler."""
        ...

    def size_of(self, task: TaskSpec) -> tuple[int, int]:
        """Return the height and width in pixels that `task` asks for, or the model's own.

        Raises:
            Refusal: the model makes no pictures of that size.
        """
        ...

    def latent_shape(self, height: int, width: int) -> tuple[int, int, int]:
        """Return channels, height and width of the latents of a picture of this size."""
        ...

    def check(self, task: TaskSpec) -> None:
        """Look for what this model cannot do.

        Raises:
            Refusal: a field of `task` asks for something that it has not.
        """
        ...

    def encode(self, texts: Sequence[Text]) -> Sequence[Conditioning]:
        """Return the conditioning of each text, without a batch dimension, on the device.

        A text's conditioning does not depend on the texts it is encoded with.
        """
        ...

    def denoise(
        self, sample: torch.Tensor, timestep: torch.Tensor, conditioning: Conditioning
    ) -> torch.Tensor:
        """Return the network's prediction, float32 `[rows, channels, h, w]`.

        Args:
            sample: float32 `[rows, channels, h, w]`, scaled as the sampler says.
            timestep: float32 `[rows]`, each row its own, in the model's time units.
            conditioning: of a batch of as many rows.
        """
        ...

    def decode(self, latents: torch.Tensor) -> Pictures:
        """Return the pictures of finished latents, float32 `[batch, channels, h, w]`."""
        ...

    def save_memory(self) -> bool:
        """Decode with less memory from here on, at some cost; False if nothing is left to try."""
        ...

    def close(self) -> None:
        """Give the model's memory back. Harmless twice."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedText:
    """What a text encoder says of a batch of token sequences."""

    hidden: torch.Tensor
    """`[batch, tokens, width]`: the layer that was asked for."""
    pooled: torch.Tensor | None
    """`[batch, width]`, of encoders that project a summary of the text; else None."""


class Runtime(Protocol):
    """What runs a model's networks. Its tensors are all on `device`."""

    @property
    def facts(self) -> RenderFacts:
        """Device, dtype, versions and the model's hash."""
        ...

    @property
    def device(self) -> torch.device:
        """Where tensors are expected and come."""
        ...

    def encode_text(
        self, encoder: int, tokens: torch.Tensor, *, skipped: int, normalised: bool
    ) -> EncodedText:
        """Run a text encoder.

        Args:
            encoder: 0 or 1: which of the model's encoders.
            tokens: int64 `[batch, tokens]`, padded to the encoder's length.
            skipped: layers left out from the end; 0 takes the last layer's output.
            normalised: pass the layer's output through the encoder's final norm.

        Raises:
            Refusal: this runtime cannot give that layer.
        """
        ...

    def denoise(
        self, sample: torch.Tensor, timestep: torch.Tensor, conditioning: Conditioning
    ) -> torch.Tensor:
        """Run the denoiser; see `Networks.denoise`. Casts to the network's own type and back."""
        ...

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Run the decoder on float32 latents that are already unscaled.

        Returns floats `[batch, 3, height, width]`, -1 to 1 where all went well.
        """
        ...

    def save_memory(self) -> bool:
        """Decode with less memory from here on, at some cost; False if nothing is left to try."""
        ...

    def close(self) -> None:
        """Give memory back. Harmless twice."""
        ...


class Tokenizer(Protocol):
    """The part of a transformers tokenizer that families use."""

    model_max_length: int

    def __call__(self, text: Sequence[str], **options: object) -> Any:  # noqa: ANN401 - transformers' own
        """Return token ids as `input_ids`."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelDescription:
    """What a family must know of a model beside its weights."""

    family: str
    """`stable-diffusion` or `stable-diffusion-xl`."""
    scheduler: Any
    """A diffusers scheduler with the model's configuration."""
    tokenizers: tuple[Tokenizer, ...]
    text_layers: tuple[int, ...]
    """Layers of each text encoder."""
    own_height: int
    own_width: int
    """Size in pixels of the pictures that the model makes by itself."""
    pixels_per_latent: int
    latent_channels: int
    scaling_factor: float
    """Latents are divided by it before they are decoded."""
    latents_mean: tuple[float, ...] | None = None
    latents_std: tuple[float, ...] | None = None
    """Per channel, of models that normalise their latents; both or neither."""
    zero_empty_negative: bool = False
    """An absent negative prompt is zeros instead of an encoded empty text."""
    side_unit: int | None = None
    """Pixels that sides must be multiples of, where whole latents are not enough."""
    sizes: tuple[tuple[int, int], ...] = ()
    """Heights and widths in pixels that the networks were made for; empty for any."""


def padded(
    sample: torch.Tensor, timestep: torch.Tensor, conditioning: Conditioning
) -> tuple[torch.Tensor, torch.Tensor, Conditioning]:
    """Return what `Networks.denoise` takes with a power of two rows; the last row is repeated.

    For runtimes that compile or record a network anew for every number of rows.
    """
    rows = len(sample)
    if not rows & (rows - 1):
        return sample, timestep, conditioning
    copies = torch.arange(1 << rows.bit_length(), device=sample.device).clamp(max=rows - 1)
    more = {name: value[copies] for name, value in conditioning.items()}
    return sample[copies], timestep[copies], more
