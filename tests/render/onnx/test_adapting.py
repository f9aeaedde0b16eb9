"""LoRAs and embeddings become part of the weights, as diffusers itself would apply them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from safetensors.torch import save_file

from export_onnx.adapting import (
    Embedding,
    Lora,
    adapt,
    adapted_sha256,
    adapters_of,
    parse_embedding,
    parse_lora,
)
from export_onnx.export import export
from export_onnx.options import parse_options
from farm.errors import InputError, ModelError
from farm.render import open_renderer
from farm.render.lane.onnx_runtime import expanding
from farm.render.loading import load_pipeline
from farm.render.onnx_bundle import open_bundle
from farm.task import PipelineKey, Rendered, TaskSpec

WIDTH = 16
"""Of the small model's text embeddings."""


def loaded(model: Path) -> Any:
    return load_pipeline(PipelineKey("diffusers", str(model), "float32"), device="cpu").pipe


@pytest.fixture(scope="module")
def lora(tiny_sd: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LoRA of the small UNet, with random weights in both of its matrices."""
    unet = loaded(tiny_sd).unet
    unet.add_adapter(LoraConfig(r=2, target_modules=["to_q", "to_v"], init_lora_weights=False))
    folder = tmp_path_factory.mktemp("lora")
    generator = torch.Generator().manual_seed(1)
    layers = {
        name: torch.randn(value.shape, generator=generator)
        for name, value in get_peft_model_state_dict(unet).items()
    }
    diffusers.StableDiffusionPipeline.save_lora_weights(
        folder, unet_lora_layers=layers, weight_name="style.safetensors"
    )
    return folder / "style.safetensors"


def embedding(folder: Path, *, vectors: int, width: int = WIDTH) -> Path:
    file = folder / "gloom.safetensors"
    save_file({"emb_params": torch.randn(vectors, width)}, file)
    return file


def predicted(unet: Any) -> torch.Tensor:
    generator = torch.Generator().manual_seed(2)
    sample = torch.randn(1, 4, 16, 16, generator=generator)
    text = torch.randn(1, 24, WIDTH, generator=generator)
    with torch.inference_mode():
        [found] = unet(sample, 500.0, encoder_hidden_states=text, return_dict=False)
    assert isinstance(found, torch.Tensor)
    return found


# --- LoRAs --------------------------------------------------------------------------------------


@pytest.mark.parametrize("weight", [1.0, 0.25])
def test_a_fused_lora_is_what_diffusers_applies(tiny_sd: Path, lora: Path, weight: float) -> None:
    plain, active, fused = (loaded(tiny_sd) for _ in range(3))
    active.load_lora_weights(str(lora.parent), weight_name=lora.name, adapter_name="it")
    active.set_adapters(["it"], [weight])
    adapt(fused, loras=[Lora(file=lora, weight=weight)], embeddings=[])
    assert torch.allclose(predicted(fused.unet), predicted(active.unet), atol=1e-4)
    assert not torch.allclose(predicted(fused.unet), predicted(plain.unet), atol=1e-2)
    assert not any("lora" in name for name, _ in fused.unet.named_modules())


def test_loras_add_up(tiny_sd: Path, lora: Path) -> None:
    twice, once = loaded(tiny_sd), loaded(tiny_sd)
    adapt(twice, loras=[Lora(file=lora, weight=0.25)] * 2, embeddings=[])
    adapt(once, loras=[Lora(file=lora, weight=0.5)], embeddings=[])
    assert torch.allclose(predicted(twice.unet), predicted(once.unet), atol=1e-4)


def test_a_lora_for_another_model_is_refused(tiny_sd: Path, tmp_path: Path) -> None:
    file = tmp_path / "other.safetensors"
    save_file({"transformer.blocks.0.attn.to_q.lora_A.weight": torch.zeros(2, 8)}, file)
    with pytest.raises(ModelError, match=r"other\.safetensors does not fit this model"):
        adapt(loaded(tiny_sd), loras=[Lora(file=file)], embeddings=[])


# --- embeddings ---------------------------------------------------------------------------------


@pytest.mark.parametrize("vectors", [1, 3])
def test_an_embedding_is_read_as_diffusers_reads_it(
    tiny_sd: Path, tmp_path: Path, vectors: int
) -> None:
    file = embedding(tmp_path, vectors=vectors)
    ours, theirs = loaded(tiny_sd), loaded(tiny_sd)
    theirs.load_textual_inversion(str(file), token="<gloom>")
    expansions = adapt(ours, loras=[], embeddings=[Embedding(file=file, token="<gloom>")])
    prompt = "a sword, <gloom>"
    [tokenizer] = expanding([ours.tokenizer], expansions)
    found = tokenizer([prompt]).input_ids
    assert (
        found
        == theirs.tokenizer([theirs.maybe_convert_prompt(prompt, theirs.tokenizer)])["input_ids"]
    )
    tokens = torch.tensor(found)
    with torch.inference_mode():
        hidden = [pipe.text_encoder(tokens).last_hidden_state for pipe in (ours, theirs)]
    assert torch.equal(*hidden)


def test_a_word_that_holds_the_token_is_left_alone() -> None:
    class Echo:
        model_max_length = 9

        def __call__(self, text: Sequence[str], **options: object) -> Sequence[str]:
            assert not options
            return text

    [tokenizer] = expanding([Echo()], {"cat": "cat cat_1"})
    assert tokenizer(["a cat, a category, cat"]) == ["a cat cat_1, a category, cat cat_1"]
    assert tokenizer.model_max_length == 9


def test_an_embedding_of_another_width_is_refused(tiny_sd: Path, tmp_path: Path) -> None:
    file = embedding(tmp_path, vectors=1, width=WIDTH + 1)
    with pytest.raises(ModelError, match=r"gloom\.safetensors does not fit this model"):
        adapt(loaded(tiny_sd), loras=[], embeddings=[Embedding(file=file, token="x")])


def test_sdxl_has_an_embedding_for_each_encoder(tiny_sdxl: Path, tmp_path: Path) -> None:
    pipe = loaded(tiny_sdxl)
    file = tmp_path / "gloom.safetensors"
    vectors = {"clip_l": torch.randn(2, WIDTH), "clip_g": torch.randn(2, WIDTH)}
    save_file(vectors, file)
    adapt(pipe, loras=[], embeddings=[Embedding(file=file, token="<gloom>")])
    for encoder, tokenizer, vector in (
        (pipe.text_encoder, pipe.tokenizer, vectors["clip_l"]),
        (pipe.text_encoder_2, pipe.tokenizer_2, vectors["clip_g"]),
    ):
        places = tokenizer.convert_tokens_to_ids(["<gloom>", "<gloom>_1"])
        assert torch.equal(encoder.get_input_embeddings().weight[places], vector)
    half = tmp_path / "half.safetensors"
    save_file({"emb_params": torch.randn(1, WIDTH)}, half)
    with pytest.raises(ModelError, match="an embedding for SDXL has clip_l and clip_g"):
        adapt(pipe, loras=[], embeddings=[Embedding(file=half, token="half")])


# --- words and provenance -----------------------------------------------------------------------


def test_what_the_command_line_says(lora: Path) -> None:
    assert parse_lora(str(lora)) == Lora(file=lora)
    assert parse_lora(f"{lora}:0.8") == Lora(file=lora, weight=0.8)
    assert parse_embedding(str(lora)) == Embedding(file=lora, token="style")
    assert parse_embedding(f"<it>={lora}") == Embedding(file=lora, token="<it>")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"loras": ["style.ckpt"]}, r"it takes \.safetensors files"),
        ({"loras": ["nowhere.safetensors"]}, "there is no such file"),
        ({"loras": ["{lora}:strong"]}, "'strong' is no weight"),
        ({"embeddings": ["two words={lora}"]}, "'two words' is not one word"),
    ],
)
def test_words_that_make_no_sense(lora: Path, words: dict[str, list[str]], message: str) -> None:
    filled = {name: [word.format(lora=lora) for word in said] for name, said in words.items()}
    with pytest.raises(InputError, match=message):
        parse_options(**filled)  # type: ignore[arg-type]


def test_an_adapted_model_has_a_hash_of_its_own(lora: Path) -> None:
    full, half = (adapters_of([Lora(file=lora, weight=w)], []) for w in (1.0, 0.5))
    hashes = {adapted_sha256("abc", adapters) for adapters in ([], full, half)}
    assert "abc" in hashes
    assert len(hashes) == 3
    assert adapted_sha256(None, full) is None


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_bundle_with_both_draws_what_diffusers_draws(
    tiny_sd: Path, lora: Path, tmp_path: Path
) -> None:
    file = embedding(tmp_path, vectors=2)
    options = parse_options(loras=[str(lora)], embeddings=[f"<gloom>={file}"], has_encoder=False)
    export(str(tiny_sd), tmp_path / "bundle", options=options, threads=1)

    task = TaskSpec(prompt="a sword, <gloom>", num_inference_steps=2, guidance_scale=3.0)
    key = PipelineKey("onnx", str(tmp_path / "bundle"), "float32")
    [drawn] = open_renderer(key, device="cpu", threads=1).render(iter([task]))
    assert isinstance(drawn, Rendered)

    pipe = loaded(tiny_sd)
    pipe.load_lora_weights(str(lora.parent), weight_name=lora.name)
    pipe.load_textual_inversion(str(file), token="<gloom>")
    [wanted] = pipe(
        prompt=task.prompt, num_inference_steps=2, guidance_scale=3.0, output_type="np",
        generator=torch.Generator().manual_seed(task.seed),
    ).images  # fmt: skip
    assert abs(wanted * 255 - drawn.pixels).max() <= 2

    index = json.loads((tmp_path / "bundle/onnx_bundle.json").read_text())
    assert [one["kind"] for one in index["model"]["adapters"]] == ["lora", "embedding"]
    assert open_bundle(tmp_path / "bundle").model_sha256 == index["model"]["sha256"]
