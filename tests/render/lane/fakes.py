"""A model that costs nothing: a network of sines, and what it should draw, written out plainly.

It answers each value of a row from that value, the row's time and the row's text alone, and it can
be told to run out of memory, to break, or to answer with what is no number.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any

import diffusers
import numpy as np
import torch

from farm.render.batches import Refusal
from farm.render.lane.networks import Conditioning, Pictures, Text
from farm.render.tables import table_for
from farm.task import RenderFacts, TaskSpec

CHANNELS = 4
SIDE = 8
"""Pixels; a latent is two of them."""

SCHEDULER = diffusers.DDIMScheduler(
    beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False,
    steps_offset=1, set_alpha_to_one=False,
)  # fmt: skip


class SineNetworks:
    """Networks without weights. What was asked of them is kept."""

    def __init__(self, *, rows_that_fit: int = 1 << 30, pictures_that_fit: int = 1 << 30) -> None:
        self.rows_that_fit = rows_that_fit
        self.pictures_that_fit = pictures_that_fit
        self.broken_text: str | None = None
        """A prompt that makes every batch raise that it is in."""
        self.nan_text: str | None = None
        """A prompt whose rows get what is no number."""
        self.encoded: list[Text] = []
        self.calls: list[int] = []
        """Rows of every call of the denoiser that went well."""
        self.latents: list[torch.Tensor] = []
        """What was decoded, in order."""
        self.can_save_memory = False
        self.is_closed = False

    facts = RenderFacts(dtype="float32", device="cpu")
    device = torch.device("cpu")
    scheduler: Any = SCHEDULER

    def size_of(self, task: TaskSpec) -> tuple[int, int]:
        height, width = task.height or SIDE, task.width or SIDE
        if height % 2 or width % 2:
            raise Refusal("this model makes even pictures")
        return height, width

    def latent_shape(self, height: int, width: int) -> tuple[int, int, int]:
        return CHANNELS, height // 2, width // 2

    def check(self, task: TaskSpec) -> None:
        if task.clip_skip is not None:
            raise Refusal("clip_skip means nothing to sines")

    def encode(self, texts: Sequence[Text]) -> Sequence[Conditioning]:
        self.encoded += texts
        return [
            {"phase": torch.tensor(_phase(text)), "flaw": torch.tensor(self._flaw(text))}
            for text in texts
        ]

    def denoise(
        self, sample: torch.Tensor, timestep: torch.Tensor, conditioning: Conditioning
    ) -> torch.Tensor:
        assert len(sample) == len(timestep) == len(conditioning["phase"])
        assert sample.dtype == timestep.dtype == torch.float32
        if len(sample) > self.rows_that_fit:
            raise torch.OutOfMemoryError("CUDA out of memory")
        if (conditioning["flaw"] == 2).any():
            raise RuntimeError("a kernel broke")
        self.calls.append(len(sample))
        phase = conditioning["phase"].view(-1, 1, 1, 1)
        answer: torch.Tensor = sines(sample, timestep.view(-1, 1, 1, 1), phase)
        answer[conditioning["flaw"] == 1] = torch.nan
        return answer

    def decode(self, latents: torch.Tensor) -> Pictures:
        if len(latents) > self.pictures_that_fit:
            raise torch.OutOfMemoryError("CUDA out of memory")
        self.latents.extend(latents.clone())
        levels = latents[:, :3].tanh().nan_to_num().mul(127).add(128).to(torch.uint8)
        pixels = levels.repeat_interleave(2, 2).repeat_interleave(2, 3).permute(0, 2, 3, 1)
        return Pictures(
            pixels=pixels.contiguous(), is_finite=latents.isfinite().flatten(1).all(dim=1)
        )

    def save_memory(self) -> bool:
        if self.can_save_memory:
            self.pictures_that_fit = 1
        can, self.can_save_memory = self.can_save_memory, False
        return can

    def close(self) -> None:
        self.is_closed = True

    def _flaw(self, text: Text) -> int:
        return 2 if text.prompt == self.broken_text else int(text.prompt == self.nan_text)


def sines(x: Any, timestep: Any, phase: Any) -> Any:
    """What the network says: of arrays and of tensors alike. Tame, so that rounding stays small."""
    sin = torch.sin if isinstance(x, torch.Tensor) else np.sin
    return 0.3 * x + 0.3 * sin(x + timestep / 100.0 + phase)


def expected_latents(task: TaskSpec) -> np.ndarray:
    """What a task comes to, in float64, one evaluation after the other."""
    table = table_for(
        SCHEDULER, sampler=task.sampler, sigma_schedule=task.sigma_schedule,
        steps=task.num_inference_steps, eta=task.eta,
    )  # fmt: skip
    height, width = task.height or SIDE, task.width or SIDE
    generator = torch.Generator("cpu").manual_seed(task.seed)

    def noises() -> Iterator[np.ndarray]:
        while True:
            noise = torch.randn(1, CHANNELS, height // 2, width // 2, generator=generator)
            yield noise[0].numpy().astype(np.float64)

    def text(prompt: str, *, is_negative: bool) -> float:
        return _phase(
            Text(prompt=prompt, is_negative=is_negative, clip_skip=None, height=0, width=0)
        )

    def network(x: np.ndarray, timestep: float) -> np.ndarray:
        said: np.ndarray = sines(x, timestep, text(task.prompt, is_negative=False))
        if task.guidance_scale <= 1:
            return said
        other = sines(x, timestep, text(task.negative_prompt, is_negative=True))
        guided: np.ndarray = other + task.guidance_scale * (said - other)
        share = task.guidance_rescale or 0.0
        matched: np.ndarray = guided * (said.std(ddof=1) / guided.std(ddof=1))
        return share * matched + (1 - share) * guided

    return table.run(network, noises())


def _phase(text: Text) -> float:
    """A number that every text has for itself; sizes aside, which sines do not heed."""
    digest = hashlib.blake2b(f"{text.prompt}|{text.is_negative}".encode(), digest_size=4).digest()
    return int.from_bytes(digest, "little") / 2**32
