"""What torch runs is the same compiled, padded, and in half precision on a GPU."""

from __future__ import annotations

from pathlib import Path

import diffusers
import numpy as np
import pytest
import torch

from farm.render import open_renderer
from farm.render.difference import psnr
from farm.render.lane.families import join
from farm.render.lane.lane import Lane
from farm.render.lane.networks import Networks, Text
from farm.render.lane.torch_runtime import COMPILE_VARIABLE, TorchRuntime, describe
from farm.render.loading import load_pipeline
from farm.task import PipelineKey, Rendered, TaskSpec

SETTINGS = [(1.0, "euler_a"), (4.0, "dpmpp_2m"), (7.5, "ddim"), (4.0, "euler_a"), (2.0, "euler")]


def networks_of(model: Path) -> Networks:
    loaded = load_pipeline(PipelineKey("torch", str(model), "float32"), device="cpu")
    return join(describe(loaded.pipe), TorchRuntime(loaded))


@pytest.mark.parametrize("rows", [1, 3, 5])
def test_a_compiled_network_sees_powers_of_two_and_answers_the_rows_that_asked(
    rows: int, tiny_sdxl: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = networks_of(tiny_sdxl)
    seen: list[int] = []
    original = diffusers.UNet2DConditionModel.forward

    def forward(unet: object, sample: torch.Tensor, *args: object, **options: object) -> object:
        seen.append(len(sample))
        return original(unet, sample, *args, **options)

    monkeypatch.setenv(COMPILE_VARIABLE, "1")
    monkeypatch.setattr(diffusers.UNet2DConditionModel, "compile_repeated_blocks", lambda _: None)
    compiled = networks_of(tiny_sdxl)
    text = Text(prompt="a", is_negative=False, clip_skip=None, height=32, width=32)
    [said] = plain.encode([text])
    batch = {name: torch.stack([value] * rows) for name, value in said.items()}
    sample = torch.randn(rows, *plain.latent_shape(32, 32))
    times = torch.linspace(10, 900, rows)
    expected = plain.denoise(sample, times, batch)
    monkeypatch.setattr(diffusers.UNet2DConditionModel, "forward", forward)
    found = compiled.denoise(sample, times, batch)
    assert seen == [{1: 1, 3: 4, 5: 8}[rows]]
    assert torch.allclose(found, expected, atol=1e-5)


def test_a_model_of_a_known_build_needs_no_search(
    tiny_sd: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two checkpoints of one build, and one that differs in what its networks do."""
    rows: list[int] = []
    original = diffusers.UNet2DConditionModel.forward

    def forward(unet: object, sample: torch.Tensor, *args: object, **options: object) -> object:
        rows.append(len(sample))
        return original(unet, sample, *args, **options)

    monkeypatch.setattr(diffusers.UNet2DConditionModel, "forward", forward)
    firsts = []
    # A dropout is idle when pictures are drawn, and makes a build that no other test opens.
    for name, dropout in (("one", 0.125), ("other", 0.125), ("another", 0.25)):
        pipe = diffusers.StableDiffusionPipeline.from_pretrained(tiny_sd)
        unet = diffusers.UNet2DConditionModel.from_config({**pipe.unet.config, "dropout": dropout})
        pipe.register_modules(unet=unet)
        pipe.save_pretrained(tmp_path / name)
        rows.clear()
        drawn(tmp_path / name, device="cpu", dtype="float32")
        firsts.append(rows[0])
    assert max(firsts[0], firsts[2]) <= 2 < firsts[1]


def drawn(model: Path, *, device: str, dtype: str) -> dict[TaskSpec, np.ndarray]:
    key = PipelineKey("torch", str(model), dtype)
    renderer = open_renderer(key, device=device)
    tasks = [
        TaskSpec(
            model=str(model), prompt="a", seed=seed, guidance_scale=guidance, sampler=sampler,
            num_inference_steps=4 + seed % 3,
        )
        for seed, (guidance, sampler) in enumerate(SETTINGS * 4)
    ]  # fmt: skip
    results = list(renderer.render(iter(tasks)))
    renderer.close()
    assert all(isinstance(result, Rendered) for result in results)
    return {result.task: result.pixels for result in results if isinstance(result, Rendered)}


@pytest.mark.gpu
@pytest.mark.parametrize(("dtype", "least"), [("float32", 40.0), ("float16", 25.0)])
@pytest.mark.parametrize("compiled", ["0", "1"])
def test_a_gpu_draws_what_the_cpu_draws(
    dtype: str, least: float, compiled: str, tiny_sd: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = drawn(tiny_sd, device="cpu", dtype="float32")
    monkeypatch.setenv(COMPILE_VARIABLE, compiled)
    found = drawn(tiny_sd, device="cuda", dtype=dtype)
    assert min(psnr(found[task], expected[task]) for task in expected) >= least


@pytest.mark.gpu
def test_a_tick_never_waits_for_the_device(tiny_sd: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tick = Lane.tick

    def watched(lane: Lane) -> None:
        torch.cuda.set_sync_debug_mode("error")
        try:
            tick(lane)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    monkeypatch.setattr(Lane, "tick", watched)
    drawn(tiny_sd, device="cuda", dtype="float16")
