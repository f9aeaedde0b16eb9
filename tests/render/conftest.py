"""Small models with random weights, made on the spot: the shapes of real ones, none of the size.

Their pictures are noise, which is all that is needed to tell a right call from a wrong one.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import diffusers
import pytest
import torch
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from farm.render import Renderer, open_renderer
from farm.render.exporting import bundle_of
from farm.render.onnx_bundle import OnnxBundle, open_bundle
from farm.task import PipelineKey

TEXT_WIDTH = 16
TEXT_LAYERS = 3
SIZE = 32
"""Image side that the small models make by themselves."""


@pytest.fixture(autouse=True)
def _a_home_of_its_own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep hashes and hub look-ups of tests out of the user's own caches, and off the network."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))
        patch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        patch.delenv("FARM_MODELS", raising=False)
        patch.delenv("FARM_SINGLE_FILE_CONFIG", raising=False)
        yield


@pytest.fixture(scope="session")
def tiny_sd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as Stable Diffusion's, with v-prediction and a DDIM scheduler."""
    folder = tmp_path_factory.mktemp("models") / "tiny-sd"
    torch.manual_seed(0)
    diffusers.StableDiffusionPipeline(
        vae=_vae(),
        text_encoder=CLIPTextModel(_text_config()),
        tokenizer=_tokenizer(folder),
        unet=_unet(cross_attention_dim=TEXT_WIDTH),
        scheduler=_scheduler("DDIMScheduler", clip_sample=False),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_sdxl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as Stable Diffusion XL's: two text encoders, an empty negative prompt is zeros."""
    folder = tmp_path_factory.mktemp("models") / "tiny-sdxl"
    torch.manual_seed(1)
    ids = 6 * 8  # six numbers of size and crop, embedded in 8 dimensions each
    diffusers.StableDiffusionXLPipeline(
        vae=_vae(),
        text_encoder=CLIPTextModel(_text_config()),
        text_encoder_2=CLIPTextModelWithProjection(_text_config()),
        tokenizer=_tokenizer(folder),
        tokenizer_2=_tokenizer(folder),
        unet=_unet(
            cross_attention_dim=2 * TEXT_WIDTH,
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=ids + TEXT_WIDTH,
        ),
        scheduler=_scheduler("EulerDiscreteScheduler", timestep_spacing="leading", steps_offset=1),
        add_watermarker=False,
    ).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_flow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as Stable Diffusion 3's: a transformer trained by flow matching."""
    folder = tmp_path_factory.mktemp("models") / "tiny-sd3"
    torch.manual_seed(2)
    diffusers.StableDiffusion3Pipeline(
        vae=_vae(shift_factor=0.06),
        text_encoder=CLIPTextModelWithProjection(_text_config()),
        text_encoder_2=CLIPTextModelWithProjection(_text_config()),
        text_encoder_3=None,
        tokenizer=_tokenizer(folder),
        tokenizer_2=_tokenizer(folder),
        tokenizer_3=None,
        transformer=diffusers.SD3Transformer2DModel(
            sample_size=16, patch_size=2, in_channels=4, out_channels=4, num_layers=1,
            attention_head_dim=8, num_attention_heads=2, caption_projection_dim=16,
            joint_attention_dim=2 * TEXT_WIDTH, pooled_projection_dim=2 * TEXT_WIDTH,
        ),
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
    ).save_pretrained(folder)  # fmt: skip
    return folder


@pytest.fixture(scope="session")
def tiny_file(tiny_sd: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small Stable Diffusion as one `.safetensors` file, in the layout of its first authors."""
    pipe = diffusers.StableDiffusionPipeline.from_pretrained(tiny_sd, local_files_only=True)
    weights = {
        **_renamed(pipe.unet, "model.diffusion_model.", _unet_key(pipe.unet)),
        **_renamed(pipe.vae, "first_stage_model.", _vae_key(levels=2)),
        **_renamed(pipe.text_encoder, "cond_stage_model.transformer.text_model.", str),
    }
    path = tmp_path_factory.mktemp("models") / "dream.safetensors"
    save_file(weights, path)
    return path


@pytest.fixture(scope="session")
def tiny_bundle(
    tiny_sd: Path, tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config
) -> OnnxBundle:
    """The small Stable Diffusion as first use exports it, where a renderer finds it.

    An export takes most of a minute, so it is kept beside pytest's other memories (`.pytest_cache`)
    until the model or a line of the exporter changes; processes that test at once wait for one.
    """
    assert pytestconfig.cache is not None, "pytest keeps its cache by default"
    kept = pytestconfig.cache.mkdir(f"onnx-{_digest_of_exporter()}")
    for stale in kept.parent.glob("onnx-*"):
        if stale != kept:
            shutil.rmtree(stale, ignore_errors=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(kept))
        bundle = bundle_of(str(tiny_sd), dtype="float32", threads=1)
    place = tmp_path_factory.getbasetemp() / "cache/farm/onnx" / bundle.folder.name
    return open_bundle(Path(shutil.copytree(bundle.folder, place)))


def _digest_of_exporter() -> str:
    """Return a digest of the source files that an export depends on."""
    root = Path(__file__).parents[2]
    sources = [*root.glob("export_onnx/**/*.py"), *root.glob("farm/render/**/*.py")]
    digest = hashlib.sha256()
    for source in sorted(sources):
        digest.update(source.read_bytes())
    return digest.hexdigest()[:16]


class OpenRenderer(Protocol):
    """Opens a model once for all tests: loading costs more than drawing here."""

    def __call__(self, model: Path | str, backend: str = "diffusers") -> Renderer: ...


@pytest.fixture(scope="session")
def renderer_of() -> Iterator[OpenRenderer]:
    opened: dict[PipelineKey, Renderer] = {}

    def renderer(model: Path | str, backend: str = "diffusers") -> Renderer:
        key = PipelineKey(backend, str(model), "float32")
        if key not in opened:
            opened[key] = open_renderer(key, device="cpu", threads=1)
        return opened[key]

    yield renderer
    for one in opened.values():
        one.close()


def _scheduler(name: str, **options: object) -> Any:
    return getattr(diffusers, name)(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        **options,
    )


def _unet(**options: object) -> diffusers.UNet2DConditionModel:
    return diffusers.UNet2DConditionModel(
        sample_size=SIZE // 2, block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"), attention_head_dim=2,
        **options,
    )  # fmt: skip


def _vae(**options: object) -> diffusers.AutoencoderKL:
    return diffusers.AutoencoderKL(
        block_out_channels=(8, 8), norm_num_groups=4, latent_channels=4,
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
        **options,
    )  # fmt: skip


def _tokenizer(folder: Path) -> CLIPTokenizer:
    """Return a tokenizer that knows letters only; beginning and end are its last two tokens."""
    letters = [chr(code) for code in range(33, 127)]
    words = [*letters, *(f"{c}</w>" for c in letters), "<|startoftext|>", "<|endoftext|>"]
    place = folder.parent / "letters"
    place.mkdir(exist_ok=True)
    vocabulary = {word: number for number, word in enumerate(words)}
    (place / "vocab.json").write_text(json.dumps(vocabulary), "utf-8")
    (place / "merges.txt").write_text("#version: 0.2\n", "utf-8")
    return CLIPTokenizer(str(place / "vocab.json"), str(place / "merges.txt"), model_max_length=24)


def _text_config() -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=190, hidden_size=TEXT_WIDTH, intermediate_size=32, num_hidden_layers=TEXT_LAYERS,
        num_attention_heads=2, max_position_embeddings=24, projection_dim=TEXT_WIDTH,
        bos_token_id=188, eos_token_id=189, pad_token_id=189,
    )  # fmt: skip


# --- the single-file layout ---------------------------------------------------------------------


def _renamed(
    network: torch.nn.Module, prefix: str, rename: Callable[[str], str]
) -> dict[str, torch.Tensor]:
    weights = network.state_dict()
    return {prefix + rename(key): weight.contiguous() for key, weight in weights.items()}


def _replaced(key: str, names: dict[str, str]) -> str:
    for diffusers_name, original_name in names.items():
        key = key.replace(diffusers_name, original_name)
    return key


def _unet_key(unet: diffusers.UNet2DConditionModel) -> Callable[[str], str]:
    """Return what names a UNet weight in latent-diffusion's own code."""
    layers = unet.config.layers_per_block
    attentive = {
        int(key.split(".")[1])
        for key in unet.state_dict()
        if key.startswith("up_blocks") and "attentions" in key
    }
    resnet = {
        "norm1": "in_layers.0", "conv1": "in_layers.2", "time_emb_proj": "emb_layers.1",
        "norm2": "out_layers.0", "conv2": "out_layers.3", "conv_shortcut": "skip_connection",
    }  # fmt: skip
    ends = {
        "time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2",
        "conv_in": "input_blocks.0.0", "conv_norm_out": "out.0", "conv_out": "out.2",
    }  # fmt: skip

    def rename(key: str) -> str:  # noqa: PLR0911 - one return a kind of place
        match key.split("."):
            case ["down_blocks", i, "downsamplers", _, "conv", *rest]:
                return ".".join([f"input_blocks.{(layers + 1) * (int(i) + 1)}.0.op", *rest])
            case ["down_blocks", i, part, j, *rest]:
                place = f"input_blocks.{(layers + 1) * int(i) + int(j) + 1}"
            case ["up_blocks", i, "upsamplers", _, *rest]:
                last = (layers + 1) * int(i) + layers
                return ".".join([f"output_blocks.{last}.{1 + (int(i) in attentive)}", *rest])
            case ["up_blocks", i, part, j, *rest]:
                place = f"output_blocks.{(layers + 1) * int(i) + int(j)}"
            case ["mid_block", "resnets", j, *rest]:
                return f"middle_block.{2 * int(j)}." + _replaced(".".join(rest), resnet)
            case ["mid_block", "attentions", _, *rest]:
                return ".".join(["middle_block.1", *rest])
            case _:
                return _replaced(key, ends)
        if part == "resnets":
            return f"{place}.0." + _replaced(".".join(rest), resnet)
        return ".".join([place, "1", *rest])

    return rename


def _vae_key(*, levels: int) -> Callable[[str], str]:
    """Return what names an autoencoder weight in latent-diffusion's own code."""
    attention = {
        "group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out",
    }  # fmt: skip

    def rename(key: str) -> str:
        key = key.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")
        match key.split("."):
            case [side, "down_blocks" | "up_blocks" as blocks, i, part, j, *rest]:
                way = blocks.removesuffix("_blocks")
                level = int(i) if way == "down" else levels - 1 - int(i)
                inner = f"block.{j}" if part == "resnets" else f"{way}sample"
                return ".".join([side, way, str(level), inner, *rest])
            case [side, "mid_block", "resnets", j, *rest]:
                return ".".join([side, "mid", f"block_{int(j) + 1}", *rest])
            case [side, "mid_block", "attentions", _, *rest]:
                return ".".join([side, "mid", "attn_1", _replaced(".".join(rest), attention)])
            case _:
                return key

    return rename
