"""Backend `diffusers`: the model's own pipeline, called as its documentation says.

It renders whatever text-to-image pipeline diffusers loads, and it is the oracle: what another
backend draws is right when it looks like this. So it takes no shortcut that changes pixels. Tasks
with equal settings share a call, each with its own prompt and its own generator.

A setting is passed on only when a task sets it, and a setting that the pipeline or the sampler
would ignore is refused instead: a sheet over an axis that does nothing is a lie.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np
import torch

from farm.render.batches import BatchedStream, Refusal
from farm.render.failures import fault_in, free_memory, kind_of
from farm.render.loading import LoadedPipeline, load_pipeline
from farm.render.noise import float32_noise, generators_of
from farm.render.protocol import Renderer
from farm.render.scheduling import build_scheduler, takes
from farm.samplers import SAMPLERS
from farm.task import (
    FIELDS,
    Failed,
    FailureKind,
    PipelineKey,
    Rendered,
    RenderFacts,
    RenderResult,
    TaskSpec,
)

_log = logging.getLogger(__name__)

_OWN = frozenset({"prompt", "negative_prompt", "seed"})
"""Fields that the tasks of a batch need not share."""
_SHARED = tuple(name for name in FIELDS if name not in _OWN)
_OPTIONAL = ("eta", "guidance_rescale", "clip_skip")
"""Fields that are passed on only if set."""

_LARGEST_BATCH = 64
_CPU_PIXELS = 16 * 128 * 128
"""Pixels a batch on a CPU starts from: more images at once gain nothing there."""
_BYTES_PER_PIXEL = 4096
"""Device memory that one pixel of a batch is reckoned to need at most, which is in the decoder.

An estimate to start from (a 1024 x 1024 image in float32 takes about 4 GB in the decoder of Stable
Diffusion XL); running out of memory corrects it."""


class PipelineRenderer:
    """A diffusers pipeline as a stream."""

    def __init__(self, loaded: LoadedPipeline, *, remark: str | None = None) -> None:
        """Take over a loaded pipeline; `remark` is what its user should be told of it."""
        self.remark = remark
        self._stream: BatchedStream | None = BatchedStream(PipelinePainter(loaded))

    def render(self, tasks: Iterator[TaskSpec]) -> Iterator[RenderResult]:
        """Yield one result for every task; tasks with equal settings come together."""
        assert self._stream is not None, "a closed renderer renders nothing"
        return self._stream.render(tasks)

    def close(self) -> None:
        """Give the model's memory back."""
        self._stream = None
        free_memory()


def open_pipeline_renderer(key: PipelineKey, *, device: str, threads: int | None) -> Renderer:
    """Load a model; entry point of backend `diffusers`. See `open_renderer`."""
    if threads is not None:
        torch.set_num_threads(threads)
    return PipelineRenderer(load_pipeline(key, device=device))


class PipelinePainter:
    """Draws a batch of tasks with equal settings in one call of the pipeline."""

    def __init__(self, loaded: LoadedPipeline) -> None:
        self._loaded = loaded
        self._facts = replace(loaded.facts, renderer="pipeline")
        self._pipe = loaded.pipe
        self._scheduler = loaded.pipe.scheduler
        self._free_pixels = _pixels_that_fit(loaded.device)
        self._mention_if_cut = lru_cache(maxsize=4096)(self._warn_if_cut)

    @property
    def facts(self) -> RenderFacts:
        """Device, dtype, versions and the model's hash."""
        return self._facts

    def settings(self, task: TaskSpec) -> Hashable:
        """Return every field but prompts and seed, and whether there is a negative prompt.

        Some pipelines treat an absent negative prompt differently from an empty one, so the two do
        not mix in a call.
        """
        return (*(getattr(task, name) for name in _SHARED), task.negative_prompt == "")

    def memory_class(self, task: TaskSpec) -> tuple[int | None, int | None]:
        """Return the size of the image."""
        return task.height, task.width

    def first_batch_size(self, task: TaskSpec) -> int:
        """Return the largest power of two whose pixels should fit, at most 64."""
        pixels = (task.height or self._own_size()) * (task.width or self._own_size())
        fitting = max(1, min(self._free_pixels // pixels, _LARGEST_BATCH))
        return 1 << (fitting.bit_length() - 1)

    def largest_batch(self, task: TaskSpec) -> int | None:
        """Return 1 for samplers that draw one noise for a whole batch."""
        sampler = SAMPLERS.get(task.sampler)
        return 1 if sampler and sampler.one_noise_per_batch else None

    def draw(self, tasks: Sequence[TaskSpec]) -> Sequence[RenderResult]:
        """Call the pipeline once, with one generator per image.

        Raises:
            Refusal: the pipeline or the sampler cannot do these settings.
            Exception: whatever the pipeline raises.
        """
        started = time.perf_counter()
        self._pipe.scheduler = build_scheduler(self._scheduler, tasks[0])
        arguments = self._arguments(tasks)
        for task in tasks:
            self._mention_if_cut(task.prompt)
        with float32_noise(self._pipe, self._pipe.scheduler), self._counting() as count:
            images = self._pipe(**arguments).images
        pixels, is_finite = _to_pixels(images)
        render_ms = (time.perf_counter() - started) * 1e3 / len(tasks)
        return [
            self._result(
                task, image, finite=bool(finite), render_ms=render_ms, batch_size=len(tasks),
                evaluations=count.rows // len(tasks),
            )
            for task, image, finite in zip(tasks, pixels, is_finite, strict=True)
        ]  # fmt: skip

    def diagnose(self, error: Exception) -> FailureKind:
        """Return what an exception of the pipeline means for a task that is alone in its batch."""
        return kind_of(error)

    def recover(self) -> None:
        """Free what a failed call left on the device."""
        free_memory()

    def _arguments(self, tasks: Sequence[TaskSpec]) -> dict[str, Any]:
        """Return the keywords of the pipeline's call."""
        task = tasks[0]
        arguments: dict[str, Any] = {
            "prompt": [one.prompt for one in tasks],
            "generator": generators_of(tasks),
            "num_inference_steps": task.num_inference_steps,
            "num_images_per_prompt": 1,
            "output_type": "pt",
        }
        if takes(type(self._pipe).__call__, "guidance_scale"):
            arguments["guidance_scale"] = task.guidance_scale
        if task.height is not None:
            arguments["height"] = task.height
        if task.width is not None:
            arguments["width"] = task.width
        if task.negative_prompt:
            self._require("negative_prompt")
            arguments["negative_prompt"] = [one.negative_prompt for one in tasks]
        for name in _OPTIONAL:
            if (value := getattr(task, name)) is not None:
                self._require(name)
                arguments[name] = value
        self._check_eta(task)
        self._check_clip_skip(task)
        return arguments

    def _require(self, argument: str) -> None:
        if not takes(type(self._pipe).__call__, argument):
            raise Refusal(f"{type(self._pipe).__name__} has no {argument}; leave it out")

    def _check_eta(self, task: TaskSpec) -> None:
        if task.eta is not None and not takes(type(self._pipe.scheduler).step, "eta"):
            raise Refusal(
                f"sampler '{task.sampler}' ({type(self._pipe.scheduler).__name__}) has no eta; "
                "ddim and tcd have"
            )

    def _check_clip_skip(self, task: TaskSpec) -> None:
        for name in ("text_encoder", "text_encoder_2"):
            encoder = getattr(self._pipe, name, None)
            layers = getattr(getattr(encoder, "config", None), "num_hidden_layers", None)
            if task.clip_skip is not None and layers is not None and task.clip_skip >= layers:
                raise Refusal(
                    f"clip_skip {task.clip_skip} leaves nothing of the {layers} layers of the "
                    f"model's {name}; at most {layers - 1}"
                )

    def _warn_if_cut(self, prompt: str) -> None:
        tokenizer = getattr(self._pipe, "tokenizer", None)
        if tokenizer is None:
            return
        limit = tokenizer.model_max_length
        length = len(tokenizer(prompt).input_ids)
        if length > limit:
            _log.warning(
                "prompt is longer than the model reads; its end is ignored",
                extra={"prompt": prompt, "tokens": length, "limit": limit},
            )

    def _result(
        self,
        task: TaskSpec,
        image: np.ndarray[Any, np.dtype[np.uint8]],
        *,
        finite: bool,
        render_ms: float,
        batch_size: int,
        evaluations: int,
    ) -> RenderResult:
        if fault := fault_in(image, is_finite=finite, dtype=self.facts.dtype):
            return Failed(task=task, kind=FailureKind.BAD_OUTPUT, message=fault, facts=self.facts)
        return Rendered(
            task=task,
            pixels=image,
            render_ms=render_ms,
            batch_size=batch_size,
            denoiser_evaluations=evaluations,
            facts=self.facts,
        )

    def _denoiser(self) -> torch.nn.Module:
        network = getattr(self._pipe, "unet", None) or self._pipe.transformer
        assert isinstance(network, torch.nn.Module), "a pipeline denoises with a network"
        return network

    def _own_size(self) -> int:
        """Return the side of the images that the model makes by itself, in pixels."""
        config: Any = self._denoiser().config
        latent = getattr(self._pipe, "default_sample_size", None) or config.get("sample_size", 128)
        side = max(latent) if isinstance(latent, list | tuple) else latent
        return int(side) * int(getattr(self._pipe, "vae_scale_factor", 8))

    @contextmanager
    def _counting(self) -> Iterator[_EvaluationCount]:
        """Count the rows that go through the denoiser within the block."""
        count = _EvaluationCount()
        handle = self._denoiser().register_forward_pre_hook(count, with_kwargs=True)
        try:
            yield count
        finally:
            handle.remove()


class _EvaluationCount:
    """A hook that adds up the batch dimensions of a network's inputs."""

    def __init__(self) -> None:
        self.rows = 0

    def __call__(self, _: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        inputs = args[0] if args else kwargs.get("hidden_states", kwargs.get("sample", ()))
        self.rows += len(inputs)


def _to_pixels(
    images: torch.Tensor,
) -> tuple[np.ndarray[Any, np.dtype[np.uint8]], np.ndarray[Any, np.dtype[np.bool_]]]:
    """Return uint8 `[batch, height, width, 3]`, and per image whether its values were all finite.

    Args:
        images: floats `[batch, 3, height, width]` within 0 to 1, on any device.

    Rounds as diffusers does, half to even, but on the device: a quarter of the bytes travel.
    """
    finite = images.isfinite().flatten(1).all(dim=1)
    levels = images.float().nan_to_num().mul(255).round().to(torch.uint8)
    return levels.permute(0, 2, 3, 1).contiguous().cpu().numpy(), finite.cpu().numpy()


def _pixels_that_fit(device: torch.device) -> int:
    if device.type == "cuda":
        free_bytes, _ = torch.cuda.mem_get_info(device)
        return int(free_bytes) // _BYTES_PER_PIXEL
    return _CPU_PIXELS
