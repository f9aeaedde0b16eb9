"""A family's adapter says and hears what diffusers' own pipeline says and hears."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch

from farm.render.batches import Refusal
from farm.render.lane.families import join
from farm.render.lane.networks import Networks, Text
from farm.render.lane.torch_runtime import TorchRuntime, describe, why_unknown
from farm.render.loading import LoadedPipeline, load_pipeline
from farm.task import PipelineKey, TaskSpec


@pytest.fixture(scope="session", params=["sd", "xl"])
def loaded(request: pytest.FixtureRequest, tiny_sd: Path, tiny_sdxl: Path) -> LoadedPipeline:
    model = {"sd": tiny_sd, "xl": tiny_sdxl}[request.param]
    return load_pipeline(PipelineKey("torch", str(model), "float32"), device="cpu")


@pytest.fixture(scope="session")
def networks(loaded: LoadedPipeline) -> Networks:
    return join(describe(loaded.pipe), TorchRuntime(loaded))


def text(prompt: str, *, is_negative: bool = False, clip_skip: int | None = None) -> Text:
    return Text(prompt=prompt, is_negative=is_negative, clip_skip=clip_skip, height=32, width=48)


def oracle(pipe: Any, prompt: str, negative: str | None, clip_skip: int | None) -> list[Any]:
    """What the pipeline's own `encode_prompt` says, in one order for both families."""
    said = pipe.encode_prompt(
        prompt=prompt,
        device="cpu",
        num_images_per_prompt=1,
        do_classifier_free_guidance=True,
        negative_prompt=negative,
        clip_skip=clip_skip,
    )
    return list(said)


@pytest.mark.parametrize("clip_skip", [None, 0, 1, 2])
@pytest.mark.parametrize("negative", [None, "rust"])
def test_a_prompt_is_encoded_as_the_pipeline_encodes_it(
    loaded: LoadedPipeline, networks: Networks, negative: str | None, clip_skip: int | None
) -> None:
    with torch.no_grad():
        expected = oracle(loaded.pipe, "a red sword", negative, clip_skip)
    positive, other = networks.encode(
        [text("a red sword", clip_skip=clip_skip), text(negative or "", is_negative=True)]
    )
    assert torch.equal(positive["encoder_hidden_states"], expected[0][0])
    assert torch.equal(other["encoder_hidden_states"], expected[1][0])
    if len(expected) == 4:
        assert torch.equal(positive["text_embeds"], expected[2][0])
        assert torch.equal(other["text_embeds"], expected[3][0])
        assert positive["time_ids"].tolist() == [32, 48, 0, 0, 32, 48]


def test_rows_at_different_times_are_what_each_is_alone(networks: Networks) -> None:
    conditions = networks.encode([text("a"), text("b")])
    both = {name: torch.stack([one[name] for one in conditions]) for name in conditions[0]}
    sample = torch.randn(2, *networks.latent_shape(32, 48))
    times = torch.tensor([981.0, 12.5])
    together = networks.denoise(sample, times, both)
    for row in range(2):
        alone = networks.denoise(
            sample[row : row + 1],
            times[row : row + 1],
            {name: value[row : row + 1] for name, value in both.items()},
        )
        assert torch.allclose(together[row], alone[0], atol=1e-5)


def test_latents_are_decoded_as_the_pipeline_decodes_them(
    loaded: LoadedPipeline, networks: Networks
) -> None:
    latents = torch.randn(2, *networks.latent_shape(32, 48))
    latents[1, 0, 0, 0] = torch.nan
    pictures = networks.decode(latents)
    with torch.no_grad():
        images = loaded.pipe.vae.decode(latents / loaded.pipe.vae.config.scaling_factor).sample
    [first, _] = loaded.pipe.image_processor.postprocess(images, output_type="pt")
    expected = (first * 255).round().to(torch.uint8).permute(1, 2, 0)
    assert torch.equal(pictures.pixels[0], expected)
    assert pictures.is_finite.tolist() == [True, False]


def test_sides_between_latents_are_refused(networks: Networks) -> None:
    with pytest.raises(Refusal, match="multiples of 2 pixels, not 32 x 33; the nearest is 32 x 32"):
        networks.size_of(TaskSpec(height=33, width=32))


def test_a_size_that_was_not_exported_is_refused_with_what_to_do(loaded: LoadedPipeline) -> None:
    model = replace(describe(loaded.pipe), sizes=((32, 32), (32, 48)))
    networks = join(model, TorchRuntime(loaded))
    assert networks.size_of(TaskSpec(height=32, width=48)) == (32, 48)
    with pytest.raises(
        Refusal,
        match="for pictures of 32 x 32, 48 x 32, not 64 x 48; change width and height, or export "
        "the model again with --sizes 32x32,48x32,64x48",
    ):
        networks.size_of(TaskSpec(height=48, width=64))


def test_a_clip_skip_that_leaves_nothing_is_refused(networks: Networks) -> None:
    networks.check(TaskSpec(clip_skip=2))
    with pytest.raises(Refusal, match="at most 2"):
        networks.check(TaskSpec(clip_skip=3))


def test_known_families_are_known(loaded: LoadedPipeline) -> None:
    assert why_unknown(loaded.pipe) is None


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda pipe: pipe.unet.register_to_config(time_cond_proj_dim=8), "time_cond_proj_dim"),
        (lambda pipe: pipe.unet.register_to_config(addition_embed_type="image"), "addition_embed"),
        (lambda pipe: pipe.unet.register_to_config(in_channels=9), "takes 9 channels"),
        (lambda pipe: setattr(pipe.text_encoder.config, "use_attention_mask", True), "encoder"),
        (lambda pipe: setattr(pipe, "safety_checker", object()), "after they are decoded"),
    ],
)
def test_what_no_adapter_knows_is_said(
    tiny_sd: Path, change: Callable[[Any], None], reason: str
) -> None:
    pipe = diffusers.StableDiffusionPipeline.from_pretrained(tiny_sd, local_files_only=True)
    change(pipe)
    assert reason in (why_unknown(pipe) or "")


def test_a_transformer_is_of_no_known_family(tiny_flow: Path) -> None:
    loaded = load_pipeline(PipelineKey("torch", str(tiny_flow), "float32"), device="cpu")
    assert "StableDiffusion3Pipeline is of no family" in (why_unknown(loaded.pipe) or "")
