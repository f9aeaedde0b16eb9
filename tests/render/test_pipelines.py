"""Backend diffusers: its pictures are those of diffusers called by hand, its refusals honest."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch

from farm.render import Renderer, open_renderer
from farm.task import Failed, FailureKind, PipelineKey, Rendered, RenderResult, TaskSpec

Open = Callable[[Path], Renderer]


def task_of(model: Path, **fields: object) -> TaskSpec:
    settings = {"prompt": "a red sword", "num_inference_steps": 3, "guidance_scale": 4.0, "seed": 5}
    return TaskSpec(model=str(model), **{**settings, **fields})  # type: ignore[arg-type] # fields by name


def render(renderer: Renderer, *tasks: TaskSpec) -> list[RenderResult]:
    return list(renderer.render(iter(tasks)))


def pixels_of(renderer: Renderer, task: TaskSpec) -> np.ndarray:
    [result] = render(renderer, task)
    assert isinstance(result, Rendered), result
    return result.pixels


def failure_of(renderer: Renderer, task: TaskSpec) -> Failed:
    [result] = render(renderer, task)
    assert isinstance(result, Failed), result
    return result


def by_hand(model: Path, *, scheduler: object = None, **arguments: Any) -> np.ndarray:
    """Call diffusers as its documentation says, and return the picture it saves."""
    absent = {"text_encoder_3": None, "tokenizer_3": None} if "sd3" in model.name else {}
    pipe = diffusers.DiffusionPipeline.from_pretrained(model, local_files_only=True, **absent)
    pipe.set_progress_bar_config(disable=True)
    if scheduler is not None:
        pipe.scheduler = scheduler
    call = {"prompt": "a red sword", "num_inference_steps": 3, "guidance_scale": 4.0, **arguments}
    [image] = pipe(generator=torch.Generator("cpu").manual_seed(5), **call).images
    return np.asarray(image)


@pytest.mark.parametrize("family", ["tiny_sd", "tiny_sdxl", "tiny_flow"])
def test_the_picture_is_the_one_that_diffusers_makes(
    family: str, request: pytest.FixtureRequest, renderer_of: Open
) -> None:
    model: Path = request.getfixturevalue(family)
    assert np.array_equal(pixels_of(renderer_of(model), task_of(model)), by_hand(model))


def test_every_argument_reaches_diffusers(tiny_sd: Path, renderer_of: Open) -> None:
    arguments = {
        "negative_prompt": "dim", "guidance_scale": 7.0, "guidance_rescale": 0.7, "height": 48,
        "width": 32, "num_inference_steps": 2, "eta": 1.0, "prompt": "a bow",
    }  # fmt: skip
    expected = by_hand(tiny_sd, **arguments)
    assert np.array_equal(pixels_of(renderer_of(tiny_sd), task_of(tiny_sd, **arguments)), expected)


def test_the_sampler_is_the_one_of_diffusers(tiny_sd: Path, renderer_of: Open) -> None:
    own = diffusers.DDIMScheduler.from_pretrained(tiny_sd, subfolder="scheduler")
    expected = by_hand(
        tiny_sd,
        scheduler=diffusers.DPMSolverMultistepScheduler.from_config(
            own.config, algorithm_type="sde-dpmsolver++", use_karras_sigmas=True,
            timestep_spacing="linspace", steps_offset=0,
        ),
    )  # fmt: skip
    task = task_of(tiny_sd, sampler="dpmpp_2m_sde", sigma_schedule="karras")
    assert np.array_equal(pixels_of(renderer_of(tiny_sd), task), expected)


def test_an_empty_negative_prompt_is_an_absent_one(tiny_sdxl: Path, renderer_of: Open) -> None:
    # Stable Diffusion XL takes zeros for an absent negative prompt, not the encoding of "".
    task = task_of(tiny_sdxl)
    beside = task_of(tiny_sdxl, negative_prompt="dim", seed=6)
    results = render(renderer_of(tiny_sdxl), task, beside)
    [picture] = [r.pixels for r in results if isinstance(r, Rendered) and r.task == task]
    assert np.array_equal(picture, by_hand(tiny_sdxl))
    assert not np.array_equal(picture, by_hand(tiny_sdxl, negative_prompt=""))


def test_equal_settings_share_a_batch(tiny_sd: Path, renderer_of: Open) -> None:
    tasks = [task_of(tiny_sd, seed=seed, prompt=f"bow {seed}") for seed in range(5)]
    results = render(renderer_of(tiny_sd), *tasks)
    assert {r.batch_size for r in results if isinstance(r, Rendered)} == {5}
    assert {r.denoiser_evaluations for r in results if isinstance(r, Rendered)} == {6}


@pytest.mark.filterwarnings("ignore:Should have t:UserWarning")  # torchsde on its own rounding
def test_a_sampler_that_draws_one_noise_a_batch_is_rendered_alone(
    tiny_sd: Path, renderer_of: Open
) -> None:
    tasks = [task_of(tiny_sd, seed=seed, sampler="dpmpp_sde") for seed in range(2)]
    results = render(renderer_of(tiny_sd), *tasks)
    first, second = (r.pixels for r in results if isinstance(r, Rendered))
    assert {r.batch_size for r in results if isinstance(r, Rendered)} == {1}
    assert not np.array_equal(first, second)
    assert np.array_equal(pixels_of(renderer_of(tiny_sd), tasks[1]), second)


@pytest.mark.parametrize(
    ("family", "fields", "message"),
    [
        ("tiny_sd", {"eta": 1.0, "sampler": "euler"}, "sampler 'euler' .* has no eta"),
        ("tiny_sd", {"clip_skip": 3}, "clip_skip 3 leaves nothing of the 3 layers"),
        ("tiny_sdxl", {"clip_skip": 3}, "clip_skip 3 leaves nothing of the 3 layers"),
        (
            "tiny_flow",
            {"guidance_rescale": 0.5},
            "StableDiffusion3Pipeline has no guidance_rescale",
        ),
        ("tiny_flow", {"eta": 0.5}, "has no eta"),
        ("tiny_sd", {"num_inference_steps": 1001}, "1001"),
        ("tiny_flow", {"height": 40 + 8, "width": 34}, "divisible"),
    ],
)
def test_what_would_be_ignored_or_refused_fails_with_the_reason(
    family: str,
    fields: dict[str, object],
    message: str,
    request: pytest.FixtureRequest,
    renderer_of: Open,
) -> None:
    import re

    model: Path = request.getfixturevalue(family)
    failure = failure_of(renderer_of(model), task_of(model, **fields))
    assert failure.kind is FailureKind.BAD_TASK
    assert re.search(message, failure.message)


def test_clip_skip_takes_an_earlier_layer_and_norms_it(tiny_sd: Path, renderer_of: Open) -> None:
    pipe: Any = diffusers.DiffusionPipeline.from_pretrained(tiny_sd, local_files_only=True)
    ids = pipe.tokenizer(
        ["a red sword", ""], padding="max_length", max_length=24, return_tensors="pt"
    ).input_ids
    with torch.no_grad():
        encoded = pipe.text_encoder(ids, output_hidden_states=True)
        positive = pipe.text_encoder.final_layer_norm(encoded.hidden_states[-2][:1])
        negative = encoded.last_hidden_state[1:]  # diffusers skips layers of the prompt alone
    expected = by_hand(
        tiny_sd, prompt=None, prompt_embeds=positive, negative_prompt_embeds=negative
    )
    picture = pixels_of(renderer_of(tiny_sd), task_of(tiny_sd, clip_skip=1))
    assert np.array_equal(picture, expected)
    assert not np.array_equal(picture, pixels_of(renderer_of(tiny_sd), task_of(tiny_sd)))


@pytest.mark.parametrize("clip_skip", [0, 1, 2])
@pytest.mark.parametrize("family", ["tiny_sd", "tiny_sdxl"])
def test_every_clip_skip_that_leaves_a_layer_renders(
    family: str, clip_skip: int, request: pytest.FixtureRequest, renderer_of: Open
) -> None:
    model: Path = request.getfixturevalue(family)
    pixels_of(renderer_of(model), task_of(model, clip_skip=clip_skip))


def test_a_prompt_that_is_cut_is_mentioned_once(
    tiny_sd: Path, renderer_of: Open, caplog: pytest.LogCaptureFixture
) -> None:
    long = "sword " * 20
    with caplog.at_level(logging.WARNING, logger="farm.render"):
        render(renderer_of(tiny_sd), *(task_of(tiny_sd, prompt=long, seed=n) for n in range(3)))
        render(renderer_of(tiny_sd), task_of(tiny_sd, prompt=long, seed=9))
        render(renderer_of(tiny_sd), task_of(tiny_sd, prompt="bow"))
    [record] = caplog.records
    assert "longer than the model reads" in record.message
    assert vars(record)["prompt"] == long


# --- a pipeline with troubles -------------------------------------------------------------------


class Troubled:
    """A renderer whose pipeline a test can make fail: the call is intercepted, nothing else."""

    def __init__(self, model: Path) -> None:
        renderer: Any = open_renderer(
            PipelineKey("diffusers", str(model), "float32"), device="cpu", threads=1
        )
        self.renderer: Renderer = renderer
        self.pipe = renderer._stream._painter._pipe
        self.calls: list[int] = []

    def intercept(self, before: Callable[[list[str]], None]) -> None:
        outer = self

        class Intercepted(type(self.pipe)):  # type: ignore[misc] # a class made at run time
            def __call__(self, *, prompt: list[str], **arguments: object) -> object:
                outer.calls.append(len(prompt))
                before(prompt)
                return super().__call__(prompt=prompt, **arguments)

        # The signature stays diffusers' own, which is what the renderer reads.
        Intercepted.__call__.__wrapped__ = type(self.pipe).__call__  # type: ignore[attr-defined] # set here
        self.pipe.__class__ = Intercepted


@pytest.fixture
def troubled(tiny_sd: Path) -> Troubled:
    return Troubled(tiny_sd)


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory"
        ),
    ],
    ids=["python", "cuda", "cpu"],
)
def test_out_of_memory_halves_the_batch(
    error: Exception, troubled: Troubled, tiny_sd: Path
) -> None:
    def before(prompts: list[str]) -> None:
        if len(prompts) > 2:
            raise error

    troubled.intercept(before)
    tasks = [task_of(tiny_sd, seed=seed) for seed in range(8)]
    results = render(troubled.renderer, *tasks)
    assert all(isinstance(result, Rendered) for result in results)
    assert troubled.calls == [8, 4, 2, 2, 2, 2]


def test_a_failed_batch_keeps_nothing_alive(troubled: Troubled, tiny_sd: Path) -> None:
    import weakref

    held: list[weakref.ref[Any]] = []

    def before(prompts: list[str]) -> None:
        activation = torch.zeros(1)
        held.append(weakref.ref(activation))
        if len(prompts) > 1:
            raise MemoryError
        assert all(ref() is None for ref in held[:-1])

    troubled.intercept(before)
    results = render(troubled.renderer, *(task_of(tiny_sd, seed=n) for n in range(2)))
    assert all(isinstance(result, Rendered) for result in results)


def test_an_unexpected_error_of_one_prompt_fails_that_task_only(
    troubled: Troubled, tiny_sd: Path
) -> None:
    def before(prompts: list[str]) -> None:
        if "cursed" in prompts:
            raise IndexError("index 7 is out of bounds")

    troubled.intercept(before)
    prompts = ["bow", "cursed", "axe"]
    results = render(troubled.renderer, *(task_of(tiny_sd, prompt=p) for p in prompts))
    [failure] = [result for result in results if isinstance(result, Failed)]
    assert failure.task.prompt == "cursed"
    assert failure.kind is FailureKind.INTERNAL
    assert failure.message == "IndexError: index 7 is out of bounds"


@pytest.mark.parametrize(("value", "reason"), [(float("nan"), "not numbers"), (-50.0, "is 0")])
def test_a_picture_that_is_none_is_bad_output(
    value: float, reason: str, troubled: Troubled, tiny_sd: Path
) -> None:
    with torch.no_grad():
        for weight in troubled.pipe.vae.decoder.conv_out.parameters():
            weight.fill_(0.0 if weight.ndim > 1 else value)
    failure = failure_of(troubled.renderer, task_of(tiny_sd))
    assert failure.kind is FailureKind.BAD_OUTPUT
    assert reason in failure.message


def test_ctrl_c_stops_the_stream(troubled: Troubled, tiny_sd: Path) -> None:
    def before(_: list[str]) -> None:
        raise KeyboardInterrupt

    troubled.intercept(before)
    with pytest.raises(KeyboardInterrupt):
        render(troubled.renderer, task_of(tiny_sd))


def test_close_gives_the_model_back_and_may_be_called_twice(tiny_sd: Path) -> None:
    import weakref

    troubled = Troubled(tiny_sd)
    network = weakref.ref(troubled.pipe.unet)
    renderer: Renderer = troubled.renderer
    del troubled
    renderer.close()
    renderer.close()
    assert network() is None


def test_nothing_of_torchvision_is_needed() -> None:
    assert "torchvision" not in sys.modules
